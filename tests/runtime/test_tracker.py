"""Tracking of faces: ids, new and lost faces, cuts, and how often the detector and the network run."""

import dataclasses

import numpy as np
import pytest

from canthus.runtime import tracker as tracker_module
from canthus.runtime.geometry import MARGIN, crop_all, transform
from canthus.runtime.landmarks import Landmarks
from canthus.runtime.schemes import Scheme
from canthus.runtime.smooth import Smoother
from canthus.runtime.tracker import Tracker, TrackerSettings
from canthus.runtime.types import FaceBox
from support.fakes import FakeBackend, bright_boxes, scene
from support.shape import SHAPE


class Scored:
    """A backend that returns the same score for all points."""

    def __init__(self, backend, score):
        self.backend, self.size, self.scheme, self.score = backend, backend.size, backend.scheme, score

    def predict(self, crops):
        points, scores = self.backend.predict(crops)
        return points, np.full_like(scores, self.score)


@pytest.fixture
def tracker(fake_backend):
    return Tracker(bright_boxes, fake_backend, TrackerSettings(max_faces=4))


def run(tracker, scenes, rate=30):
    return [tracker.update(image, number / rate) for number, image in enumerate(scenes)]


def test_frame_without_faces_returns_empty_arrays(tracker):
    faces = tracker.update(scene(), 0.0)
    assert len(faces) == 0
    assert faces.points.shape == (0, 98, 2)


def test_moving_face_keeps_its_id_and_the_detector_runs_on_few_frames(tracker):
    results = run(tracker, [scene((100 + 2 * step, 120)) for step in range(60)])
    assert {tuple(faces.ids) for faces in results} == {(0,)}
    assert tracker.detections <= 0.1 * len(results)


@pytest.mark.parametrize(("score", "found"), [(0.28, 1), (0.22, 0)])  # 0.4 = 0.8 * sqrt(0.25)
def test_new_face_needs_a_high_score_of_detector_and_network(fake_backend, score, found):
    def detect(image):
        return [dataclasses.replace(box, score=0.8) for box in bright_boxes(image)]

    tracker = Tracker(detect, Scored(fake_backend, score))
    assert len(tracker.update(scene((100, 120)), 0.0)) == found


@pytest.mark.parametrize(("score", "found"), [(0.68, 1), (0.6, 0)])  # 0.4 = 0.5 * sqrt(0.64)
def test_network_decides_about_a_box_with_a_low_detection_score(fake_backend, score, found):
    def detect(image):
        return [dataclasses.replace(box, score=0.3) for box in bright_boxes(image)]

    tracker = Tracker(detect, Scored(fake_backend, score))
    assert len(tracker.update(scene((100, 120)), 0.0)) == found


def test_face_that_the_detector_no_longer_finds_needs_a_higher_score(fake_backend):
    backend = Scored(fake_backend, 0.9)
    tracker = Tracker(bright_boxes, backend)
    tracker.update(scene((100, 120)), 0.0)
    backend.score, tracker.detect = 0.3, lambda image: []
    times = [step / 10 for step in range(1, 30)]
    counts = [len(tracker.update(scene((100, 120)), seconds)) for seconds in times]
    assert counts == [seconds <= tracker.settings.confirmation_timeout for seconds in times]


def test_face_is_lost_below_lost_score_and_earlier_if_it_is_unconfirmed(fake_backend):
    backend = Scored(fake_backend, 0.9)
    tracker = Tracker(bright_boxes, backend)
    settings = tracker.settings
    tracker.update(scene((100, 120)), 0.0)
    tracker.detect = lambda image: []
    backend.score = (settings.lost_score + settings.unconfirmed_lost_score) / 2
    assert len(tracker.update(scene((100, 120)), 0.1)) == 1
    assert len(tracker.update(scene((100, 120)), settings.confirmation_timeout + 0.2)) == 0
    tracker.detect = bright_boxes
    backend.score = 0.9
    assert len(tracker.update(scene((100, 120)), 5.0)) == 1
    backend.score = settings.lost_score - 0.01
    tracker.detect = lambda image: []
    assert len(tracker.update(scene((100, 120)), 5.1)) == 0


