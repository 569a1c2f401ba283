"""Head pose, eyes, mouth, gaze and expressions from points."""

import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.measures import BLENDSHAPES, MEASURE_COLUMNS, Measurer, Measures, measurer
from canthus.runtime.measures.features import FEATURES, features
from canthus.runtime.measures.person import (
    CLOSED_ASPECT,
    CLOSING,
    MAX_BLINK,
    MOUTH_CLOSES,
    MOUTH_OPENS,
    OPEN_ASPECT,
    REOPENING,
)
from canthus.runtime.measures.pose import rotations_from_angles
from canthus.runtime.types import Faces
from canthus.runtime.wflw import LEFT_EYE, LEFT_PUPIL, MIRROR, POINTS, RIGHT_EYE, RIGHT_PUPIL
from support.heads import seen_at, shapes_at

SIZE = (1280, 720)
UPPER_LIDS, LOWER_LIDS = [61, 62, 63, 69, 70, 71], [67, 66, 65, 75, 74, 73]
UPPER_LIP, LOWER_LIP = [*range(77, 82), *range(89, 92)], [*range(83, 88), *range(93, 96)]


def frontal_face(change=None, yaw=0.0):
    """The points (1, 98, 2) of a head in front of the camera; `change` edits its shape (98, 3) in mm."""
    angles = np.array([[yaw, 0.0, 0.0]])
    shape = shapes_at(angles).copy()
    if change:
        change(shape[0])
    return seen_at(angles, shapes=shape).astype(np.float32)


def measure_frames(faces, seconds=1 / 30, scores=0.9):
    """Measure successive frames with one face each; return the measures of all frames by name."""
    measurer, ids = Measurer(), np.array([0])
    frames = []
    for index, points in enumerate(faces):
        given = np.full((1, POINTS), scores, np.float32)
        frames.append(measurer.update(points, given, ids, index * seconds, SIZE).as_dict(0))
    return {name: np.array([frame[name] for frame in frames]) for name in MEASURE_COLUMNS}


def close_eyes(share, eyes=(LEFT_EYE, RIGHT_EYE)):
    """A change that moves the lids of the eyes together; 1 closes them."""

    def change(shape):
        for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
            if any(upper in eye for eye in eyes):
                middle = (shape[upper] + shape[lower]) / 2
                shape[[upper, lower]] += share * (middle - shape[[upper, lower]])

    return change


def test_the_documented_thresholds_are_those_in_force():
    for name, figures in (
        ("eye_open_left", [f"{CLOSED_ASPECT:.2f}"]),
        ("eye_closed_left", [f"{OPEN_ASPECT:.2f}", f"{CLOSING:.0%}", f"{REOPENING:.0%}"]),
        ("blinks", [f"{MAX_BLINK} seconds"]),
        ("mouth_is_open", [f"{MOUTH_OPENS:.2f}", f"{MOUTH_CLOSES:.2f}"]),
    ):
        text = getattr(Measures, name).__doc__.replace(" %", "%")
        assert all(figure in text for figure in figures), name


