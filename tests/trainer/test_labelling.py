"""Pseudo-labels: predicted by models in several views, and written as a shard that the trainer reads."""

import errno
from fractions import Fraction

import cv2
import numpy as np
import pytest

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.files import write_file
from canthus.runtime.types import FaceBox
from canthus.trainer.commands.label import command
from canthus.trainer.evaluation import evaluate
from canthus.trainer.evaluation.evaluate import Candidate
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.labelled import frame_name, is_held_out
from canthus.trainer.labels import labelling
from canthus.trainer.labels.labelling import PseudoLabel, ShardWriter, images_of, label_image
from canthus.trainer.packs.pack import write_pack
from support.data_sets import SHAPES
from support.fakes import FakeBackend, bright_boxes
from support.shape import SHAPE
from support.training import Knowing
from support.videos import write_video

NEAR = 1.0  # pixels of the image


class Fine(FakeBackend):
    """The fake backend with larger crops."""

    size = 256


def image_with(*corners: tuple[int, int]) -> np.ndarray:
    """Return a dark image with a bright square for each face."""
    image = np.zeros((240, 400, 3), np.uint8)
    for x, y in corners:
        image[y : y + 81, x : x + 81] = 255
    return image


def test_faces_are_labelled_at_their_positions():
    found = label_image(image_with((60, 70), (260, 90)), bright_boxes, [Candidate("fine", Fine())])
    assert len(found) == 2
    for one, corner in zip(found, ((60, 70), (260, 90)), strict=True):
        span = (SHAPE - SHAPE.min(0)) / np.ptp(SHAPE, axis=0)
        middle = one.points[:33].mean(0)  # of the contour, which rotated views change little
        wanted = corner + span[:33].mean(0) * 80
        assert np.linalg.norm(middle - wanted) < 5 * NEAR
        assert 0 < one.spread < 0.2
        assert one.score > 0.5


def test_spread_is_larger_if_the_predictions_differ():
    class Noisy(Knowing):
        def predict(self, crops):
            points, scores = super().predict(crops)
            return points + np.random.default_rng(len(crops)).normal(0, 2, points.shape).astype(np.float32), scores

    image = image_with((60, 70))
    exact, noisy = (label_image(image, bright_boxes, [Candidate("a", one)])[0] for one in (Knowing(), Noisy()))
    assert exact.spread < noisy.spread


def test_a_detection_with_a_low_score_is_not_labelled():
    class Unsure(Knowing):
        def predict(self, crops):
            points, scores = super().predict(crops)
            return points, 0.2 * scores

    assert label_image(image_with((60, 70)), bright_boxes, [Candidate("unsure", Unsure())]) == []


def test_two_boxes_on_one_face_give_one_label():
    def twice(image):
        (box,) = bright_boxes(image)
        return [box, FaceBox(box.x0 + 3, box.y0, box.x1 + 3, box.y1, 0.8)]

    assert len(label_image(image_with((60, 70)), twice, [Candidate("a", Knowing())])) == 1
    assert label_image(image_with(), bright_boxes, [Candidate("a", Knowing())]) == []


def test_a_model_with_other_points_is_refused():
    with pytest.raises(ModelError, match="predicts 29 points"):
        label_image(image_with((60, 70)), bright_boxes, [Candidate("few", Knowing(SHAPES["COFW"]))])
    both = [Candidate("all", Knowing()), Candidate("few", Knowing(SHAPES["COFW"]))]
    with pytest.raises(ModelError, match="few: predicts 29 points, all predicts 98"):
        label_image(image_with((60, 70)), bright_boxes, both)


def test_a_written_shard_is_read_back_with_the_same_points(tmp_path):
    image = image_with((60, 70))
    points = (np.array([60, 70]) + SHAPE * 80).astype(np.float32)
    with ShardWriter(tmp_path) as shard:
        shard.write("clip/000010", image, [PseudoLabel(points, 0.0123, 0.9)])
        shard.write("clip/000020", image, [])
    assert shard.faces == 1
    one = open_set(tmp_path)
    (face,) = one.faces
    assert (face.image, face.spread) == ("clip/000010_0.jpg", 0.0123)
    shown = one.read_image(face.image)
    corners = (shown[..., 0] > 128).nonzero()
    first = np.array([corners[1].min(), corners[0].min()])
    np.testing.assert_allclose(face.points.min(0)[0], first[0], atol=NEAR)
    assert len(write_pack([one], tmp_path / "pack", 96).pack) == 1


