"""Write a table of points: one row for each face."""

import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft, check_output, check_suffix, commit_together
from canthus.runtime.measures import MEASURE_COLUMNS
from canthus.runtime.types import Faces
from canthus.runtime.wflw import POINTS

TABLE_SUFFIXES = (".csv",)

STDOUT = Path("-")
"""The path of a table on standard output."""

BUFFER_BYTES = 1_000_000
"""A smaller buffer would be written in the middle of a row if there are many faces."""

FACE_COLUMNS = [
    "face", "box_x0", "box_y0", "box_x1", "box_y1", "face_score",
    *(f"{name}_{point}" for point in range(POINTS) for name in ("x", "y", "score")),
]  # fmt: skip
FRAME_COLUMNS = ["frame", "seconds", *FACE_COLUMNS]
IMAGE_COLUMNS = ["picture", *FACE_COLUMNS]
"""With measures, MEASURE_COLUMNS follow; `Measures` describes them."""


def check_table(path: Path, overwrite: bool) -> None:
    """Raise InputError if `TableSink` cannot write `path`. Call it before long work starts."""
    if path != STDOUT:
        check_suffix(path, TABLE_SUFFIXES, "table format")
        check_output(path, overwrite)


class TableSink(Closeable):
    """Writes a table with one row for each face.

    A file appears when the sink is closed. It has every row written until then, also after Ctrl-C. The rows of each
    frame are written at once, on standard output (path STDOUT) and to the temporary file: a killed process leaves whole
    rows there.

    Args:
        path: A file with a suffix of TABLE_SUFFIXES, or STDOUT.
        columns: FRAME_COLUMNS or IMAGE_COLUMNS.
        measures: Write the measures of the faces as well. All faces must have them.

    Raises:
        InputError: If the format is unsupported or the file cannot be written.
    """

    def __init__(self, path: Path, columns: list[str], measures: bool = False) -> None:
        self._path = path
        self._measures = measures
        self.draft: Draft | None = None
        self._failed = False
        if path == STDOUT:
            self._file: IO[str] = _open_stdout()
        else:
            check_suffix(path, TABLE_SUFFIXES, "table format")
            self.draft = Draft(path)
            with self.draft.writing():
                # File names need not be valid UTF-8: surrogateescape writes their bytes unchanged.
                self._file = self.draft.file.open(
                    "w", buffering=BUFFER_BYTES, newline="", encoding="utf-8", errors="surrogateescape"
                )
        self._writer = csv.writer(self._file)
        self._writer.writerow([*columns, *(MEASURE_COLUMNS if measures else ())])

    def write(self, index: int, seconds: float, faces: Faces) -> None:
        """Add the faces of one frame."""
        self._write([[index, f"{seconds:.6f}", *row] for row in rows(faces, self._measures)])

    def write_image(self, name: str, faces: Faces) -> None:
        """Add the faces of one image."""
        self._write([[name, *row] for row in rows(faces, self._measures)])

    def _write(self, lines: Sequence[Sequence[int | str]]) -> None:
        with self._writing():
            self._writer.writerows(lines)
            self._file.flush()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Convert errors of the system to InputError, and remember them: `close` discards the file then."""
        try:
            yield
        except BrokenPipeError:  # the reader of standard output has closed it, which is not an error of ours
            self._failed = True
            raise
        except OSError as error:
            self._failed = True
            raise InputError(f"{self._path}: cannot be written ({error.strerror or error})") from error

    def finish(self) -> bool:
        """Complete the temporary file. Return whether it is whole."""
        with self._writing():
            self._file.close()
        return not self._failed

    def close(self) -> None:
        """Finish the file and move it to its path."""
        commit_together([self])


def _open_stdout() -> IO[str]:
    """Open standard output for csv.writer, which ends lines by itself. Closing it leaves sys.stdout open."""
    try:
        sys.stdout.flush()
        descriptor = sys.stdout.fileno()
    except (io.UnsupportedOperation, AttributeError) as error:
        raise InputError("-: there is no standard output to write to; give a file name") from error
    return os.fdopen(os.dup(descriptor), "w", newline="", encoding="utf-8", errors="surrogateescape")


def rows(faces: Faces, measures: bool = False) -> list[list[int | str]]:
    """Return the values of FACE_COLUMNS for each face, and those of MEASURE_COLUMNS if the table has measures."""
    table: list[list[int | str]] = []
    for index, face in enumerate(faces.ids):
        box = [f"{edge:.2f}" for edge in faces.boxes[index]]
        points = [
            text
            for (x, y), score in zip(faces.points[index], faces.scores[index], strict=True)
            for text in (f"{x:.2f}", f"{y:.2f}", f"{score:.3f}")
        ]
        table.append([int(face), *box, f"{faces.face_scores[index]:.3f}", *points])
        if measures:
            assert faces.measures is not None, "the table has measures, so the faces must"
            table[-1] += [f"{value:.4g}" for value in faces.measures.as_dict(index).values()]
    return table
