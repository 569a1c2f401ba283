"""Repeat the processing of a trace, without camera, network or model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import CanthusError, InputError
from canthus.runtime.processing import Inputs, Processing, Processor
from canthus.runtime.schemes import Scheme
from canthus.runtime.trace.format import (
    CALIBRATE,
    NOT_READY,
    RESTART,
    Chunk,
    Header,
    read_chunks,
    read_header,
    read_state,
)
from canthus.runtime.trace.recorder import digest
from canthus.runtime.types import FaceBox, Faces, Frame, Roi

REGION_TOLERANCE = 0.01
"""How far a region may differ from the recorded one, in pixels and radians: processors round differently."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """A frame of a trace, computed again."""

    index: int
    seconds: float
    faces: Faces
    same: bool  # whether every number of the faces is the recorded one, bit for bit


def replay(path: Path, processing: Processing | None = None) -> Iterator[Replayed]:
    """Yield the frames of a trace with their faces, tracked, smoothed and measured again.

    processing: other settings than the recorded ones. With other settings of the tracker, it may ask for regions that
        were not recorded.

    The numbers are the recorded ones, bit for bit, on the same machine with the same versions. Other processors and
    versions of NumPy may round differently.

    Raises InputError if the file is no trace or is damaged, or if the tracker asks for something that was not recorded.
    """
    header = read_header(path)
    recorded = _Recorded(path, header.scheme)
    processor = Processor(Inputs(recorded.detect, recorded, recorded.shrink), processing or header.processing)
    state = read_state(path)
    if state is not None:
        try:
            processor.restore(state)
        except Exception as error:  # the state may have any values
            raise InputError(f"{path}: is damaged (the state at its start is that of other settings)") from error
    for chunk in read_chunks(path):
        recorded.open(chunk)
        for row in range(len(chunk["index"])):
            recorded.start_frame(row)
            events = int(chunk["events"][row])
            if events & RESTART:
                processor.restart()
            if events & CALIBRATE:
                processor.calibrate()
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # numbers of others may be of any size
                    faces = processor.update(_frame(chunk, row))
            except CanthusError:
                raise
            except Exception as error:
                if state is None:
                    raise
                raise InputError(f"{path}: is damaged (the state at its start does not fit: {error})") from error
            same = digest(faces) == chunk["digest"][row].tobytes()
            yield Replayed(int(chunk["index"][row]), float(chunk["seconds"][row]), faces, same)


def _frame(chunk: Chunk, row: int) -> Frame:
    """Return a black frame of the recorded size, which takes no memory."""
    height, width = chunk["size"][row].tolist()
    image = np.broadcast_to(np.zeros((), np.uint8), (height, width, 3))
    return Frame(image, int(chunk["index"][row]), float(chunk["seconds"][row]), float(chunk["pixel_aspect"][row]))


class _Recorded:
    """Returns what the detector and the network found when the trace was recorded, in the order of the calls."""

    name, size = "a trace", 0

    def __init__(self, path: Path, scheme: Scheme) -> None:
        self._path, self.scheme = path, scheme
        self._frame = 0  # number of the frame, for messages

    def open(self, chunk: Chunk) -> None:
        """Go on with another chunk. Raises InputError if its faces have other points than the header says."""
        if len(chunk["points"]) and (points := chunk["points"].shape[1]) != self.scheme.points:
            raise InputError(f"{self._path}: is damaged (faces have {points} points, not {self.scheme.points})")
        self._chunk = chunk
        self._detections = self._boxes = self._predictions = self._regions = 0

    def start_frame(self, row: int) -> None:
        """Go on with a frame of the chunk."""
        self._row = row
        self._frame = int(self._chunk["index"][row])
        # What the frames before did not ask for is passed over.
        self._detections, self._boxes = self._skip("detections", "boxes_found", row)
        self._predictions, self._regions = self._skip("predictions", "regions_seen", row)

    def _skip(self, calls: str, found: str, row: int) -> tuple[int, int]:
        """Return the number of calls and of what they found before a row."""
        count = int(self._chunk[calls][:row].sum())
        return count, int(np.maximum(self._chunk[found][:count], 0).sum())

    def shrink(self, _image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the thumbnail of the frame."""
        small: NDArray[np.uint8] = self._chunk["thumbnail"][self._row]
        return small

    def detect(self, _image: NDArray[np.uint8]) -> list[FaceBox] | None:
        """Return the boxes that the detector found in the frame."""
        count = int(self._next("detections", self._detections, "boxes_found", "runs the detector"))
        self._detections += 1
        if count == NOT_READY:
            return None
        rows = self._chunk["boxes"][self._boxes : self._boxes + count].tolist()
        self._boxes += count
        return [FaceBox(*row) for row in rows]

    def predict_regions(
        self, _image: NDArray[np.uint8], rois: Sequence[Roi]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the points and scores that the network predicted in these regions of the frame."""
        count = int(self._next("predictions", self._predictions, "regions_seen", "runs the network"))
        self._predictions += 1
        part = slice(self._regions, self._regions + count)
        self._regions += count
        wanted = np.array([(roi.x, roi.y, roi.side, roi.angle) for roi in rois]).reshape(-1, 4)
        known = self._chunk["regions"][part]
        if len(wanted) != count or not np.allclose(wanted, known, rtol=0, atol=REGION_TOLERANCE):
            raise self._error("looks at other regions")
        return self._chunk["points"][part].copy(), self._chunk["scores"][part].copy()

    def _next(self, calls: str, done: int, found: str, what: str) -> int:
        if done >= int(self._chunk[calls][: self._row + 1].sum()):
            raise self._error(what)
        return int(self._chunk[found][done])

    def _error(self, what: str) -> InputError:
        return InputError(
            f"{self._path}: in frame {self._frame} the tracker {what}, which was not recorded; the tracker or its "
            "settings have changed since"
        )

    def predict(self, _crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Never called: the regions are predicted."""
        raise AssertionError("a trace has no network")

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> "_Recorded":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe(header: Header) -> str:
    """Describe a trace on one line."""
    parts = [f"canthus {header.canthus}", f"numpy {header.numpy}", header.machine, header.network]
    return f"recorded from {header.source or 'a source'} with {', '.join(part for part in parts if part)}"
