"""NPZ tables: one array for each field, written and read a piece at a time."""

import io
import json
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.tables.journal import Journal
from canthus.runtime.tables.schema import Records, Schema

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of each member: the same table is the same file."""


def export(journal: Journal, path: Path, schema: Schema, names: Sequence[str], metadata: Mapping[str, object]) -> None:
    """Write the rows of a journal to a .npz file without reading all of them at once."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in schema.dtype.names or ():
            if name == "picture":
                _write(
                    archive, name, np.array([names[index] for rows in journal.chunks() for index in rows[name]], str)
                )
                continue
            base, shape = schema.dtype[name].subdtype or (schema.dtype[name], ())
            fields = {"descr": base.str, "fortran_order": False, "shape": (journal.rows, *shape)}
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, fields)
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _EPOCH), "w", force_zip64=True) as member:
                member.write(header.getvalue())
                for rows in journal.chunks():
                    member.write(np.ascontiguousarray(rows[name]).tobytes())
        _write(archive, "measure_names", np.array(schema.measures, str))
        _write(archive, "metadata", np.array(json.dumps(metadata)))


def _write(archive: zipfile.ZipFile, name: str, values: NDArray) -> None:
    content = io.BytesIO()
    np.lib.format.write_array(content, values, allow_pickle=False)
    archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), content.getvalue())


def read(path: Path) -> tuple[Schema, dict[str, object], Records, list[str]]:
    """Return the schema, the metadata, the rows and the paths of image files of a .npz file.

    Raises:
        InputError: If it is not a table of canthus, or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            measures, scores = tuple(_texts(arrays["measure_names"])), arrays["scores"]
            schema = Schema("images" if "picture" in arrays else "frames", measures, scores.shape[1])
            records = np.zeros(len(scores), schema.dtype)
            names = _texts(arrays["picture"]) if schema.kind == "images" else []
            for name in schema.dtype.names or ():
                values = np.arange(len(names)) if name == "picture" else arrays[name]
                if (values.dtype, values.shape) != (records[name].dtype, records[name].shape):
                    raise ValueError(f"{name} is {values.shape} {values.dtype}")
                records[name] = values
            return schema, json.loads(_texts(arrays["metadata"].reshape(1))[0]), records, names
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a table of canthus ({str(error).splitlines()[0]})") from error


def _texts(values: NDArray) -> list[str]:
    """Return an array of texts as a list. Raises ValueError if it is none, or a character does not exist."""
    if values.ndim != 1 or values.dtype.kind != "U":
        raise ValueError(f"a list of texts is {values.shape} {values.dtype}")
    native = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    if values.dtype.itemsize and (native.view(np.uint32) > sys.maxunicode).any():
        raise ValueError("a text has characters that do not exist")
    return [str(value) for value in native.tolist()]
