import dataclasses

import numpy as np
import pytest

from canthus.runtime.tracker import Tracker, TrackerSettings
from canthus.runtime.types import FaceBox
from support.fakes import bright_boxes, scene


class Scored:
    """A backend whose points all have one score."""

    def __init__(self, backend, score):
        self.backend, self.size, self.score = backend, backend.size, score

    def predict(self, crops):
        points, scores = self.backend.predict(crops)
        return points, np.full_like(scores, self.score)


@pytest.fixture
def tracker(fake_backend):
    return Tracker(bright_boxes, fake_backend, TrackerSettings(max_faces=4))


def run(tracker, scenes, rate=30):
    return [tracker.update(image, number / rate) for number, image in enumerate(scenes)]


def test_no_face_is_ordinary(tracker):
    faces = tracker.update(scene(), 0.0)
    assert len(faces) == 0
    assert faces.points.shape == (0, 98, 2)


def test_a_face_that_moves_keeps_its_id_and_is_rarely_looked_for(tracker):
    told = run(tracker, [scene((100 + 2 * step, 120)) for step in range(60)])
    assert {tuple(faces.ids) for faces in told} == {(0,)}
    assert tracker.detections <= 0.1 * len(told)


@pytest.mark.parametrize(("score", "found"), [(0.36, 1), (0.3, 0)])  # 0.45 is 0.8 times the root of 0.316
def test_a_face_is_new_when_detector_and_network_both_say_so(fake_backend, score, found):
    def detect(image):
        return [dataclasses.replace(box, score=0.8) for box in bright_boxes(image)]

    tracker = Tracker(detect, Scored(fake_backend, score))
    assert len(tracker.update(scene((100, 120)), 0.0)) == found


@pytest.mark.parametrize(("score", "found"), [(0.85, 1), (0.78, 0)])  # 0.45 is a half times the root of 0.81
def test_where_the_detector_doubts_the_network_decides(fake_backend, score, found):
    def detect(image):
        return [dataclasses.replace(box, score=0.3) for box in bright_boxes(image)]

    tracker = Tracker(detect, Scored(fake_backend, score))
    assert len(tracker.update(scene((100, 120)), 0.0)) == found


def test_a_face_that_the_detector_sees_no_more_needs_a_better_score(fake_backend):
    backend = Scored(fake_backend, 0.9)
    tracker = Tracker(bright_boxes, backend)
    tracker.update(scene((100, 120)), 0.0)
    backend.score, tracker.detect = 0.3, lambda image: []
    times = [step / 10 for step in range(1, 30)]
    there = [len(tracker.update(scene((100, 120)), seconds)) for seconds in times]
    assert there == [seconds <= tracker.settings.confirmation_timeout for seconds in times]


def test_a_followed_face_is_lost_below_its_least_score_and_sooner_when_in_doubt(fake_backend):
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
    told = run(tracker, [scene((100, 120), (500, 120))] * 5)
    assert all(faces.ids.tolist() == [0, 1] for faces in told)


def test_a_face_that_leaves_is_lost_and_a_later_one_is_new(tracker):
    told = run(tracker, [scene((100, 120))] * 5 + [scene()] * 40 + [scene((500, 100))] * 5)
    assert [len(faces) for faces in (told[4], told[6], told[-1])] == [1, 0, 1]
    assert told[-1].ids.tolist() == [1]


def test_a_face_hidden_for_a_moment_comes_back_as_itself(tracker):
    told = run(tracker, [scene((100, 120))] * 5 + [scene()] * 6 + [scene((104, 120))] * 5)
    assert told[7].ids.tolist() == []
    assert told[-1].ids.tolist() == [0]


def test_a_second_face_that_enters_is_found_on_the_beat(tracker):
    told = run(tracker, [scene((100, 120))] * 10 + [scene((100, 120), (500, 120))] * 40)
    assert told[-1].ids.tolist() == [0, 1]


def test_never_more_faces_than_wanted(fake_backend):
    tracker = Tracker(bright_boxes, fake_backend, TrackerSettings(max_faces=1))
    assert len(tracker.update(scene((100, 120), (500, 120)), 0.0)) == 1