def test_two_faces_have_two_ids(tracker):
    results = run(tracker, [scene((100, 120), (500, 120))] * 5)
    assert all(faces.ids.tolist() == [0, 1] for faces in results)


def test_face_that_appears_long_after_another_left_gets_a_new_id(tracker):
    results = run(tracker, [scene((100, 120))] * 5 + [scene()] * 40 + [scene((500, 100))] * 5)
    assert [len(faces) for faces in (results[4], results[6], results[-1])] == [1, 0, 1]
    assert results[-1].ids.tolist() == [1]


def test_lost_face_gets_the_same_id_when_it_returns_within_0_7_s(tracker):
    results = run(tracker, [scene((100, 120))] * 5 + [scene()] * 6 + [scene((104, 120))] * 5)
    assert results[7].ids.tolist() == []
    assert results[-1].ids.tolist() == [0]


def test_second_face_is_found_within_the_detection_interval(tracker):
    results = run(tracker, [scene((100, 120))] * 10 + [scene((100, 120), (500, 120))] * 40)
    assert results[-1].ids.tolist() == [0, 1]


def test_number_of_faces_is_at_most_max_faces(fake_backend):
    tracker = Tracker(bright_boxes, fake_backend, TrackerSettings(max_faces=1))
    assert len(tracker.update(scene((100, 120), (500, 120)), 0.0)) == 1


def test_lowering_max_faces_keeps_the_oldest_faces(tracker):
    both = scene((100, 120), (500, 120))
    assert tracker.update(both, 0.0).ids.tolist() == [0, 1]
    tracker.settings = dataclasses.replace(tracker.settings, max_faces=1)
    assert tracker.update(both, 0.1).ids.tolist() == [0]


def test_two_boxes_of_one_face_give_one_face(fake_backend):
    tracker = Tracker(lambda image: bright_boxes(image) * 2, fake_backend, TrackerSettings())
    results = run(tracker, [scene((100, 120))] * 70)
    assert {len(faces) for faces in results} == {1}


def test_face_at_another_place_after_a_jump_in_time_is_found(tracker):
    tracker.update(scene((100, 120)), 50.0)
    assert len(tracker.update(scene((500, 120)), 1.0)) == 1


def test_detector_runs_at_once_after_a_jump_back_in_time(tracker):
    tracker.update(scene((100, 120)), 50.0)
    assert len(tracker.update(scene((100, 120), (500, 120)), 1.0)) == 2


def test_lost_face_gets_a_new_id_after_a_jump_back_in_time(tracker):
    tracker.update(scene((100, 120)), 50.0)
    for number in range(30):
        assert len(tracker.update(scene(), 1.0 + number / 30)) == 0
    assert tracker.update(scene((100, 120)), 2.0).ids.tolist() == [1]


def test_faces_are_sorted_by_id(tracker):
    both = scene((100, 120), (500, 120))
    results = run(tracker, [both] * 5 + [scene((500, 120))] * 3 + [both] * 9)
    assert results[-1].ids.tolist() == [0, 1]
    assert results[-1].points[0].max() < 170


def test_two_faces_at_the_place_of_a_lost_one_get_two_ids(fake_backend):
    boxes = [FaceBox(250, 50, 390, 190, 0.9)]
    tracker = Tracker(lambda image: boxes, fake_backend)
    tracker.update(scene((320, 120), side=140), 0.0)
    tracker.update(scene(), 0.1)
    boxes[:] = [FaceBox(225, 75, 315, 165, 0.9), FaceBox(325, 75, 415, 165, 0.9)]
    assert tracker.update(scene((270, 120), (370, 120), side=90), 0.3).ids.tolist() == [0, 1]


@pytest.mark.parametrize(("first", "then"), [(30, 90), (90, 30)])
def test_face_of_another_size_at_the_place_of_a_lost_one_gets_a_new_id(tracker, first, then):
    results = run(tracker, [scene((320, 120), side=first), scene(), scene((320, 120), side=then)])
    assert [faces.ids.tolist() for faces in results] == [[0], [], [1]]


def add_background(image, seed, light=0):
    """Return a scene with a random background behind the faces."""
    background = np.random.default_rng(seed).integers(0, 12, (3, 8, 1)).repeat(80, 0).repeat(80, 1) * 8 + light
    return np.where(image > 0, image, background).astype(np.uint8)


