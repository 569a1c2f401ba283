"""Temporal stability of models on clips, on synthetic faces whose jitter is known."""

import json
import math

import cv2
import numpy as np
import pytest

from canthus.runtime import detector
from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.types import Frame
from canthus.trainer.commands.evaluate import command
from canthus.trainer.evaluation import evaluate as evaluating
from canthus.trainer.evaluation.clips import (
    FRONTAL_WIDTH,
    JUMP,
    MIN_MOTION,
    MOVING_SPEED,
    ClipTracks,
    TrackSegment,
    find_clips,
    measure_temporal_stability,
    track_clips,
    track_faces,
)
from canthus.trainer.evaluation.evaluate import Candidate, Worker, open_candidate, open_peer
from canthus.trainer.evaluation.json_report import to_json
from canthus.trainer.evaluation.tables import clips_summary, clips_table
from support.fakes import FakeBackend, bright_boxes, scene
from support.shape import SHAPE
from support.videos import write_video

RATE = 30
FACE = SHAPE * 200 + 50
SIZE = np.linalg.norm(FACE[60] - FACE[72])
"""Pixels between the outer eye corners."""


def clip_of(raw, smooth=None, seconds=None):
    """Return a clip with one segment: points (T, 98, 2) of one model, or (M, T, 98, 2) of several."""
    raw, smooth = (np.array(path, np.float32) for path in (raw, raw if smooth is None else smooth))
    raw, smooth = (path if path.ndim == 4 else path[None] for path in (raw, smooth))
    seconds = np.arange(raw.shape[1]) / RATE if seconds is None else seconds
    names = tuple(f"model {number}" for number in range(len(raw)))
    return ClipTracks("clip", names, [0] * len(raw), 0, [TrackSegment(seconds, raw, smooth)])


def still(frames=120):
    return np.repeat(FACE[None], frames, 0)


def noise(spread, frames=120):
    """Return normal noise (T, 98, 2) with this standard deviation along each axis, in % of the face's size."""
    return np.random.default_rng(0).normal(0, spread * SIZE / 100, (frames, 98, 2))


def moving(frames=90, seconds=None):
    """Return a face that moves to the right, by half of its size per second."""
    seconds = np.arange(frames) / RATE if seconds is None else seconds
    return FACE + 0.5 * SIZE * np.stack([seconds, 0 * seconds], 1)[:, None]


def test_the_jitter_of_noise_is_its_root_mean_square():
    (one,) = measure_temporal_stability([clip_of(still() + noise(0.2), still() + noise(0.1))])
    for tracks, spread in ((one.raw, 0.2), (one.smoothed, 0.1)):
        for value in (tracks.median, tracks.mean, tracks.still_median, tracks.still_mean):
            assert value == pytest.approx(math.sqrt(2) * spread, rel=0.05)
    assert (one.frames, one.still_frames) == (118, 118)
    assert "50 %" in clips_table([clip_of(still() + noise(0.2), still() + noise(0.1))]).splitlines()[2]


def test_jitter_does_not_depend_on_the_size_of_the_face():
    small, large = (measure_temporal_stability([clip_of(scale * (still() + noise(0.2)))])[0].raw for scale in (0.2, 3))
    assert small.median == pytest.approx(large.median, rel=1e-3)


def test_a_profile_face_has_the_size_of_a_frontal_face():
    profile = FACE * [0.1, 1]
    height = np.ptp(profile[:, 1])
    (one,) = measure_temporal_stability([clip_of(profile + noise(0.2))])
    assert one.raw.median == pytest.approx(math.sqrt(2) * 0.2 * SIZE / (FRONTAL_WIDTH * height), rel=0.05)


def test_a_jump_of_most_models_is_motion():
    path = still(102)
    path[40, 7, 1] += 1.5 * JUMP * SIZE / 100
    assert [one.raw.jumps_per_1000 for one in measure_temporal_stability([clip_of([path, path, still(102)])])] == [
        pytest.approx(0.1020, abs=1e-3)
    ] * 2 + [0]
    assert [one.raw.jumps_per_1000 for one in measure_temporal_stability([clip_of([path] * 3)])] == [0, 0, 0]