def test_a_detection_of_a_followed_face_is_no_second_face(fake_backend):
    doubled = Tracker(lambda image: bright_boxes(image) * 2, fake_backend, TrackerSettings())
    told = run(doubled, [scene((100, 120))] * 70)
    assert {len(faces) for faces in told} == {1}


def test_a_jump_in_time_is_survived(tracker):
    tracker.update(scene((100, 120)), 50.0)
    assert len(tracker.update(scene((500, 120)), 1.0)) == 1


def test_after_a_jump_back_faces_are_looked_for_at_once(tracker):
    tracker.update(scene((100, 120)), 50.0)
    assert len(tracker.update(scene((100, 120), (500, 120)), 1.0)) == 2


def test_a_jump_back_ends_the_memory_of_lost_faces(tracker):
    tracker.update(scene((100, 120)), 50.0)
    for number in range(30):
        assert len(tracker.update(scene(), 1.0 + number / 30)) == 0
    assert tracker.update(scene((100, 120)), 2.0).ids.tolist() == [1]


def test_faces_come_in_the_order_of_their_ids(tracker):
    both = scene((100, 120), (500, 120))
    told = run(tracker, [both] * 5 + [scene((500, 120))] * 3 + [both] * 9)
    assert told[-1].ids.tolist() == [0, 1]
    assert told[-1].points[0].max() < 170


def test_two_where_one_was_lost_are_two(fake_backend):
    boxes = [FaceBox(250, 50, 390, 190, 0.9)]
    tracker = Tracker(lambda image: boxes, fake_backend)
    tracker.update(scene((320, 120), side=140), 0.0)
    tracker.update(scene(), 0.1)
    boxes[:] = [FaceBox(225, 75, 315, 165, 0.9), FaceBox(325, 75, 415, 165, 0.9)]
    assert tracker.update(scene((270, 120), (370, 120), side=90), 0.3).ids.tolist() == [0, 1]


@pytest.mark.parametrize(("first", "then"), [(30, 90), (90, 30)])
def test_a_face_of_another_size_where_one_was_lost_is_another(tracker, first, then):
    told = run(tracker, [scene((320, 120), side=first), scene(), scene((320, 120), side=then)])
    assert [faces.ids.tolist() for faces in told] == [[0], [], [1]]


def room(image, seed, light=0):
    """A scene with a wall of its own behind the faces."""
    wall = np.random.default_rng(seed).integers(0, 12, (3, 8, 1)).repeat(80, 0).repeat(80, 1) * 8 + light
    return np.where(image > 0, image, wall).astype(np.uint8)


def test_who_stands_in_the_same_place_after_a_cut_is_another_and_all_are_found_at_once(tracker):
    one, two = scene((100, 120)), scene((110, 120), (500, 120))
    told = run(tracker, [room(one, 1)] * 3 + [room(two, 2)] * 3)
    assert [faces.ids.tolist() for faces in told] == [[0]] * 3 + [[1, 2]] * 3


def test_light_and_a_hand_over_the_camera_are_no_cut(tracker):
    face = scene((100, 120))
    told = run(tracker, [room(face, 1), room(face, 1, light=30), scene(), scene(), room(face, 1)])
    assert [faces.ids.tolist() for faces in told] == [[0], [0], [], [], [0]]


@pytest.mark.parametrize("change", ["grown", "turned", "outside"])
def test_a_track_that_does_what_no_face_does_is_lost(fake_backend, change):
    """However sure the network is of what it slid onto."""

    class Astray(Scored):
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
    tracker.backend, tracker.detect = Astray(fake_backend, 0.9), lambda image: []
    assert len(tracker.update(scene((40, 120), side=60), 0.03)) == 0


def test_as_many_as_wanted_are_looked_for_seldom(fake_backend):
    tracker = Tracker(bright_boxes, fake_backend, TrackerSettings(max_faces=1))
    run(tracker, [scene((100, 120))] * 110)
    assert tracker.detections == 1


