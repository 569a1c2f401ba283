"""The crops of a pack in one file: crops.npy, uncompressed, or crops.zip, one WebP image per crop.

A WebP pack is some twenty to fifty times smaller, so that it can be sent to another machine. It is opened without
decoding: a crop is decoded when it is read.
"""

import errno
import math
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft

CROPS_NPY, CROPS_ZIP = "crops.npy", "crops.zip"
CROP_FILES = (CROPS_NPY, CROPS_ZIP)
"""Names of the file with the crops; a pack has one of them."""

DECODERS = 16
"""Threads that decode several crops at once, at most."""

Image = NDArray[np.uint8]  # (P, P, 3) RGB


class CropWriter(Protocol):
    """Writes the crops of a new pack, one after the other."""

    def write(self, image: Image) -> None:
        """Append a crop."""
        ...

    def finish(self) -> None:
        """Complete the file; it holds the crops written so far."""
        ...

    def close(self) -> None:
        """Free the file, also after an error. A second call does nothing."""
        ...


class ArrayWriter:
    """Writes crops.npy. The space for `count` crops of `size` pixels is reserved first.

    Raises:
        InputError: The disk is too small. Writing to a memory map on a full disk would kill the process.
    """

    def __init__(self, draft: Draft, count: int, size: int) -> None:
        self._file = draft.file
        self._size = size
        self._written = 0
        self._crops: np.memmap[Any, np.dtype[np.uint8]] | None = np.lib.format.open_memmap(
            draft.file, mode="w+", dtype=np.uint8, shape=(count, size, size, 3)
        )
        if not hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            return
        try:
            with draft.file.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, draft.file.stat().st_size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # others: a file system that cannot reserve space
                advice = "choose another disk, smaller crops (--size) or compressed ones (--webp)"
                raise disk_full(draft.path.parent, self._crops.nbytes, error, advice) from error

    def write(self, image: Image) -> None:
        assert self._crops is not None, "the writer is open"
        self._crops[self._written] = image
        self._written += 1

    def finish(self) -> None:
        """Complete the file. NumPy's header has room for any number of rows, so it is replaced in place."""
        assert self._crops is not None, "the writer is open"
        self._crops.flush()
        missing = len(self._crops) - self._written
        self.close()
        if missing:
            shape = (self._written, self._size, self._size, 3)
            with self._file.open("r+b") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
                file.truncate(file.tell() + math.prod(shape))

    def close(self) -> None:
        self._crops = None  # unmaps the file: Windows cannot truncate or rename a mapped one


class WebPWriter:
    """Writes crops.zip: one WebP image per crop, not compressed again, named by its row.

    quality: of WebP, 1 to 100.
    """

    def __init__(self, draft: Draft, quality: int) -> None:
        self._options = [cv2.IMWRITE_WEBP_QUALITY, quality]
        self._zip = zipfile.ZipFile(draft.file, "w", zipfile.ZIP_STORED)
        self._written = 0

    def write(self, image: Image) -> None:
        encoded = cv2.imencode(".webp", image[..., ::-1], self._options)[1]
        self._zip.writestr(zipfile.ZipInfo(f"{self._written:07d}.webp"), encoded.tobytes())
        self._written += 1

    def finish(self) -> None:
        self._zip.close()

    def close(self) -> None:
        self._zip.close()


def disk_full(folder: Path, size: int, error: OSError, advice: str) -> InputError:
    """Return the error for a disk without `size` free bytes."""
    return InputError(f"{folder}: the crops need {size / 1e9:.3g} GB ({error.strerror}); {advice}")


class _Place(NamedTuple):
    start: int  # offset in the file
    stop: int


class WebPCrops:
    """The crops of crops.zip, as a read-only array (N, P, P, 3) uint8 RGB.

    `crops[row]` decodes one crop, `crops[rows]` (a slice or a sequence of rows) decodes several in threads. The file is
    memory-mapped, so worker processes share it.

    Raises:
        InputError: A crop is damaged.
        OSError, ValueError, zipfile.BadZipFile: It is not such a file.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, path: Path) -> None:
        self.filename = path
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.filename)
            self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._places = [self._find(entry) for entry in entries]
        if not entries:
            raise ValueError("no crops")
        first = self._decode(0)
        self.shape: tuple[int, int, int, int] = (len(entries), *first.shape)  # type: ignore[assignment]
        self.nbytes = math.prod(self.shape)

    def _find(self, entry: zipfile.ZipInfo) -> _Place:
        """Return where the bytes of an entry are, after its name in the file, and check them."""
        try:
            name, extra = struct.unpack_from("<HH", self._file, entry.header_offset + 26)
        except struct.error as error:
            raise self._damaged(entry.filename) from error
        start = entry.header_offset + 30 + name + extra
        stop = start + entry.compress_size
        stored = entry.compress_type == zipfile.ZIP_STORED
        if not stored or stop > len(self._file) or zlib.crc32(self._file[start:stop]) != entry.CRC:
            raise self._damaged(entry.filename)
        return _Place(start, stop)

    def _decode(self, row: int) -> Image:
        start, stop = self._places[row]
        image = cv2.imdecode(np.frombuffer(self._file, np.uint8, stop - start, start), cv2.IMREAD_COLOR_RGB)
        if image is None or image.shape != getattr(self, "shape", (0, *image.shape))[1:]:
            raise self._damaged(str(row))
        return image.astype(np.uint8, copy=False)

    def _damaged(self, crop: str) -> InputError:
        return InputError(f"{self.filename}: damaged (crop {crop}); make the pack again, or copy it again")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, rows: "int | np.integer | slice | Iterable[int]") -> Image:
        if isinstance(rows, int | np.integer):
            return self._decode(range(len(self))[rows])
        chosen = range(len(self))[rows] if isinstance(rows, slice) else [range(len(self))[row] for row in rows]
        crops = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        with ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1)) as decoders:
            for place, image in enumerate(decoders.map(self._decode, chosen)):
                crops[place] = image
        return crops

    def __iter__(self) -> Iterator[Image]:
        return (self._decode(row) for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        crops = self[:]
        return crops if dtype is None else crops.astype(dtype, copy=False)


Crops = NDArray[np.uint8] | WebPCrops
"""The crops of a pack, (N, P, P, 3) uint8 RGB."""


def open_crops(path: Path) -> Crops:
    """Open the file with the crops of a pack; the name decides.

    Raises:
        InputError: It is damaged.
        OSError, EOFError, ValueError, zipfile.BadZipFile: It is not such a file.
    """
    if path.name == CROPS_ZIP:
        return WebPCrops(path)
    crops: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="r")
    return crops