@pytest.mark.parametrize("seconds", [np.arange(90) / RATE, np.cumsum(np.random.default_rng(1).uniform(0.02, 0.09, 90))])
def test_constant_motion_has_no_jitter_even_with_irregular_frames(seconds):
    (one,) = measure_temporal_stability([clip_of(moving(seconds=seconds), seconds=seconds)])
    assert one.raw.mean < 1e-3
    assert one.raw.jumps_per_1000 == 0
    assert (one.still_frames, one.frames) == (0, 88)


def test_a_frame_is_still_if_the_median_over_the_models_is():
    quiet, noisy = still() + noise(0.1), still() + noise(5)
    rows = measure_temporal_stability([clip_of([quiet, quiet, noisy])])
    assert {one.still_frames for one in rows} == {118}
    assert rows[2].raw.still_median > 10 * rows[0].raw.still_median
    assert measure_temporal_stability([clip_of([quiet, moving(120), moving(120)])])[0].still_frames == 0


def test_a_jump_of_one_point_is_counted_once():
    path = still(102)
    path[40, 7, 1] += 1.5 * JUMP * SIZE / 100
    (one,) = measure_temporal_stability([clip_of(path, still(102))])
    assert one.raw.jumps_per_1000 == pytest.approx(1000 / (98 * 100))
    assert one.smoothed.jumps_per_1000 == 0
    path[40] = FACE + 1.5 * JUMP * SIZE / 100 * np.array([0.6, 0.8])
    assert measure_temporal_stability([clip_of(path)])[0].raw.jumps_per_1000 == pytest.approx(1000 * 98 / (98 * 100))


def test_lag_is_the_delay_of_smoothed_points_during_motion():
    swing = 20 * np.sin(np.arange(121) / 12)
    path = FACE + np.stack([swing, 0 * swing], 1)[:, None]
    speed = np.abs(np.gradient(swing)) * RATE * 100 / SIZE
    assert (speed > MOVING_SPEED).sum() > 2 * MIN_MOTION
    (one,) = measure_temporal_stability([clip_of(path[1:], path[:-1])])
    assert one.lag_frames == pytest.approx(1, abs=0.06)
    assert math.isnan(measure_temporal_stability([clip_of(still())])[0].lag_frames)


def frames(scenes):
    return [Frame(image, number, number / RATE) for number, image in enumerate(scenes)]


def follow(scenes, *backends, follower=None):
    candidates = [Candidate(f"model {number}", backend) for number, backend in enumerate(backends)]
    chief = Candidate("follower", follower or FakeBackend())
    return track_faces("clip", frames(scenes), candidates, chief, bright_boxes)


def test_all_models_track_the_same_faces():
    tracks = follow([scene((100 + step, 120), (500, 120)) for step in range(20)], FakeBackend(), FakeBackend())
    assert [one.raw.shape for one in tracks.segments] == [(2, 20, 98, 2)] * 2
    assert (tracks.lost, tracks.gaps, tracks.models) == ([0, 0], 0, ("model 0", "model 1"))
    np.testing.assert_array_equal(tracks.segments[0].raw[0], tracks.segments[0].raw[1])
    assert (
        tracks.segments[0].smoothed[0, -1, 0, 0] < tracks.segments[0].raw[0, -1, 0, 0]
    )  # it moves to the right, with a lag
    np.testing.assert_allclose(tracks.segments[0].seconds, np.arange(20) / RATE)


def test_a_model_tracks_with_its_own_margin():
    class BrightFraction(FakeBackend):
        share = 0.0

        def predict(self, crops):
            self.share = float((crops > 128).mean()) if len(crops) else self.share
            return super().predict(crops)

    ours, theirs = BrightFraction(), BrightFraction()
    candidates = [Candidate("ours", ours), Candidate("theirs", theirs, 1.05)]
    track_faces("clip", frames([scene((100, 120))] * 4), candidates, Candidate("f", FakeBackend()), bright_boxes)
    assert theirs.share / ours.share == pytest.approx((1.25 / 1.05) ** 2, rel=0.1)