def test_restart_forgets_the_faces(tracker):
    tracker.update(scene((100, 120)), 0.0)
    tracker.restart()
    assert tracker.update(scene((100, 120)), 0.1).ids.tolist() == [1]


class Nearsighted:
    """A backend that is unsure of a face that fills its crop, and takes the middle of the crop for it."""

    def __init__(self, backend):
        self.backend, self.size = backend, backend.size

    def predict(self, crops):
        points, scores = self.backend.predict(crops)
        for place, crop in enumerate(crops):
            if crop.min() > 128:
                points[place] = self.size * (0.1 + 0.8 * (points[place] / self.size))
                scores[place] = 0.5
        return points, scores


def test_a_track_that_covers_a_part_of_its_face_is_mended_when_the_detector_sees_it_whole(fake_backend):
    tracker = Tracker(bright_boxes, Nearsighted(fake_backend))
    small, large = scene((150, 120), side=70), scene((150, 120), side=130)
    before = run(tracker, [small] * 3)[-1]
    stuck = tracker.update(large, 0.2)
    assert np.ptp(stuck.points[0], axis=0).max() < 90
    mended = [tracker.update(large, 0.2 + number / 30) for number in range(1, 20)][-1]
    assert mended.ids.tolist() == before.ids.tolist()
    assert np.ptp(mended.points[0], axis=0).max() == pytest.approx(130, abs=6)


@pytest.mark.parametrize(("score", "moved"), [(0.55, False), (0.65, True)])
def test_only_a_clearly_surer_look_moves_a_followed_face(fake_backend, score, moved):
    backend = Scored(fake_backend, 0.5)
    tracker = Tracker(bright_boxes, backend)
    tracker.update(scene((100, 120)), 0.0)

    def detect(image):
        backend.score = score  # of the looks that follow
        return bright_boxes(image)

    tracker.detect = detect
    faces = tracker.update(scene((100, 120)), 1.0)
    assert faces.scores.mean() == pytest.approx(score if moved else 0.5)


def test_unsure_faces_are_looked_at_afresh_together_and_seldom(fake_backend):
    tracker = Tracker(bright_boxes, Scored(fake_backend, 0.5))
    image = scene((100, 120), (500, 120))
    for number in range(60):  # two seconds
        tracker.update(image, number / 30)
    fake_backend.batches.clear()
    for number in range(60, 120):
        tracker.update(image, number / 30)
    looks = [count for count in fake_backend.batches if count]
    assert looks == [2] * (60 + 5)  # both followed in every frame, and looked at afresh once


def test_what_was_refused_a_moment_ago_is_not_looked_at_in_every_frame(fake_backend):
    tracker = Tracker(bright_boxes, Scored(fake_backend, 0.1))
    for number in range(60):
        assert len(tracker.update(scene((100, 120)), number / 30)) == 0
    assert tracker.detections == 60
    assert 10 * 5 <= len([count for count in fake_backend.batches if count]) <= 15 * 5


def test_a_false_box_does_not_starve_a_face(fake_backend):
    def detect(image):
        boxes = bright_boxes(image)
        return [dataclasses.replace(box, x0=box.x0 + 250, x1=box.x1 + 250, score=0.95) for box in boxes] + boxes

    tracker = Tracker(detect, fake_backend, TrackerSettings(max_faces=1))
    told = run(tracker, [scene((100, 120))] * 3)
    assert [faces.ids.tolist() for faces in told] == [[0]] * 3
    assert told[-1].points[0].max() < 170


def test_a_face_missed_for_a_frame_keeps_its_id_at_one_frame_a_second(tracker):
    told = run(tracker, [scene((100, 120)), scene(), scene((100, 120)), scene(), scene((100, 120))], rate=1)
    assert [faces.ids.tolist() for faces in told] == [[0], [], [0], [], [0]]


@pytest.mark.parametrize("points_too", [np.nan, 1.0])
def test_a_network_that_gives_nan_sees_no_face(fake_backend, points_too):
    class Overflowing(Scored):
        def predict(self, crops):
            points, scores = super().predict(crops)
            return points * np.float32(points_too), scores * np.float32(np.nan)

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