def test_a_written_shard_has_the_kinds_of_the_labels_that_have_some(tmp_path):
    points = (np.array([60, 70]) + SHAPE * 80).astype(np.float32)
    kinds = (np.arange(98) % 4).astype(np.uint8)
    with ShardWriter(tmp_path) as shard:
        for number, own in enumerate((kinds, None)):
            shard.write(str(number), image_with((60, 70)), [PseudoLabel(points, 0.0123, 0.9, own)])
    first, second = open_set(tmp_path).faces
    np.testing.assert_array_equal(first.kinds, kinds)
    assert (second.kinds == PointKind.PSEUDO).all()
    assert first.spread == second.spread == 0.0123


def fail_to_write(monkeypatch, name, error, times):
    """Let the first writes of a file fail with an error of the system."""
    left = [times]

    def write(path, content):
        if path.name == name and left[0]:
            left[0] -= 1
            raise InputError(f"{path}: cannot be written") from error
        write_file(path, content)

    monkeypatch.setattr(labelling, "write_file", write)


def test_a_full_disk_costs_the_last_faces_and_leaves_a_shard(tmp_path, monkeypatch):
    fail_to_write(monkeypatch, "quality.csv", OSError(errno.ENOSPC, ""), 2)
    points = (np.array([60, 70]) + SHAPE * 80).astype(np.float32)
    kinds = np.ones(98, np.uint8)
    with ShardWriter(tmp_path) as shard:
        for number in range(5):
            shard.write(f"clip/{number}", image_with((60, 70)), [PseudoLabel(points, 0.01, 0.9, kinds)])
    assert shard.faces == 3
    assert [face.image for face in open_set(tmp_path).faces] == [f"clip/{number}_0.jpg" for number in range(3)]
    assert len(list((tmp_path / "images" / "clip").iterdir())) == 3
    assert (tmp_path / "human.csv").read_text().count("clip/") == 3


@pytest.mark.parametrize(("code", "kept"), [(errno.ENOSPC, 0), (errno.EACCES, 2)])
def test_tables_that_cannot_be_written_are_an_error(tmp_path, monkeypatch, code, kept):
    fail_to_write(monkeypatch, "quality.csv", OSError(code, ""), 9)
    points = (np.array([60, 70]) + SHAPE * 80).astype(np.float32)
    with pytest.raises(InputError, match=r"quality\.csv: cannot be written"), ShardWriter(tmp_path) as shard:
        for number in range(2):
            shard.write(f"{number}", image_with((60, 70)), [PseudoLabel(points, 0.01, 0.9)])
    assert len(list(tmp_path.rglob("*.jpg"))) == kept


def test_images_with_one_name_keep_their_own_faces(tmp_path):
    with ShardWriter(tmp_path) as shard:
        for x, faces in ((60, 2), (200, 1)):
            points = (np.array([x, 70]) + SHAPE * 80).astype(np.float32)
            shard.write("1.jpg", image_with((60, 70)), faces * [PseudoLabel(points, 0.01, 0.9)])
    one = open_set(tmp_path)
    assert [face.image for face in one.faces] == [f"1.jpg_{number}.jpg" for number in range(3)]
    assert [one.read_image(face.image).max() > 128 for face in one.faces] == [True, True, False]


def test_a_shard_without_faces_leaves_the_folder_usable(tmp_path):
    (tmp_path / "notes.txt").write_text("kept")
    with ShardWriter(tmp_path) as shard:
        shard.write("1.jpg", image_with(), [])
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


