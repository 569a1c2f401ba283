"""The file format of a trace: a ZIP archive with a header in JSON and arrays of NumPy, in chunks of frames.

    trace.json           versions, the source, the network, and how faces are processed: `Header`
    state                the faces that were tracked before the first frame, as `saved_state` writes them; if any
    000000/seconds.npy   the arrays of COLUMNS for the first CHUNK_FRAMES frames, then 000001/..., 000002/...

`numpy.load` reads it, as an .npz file. Each chunk has its frames, then the runs of the detector with their boxes, and
the predictions of the network with their regions, both in the order of the calls.
"""

import io
import json
import platform
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.fields import check, parse_fields, parse_json
from canthus.runtime.limits import FRAME_LIMIT, current_limit
from canthus.runtime.processing import Processing
from canthus.runtime.saved_state import load_state
from canthus.runtime.schemes import WFLW, Scheme, manifest_values, parse_scheme

VERSION = 1
HEADER = "trace.json"
STATE = "state"
CHUNK_FRAMES = 256
MAX_HEADER_BYTES = 1_000_000
MAX_STATE_BYTES = 50_000_000
MAX_ARRAY_BYTES = 512_000_000
"""Larger parts are refused: a small damaged file could otherwise take all memory."""

NOT_READY = -1
"""Number of boxes of a detector that runs in the background and had not finished."""

RESTART, CALIBRATE = 1, 2
"""Bits of `events`: what happened between the frame before and this one."""

Chunk = Mapping[str, NDArray]

COLUMNS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "index": ("int64", ("frames",)),
    "seconds": ("float64", ("frames",)),
    "pixel_aspect": ("float64", ("frames",)),
    "size": ("int32", ("frames", 2)),  # height and width
    "thumbnail": ("uint8", ("frames", 8, 8)),
    "events": ("uint8", ("frames",)),
    "digest": ("uint8", ("frames", 8)),  # of the result
    "detections": ("int32", ("frames",)),  # runs of the detector in this frame, 0 or 1
    "predictions": ("int32", ("frames",)),  # runs of the network in this frame
    "boxes_found": ("int32", ("detections",)),  # by each run, or NOT_READY
    "boxes": ("float64", ("boxes", 6)),  # x0, y0, x1, y1, score, roll
    "regions_seen": ("int32", ("predictions",)),  # by each run
    "regions": ("float64", ("regions", 4)),  # x, y, side, angle
    "points": ("float32", ("regions", "points", 2)),
    "scores": ("float32", ("regions", "points")),
}
"""Type and shape of the arrays of a chunk. The same name of a dimension is the same number."""

COUNTS = {"detections": "detections", "predictions": "predictions", "boxes_found": "boxes", "regions_seen": "regions"}
"""Arrays of numbers of things, and the dimension that is their sum."""


@dataclass(frozen=True)
class Header:
    """What a trace says about itself."""

    processing: Processing
    source: str = ""
    network: str = ""  # what ran: "OpenVINO on the CPU"
    canthus: str = ""
    numpy: str = ""
    machine: str = ""
    version: int = VERSION
    scheme: Scheme = field(default=WFLW, metadata=check(parse=parse_scheme))  # of the points


def make_header(processing: Processing, source: str, network: str, scheme: Scheme) -> Header:
    """Return the header of a trace that is recorded now."""
    versions = metadata.version("canthus"), np.__version__, platform.machine()
    return Header(processing, source, network, *versions, scheme=scheme)


def versions_in_use(header: Header) -> str:
    """Return what of the versions in use is not that of a trace, as text; empty if nothing."""
    now = make_header(header.processing, "", "", header.scheme)
    names = ("canthus", "numpy", "machine")
    return ", ".join(f"{name} {getattr(now, name)}" for name in names if getattr(now, name) != getattr(header, name))


def write_header(archive: zipfile.ZipFile, header: Header) -> None:
    """Write the header."""
    archive.writestr(HEADER, json.dumps(manifest_values(header), indent=1))


def write_chunk(archive: zipfile.ZipFile, number: int, chunk: Chunk) -> None:
    """Write a chunk of frames."""
    for name, array in chunk.items():
        with archive.open(f"{number:06}/{name}.npy", "w") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)


def read_header(path: Path) -> Header:
    """Return the header of a trace. Raises InputError if the file is no trace, or one of a newer version."""
    with open_trace(path) as archive:
        return _read_header(path, archive)


