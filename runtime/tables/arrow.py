"""Parquet and Feather tables. The only file that imports pyarrow, which is in the extra `tables`."""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from canthus.runtime.errors import InputError
from canthus.runtime.extras import install_command
from canthus.runtime.tables.journal import CHUNK, Journal
from canthus.runtime.tables.schema import NO_FACE, Records, Schema
from canthus.runtime.tables.text import Chunk

if TYPE_CHECKING:
    import pyarrow as pa

KEY = b"canthus"
"""The key of the JSON in the metadata of the file's schema."""

ROWS_KEY = b"canthus.rows"
"""The key of the number of rows, beside it. Tables of canthus 0.2.0 have neither this nor checksums."""

CHECKSUM_KEY = b"canthus.crc32"
"""The key of the checksum in the metadata of each record batch of a .feather file. Parquet has its own in each page."""

CHANGED = "its rows are not those that were written"


def check_pyarrow(path: Path) -> None:
    """Raise InputError if pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as missing:
        raise InputError(
            f"{path}: Parquet and Feather need pyarrow, which is not installed: {install_command('tables')}"
        ) from missing


def export(journal: Journal, path: Path, schema: Schema, names: Sequence[str], metadata: Mapping[str, object]) -> None:
    """Write the rows of a journal to a .parquet or .feather file, one row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    described = {KEY: json.dumps(metadata).encode(), ROWS_KEY: str(journal.rows).encode()}
    fields = _schema(schema).with_metadata(described)
    with ExitStack() as stack:
        if path.suffix.lower() == ".parquet":
            writer: Any = pq.ParquetWriter(
                path, fields, compression="zstd", use_dictionary=False, write_page_checksum=True
            )
        else:
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            writer = pa.ipc.new_file(stack.enter_context(pa.OSFile(str(path), "wb")), fields, options=options)
        stack.callback(writer.close)
        for rows in journal.chunks():
            batch = _batch(schema, fields, rows, names)
            if path.suffix.lower() == ".parquet":
                writer.write_batch(batch, row_group_size=CHUNK)
            else:
                checksum = _checksum(fields, *_records(schema, batch))
                writer.write_batch(batch, custom_metadata={CHECKSUM_KEY: checksum})


def _schema(schema: Schema) -> "pa.Schema":
    import pyarrow as pa

    types = {"frame": pa.int64(), "face": pa.int64(), "seconds": pa.float64(), "picture": pa.string()}
    return pa.schema([(name, types.get(name, pa.float32())) for name in schema.columns])


def _batch(schema: Schema, fields: "pa.Schema", rows: Records, names: Sequence[str]) -> "pa.RecordBatch":
    import pyarrow as pa

    if schema.kind == "frames":
        arrays = [pa.array(rows["frame"]), pa.array(rows["seconds"])]
    else:  # file names need not be valid UTF-8
        texts = [os.fsencode(names[index]).decode("utf-8", "replace") for index in rows["picture"].tolist()]
        arrays = [pa.array(texts, pa.string())]
    arrays.append(pa.array(rows["face"], mask=rows["face"] == NO_FACE))
    values = np.asfortranarray(schema.flat(rows))
    arrays += [pa.array(values[:, column], from_pandas=True) for column in range(values.shape[1])]  # NaN is null
    return pa.RecordBatch.from_arrays(arrays, schema=fields)


def read(path: Path) -> tuple[Schema, dict[str, object], Iterator[Chunk]]:
    """Return the schema, the metadata and the rows of a .parquet or .feather file.

    Raises:
        InputError: If it is not a table of canthus, or damaged.
    """
    check_pyarrow(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            file = pq.ParquetFile(path, page_checksum_verification=True)
            fields, batches = file.schema_arrow, file.iter_batches(CHUNK)
            chunks: Iterator[Chunk] = (_records(_schema_from(fields.names), batch) for batch in batches)
        else:
            opened = pa.ipc.open_file(pa.memory_map(str(path)))
            fields = opened.schema
            chunks = _checked(opened)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable table ({str(error).splitlines()[0]})") from error
    kept = json.loads((fields.metadata or {}).get(KEY, b"{}"))
    schema = _schema_from(fields.names)
    if schema.columns != fields.names:
        raise InputError(f"{path}: not a table of canthus (expected the columns frame or picture, face, box_x0 …)")
    return schema, kept, _complete(chunks, (fields.metadata or {}).get(ROWS_KEY))


def _checked(file: Any) -> Iterator[Chunk]:
    """Yield the rows of a .feather file. Raises InputError if they differ from those that were written.

    Arrow's format has no checksums. Tables of canthus 0.2.0 have none either.
    """
    for index in range(file.num_record_batches):
        found = file.get_batch_with_custom_metadata(index)
        records, names = _records(_schema_from(file.schema.names), found.batch)
        expected = (found.custom_metadata or {}).get(CHECKSUM_KEY)
        if ROWS_KEY in (file.schema.metadata or {}) and expected != _checksum(file.schema, records, names):
            raise ValueError(CHANGED)
        yield records, names


def _complete(chunks: Iterator[Chunk], expected: bytes | None) -> Iterator[Chunk]:
    """Yield the rows. Raises ValueError at the end if their number is not the expected one."""
    count = 0
    for records, names in chunks:
        count += len(records)
        yield records, names
    if expected is not None and str(count).encode() != expected:
        raise ValueError(CHANGED)


def _checksum(fields: "pa.Schema", records: Records, names: list[str]) -> bytes:
    """Return the CRC-32 of rows, as they are read, and of the names and the metadata of the table."""
    digest = 0
    for data in (*(fields.metadata or {}).values(), *(name.encode() for name in (*fields.names, *names))):
        digest = zlib.crc32(data, digest)
    return str(zlib.crc32(records.tobytes(), digest)).encode()


def _schema_from(names: list[str]) -> Schema:
    points = sum(name.startswith("score_") and name[6:].isdigit() for name in names)
    kind = "images" if names[:1] == ["picture"] else "frames"
    bare = Schema("images" if kind == "images" else "frames", (), points)
    return Schema(bare.kind, tuple(names[len(bare.columns) :]), points)


def _records(schema: Schema, batch: "pa.RecordBatch") -> Chunk:
    records = np.zeros(batch.num_rows, schema.dtype)
    names: list[str] = []
    if schema.kind == "images":
        names = batch.column(0).to_pylist()
        records["picture"] = np.arange(len(names))
    else:
        records["frame"], records["seconds"] = (batch.column(index).to_numpy() for index in (0, 1))
    lead = len(schema.place)
    records["face"] = batch.column(lead).fill_null(NO_FACE).to_numpy()
    columns = [batch.column(index).to_numpy(zero_copy_only=False) for index in range(lead + 1, batch.num_columns)]
    schema.set_flat(records, np.stack(columns, axis=1).astype(np.float32))
    return records, names