def test_features_are_the_distances_that_their_names_say():
    points = np.random.default_rng(7).normal(size=(3, POINTS, 2)) * 20
    found = dict(zip(FEATURES, np.array([features(face.T).values for face in points]).T, strict=True))

    def distance(one, other):
        return np.linalg.norm(points[:, one] - points[:, other], axis=1)

    lids = np.mean([distance(69, 75), distance(70, 74), distance(71, 73)], axis=0)
    lips = np.mean([distance(89, 95), distance(90, 94), distance(91, 93)], axis=0)
    nose = points[:, 55:60].mean(1)
    expected = {
        "eye_aspect_right": lids / distance(68, 72),
        "lip_gap": lips,
        "mouth_width": distance(76, 82),
        "corner_raise_left": nose[:, 1] - points[:, 76, 1],
        "corner_out_right": points[:, 82, 0] - nose[:, 0],
        "brow_inner_left": points[:, [60, 64], 1].mean(1) - points[:, [37, 38], 1].mean(1),
        "brow_outer_right": points[:, [68, 72], 1].mean(1) - points[:, [45, 46, 47], 1].mean(1),
        "brow_distance": distance(38, 50),
        "mouth_shift": points[:, [76, 82], 0].mean(1) - nose[:, 0],
        "lower_lip_drop": nose[:, 1] - points[:, 83:88, 1].mean(1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)


def test_measures_of_the_mirrored_face_are_mirrored():
    rng = np.random.default_rng(5)
    points = frontal_face(lambda shape: shape.__iadd__(rng.normal(size=shape.shape)), yaw=20.0)
    mirrored = points[:, MIRROR].copy()
    mirrored[..., 0] = SIZE[0] - 1 - mirrored[..., 0]
    one, other = (measure_frames([face]) for face in (points, mirrored))
    for name in ("pose_yaw", "pose_roll", "gaze_yaw", "pose_tx"):
        np.testing.assert_allclose(one[name], -other[name], atol=0.1)
    for name in ("pose_pitch", "gaze_pitch", "mouth_open", "smile", "brow_frown", "pose_score"):
        np.testing.assert_allclose(one[name], other[name], atol=0.05)
    for name in (name for name in MEASURE_COLUMNS if name.endswith("_left")):
        np.testing.assert_allclose(one[name], other[name.replace("_left", "_right")], atol=0.05)
    for name in (name for name in BLENDSHAPES if name.endswith("Left")):
        np.testing.assert_allclose(one[name], other[name.removesuffix("Left") + "Right"], atol=0.05, err_msg=name)


def test_a_neutral_face_has_no_expression_after_the_calibration():
    values = measure_frames([frontal_face()] * 90)
    assert values["calibrated"][0] < 0.1
    assert values["calibrated"][-1] == 1
    assert max(values[name][-1] for name in BLENDSHAPES if not name.startswith("eyeLook")) < 0.02
    np.testing.assert_allclose([values[f"eye_open_{side}"][-1] for side in ("left", "right")], 1, atol=0.01)
    np.testing.assert_allclose(values["mouth_width"][-1], 1, atol=0.01)


def test_a_blink_is_counted_and_a_long_closure_is_not():
    still, shut = frontal_face(), frontal_face(close_eyes(0.8))
    values = measure_frames([still] * 70 + [shut] * 5 + [still] * 30 + [shut] * 40 + [still] * 10)
    assert values["blinks"][-1] == 1
    assert values["eye_closed_left"].sum() == values["eye_closed_right"].sum() == 45
    assert values["blink"][70:75].all()
    assert not values["blink"][140]
    assert values["eyeBlinkLeft"][144] > 0.9


def test_a_wink_closes_one_eye_and_is_no_blink():
    still, wink = frontal_face(), frontal_face(close_eyes(0.8, (LEFT_EYE,)))
    values = measure_frames([still] * 70 + [wink] * 8 + [still] * 5)
    assert values["eye_closed_left"][72:78].all()
    assert not values["eye_closed_right"].any()
    assert values["blinks"][-1] == 0
    assert values["eyeBlinkRight"][75] > 0.7  # the person's right eye is on the left of the image
    assert values["eyeBlinkLeft"][75] < 0.05


def open_mouth(shape):
    shape[UPPER_LIP, 1] -= 5
    shape[LOWER_LIP, 1] += 20


def test_an_open_mouth_is_measured_and_a_closed_one_is_not():
    values = measure_frames([frontal_face()] * 70 + [frontal_face(open_mouth)] * 10 + [frontal_face()] * 5)
    np.testing.assert_array_equal(values["mouth_is_open"], [0] * 70 + [1] * 10 + [0] * 5)
    assert values["jawOpen"][75] > 0.7
    assert values["mouth_open"][84] < 0.1


def smile(shape):
    shape[[76, 88], :2] += (-5, -5)
    shape[[82, 92], :2] += (5, -5)


def frown(shape):
    shape[33:51, 1] += 5
    shape[[36, 37, 38], 0] += 3
    shape[[42, 43, 50], 0] -= 3


def raise_brows(shape):
    shape[33:51, 1] -= 7


@pytest.mark.parametrize(
    ("change", "high", "low"),
    [
        (smile, ("smile", "mouthSmileLeft", "mouthSmileRight"), ("mouthFrownLeft", "jawOpen", "brow_frown")),
        (frown, ("brow_frown", "browDownLeft", "browDownRight"), ("browInnerUp", "mouthSmileLeft")),
        (raise_brows, ("brow_raise_left", "browInnerUp", "browOuterUpRight"), ("brow_frown", "browDownLeft")),
    ],
)
def test_expressions_raise_their_own_measures(change, high, low):
    values = measure_frames([frontal_face()] * 70 + [frontal_face(change)] * 3)
    for name in high:
        assert values[name][-1] > 0.5, name
    for name in low:
        assert values[name][-1] < 0.15, name


@pytest.mark.parametrize("yaw", [0.0, 25.0])
def test_the_gaze_follows_the_pupils_and_the_head(yaw):
    def look_left(shape):
        shape[[LEFT_PUPIL, RIGHT_PUPIL], 0] -= 11 * np.sin(np.radians(20))

    straight, left = (measure_frames([frontal_face(change, yaw)]) for change in (None, look_left))
    np.testing.assert_allclose(straight["gaze_yaw"], yaw, atol=4)
    np.testing.assert_allclose(left["gaze_yaw"] - straight["gaze_yaw"], 20, atol=5)
    assert left["eyeLookInLeft"][0] > 0.5
    assert left["eyeLookOutRight"][0] > 0.5


def test_confidence_falls_with_scores_and_with_yaw():
    sure, unsure = (measure_frames([frontal_face()], scores=score) for score in (0.9, 0.3))
    turned = measure_frames([frontal_face(yaw=60.0)])
    for name in ("pose_score", "gaze_score", "eye_score_left", "eye_score_right", "mouth_score"):
        assert unsure[name] < 0.5 * sure[name]
    assert turned["eye_score_left"] < 0.5 * turned["eye_score_right"]  # the left eye is behind the nose
    assert turned["mouth_score"] < 0.5 * sure["mouth_score"]


def test_the_head_of_a_person_is_learned_while_it_turns():
    """The nose and the eyes of this person differ from the mean head; the poses agree better after some seconds."""
    rng = np.random.default_rng(6)
    person = np.zeros((POINTS, 3))
    person[51:60] = rng.normal(scale=2.0, size=3)
    person[60:76] = rng.normal(scale=2.0, size=3) * (0, 1, 1)
    yaws = 40 * np.sin(np.arange(300) / 12)
    errors = []
    measurer = Measurer()
    for index, yaw in enumerate(yaws):
        angles = np.array([[yaw, 10 * np.cos(index / 9), 0.0]])
        points = seen_at(angles, shapes=shapes_at(angles) + person)
        found = measurer.update(points, np.ones((1, POINTS)), np.array([3]), index / 30, SIZE)
        errors.append(abs(float(found.pose_yaw[0]) - yaw) + abs(float(found.pose_pitch[0]) - angles[0, 1]))
    assert np.mean(errors[-75:]) < 0.8 * np.mean(errors[:75])


def test_a_face_that_is_not_finite_does_not_spoil_the_others():
    good = frontal_face()
    points = np.concatenate([good, np.full_like(good, np.nan)])
    both = Measurer().update(points, np.ones((2, POINTS)), np.array([0, 1]), 0.0, SIZE)
    alone = Measurer().update(good, np.ones((1, POINTS)), np.array([0]), 0.0, SIZE)
    np.testing.assert_allclose(both.values[0], alone.values[0], atol=1e-3)
    assert np.isfinite(both.values).all()
    assert both.pose_score[1] == 0


def test_points_that_coincide_give_finite_measures():
    found = Measurer().update(np.zeros((1, POINTS, 2)), np.ones((1, POINTS)), np.array([0]), 0.0, SIZE)
    assert np.isfinite(found.values).all()
    assert np.isfinite(found.blendshapes).all()


def test_no_faces_have_no_measures():
    assert len(Measurer().update(np.zeros((0, POINTS, 2)), np.zeros((0, POINTS)), np.array([], int), 0.0, SIZE)) == 0


def test_calibrate_measures_the_neutral_face_again():
    measurer, ids, scores = Measurer(), np.array([0]), np.ones((1, POINTS))
    smiling = frontal_face(smile)
    for index in range(200):
        if index == 100:
            measurer.calibrate()
        face = measurer.update(smiling if index > 90 else frontal_face(), scores, ids, index / 30, SIZE)
        if index == 95:
            assert face.smile[0] > 0.5
    assert face.smile[0] < 0.05


def test_selected_faces_keep_their_measures():
    points = np.concatenate([frontal_face(yaw=yaw) for yaw in (0.0, 20.0, 40.0)])
    scores, ids = np.ones((3, POINTS), np.float32), np.arange(3)
    faces = Faces(points, scores, ids, measures=Measurer().update(points, scores, ids, 0.0, SIZE))
    np.testing.assert_array_equal(faces[1:].measures.pose_yaw, faces.measures.pose_yaw[1:])
    np.testing.assert_array_equal(faces[[2, 0]].measures.values, faces.measures.values[[2, 0]])
    with pytest.raises(ValueError, match="measures must be those of 1 faces"):
        Faces(points[:1], scores[:1], ids[:1], measures=faces.measures)


def test_a_focal_length_must_be_positive():
    with pytest.raises(InputError, match="focal length"):
        Measurer(focal=0)


def test_a_direction_is_turned_by_a_rotation():
    rotation, vector = rotations_from_angles(np.array([[20.0, -35.0, 50.0]]))[0], (1.0, -2.0, 0.5)
    np.testing.assert_allclose(measurer._turned(rotation.tolist(), vector), rotation @ vector)


def test_a_face_that_appears_does_not_change_the_others():
    """The pose of a followed face starts from the frame before, also if another face has just come."""
    wobbly = np.random.default_rng(8).normal(scale=3, size=(POINTS, 2))
    faces = [frontal_face(yaw=yaw) + wobbly for yaw in (4.0, 8.0, 12.0, 16.0)]
    ones = np.ones((2, POINTS))
    alone, joined = Measurer(), Measurer()
    for index, face in enumerate(faces):
        expected = alone.update(face, ones[:1], np.array([0]), index / 30, SIZE)
        both = np.concatenate([face, frontal_face(yaw=-30.0)])[: 1 if index < 3 else 2]
        found = joined.update(both, ones[: len(both)], np.arange(len(both)), index / 30, SIZE)
    np.testing.assert_allclose(found.values[0], expected.values[0], atol=0.05)
