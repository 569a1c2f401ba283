"""The head pose in `canthus eval --pose`, and `canthus data fit-head`."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.measures.head import included_head, make_head, read_head
from canthus.runtime.measures.pose import rotations_from_angles
from canthus.runtime.wflw import LEFT_PUPIL, RIGHT_PUPIL
from canthus.trainer.commands import data, evaluate
from canthus.trainer.evaluation.pose import angles_from_points
from canthus.trainer.faces.formats import open_set
from canthus.trainer.head_model import PosedFaces, fit_head, read_poses, with_mirror_images
from support.shards import write_shard


def posed_points(angles, noise=0.0):
    """Points (N, 98, 2) of the included head, seen from far away, in pixels of crops of 200."""
    rng = np.random.default_rng(0)
    shapes = np.array([included_head().shape_at(yaw).T for yaw in angles[:, 0]])
    points = (shapes @ rotations_from_angles(angles).swapaxes(1, 2))[..., :2]
    return 100 + points * 0.8 + rng.normal(scale=noise, size=points.shape) if noise else 100 + points * 0.8


def random_angles(count):
    return np.random.default_rng(1).uniform((-80, -30, -30), (80, 30, 30), (count, 3))


def test_angles_from_points_are_those_of_the_head():
    angles = random_angles(50)
    np.testing.assert_allclose(angles_from_points(posed_points(angles)), angles, atol=1.5)


def test_fit_head_finds_the_head_that_made_the_points():
    angles = random_angles(300)
    points = posed_points(angles, noise=0.5)
    sides = np.sqrt(np.ptp(points, axis=1).prod(1))[:, None, None]
    faces = PosedFaces((points - points.mean(1, keepdims=True)) / sides, angles)
    head = make_head(*fit_head(with_mirror_images(faces)))
    np.testing.assert_allclose(head.shape[33:], included_head().shape[33:], atol=1.5)
    np.testing.assert_allclose(head.shape[RIGHT_PUPIL, 0] - head.shape[LEFT_PUPIL, 0], 63, atol=0.1)


def write_poses(path, rows, header=("image", "yaw", "pitch", "roll")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


@pytest.fixture
def shard(tmp_path):
    """A shard of synthetic faces, all with the pose 0."""
    write_shard(tmp_path / "shard", 8)
    names = [face.image for face in open_set(tmp_path / "shard", "test").faces]
    return str(tmp_path / "shard"), [[name, 0, 0, 0] for name in names]


def test_eval_measures_the_pose_of_the_faces_in_the_table(shard, tmp_path, capsys):
    folder, rows = shard
    poses = write_poses(tmp_path / "pose.csv", [*rows[:5], [rows[5][0], 120, 0, 0], ["other.png", 0, 0, 0]])
    out = tmp_path / "out.json"
    assert evaluate.command(["--model", "fast", "--wflw", folder, "--pose", poses, "--json", str(out)]) == 0
    written = json.loads(out.read_text())["pose"]
    assert [row["model"] for row in written] == ["labels", "fast"]
    assert {row["faces"] for row in written} == {5}  # the sixth is beyond 99 degrees
    assert written[0]["yaw"] < 15
    assert "6DRepNet" in capsys.readouterr().out


def test_eval_refuses_pose_without_faces(shard, tmp_path, capsys):
    folder, _ = shard
    with pytest.raises(SystemExit, match="2"):
        evaluate.command(["--clips", "clip.mp4", "--pose", "pose.csv"])
    assert "--pose" in capsys.readouterr().err
    poses = write_poses(tmp_path / "pose.csv", [["other.png", 0, 0, 0]])
    with pytest.raises(InputError, match="check the names in the table of --pose"):
        evaluate.command(["--model", "fast", "--wflw", folder, "--pose", poses])


@pytest.mark.parametrize(
    "rows", [[["a.png", "x", 0, 0]], [["a.png", "nan", 0, 0]], [["a.png"]], []], ids=["text", "nan", "short", "empty"]
)
def test_a_wrong_table_of_poses_is_refused(tmp_path, rows):
    with pytest.raises(InputError, match=r"pose\.csv: expected"):
        read_poses(Path(write_poses(tmp_path / "pose.csv", rows)))


def test_fit_head_needs_enough_faces_and_keeps_an_existing_file(shard, tmp_path):
    folder, rows = shard
    poses = write_poses(tmp_path / "pose.csv", rows)
    out = tmp_path / "head.json"
    with pytest.raises(InputError, match=r"faces with 98 points have a pose \(expected at least 50\)"):
        data.command(["fit-head", folder, "--pose", poses, "-o", str(out)])
    out.touch()
    with pytest.raises(InputError, match=r"head\.json: already exists"):
        data.command(["fit-head", folder, "--pose", poses, "-o", str(out)])


def test_fit_head_writes_a_head(tmp_path, capsys):
    write_shard(tmp_path / "shard", 120)
    names = [face.image for face in open_set(tmp_path / "shard", "test").faces]
    poses = write_poses(tmp_path / "pose.csv", [[name, 10, 5, 0] for name in names])
    out = tmp_path / "head.json"
    assert data.command(["fit-head", str(tmp_path / "shard"), "--pose", poses, "-o", str(out)]) == 0
    assert read_head(out).shape.shape == (98, 3)
    assert "fitted to" in capsys.readouterr().out