def read_state(path: Path) -> dict[str, dict[str, object]] | None:
    """Return the state before the first frame of a trace; None if it was that of a new video.

    Raises InputError if it is damaged.
    """
    with open_trace(path) as archive:
        if STATE not in archive.namelist():
            return None
        try:
            return load_state(_read_part(archive, STATE, MAX_STATE_BYTES).read())
        except Exception as error:  # zipfile and zlib raise many types for damaged files
            raise InputError(f"{path}: is damaged (the state at its start cannot be read)") from error


def open_trace(path: Path) -> zipfile.ZipFile:
    """Open a trace. Raises InputError if the file is none."""
    if path.exists() and not path.is_file():  # a pipe may never end
        raise InputError(f"{path}: is a folder, a pipe or a device (expected a trace)")
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # zipfile raises many types for damaged files
        raise InputError(f"{path}: is not a trace, or is damaged ({error}); record one with --record-trace") from error


def _read_header(path: Path, archive: zipfile.ZipFile) -> Header:
    try:
        values = parse_json(_read_part(archive, HEADER, MAX_HEADER_BYTES).read().decode())
        version = values.get("version") if isinstance(values, dict) else None
        if not isinstance(version, int) or version <= VERSION:
            return parse_fields(Header, values)
    except Exception as error:  # zipfile, zlib and others raise many types for damaged files
        raise InputError(f"{path}: is not a trace, or is damaged ({error}); record one with --record-trace") from error
    raise InputError(f"{path}: has version {version} (this canthus reads up to {VERSION}); update canthus")


def _read_part(archive: zipfile.ZipFile, name: str, limit: int) -> IO[bytes]:
    """Return a member of the archive, in memory. Raises ValueError if it is larger than `limit` bytes or damaged."""
    if (size := archive.getinfo(name).file_size) > limit:
        raise ValueError(f"{name} has {size / 1e6:.0f} MB")
    with archive.open(name) as file:
        return io.BytesIO(file.read(limit))


def read_chunks(path: Path) -> Iterator[dict[str, NDArray]]:
    """Yield the chunks of a trace. Raises InputError if one is damaged."""
    with open_trace(path) as archive:
        numbers = {name.partition("/")[0] for name in archive.namelist() if "/" in name}
        expected = [f"{number:06}" for number in range(max(len(numbers), 1))]
        for number in expected:
            if number not in numbers:
                raise InputError(f"{path}: is damaged (part {number} is missing)")
            try:
                chunk = {name: _read_array(archive, f"{number}/{name}.npy") for name in COLUMNS}
                _check_chunk(chunk)
            except Exception as error:  # zipfile, zlib and NumPy raise many types for damaged files
                raise InputError(f"{path}: is damaged (part {number}: {error})") from error
            yield chunk


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray:
    content = _read_part(archive, name, MAX_ARRAY_BYTES)
    with warnings.catch_warnings(action="ignore"):  # the header is Python code, which may have odd escapes
        return np.asarray(np.lib.format.read_array(content, allow_pickle=False))


def _check_chunk(chunk: Chunk) -> None:
    """Raise ValueError if an array has another type or shape than COLUMNS, or if the counts do not agree."""
    sizes: dict[str | int, int] = {}
    for name, (kind, shape) in COLUMNS.items():
        array = chunk[name]
        fits = array.dtype == kind and array.ndim == len(shape)
        if not fits or any(sizes.setdefault(one, size) != size for one, size in _dimensions(shape, array)):
            raise ValueError(f"{name} is {array.shape} {array.dtype}")
    for name, counted in COUNTS.items():
        found = np.maximum(chunk[name], 0) if name == "boxes_found" else chunk[name]
        if found.min(initial=0) < 0 or found.sum(dtype=np.int64) != sizes[counted]:
            raise ValueError(f"{name} does not agree with the number of {counted}")
    for name in ("seconds", "pixel_aspect", "boxes", "regions"):
        if not np.isfinite(chunk[name]).all():
            raise ValueError(f"a value of {name} is not a number")
    if (chunk["pixel_aspect"] <= 0).any():
        raise ValueError("a pixel aspect is not above 0")
    limit = current_limit(FRAME_LIMIT)
    if (chunk["size"] < 0).any() or (chunk["size"].prod(1, np.int64) > limit.pixels).any():
        raise ValueError(f"a frame has an impossible size, or more than {limit.megapixels:g} megapixels")


def _dimensions(shape: tuple[str | int, ...], array: NDArray) -> list[tuple[str | int, int]]:
    """Return the name and the number of each dimension; a fixed number is its own name, and must not differ."""
    for one, size in zip(shape, array.shape, strict=True):
        if isinstance(one, int) and one != size:
            raise ValueError(f"an array is {array.shape}")
    return [(one, size) for one, size in zip(shape, array.shape, strict=True) if isinstance(one, str)]