def test_all_faces_after_a_cut_are_found_at_once_and_get_new_ids(tracker):
    one, two = scene((100, 120)), scene((110, 120), (500, 120))
    results = run(tracker, [add_background(one, 1)] * 3 + [add_background(two, 2)] * 3)
    assert [faces.ids.tolist() for faces in results] == [[0]] * 3 + [[1, 2]] * 3


def test_brighter_light_and_a_covered_camera_are_no_cuts(tracker):
    face = scene((100, 120))
    results = run(
        tracker, [add_background(face, 1), add_background(face, 1, light=30), scene(), scene(), add_background(face, 1)]
    )
    assert [faces.ids.tolist() for faces in results] == [[0], [0], [], [], [0]]


@pytest.mark.parametrize("change", ["grown", "turned", "outside"])
def test_track_with_an_implausible_motion_is_lost_despite_a_high_score(fake_backend, change):
    class Implausible(Scored):
        def predict(self, crops):
            points, scores = super().predict(crops)
            middle = np.float32(self.size / 2)
            match change:
                case "grown":
                    points = middle + (points - middle) * np.float32(1.9)
                case "turned":
                    points = np.stack([2 * middle - points[..., 1], points[..., 0]], -1)
                case "outside":
                    points = points - np.float32(self.size)
            return points, scores

    tracker = Tracker(bright_boxes, fake_backend)
    assert len(tracker.update(scene((40, 120), side=60), 0.0)) == 1
    tracker.backend, tracker.detect = Implausible(fake_backend, 0.9), lambda image: []
    assert len(tracker.update(scene((40, 120), side=60), 0.03)) == 0


def test_track_whose_center_leaves_the_frame_is_lost_despite_a_high_score(fake_backend):
    class Shifted(Scored):
        def predict(self, crops):
            points, scores = super().predict(crops)
            return points - np.float32([0.45 * self.size, 0]), scores

    image = scene((31, 120), side=60)
    tracker = Tracker(bright_boxes, fake_backend)
    before = tracker.update(image, 0.0).points[0]
    tracker.backend, tracker.detect = Shifted(fake_backend, 0.9), lambda image: []
    assert 0 < (before.min(0) + before.max(0))[0] / 2 < 0.45 * 60 * 1.25
    assert len(tracker.update(image, 0.03)) == 0


def test_unconfirmed_face_needs_the_higher_score_also_after_a_jump_back_in_time(fake_backend):
    backend = Scored(fake_backend, 0.9)
    tracker = Tracker(bright_boxes, backend)
    tracker.update(scene((100, 120)), 50.0)
    backend.score = (tracker.settings.lost_score + tracker.settings.unconfirmed_lost_score) / 2
    tracker.detect = lambda image: []
    assert len(tracker.update(scene((100, 120)), 50.03)) == 1
    assert len(tracker.update(scene((100, 120)), 1.0)) == 0


def test_uncertain_track_is_not_moved_onto_the_face_of_another_track():
    class OnTheOther(FakeBackend):
        """Gives each region a face at its center; the left one has a low score. Once `moved`, all are the right one."""

        moved = False

        def predict_regions(self, image, rois):
            centers = [142 if self.moved or roi.x > 121 else 100 for roi in rois]
            points = [70 * (SHAPE - (SHAPE.min(0) + SHAPE.max(0)) / 2) + (x, 120) for x in centers]
            scores = [np.full(98, 0.5 if x == 100 else 0.9) for x in centers]
            return np.array(points, np.float32).reshape(-1, 98, 2), np.array(scores, np.float32).reshape(-1, 98)

    def detect(image):
        backend.moved = tracker.detections > 1  # of the predictions in the detector's boxes
        return [FaceBox(x - 35, 85, x + 35, 155, 0.9) for x in (100, 142)]

    backend = OnTheOther()
    tracker = Tracker(detect, backend)
    assert len(tracker.update(scene(), 0.0)) == 2
    points = tracker.update(scene(), 1.0).points
    assert backend.moved
    assert ((points.min(1) + points.max(1)) / 2)[:, 0] == pytest.approx([100, 142])


