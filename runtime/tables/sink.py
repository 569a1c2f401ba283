"""Write a table of points: one row for each face of each frame."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError
from canthus.runtime.files import Draft, check_output, check_suffix, commit_together, write_all
from canthus.runtime.tables import arrow, npz
from canthus.runtime.tables.journal import Journal
from canthus.runtime.tables.read import metadata_path
from canthus.runtime.tables.schema import NO_FACE, Records, Schema
from canthus.runtime.tables.text import Place, csv_header, csv_rows, json_rows
from canthus.runtime.types import Faces

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet", ".feather", ".npz")
TEXT_SUFFIXES = (".csv", ".jsonl")

STDOUT = Path("-")
"""The path of a table on standard output, as CSV."""


def check_table(path: Path, overwrite: bool) -> None:
    """Raise InputError if `TableSink` cannot write `path`. Call it before long work starts."""
    if path == STDOUT:
        return
    check_suffix(path, TABLE_SUFFIXES, "table format")
    if path.suffix.lower() in (".parquet", ".feather"):
        arrow.check_pyarrow(path)
    check_output(path, overwrite)
    if path.suffix.lower() in TEXT_SUFFIXES:
        check_output(metadata_path(path), overwrite)


class Stopped(NamedTuple):
    """The table of a run that has stopped, to go on with."""

    draft: Draft
    position: int  # of `TableSink.position`: what was written after it is removed


class TableSink(Closeable):
    """Writes a table with one row for each face of each frame, and a row for a frame without a face.

    A file appears when the sink is closed. It has every row written until then, also after Ctrl-C. The rows of each
    frame are written at once, on standard output (path STDOUT) and to the temporary file: a killed process, and a disk
    that becomes full, leave whole rows there. The temporary file of a Parquet, Feather or NPZ table is a .npy file; see
    `Journal`.

    Args:
        path: A file with a suffix of TABLE_SUFFIXES, or STDOUT.
        schema: FRAMES or IMAGES, `with_measures` if the faces have them.
        details: What else the metadata says about the run, such as the source, the model and the settings. The metadata
            of a .csv or .jsonl file is in a JSON file beside it; `metadata_path` names it.
        faces_only: Write no row for a frame without a face.
        stopped: The table of a stopped run, to go on with. None: a new one.

    Raises:
        InputError: If the format is unsupported or the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        details: Mapping[str, object] | None = None,
        faces_only: bool = False,
        stopped: Stopped | None = None,
    ) -> None:
        self._path, self._schema, self._faces_only = path, schema, faces_only
        self.draft: Draft | None = None
        self._failed = False
        metadata = schema.describe(details, faces_only)
        if path == STDOUT:
            file = _open_stdout()
            with self._writing():
                self._writer: _Writer = _TextWriter(file, schema, ".csv")
            return
        check_suffix(path, TABLE_SUFFIXES, "table format")
        self.draft = stopped.draft if stopped else Draft(path)
        position = stopped.position if stopped else None
        with self.draft.writing():
            text = path.suffix.lower() in TEXT_SUFFIXES
            beside = self.draft.beside(metadata_path(path)) if text else None
            self.draft.delete_part()
            if beside is not None:
                beside.write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
                self._writer = _TextWriter(
                    _open_text(self.draft.file, position), schema, path.suffix.lower(), go_on=bool(position)
                )
            else:
                self._writer = _JournalWriter(self.draft, schema, metadata, position)

    @property
    def position(self) -> int:
        """How much was written: bytes of a .csv or .jsonl file, rows of others."""
        return self._writer.position

    def write(self, index: int, seconds: float, faces: Faces) -> None:
        """Add the faces of one frame."""
        if len(faces) or not self._faces_only:
            self._write(self._schema.records(faces, (index, seconds)), (index, float(seconds)))

    def write_image(self, name: str, faces: Faces) -> None:
        """Add the faces of one image."""
        if len(faces) or not self._faces_only:
            self._write(self._schema.records(faces, (0,)), (name,))

    def write_image_rows(self, name: str, rows: Records) -> None:
        """Add the rows of one image that another table has, as `read_table` returns them."""
        if rows["face"][0] != NO_FACE or not self._faces_only:
            self._write(rows, (name,))

    def _write(self, rows: Records, place: Place) -> None:
        with self._writing():
            self._writer.write(rows, place)

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

    @property
    def has_part(self) -> bool:
        """Whether the temporary file has whole rows, also after an error."""
        text = isinstance(self._writer, _TextWriter)
        file = self.draft.file if self.draft is not None and text else None
        return file is not None and file.is_file() and file.stat().st_size > 0

    def finish(self) -> bool:
        """Complete the temporary file. Return whether it is whole."""
        with self._writing():
            self._writer.close()
            if not self._failed:
                self._writer.complete()
        return not self._failed

    def discard(self) -> None:
        """Let `close` delete the file instead of moving it to its path."""
        self._failed = True

    def close(self) -> None:
        """Finish the file and move it to its path."""
        commit_together([self])


