"""Keeps the ids of faces when a clip is played again, or when the user jumps back in it."""

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.types import Faces

SPACING = 0.1
"""Seconds between the frames whose faces are remembered, besides those in which a face appears."""

NEAR = 0.15
"""Seconds by which a remembered frame may differ from the frame in which a face appears."""

SAME_FACE_OVERLAP = 0.3
"""Intersection over union from which two boxes are one face."""


@dataclass(frozen=True, eq=False)
class _Remembered:
    run: int  # number of jumps before
    ids: NDArray[np.int64]  # (N,)
    boxes: NDArray[np.float32]  # (N, 4)


class Identities:
    """Renames the ids of a tracker, which gives new ones after each jump: a face keeps the id that it had before.

    A face that appears after a jump gets the id of the face that was at its place in an earlier run. Without a jump,
    the ids are those of the tracker.
    """

    def __init__(self) -> None:
        self._run = 0
        self._names: dict[int, int] = {}  # id of the tracker -> id that is shown, since the last jump
        self._next = 0
        self._times: list[float] = []  # seconds, ascending
        self._memory: list[_Remembered] = []  # one for each time

    def jump(self) -> None:
        """The next frame does not follow the last one, and the tracker gives new ids."""
        self._run += 1
        self._names = {}

    def rename(self, faces: Faces, seconds: float) -> Faces:
        """Return the faces of the frame at `seconds` with the ids to show, sorted by them."""
        if not len(faces):
            return faces
        boxes = faces.boxes
        new = [row for row, track in enumerate(faces.ids.tolist()) if track not in self._names]
        taken = {self._names[track] for track in faces.ids.tolist() if track in self._names}
        for row in new:
            name = self._earlier_id(boxes[row], seconds, taken)
            if name is None:
                name, self._next = self._next, self._next + 1
            self._names[int(faces.ids[row])] = name
            taken.add(name)
        ids = np.array([self._names[track] for track in faces.ids.tolist()], np.int64)
        self._remember(seconds, ids, boxes, bool(new))
        order = np.argsort(ids)
        return replace(faces[order], ids=ids[order])

    def _earlier_id(self, box: NDArray[np.float32], seconds: float, taken: set[int]) -> int | None:
        """Return the id of the face that was at this place in an earlier run, or None."""
        place = bisect_left(self._times, seconds - NEAR)
        near = []
        while place < len(self._times) and self._times[place] <= seconds + NEAR:
            near.append(place)
            place += 1
        for place in sorted(near, key=lambda place: abs(self._times[place] - seconds)):
            remembered = self._memory[place]
            if remembered.run == self._run:
                continue
            shared = _overlaps(box, remembered.boxes)
            for other in np.argsort(-shared):
                if shared[other] >= SAME_FACE_OVERLAP and int(remembered.ids[other]) not in taken:
                    return int(remembered.ids[other])
        return None

    def _remember(self, seconds: float, ids: NDArray[np.int64], boxes: NDArray[np.float32], appeared: bool) -> None:
        place = bisect_left(self._times, seconds)
        neighbours = self._times[max(0, place - 1) : place + 1]
        if seconds in neighbours or (not appeared and any(abs(time - seconds) < SPACING for time in neighbours)):
            return
        self._times.insert(place, seconds)
        self._memory.insert(place, _Remembered(self._run, ids, boxes))


def _overlaps(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of a box (4,) with others (N, 4), each x0, y0, x1, y1."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(1)
    areas = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return np.asarray(shared / np.maximum(areas - shared, 1e-6), np.float32)