def test_a_thousand_frames_of_a_video_are_held_out_together():
    def held_out(*frames: int) -> set[bool]:
        return {is_held_out(f"{frame_name('clip', index)}_{face}.jpg", 2) for index in frames for face in (0, 1)}

    assert all(len(held_out(*range(start, start + 1000, 10))) == 1 for start in range(0, 40_000, 1000))
    assert held_out(*range(0, 40_000, 1000)) == {True, False}
    assert held_out(1_234_000) == held_out(1_234_999)
    # What was packed before stays on its side.
    assert [number for number in range(20) if is_held_out(f"clip/{number:06d}_0.jpg", 4)] == [6, 7, 10, 11]


def test_images_and_every_nth_frame_of_a_video_are_read(tmp_path):
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), image_with((60, 70)))
    (folder / "b.jpg").write_text("not an image")
    unreadable: list[str] = []
    taken = [name for name, _ in images_of(tmp_path / "photos", 1, unreadable)]
    assert taken == ["deep/a.png"]
    assert len(unreadable) == 1
    assert "b.jpg" in unreadable[0]
    assert [name for name, _ in images_of(folder / "a.png", 1, unreadable)] == ["a.png"]
    clip = write_video(tmp_path / "clip.mp4", [0.1 * index for index in range(12)])
    frames = dict(images_of(clip, 5, unreadable))
    assert list(frames) == [frame_name("clip", index) for index in (0, 5, 10)]
    assert frames[frame_name("clip", 5)].mean() == pytest.approx(30, abs=3)


def test_frames_of_an_anamorphic_video_are_labelled_with_square_pixels(tmp_path):
    clip = write_video(tmp_path / "dv.mp4", [0.0, 0.1], size=(96, 64), pixel_aspect=Fraction(3, 2))
    assert [image.shape for _, image in images_of(clip, 1, [])] == [(64, 144, 3)] * 2


def test_the_command_labels_images_and_reports_errors(tmp_path, monkeypatch, capsys):
    class Detector:
        def __init__(self, model):
            pass

        def detect(self, image, exhaustive):
            return bright_boxes(image)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("canthus.runtime.detector.Detector", Detector)
    monkeypatch.setattr(evaluate, "open_candidate", lambda name: Candidate(str(name), Knowing()))
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(3):
        cv2.imwrite(str(photos / f"{number}.png"), image_with((60, 70), (250, 80)))
    words = [str(photos), "-o", str(tmp_path / "shard"), "--max-spread", "1"]
    assert command(words) == 0
    assert "6 faces; dropped 0 with uncertain labels" in capsys.readouterr().out
    assert len(open_set(tmp_path / "shard").faces) == 6
    with pytest.raises(InputError, match="another folder"):
        command(words)
    assert command([str(photos), "-o", str(tmp_path / "strict"), "--max-spread", "0"]) == 0
    assert "0 faces; dropped 6 with uncertain labels" in capsys.readouterr().out
    (photos / "x.png").write_text("not an image")
    assert command([str(photos), "-o", str(tmp_path / "more")]) == 1
    assert "left out" in capsys.readouterr().err
    with pytest.raises(InputError, match="no such file"):
        command([str(tmp_path / "absent"), "-o", str(tmp_path / "other")])
    with (
        monkeypatch.context() as patch,
        pytest.raises(ModelError, match=r"own: predicts the 19 points of AFLW, but a sh"),
    ):
        patch.setattr(evaluate, "open_candidate", lambda _: Candidate("own", Knowing(SHAPES["AFLW"])))
        command([str(photos), "-o", str(tmp_path / "few")])
    assert not (tmp_path / "few").exists()

    functions = iter([label_image])

    def stopped_after_one(*args: object) -> list[PseudoLabel]:
        for function in functions:
            return function(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(labelling, "label_image", stopped_after_one)
    assert command([str(photos), "-o", str(tmp_path / "stopped"), "--max-spread", "1"]) == 130
    assert "stopped; the faces written so far are a complete shard" in capsys.readouterr().err
    assert len(open_set(tmp_path / "stopped").faces) == 2
    assert command([str(photos), "-o", str(tmp_path / "at once")]) == 130
    assert capsys.readouterr().err.endswith("stopped\n")
    assert not list((tmp_path / "at once").iterdir())
