"""Tracking and detection on real clips and images. Skipped without the data, which only developers have."""

import numpy as np
import pytest

from canthus.runtime import Settings, follow
from canthus.runtime.image_files import read_image
from canthus.runtime.pipeline import Landmarker
from canthus.runtime.types import Frame
from canthus.runtime.video_file import VideoFile

pytestmark = pytest.mark.faces


def test_face_is_lost_when_a_title_screen_replaces_it(real_faces):
    """The clip shows a man for 2.4 seconds, then a title screen without faces."""
    counts = [(frame.seconds, len(faces)) for frame, faces in follow(real_faces / "videos" / "pyfeat_face_noface.mov")]
    with_face = [count for seconds, count in counts if seconds < 2.3]
    without = [count for seconds, count in counts if seconds > 3.5]
    assert np.mean([count == 1 for count in with_face]) > 0.97
    assert np.mean([count == 0 for count in without]) > 0.9


def test_four_faces_keep_their_ids_between_cuts(real_faces):
    """From 7.3 seconds on, the clip shows four people in an audience."""
    clip = real_faces / "videos" / "face_recognition_short_hamilton_clip.mp4"
    ids = [set(faces.ids.tolist()) for frame, faces in follow(clip) if frame.seconds > 8.0]
    assert len(set.intersection(*ids)) >= 3  # the fourth, in the dark, is not in every frame
    assert max(len(frame_ids) for frame_ids in ids) <= 5


@pytest.mark.parametrize("name", ["d3", "d10", "d11", "d18", "d19", "s18"])
def test_one_person_has_one_id_in_the_whole_clip(real_faces, name):
    ids = [faces.ids.tolist() for _, faces in follow(real_faces / "videos" / f"liveportrait_{name}.mp4")]
    assert np.mean([frame_ids == [0] for frame_ids in ids]) > 0.97


def test_detector_runs_on_at_most_a_tenth_of_the_frames(real_faces):
    with VideoFile(real_faces / "videos" / "liveportrait_s18.mp4") as video, Landmarker(Settings()) as landmarker:
        frames = [landmarker.update(frame) for frame in video]
        assert landmarker.tracker.detections <= 0.1 * len(frames)


def test_face_that_fills_the_image_or_is_rotated_by_90_degrees_is_found(real_faces):
    image = read_image(real_faces / "samples" / "lapa" / "13609937564_5.jpg")
    with Landmarker() as landmarker:
        (low, high) = (edge(landmarker.landmark(image).points[0], axis=0).astype(int) for edge in (np.min, np.max))
        close = np.ascontiguousarray(image[low[1] : high[1], low[0] : high[0]])
        for view in (close, np.rot90(image), np.rot90(image, 3)):
            assert len(landmarker.landmark(np.ascontiguousarray(view))) == 1
        frames = [Frame(close, index, index / 30) for index in range(4)]
        assert [len(landmarker.update(frame)) for frame in frames] == [0, 1, 1, 1]


def test_points_of_a_flipped_image_are_flipped(real_faces):
    from canthus.runtime.wflw import MIRROR, OUTER_CANTHI

    image = read_image(real_faces / "samples" / "lapa" / "13609937564_5.jpg")
    with Landmarker() as landmarker:
        faces, flipped = landmarker.landmark(image), landmarker.landmark(np.ascontiguousarray(image[:, ::-1]))
    assert len(faces) == len(flipped) >= 1
    back = flipped.points[0][MIRROR] * [-1, 1] + [image.shape[1] - 1, 0]
    ocular = np.linalg.norm(np.subtract(*faces.points[0][list(OUTER_CANTHI)]))
    assert np.linalg.norm(back - faces.points[0], axis=1).mean() < 0.05 * ocular