def test_detector_runs_rarely_while_max_faces_are_tracked(fake_backend):
    tracker = Tracker(bright_boxes, fake_backend, TrackerSettings(max_faces=1))
    run(tracker, [scene((100, 120))] * 110)
    assert tracker.detections == 1


def test_restart_gives_new_ids(tracker):
    tracker.update(scene((100, 120)), 0.0)
    tracker.restart()
    assert tracker.update(scene((100, 120)), 0.1).ids.tolist() == [1]


class TooSmall:
    """A backend that gives a face that fills the crop a low score, and points in the middle of the crop only."""

    def __init__(self, backend):
        self.backend, self.size, self.scheme = backend, backend.size, backend.scheme

    def predict(self, crops):
        points, scores = self.backend.predict(crops)
        for place, crop in enumerate(crops):
            if crop.min() > 128:
                points[place] = self.size * (0.1 + 0.8 * (points[place] / self.size))
                scores[place] = 0.4
        return points, scores


def test_track_of_a_part_of_a_face_is_corrected_by_the_detectors_box(fake_backend):
    tracker = Tracker(bright_boxes, TooSmall(fake_backend))
    small, large = scene((150, 120), side=70), scene((150, 120), side=130)
    before = run(tracker, [small] * 3)[-1]
    stuck = tracker.update(large, 0.2)
    assert np.ptp(stuck.points[0], axis=0).max() < 90
    corrected = [tracker.update(large, 0.2 + number / 30) for number in range(1, 20)][-1]
    assert corrected.ids.tolist() == before.ids.tolist()
    assert np.ptp(corrected.points[0], axis=0).max() == pytest.approx(130, abs=6)


def test_points_of_a_still_face_settle_if_the_network_overshoots(fake_backend, monkeypatch):
    """Where its region is too small the face is predicted a little too large, and the other way around."""
    tracker = Tracker(bright_boxes, fake_backend)
    run(tracker, [scene((150, 120), side=100)] * 2)

    def predict(_backend, _image, rois):
        (roi,) = rois
        error = np.clip(1.2 * (MARGIN * 100 / roi.side - 1), -0.004, 0.004)
        points = np.array([150, 120]) + 100 * (1 + error) * (SHAPE - 0.5)
        return Landmarks(np.float32(points[None]), np.full((1, len(SHAPE)), 0.9, np.float32))

    monkeypatch.setattr(tracker_module, "predict_landmarks", predict)
    sides = [np.ptp(faces.points[0], axis=0).max() for faces in run(tracker, [scene((150, 120), side=100)] * 40)]
    assert np.ptp(sides[-5:]) < 0.02


@pytest.mark.parametrize(("score", "moved"), [(0.45, False), (0.55, True)])
def test_tracked_face_is_replaced_only_by_a_clearly_higher_score(fake_backend, score, moved):
    backend = Scored(fake_backend, 0.4)
    tracker = Tracker(bright_boxes, backend)
    tracker.update(scene((100, 120)), 0.0)

    def detect(image):
        backend.score = score  # of the predictions in the detector's box
        return bright_boxes(image)

    tracker.detect = detect
    faces = tracker.update(scene((100, 120)), 1.0)
    assert faces.scores.mean() == pytest.approx(score if moved else 0.4)


def test_faces_with_low_scores_are_refined_together_and_rarely(fake_backend):
    tracker = Tracker(bright_boxes, Scored(fake_backend, 0.4))
    image = scene((100, 120), (500, 120))
    for number in range(60):  # two seconds
        tracker.update(image, number / 30)
    fake_backend.batches.clear()
    for number in range(60, 120):
        tracker.update(image, number / 30)
    batches = [count for count in fake_backend.batches if count]
    assert batches == [2] * (60 + 5)  # one per frame, and five for one refinement of both faces


def test_rejected_box_is_not_tried_again_in_every_frame(fake_backend):
    tracker = Tracker(bright_boxes, Scored(fake_backend, 0.1))
    for number in range(60):
        assert len(tracker.update(scene((100, 120)), number / 30)) == 0
    assert tracker.detections == 60
    assert 10 * 5 <= len([count for count in fake_backend.batches if count]) <= 15 * 5