def test_flip_tta_is_used_on_clips():
    plain, flipped = FakeBackend(), FakeBackend()
    candidates = [Candidate("plain", plain), Candidate("flipped", flipped, flip_tta=True)]
    reference = Candidate("reference", FakeBackend())
    track_faces("clip", frames([scene((100, 120))] * 4), candidates, reference, bright_boxes)
    assert len(flipped.batches) == 2 * len(plain.batches) == 8


def test_a_cut_ends_a_segment_and_is_not_jitter():
    bright = scene((180, 120))
    bright[:, 320:] = 100  # another room, a face that overlaps the one before
    tracks = follow([scene((150, 120))] * 10 + [bright] * 10, FakeBackend())
    assert [len(one.seconds) for one in tracks.segments] == [10, 10]
    assert tracks.gaps == 0
    (one,) = measure_temporal_stability([tracks])
    assert (one.raw.jumps_per_1000, one.frames) == (0, 16)  # the face itself jumps by two thirds of its size


def test_a_face_that_is_lost_and_found_again_is_a_gap():
    there, gone = scene((150, 120)), scene()
    tracks = follow([there] * 10 + [gone] * 3 + [there] * 10, FakeBackend())
    assert tracks.gaps == 1
    assert len(tracks.segments[0].seconds) == 10
    assert len(tracks.segments) == 2


@pytest.mark.parametrize("away", [lambda points: points + 100, lambda points: 0.2 * points + 25])
def test_a_model_that_loses_its_face_is_counted_and_continues_from_the_reference(away):
    class Straying(FakeBackend):
        def predict(self, crops):
            points, scores = super().predict(crops)
            return (away(points) if len(self.batches) == 5 else points), scores

    tracks = follow([scene((150, 120))] * 10, FakeBackend(), Straying())
    assert tracks.lost == [0, 1]
    steady, straying = tracks.segments[0].raw
    assert np.abs(steady - straying).max(axis=(1, 2)).argmax() == 4
    # Their regions differ a little, as they remember other frames.
    np.testing.assert_allclose(steady[5:], straying[5:], atol=2)  # pixels
    rows = measure_temporal_stability([tracks])
    assert rows[1].raw.jumps_per_1000 > 0 == rows[0].raw.jumps_per_1000


