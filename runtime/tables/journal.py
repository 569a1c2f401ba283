"""Records on disk in the order in which they were found: the draft of Parquet, Feather and NPZ tables.

A journal is a .npy file whose header is written again after each frame, so that `numpy.load` reads what a killed
process has left. Parquet needs its end to be read, which such a process does not write.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from canthus.runtime.files import write_all
from canthus.runtime.tables.schema import Records

CHUNK = 8192
"""Rows that are read at once, which is also the size of a row group: 10 MB."""


class Journal:
    """Appends records to a file.

    Args:
        path: The file, with the suffix .npy.
        dtype: The type of the records.
        rows: How many rows of an existing file to keep. None: start an empty file.
    """

    def __init__(self, path: Path, dtype: np.dtype, rows: int | None = None) -> None:
        self.path, self._dtype = path, dtype
        self.rows = rows or 0
        self._file: IO[bytes] = path.open("w+b" if rows is None else "r+b", buffering=0)
        self._start = len(self._header())
        if rows is not None and path.stat().st_size < self._start + rows * dtype.itemsize:
            raise OSError("the stopped run has left less than its checkpoint says")
        self._file.truncate(self._start + self.rows * dtype.itemsize)
        self._write_header()

    def _header(self) -> bytes:
        """Return the header for the current number of rows. NumPy keeps space for larger numbers."""
        content = io.BytesIO()
        fields = np.lib.format.dtype_to_descr(self._dtype)
        np.lib.format.write_array_header_1_0(content, {"descr": fields, "fortran_order": False, "shape": (self.rows,)})
        return content.getvalue()

    def _write_header(self) -> None:
        self._file.seek(0)
        write_all(self._file, self._header())

    def write(self, records: Records) -> None:
        """Append records."""
        self._file.seek(0, io.SEEK_END)
        write_all(self._file, records.tobytes())
        self.rows += len(records)
        self._write_header()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def chunks(self) -> Iterator[Records]:
        """Yield the records, CHUNK at a time."""
        for first in range(0, self.rows, CHUNK):
            yield np.fromfile(
                self.path,
                self._dtype,
                count=min(CHUNK, self.rows - first),
                offset=self._start + first * self._dtype.itemsize,
            )