def test_face_is_found_although_a_false_box_scores_higher(fake_backend):
    def detect(image):
        boxes = bright_boxes(image)
        return [dataclasses.replace(box, x0=box.x0 + 250, x1=box.x1 + 250, score=0.95) for box in boxes] + boxes

    tracker = Tracker(detect, fake_backend, TrackerSettings(max_faces=1))
    results = run(tracker, [scene((100, 120))] * 3)
    assert [faces.ids.tolist() for faces in results] == [[0]] * 3
    assert results[-1].points[0].max() < 170


def test_face_missing_in_one_frame_keeps_its_id_at_one_frame_per_second(tracker):
    results = run(tracker, [scene((100, 120)), scene(), scene((100, 120)), scene(), scene((100, 120))], rate=1)
    assert [faces.ids.tolist() for faces in results] == [[0], [], [0], [], [0]]


@pytest.mark.parametrize("factor", [np.nan, 1.0], ids=["points and scores", "scores"])
def test_face_with_nan_from_the_network_is_lost(fake_backend, factor):
    class Overflowing(Scored):
        def predict(self, crops):
            points, scores = super().predict(crops)
            return points * np.float32(factor), scores * np.float32(np.nan)

    tracker = Tracker(bright_boxes, Overflowing(fake_backend, 0.9))
    assert [len(faces) for faces in run(tracker, [scene((100, 120))] * 3)] == [0, 0, 0]
    tracker.backend = fake_backend
    assert len(tracker.update(scene((100, 120)), 1.0)) == 1
    tracker.backend = Overflowing(fake_backend, 0.9)
    assert len(tracker.update(scene((100, 120)), 1.1)) == 0


def test_detection_score_is_that_of_the_last_detection_of_the_face(fake_backend):
    score = 0.8

    def detect(image):
        boxes = bright_boxes(image)
        return [dataclasses.replace(box, score=score) for box in boxes + boxes[:1]]

    tracker = Tracker(detect, fake_backend)
    image = scene((100, 120), (500, 120))
    assert tracker.update(image, 0.0).detection_scores == pytest.approx([0.8, 0.8])
    score = 0.6
    assert tracker.update(image, 0.1).detection_scores == pytest.approx([0.8, 0.8])  # the detector did not run
    assert tracker.update(image, 1.0).detection_scores == pytest.approx([0.6, 0.6])


def test_detection_score_is_the_best_of_two_boxes_of_one_face(fake_backend):
    def detect(image):
        (box,) = bright_boxes(image)
        return [dataclasses.replace(box, score=score) for score in (0.7, 0.9, 0.6)]

    tracker = Tracker(detect, fake_backend)
    tracker.update(scene((100, 120)), 0.0)
    assert tracker.update(scene((100, 120)), 1.0).detection_scores == pytest.approx([0.9])


def test_constructor_takes_no_private_state(fake_backend):
    with pytest.raises(TypeError):
        Tracker(bright_boxes, fake_backend, TrackerSettings(), 0, [])


def test_faces_are_tracked_with_the_points_of_any_model(fake_backend):
    """With four points and the eyes as the first two, a rotated face is found again in a rotated region."""
    scheme = Scheme("four", 4, eyes=((0,), (1,)))
    regions = []

    class FourPoints:
        size, scheme = 64, None

        def predict(self, crops):
            corners = np.array([[12, 12], [50, 22], [40, 60], [2, 50]], np.float32)  # of a rotated square
            return np.stack([corners] * len(crops)), np.full((len(crops), 4), 0.9, np.float32)

        def predict_regions(self, image, rois):
            regions.append(rois)
            crops = crop_all(image, rois, self.size)
            points, scores = self.predict(crops.images)
            return transform(crops.to_frame, points), scores

    backend = FourPoints()
    backend.scheme = scheme
    tracker = Tracker(bright_boxes, backend)
    empty, faces = tracker.update(scene(), 0.0), tracker.update(scene((200, 100)), 0.1)
    assert empty.points.shape == (0, 4, 2)
    assert faces.points.shape == (1, 4, 2)
    assert faces.scheme is empty.scheme is scheme
    tracker.update(scene((200, 100)), 0.2)
    assert regions[-1][0].angle == pytest.approx(scheme.roll(faces.points[0]))
    assert Smoother().smooth(faces, 0.1).scheme is scheme