def test_squeezed_faces_of_an_anamorphic_clip_are_tracked_in_square_pixels():
    image = scene((100, 120))
    squeezed = cv2.resize(image, (image.shape[1] // 2, image.shape[0]), interpolation=cv2.INTER_AREA)
    candidate = Candidate("model", FakeBackend())
    square, anamorphic = (
        track_faces(
            "clip",
            [Frame(one, number, number / RATE, aspect) for number in range(4)],
            [candidate],
            candidate,
            bright_boxes,
        )
        for one, aspect in ((image, 1.0), (squeezed, 2.0))
    )
    np.testing.assert_allclose(anamorphic.segments[0].raw, square.segments[0].raw, atol=2)  # pixels


def test_no_face_is_not_a_special_case():
    tracks = follow([scene()] * 4, FakeBackend())
    assert tracks.segments == []
    (one,) = measure_temporal_stability([tracks])
    assert (one.frames, one.lost_frames) == (0, 0)
    assert clips_table([tracks]).splitlines()[1].split() == ["model", "0", "raw", *"-------", "0"]
    figures = json.loads(json.dumps(to_json([], tracks=[tracks]), allow_nan=False))["clips"]
    assert figures["all"][0]["raw"]["median"] is None
    assert figures["each"][0]["clip"] == "clip"


def test_clips_are_files_or_folders(tmp_path):
    for name in ("b.mp4", "a.MOV", "notes.txt"):
        (tmp_path / name).touch()
    one = tmp_path / "b.mp4"
    assert find_clips([tmp_path, one]) == [tmp_path / "a.MOV", one, one]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="contains no videos"):
        find_clips([tmp_path / "empty"])


def test_processes_share_the_clips(tmp_path):
    paths = [write_video(tmp_path / f"{number}.mp4", [0, 0.1, 0.2]) for number in range(3)]
    fake = Candidate("fake", FakeBackend())
    whole = track_clips(paths, [fake], fake, bright_boxes)
    assert [one.clip for one in whole] == ["0.mp4", "1.mp4", "2.mp4"]
    parts: list = [None, None]

    def keep(own):
        parts[rank] = own
        raise StopIteration

    for rank in range(2):
        with pytest.raises(StopIteration):
            track_clips(paths, [fake], fake, bright_boxes, Worker(rank, 2, keep))
    shared = track_clips(paths, [fake], fake, bright_boxes, Worker(1, 2, lambda own: parts))
    assert [one.clip for one in shared] == ["0.mp4", "1.mp4", "2.mp4"]


def test_the_command_measures_clips_with_or_without_labelled_faces(tmp_path, monkeypatch, capsys):
    class Detecting:
        def __init__(self, model):
            pass

        detect = detect_in_stream = staticmethod(bright_boxes)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(evaluating, "open_candidate", lambda name: Candidate(str(name), FakeBackend()))
    monkeypatch.setattr(detector, "Detector", Detecting)
    clip = write_video(tmp_path / "clip.mp4", [step / 30 for step in range(100)])
    out = tmp_path / "out.json"
    assert command(["--model", "one", "two", "--clips", str(clip), "--json", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 clips, ")
    assert [line.split()[:2] for line in lines[2:]] == [
        ["one", "raw"],
        ["one", "smoothed"],
        ["two", "raw"],
        ["two", "smoothed"],
    ]
    tracks = json.loads(out.read_text())
    assert tracks["results"] == []
    assert [one["model"] for one in tracks["clips"]["all"]] == ["one", "two"]
    with pytest.raises(SystemExit, match="2"):
        command(["--model", "one", "--clips", str(clip), "--worst", str(tmp_path / "a.png")])
    with pytest.raises(InputError, match="no such file"):
        command(["--model", "one", "--clips", str(tmp_path / "absent.mp4")])


def test_a_model_with_other_points_is_refused_before_a_clip_is_read(tmp_path):
    class Few(FakeBackend):
        def predict(self, crops):
            points, scores = super().predict(crops)
            return points[:, :29], scores[:, :29]

    few, fake = Candidate("few", Few()), Candidate("fake", FakeBackend())
    for candidate, follower in ((few, few), (few, fake), (fake, few)):
        with pytest.raises(ModelError, match=r"few: predicts 29 points \(expected the 98 of WFLW"):
            track_clips([tmp_path / "unread.mp4"], [candidate], follower, bright_boxes)


@pytest.mark.faces
def test_smoothing_reduces_the_jitter_of_a_face_without_delay(real_faces):
    """The jitter of still faces is at least 30 % lower, with a lag of less than one frame."""
    from canthus.runtime.detector import Detector

    clip = real_faces / "videos" / "pyfeat_single_face.mp4"
    ours, peer = open_candidate("fast"), open_peer(real_faces / "peers" / "PFLD_GhostOne_112_1_opt_sim.onnx")
    with Detector() as found, ours.backend, peer.backend:
        tracks = track_clips([clip], [ours, peer], ours, found.detect)
    fast, other = measure_temporal_stability(tracks)
    assert (fast.lost_frames, other.lost_frames, tracks[0].gaps) == (0, 0, 0)
    assert "1 clips, 1 track segments" in clips_summary(tracks)
    for one in (fast, other):
        assert one.frames == 70
        assert one.smoothed.still_median < 0.7 * one.raw.still_median
    assert fast.raw.still_median < 1.2 * other.raw.still_median
