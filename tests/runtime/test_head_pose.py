"""The head model, and fitting its pose to points."""

import json

import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.measures import fit
from canthus.runtime.measures.fit import fit_images, fit_pose
from canthus.runtime.measures.head import HEAD as INCLUDED
from canthus.runtime.measures.head import included_head, read_head
from canthus.runtime.measures.pose import (
    Camera,
    angles_from_rotations,
    lines_of_sight,
    points_on_head,
    project,
    rotations_from_angles,
)
from canthus.runtime.wflw import LEFT_PUPIL, MIRROR, POINTS, RIGHT_PUPIL
from support.heads import CAMERA, poses_at, seen_at, shapes_at

HEAD = included_head()


def random_angles(rng, count):
    return np.stack([rng.uniform(-limit, limit, count) for limit in (75, 40, 45)], axis=1)


def angle_errors(poses, angles):
    found = angles_from_rotations(np.array([pose.rotation for pose in poses]))
    return np.abs((found - angles + 180) % 360 - 180)


@pytest.mark.parametrize("focal", [700.0, 1280.0, 3000.0])
def test_the_pose_of_a_projected_head_is_found(focal):
    angles = random_angles(np.random.default_rng(0), 200)
    camera = Camera(focal, 640, 360)
    found = fit_images(HEAD, seen_at(angles, camera, focal / 2), np.ones((200, POINTS)), camera)
    assert angle_errors(found, angles).mean() < 0.1  # the issue allows 1.5
    places = [[pose.translation for pose in poses] for poses in (found, poses_at(angles, focal / 2))]
    np.testing.assert_allclose(*places, atol=1.0)


@pytest.mark.parametrize("focal", [700.0, 1280.0, 3000.0])
def test_noise_of_two_percent_of_the_face_changes_the_pose_little(focal):
    rng = np.random.default_rng(1)
    angles = random_angles(rng, 200)
    camera = Camera(focal, 640, 360)
    points = seen_at(angles, camera, focal / 2)
    side = np.ptp(points, axis=1).max(1)[:, None, None]
    noisy = points + 0.02 * side * rng.normal(size=points.shape)
    errors = angle_errors(fit_images(HEAD, noisy, np.ones((200, POINTS)), camera), angles)
    assert errors.mean() < 1.0  # the issue allows 4


def test_a_few_wrong_points_hardly_change_the_pose():
    rng = np.random.default_rng(2)
    angles = random_angles(rng, 50)
    points = seen_at(angles)
    for face in points:
        wrong = rng.choice(POINTS, 10, replace=False)
        face[wrong] += rng.uniform(-80, 80, (10, 2))
    errors = angle_errors(fit_images(HEAD, points, np.ones((50, POINTS)), CAMERA), angles)
    assert errors.mean() < 3


def test_the_fit_from_a_similar_pose_finds_the_same_as_from_the_beginning():
    angles = np.array([[30.0, -10.0, 5.0]])
    points = seen_at(angles)
    (near,) = fit_images(HEAD, seen_at(angles - 4), np.ones((1, POINTS)), CAMERA)
    (lines,) = lines_of_sight([points], CAMERA)
    found = fit_pose(HEAD, lines[0], np.ones(POINTS), np.zeros((3, POINTS)), near)
    assert angle_errors([found.pose], angles).max() < 0.1


def test_the_fit_knows_how_the_model_moves_with_the_pose():
    """The derivatives are those of small rotations and translations."""
    angles = np.array([[25.0, -15.0, 10.0]])
    (pose,), shape, small = poses_at(angles), shapes_at(angles)[0].T, 1e-6
    (lines,) = lines_of_sight([seen_at(angles)], CAMERA)
    missed, moves = fit._linearize(pose, shape, lines[0])
    np.testing.assert_allclose(missed, 0, atol=1e-6)
    for number, step in enumerate(small * np.eye(6)[:, :, None]):
        moved, _ = fit._move(pose, np.eye(6), step)
        change = (project([moved], [shape], CAMERA) - project([pose], [shape], CAMERA))[0].T / small
        depths = (pose.rotation @ shape)[2] + pose.translation[2]
        np.testing.assert_allclose(moves[number], change * depths / CAMERA.focal, atol=1e-3)


def test_angles_and_rotations_are_inverse():
    angles = random_angles(np.random.default_rng(3), 20)
    np.testing.assert_allclose(angles_from_rotations(rotations_from_angles(angles)), angles, atol=1e-9)


def test_signs_of_the_angles_are_as_documented():
    """The nose, 54, moves to the left with yaw and up with pitch; the right eye moves down with roll."""
    rest = seen_at(np.zeros((1, 3)))[0]
    left, up, clockwise = (seen_at(np.eye(3)[[axis]] * 20.0)[0] for axis in range(3))
    assert left[54, 0] < rest[54, 0] - 5
    assert up[54, 1] < rest[54, 1] - 5
    assert clockwise[72, 1] > rest[72, 1] + 5


def test_points_on_head_undoes_the_projection():
    angles = random_angles(np.random.default_rng(4), 20) * 0.7
    (lines,) = lines_of_sight([seen_at(angles)], CAMERA)
    for pose, shape, seen in zip(poses_at(angles), shapes_at(angles), lines, strict=True):
        np.testing.assert_allclose(points_on_head(pose, shape[:, 2], seen), shape[:, :2].T, atol=1e-6)


@pytest.mark.parametrize("text", ["", "[]", '{"shape": 1}', '{"shape": [], "contour_offsets": [], "deviations": []}'])
def test_a_file_that_is_no_head_is_refused(tmp_path, text):
    path = tmp_path / "head.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"head\.json: is not a model of the head"):
        read_head(path)


def test_the_included_head_is_symmetric_and_in_millimetres():
    np.testing.assert_allclose(HEAD.shape[MIRROR] * (-1, 1, 1), HEAD.shape, atol=0.1)
    np.testing.assert_allclose(HEAD.shape[RIGHT_PUPIL] - HEAD.shape[LEFT_PUPIL], [63, 0, 0], atol=0.1)
    assert HEAD.shape[54, 2] < -20  # the tip of the nose is nearer to the camera
    assert json.loads(INCLUDED.read_text()).keys() == {"shape", "contour_offsets", "deviations"}