class _Writer(Protocol):
    """Writes rows to a file."""

    def write(self, rows: Records, place: Place) -> None:
        """Append the rows of one frame or image."""
        ...

    @property
    def position(self) -> int:
        """How much was written."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...

    def complete(self) -> None:
        """Make the table of what was written, after `close`."""
        ...


class _TextWriter:
    """Writes CSV or JSON Lines to an unbuffered file, each frame at once."""

    def __init__(self, file: IO[bytes], schema: Schema, suffix: str, go_on: bool = False) -> None:
        self._file, self._schema = file, schema
        self._rows = csv_rows if suffix == ".csv" else json_rows
        if suffix == ".csv" and not go_on:
            self._append(csv_header(schema))

    @property
    def position(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def write(self, rows: Records, place: Place) -> None:
        self._append(self._rows(self._schema, rows, place))

    def _append(self, text: str) -> None:
        """Write all of the text or nothing."""
        before = self.position
        try:
            # File names need not be valid UTF-8: surrogateescape writes their bytes unchanged.
            write_all(self._file, text.encode("utf-8", "surrogateescape"))
        except OSError:
            with contextlib.suppress(OSError):  # not of a pipe
                self._file.truncate(before)
            raise

    def close(self) -> None:
        self._file.close()

    def complete(self) -> None:
        """Do nothing: the file is the table."""


class _JournalWriter:
    """Writes a journal, and at the end the table from it."""

    def __init__(self, draft: Draft, schema: Schema, metadata: Mapping[str, object], rows: int | None) -> None:
        self._target, self._schema, self._metadata = draft.file, schema, metadata
        self._journal = Journal(draft.folder / f"{draft.file.name}.npy", schema.dtype, rows)
        self._names: list[str] = []
        self._names_file = draft.folder / f"{draft.file.name}.names"

    def write(self, rows: Records, place: Place) -> None:
        if self._schema.kind == "images":
            rows["picture"] = len(self._names)
            self._names.append(str(place[0]))
            with self._names_file.open("ab") as file:
                file.write(os.fsencode(f"{place[0]}\0"))
        self._journal.write(rows)

    @property
    def position(self) -> int:
        return self._journal.rows

    def close(self) -> None:
        self._journal.close()

    def complete(self) -> None:
        export = npz.export if self._target.suffix.lower() == ".npz" else arrow.export
        export(self._journal, self._target, self._schema, self._names, self._metadata)


def _open_text(path: Path, position: int | None) -> IO[bytes]:
    """Open a file to write text after a position in bytes."""
    if position:
        if path.stat().st_size < position:
            raise OSError("the stopped run has left less than its checkpoint says")
        os.truncate(path, position)
    return path.open("ab" if position else "wb", buffering=0)


def _open_stdout() -> IO[bytes]:
    """Open standard output. Closing it leaves sys.stdout open."""
    try:
        sys.stdout.flush()
        descriptor = sys.stdout.fileno()
    except (io.UnsupportedOperation, AttributeError) as error:
        raise InputError("-: there is no standard output to write to; give a file name") from error
    return os.fdopen(os.dup(descriptor), "wb", buffering=0)
