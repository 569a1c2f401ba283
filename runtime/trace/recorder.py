"""Record a trace while the faces of a video are found."""

import contextlib
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends import Backend
from canthus.runtime.backends.regions import predict_regions
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft, check_output, check_suffix, commit_together
from canthus.runtime.processing import Inputs, Processing
from canthus.runtime.schemes import WFLW, Scheme
from canthus.runtime.trace.format import (
    CALIBRATE,
    CHUNK_FRAMES,
    COLUMNS,
    NOT_READY,
    RESTART,
    STATE,
    make_header,
    write_chunk,
    write_header,
)
from canthus.runtime.types import FaceBox, Faces, Frame, Roi

RecordPrediction = Callable[[Sequence[Roi], NDArray[np.float32], NDArray[np.float32]], None]
"""Records the regions that a network saw, and the points and scores that it predicted."""

TRACE_SUFFIXES = (".trace",)


def check_trace(path: Path, overwrite: bool) -> None:
    """Raise InputError if `Recorder` cannot write `path`. Call it before long work starts."""
    check_suffix(path, TRACE_SUFFIXES, "name of a trace")
    check_output(path, overwrite)


class Recorder(Closeable):
    """Writes a trace. The file appears when the recorder is closed, and is complete then, also after Ctrl-C.

        with Recorder(Path("clip.trace"), "clip.mp4") as recorder:
            with Landmarker(settings, recorder=recorder) as landmarker: ...

    One landmarker can record at a time, in any thread.

    Raises InputError if the file cannot be written.
    """

    def __init__(self, path: Path, source: str = "", chunk_frames: int = CHUNK_FRAMES) -> None:
        """`chunk_frames` are in memory before they are written. `complete_trace` recovers the others after a kill."""
        check_suffix(path, TRACE_SUFFIXES, "name of a trace")
        self.draft = Draft(path)
        self._source, self._chunk_frames = source, chunk_frames
        self._failed = False
        self._lock = threading.Lock()  # a frame may still be recorded in another thread while the file is completed
        self._rows: dict[str, list[NDArray]] = {}
        self._chunks = 0
        self._frames = 0
        self._events = 0
        self._open: dict[str, list[NDArray]] | None = None  # rows of the frame that is being processed
        with self.draft.writing():
            self._file = self.draft.file.open("wb")
            self._archive: zipfile.ZipFile | None = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED)

    def start(self, processing: Processing, network: str, scheme: Scheme = WFLW, state: bytes = b"") -> None:
        """Write the header, and the state of the faces that are tracked already. Called by the landmarker, once."""
        with self._writing() as archive:
            if archive is not None:
                write_header(archive, make_header(processing, self._source, network, scheme))
                if state:
                    archive.writestr(STATE, state)

    def watch(self, inputs: Inputs) -> Inputs:
        """Return the same inputs, whose results are recorded."""

        def detect(image: NDArray[np.uint8]) -> list[FaceBox] | None:
            boxes = inputs.detect(image)
            self._add("boxes_found", np.array(NOT_READY if boxes is None else len(boxes)))
            for box in boxes or ():
                self._add("boxes", np.array([box.x0, box.y0, box.x1, box.y1, box.score, box.roll]))
            return boxes

        def shrink(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
            small = inputs.shrink(image)
            self._add("thumbnail", small)
            return small

        return Inputs(detect, _WatchedBackend(inputs.backend, self._add_prediction), shrink)

    def start_frame(self, frame: Frame) -> None:
        """Record a frame that will be processed now."""
        self._open = {}
        self._add("index", np.array(frame.index))
        self._add("seconds", np.array(frame.seconds))
        self._add("pixel_aspect", np.array(frame.pixel_aspect))
        self._add("size", np.array(frame.image.shape[:2]))

    def end_frame(self, faces: Faces) -> None:
        """Record the result of the frame."""
        rows, self._open = self._open or {}, None
        rows["events"] = [np.array(self._events)]
        rows["digest"] = [np.frombuffer(digest(faces), np.uint8)]
        rows["detections"] = [np.array(len(rows.get("boxes_found", ())))]
        rows["predictions"] = [np.array(len(rows.get("regions_seen", ())))]
        rows.setdefault("thumbnail", [np.zeros((8, 8), np.uint8)])
        self._events = 0
        with self._writing() as archive:
            if archive is None:
                return
            for name, values in rows.items():
                self._rows.setdefault(name, []).extend(values)
            self._frames += 1
            if self._chunk_is_full():
                self._flush(archive)
                self._file.flush()

    def _chunk_is_full(self) -> bool:
        """Whether the frames that are in memory are to be written now."""
        return self._frames % self._chunk_frames == 0

    def add_restart(self) -> None:
        """Record that the faces were forgotten before the next frame."""
        self._events |= RESTART

    def add_calibration(self) -> None:
        """Record that the neutral faces are measured again from the next frame on."""
        self._events |= CALIBRATE

    def _add(self, name: str, value: NDArray) -> None:
        if self._open is not None:
            self._open.setdefault(name, []).append(value)

    def _add_prediction(self, rois: Sequence[Roi], points: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        self._add("regions_seen", np.array(len(rois)))
        for row, roi in enumerate(rois):
            self._add("regions", np.array([roi.x, roi.y, roi.side, roi.angle]))
            self._add("points", points[row].copy())  # copies: impossible values are replaced in place
            self._add("scores", scores[row].copy())

    def _flush(self, archive: zipfile.ZipFile) -> None:
        points = self._rows["points"][0].shape[0] if "points" in self._rows else 0
        chunk = {}
        for name, (kind, shape) in COLUMNS.items():
            inner = tuple(one if isinstance(one, int) else points for one in shape[1:])
            rows = self._rows.get(name, [])
            chunk[name] = np.array(rows, kind).reshape(len(rows), *inner)
        write_chunk(archive, self._chunks, chunk)
        self._chunks += 1
        self._rows = {}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[zipfile.ZipFile | None]:
        """Yield the archive, or None after the end. An OSError becomes an InputError, and is remembered."""
        with self._lock:
            try:
                yield self._archive
            except OSError as error:
                self._failed = True
                raise InputError(f"{self.draft.path}: cannot be written ({error.strerror or error})") from error

    has_part = False  # without the directory at its end, an archive cannot be read

    def finish(self) -> bool:
        """Complete the temporary file. Return whether it is whole and contains a frame."""
        with self._writing() as archive:
            self._archive = None
            if archive is not None:
                with self._file, archive:
                    if self._rows and not self._failed:
                        self._flush(archive)
        return not self._failed and self._frames > 0

    def discard(self) -> None:
        """Delete the temporary file. After `close` this does nothing."""
        with self._lock, contextlib.suppress(OSError):
            archive, self._archive = self._archive, None
            if archive is not None:
                with self._file:
                    archive.close()
        self.draft.discard()

    def close(self) -> None:
        """Finish the file and move it to its path."""
        commit_together([self])


class _WatchedBackend:
    """A backend whose predictions are passed on to a function."""

    def __init__(self, backend: Backend, record: RecordPrediction) -> None:
        self._backend, self._record = backend, record
        self.name, self.size, self.scheme = backend.name, backend.size, backend.scheme
        self.predict = backend.predict
        self.close = backend.close

    def predict_regions(
        self, image: NDArray[np.uint8], rois: Sequence[Roi]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        points, scores = predict_regions(self._backend, image, rois)
        self._record(rois, points, scores)
        return points, scores

    def __enter__(self) -> "_WatchedBackend":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def digest(faces: Faces) -> bytes:
    """Return 8 bytes that differ if any number of the faces differs."""
    arrays = [faces.ids, faces.points, faces.scores, faces.detection_scores]
    if faces.measures is not None:
        arrays += [faces.measures.values, faces.measures.blendshapes]
    hashed = blake2b(digest_size=8)
    for array in arrays:
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.digest()
