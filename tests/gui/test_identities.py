"""Faces keep their ids when a clip is played again."""

import numpy as np

from canthus.gui.identities import Identities
from canthus.runtime.types import Faces


def faces(*places: tuple[int, float]) -> Faces:
    """Return faces of 40 x 40 pixels, each with an id of the tracker and its left edge."""
    corners = np.array([[0, 0], [40, 0], [0, 40], [40, 40]], np.float32)
    shape = corners[np.arange(98) % 4]
    points = np.stack([shape + np.array([left, 10], np.float32) for _, left in places])
    return Faces(points, np.ones((len(places), 98), np.float32), np.array([track for track, _ in places], np.int64))


def test_without_a_jump_the_ids_are_those_of_the_tracker() -> None:
    identities = Identities()
    for second, ids in enumerate([[0], [0, 1], [1], [2]]):
        shown = identities.rename(faces(*((track, 100.0) for track in ids)), second / 100)  # at one place: a cut
        assert shown.ids.tolist() == ids


def test_faces_keep_their_ids_in_a_second_playback() -> None:
    identities = Identities()
    for first in (0, 10, 20):  # the tracker gives new ids
        identities.jump()
        assert identities.rename(faces((first, 0.0)), 0.0).ids.tolist() == [0]
        assert identities.rename(faces((first, 5.0), (first + 1, 100.0)), 1.0).ids.tolist() == [0, 1]


def test_faces_after_a_jump_are_sorted_by_the_ids_that_are_shown() -> None:
    identities = Identities()
    identities.rename(faces((0, 0.0), (1, 100.0)), 0.0)
    identities.jump()
    shown = identities.rename(faces((5, 102.0), (6, 1.0)), 0.0)
    assert shown.ids.tolist() == [0, 1]
    assert shown.boxes[:, 0].tolist() == [1.0, 102.0]


def test_a_face_at_another_place_or_time_gets_a_new_id() -> None:
    identities = Identities()
    identities.rename(faces((0, 0.0)), 0.0)
    identities.jump()
    assert identities.rename(faces((1, 60.0)), 0.0).ids.tolist() == [1]
    identities.jump()
    assert identities.rename(faces((2, 0.0)), 5.0).ids.tolist() == [2]


def test_two_faces_never_get_the_same_id() -> None:
    identities = Identities()
    identities.rename(faces((0, 0.0)), 0.0)
    identities.jump()
    assert sorted(identities.rename(faces((1, 0.0), (2, 2.0)), 0.0).ids.tolist()) == [0, 1]
