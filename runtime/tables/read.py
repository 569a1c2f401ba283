"""Read a table of points into arrays or a DataFrame."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import CanthusError, InputError
from canthus.runtime.tables import arrow, npz
from canthus.runtime.tables.schema import NO_FACE, Records, Schema
from canthus.runtime.tables.text import parse_csv, parse_json

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a table as arrays: one row for each face of each frame, and one for a frame without a face.

    `table.face >= 0` selects the rows with a face. Values of a row without a face are NaN.
    """

    records: Records = field(repr=False)  # (R,) with the fields of `Schema.dtype`
    schema: Schema
    metadata: dict[str, object] = field(repr=False)  # of the source, the model and the settings
    names: list[str] = field(default_factory=list, repr=False)  # of image files; `records["picture"]` counts them

    def __len__(self) -> int:
        return len(self.records)

    @property
    def frame(self) -> NDArray[np.int64]:
        """Number of the frame of each row (R,). Only in tables of videos."""
        return np.asarray(self.records["frame"])

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Time of the frame of each row (R,). Only in tables of videos."""
        return np.asarray(self.records["seconds"])

    @property
    def picture(self) -> NDArray[np.str_]:
        """Path of the image file of each row (R,). Only in tables of images."""
        return np.array([self.names[index] for index in self.records["picture"]], str)

    @property
    def face(self) -> NDArray[np.int64]:
        """Id of the face of each row (R,), -1 in a row without a face."""
        return np.asarray(self.records["face"])

    @property
    def box(self) -> NDArray[np.float32]:
        """Bounding box of the points (R, 4): x0, y0, x1, y1, in pixels."""
        return np.asarray(self.records["box"])

    @property
    def face_score(self) -> NDArray[np.float32]:
        """Mean score of the points (R,)."""
        return np.asarray(self.records["face_score"])

    @property
    def detection_score(self) -> NDArray[np.float32]:
        """Confidence of the face detector when it last found the face (R,). NaN if it is not known."""
        return np.asarray(self.records["detection_score"])

    @property
    def points(self) -> NDArray[np.float32]:
        """Points (R, K, 2), in pixels."""
        return np.asarray(self.records["points"])

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores of the points (R, K), in [0, 1]."""
        return np.asarray(self.records["scores"])

    @property
    def measures(self) -> dict[str, NDArray[np.float32]]:
        """Measures by their names, each (R,). Empty if the table has none."""
        return {name: self.records["measures"][:, place] for place, name in enumerate(self.schema.measures)}

    def columns(self) -> dict[str, NDArray]:
        """Return every column of the flat table by its name, each (R,)."""
        place = {name: self.picture if name == "picture" else self.records[name] for name in self.schema.place}
        values = self.schema.flat(self.records)
        names = self.schema.columns[len(self.schema.place) + 1 :]
        return {**place, "face": self.face, **{name: values[:, index] for index, name in enumerate(names)}}

    def to_pandas(self) -> "pd.DataFrame":
        """Return a DataFrame of pandas with the flat columns. `face` is a nullable integer."""
        import pandas as pd

        face = pd.array(self.face, dtype="Int64")
        face[self.face == NO_FACE] = pd.NA
        return pd.DataFrame(self.columns() | {"face": face})

    def to_polars(self) -> "pl.DataFrame":
        """Return a DataFrame of Polars with the flat columns. `face` is null in a row without a face."""
        import polars as pl

        face = pl.when(pl.col("face") != NO_FACE).then(pl.col("face"))
        return pl.DataFrame(self.columns()).with_columns(face.alias("face"))


def read_table(path: str | Path) -> Table:
    """Read a table that `canthus video` or `canthus images` has written.

        table = read_table("points.parquet")
        table.points[table.face == 0]   # (R, K, 2)
        frame = table.to_pandas()       # or to_polars()

    The suffix names the format: .csv, .jsonl, .parquet, .feather or .npz. Tables of canthus 0.2.0 can be read too.

    Raises:
        InputError: If there is no such file, it is not a table of canthus, or pyarrow is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file (expected a table)")
    try:
        with np.errstate(over="raise"):  # a number that is too large for the type of its column
            table = _read(path)
        if table.schema.kind == "frames" and not np.isfinite(table.seconds).all():
            raise ValueError("a time is not finite")
        return table
    except CanthusError:
        raise
    except MemoryError as error:  # pyarrow's is a subclass
        raise InputError(f"{path}: needs more memory than there is, or is damaged; write the table again") from error
    except Exception as error:  # parsers of damaged files raise many types
        missing = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else ""
        reason = missing or (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: is damaged ({reason}); write the table again") from error


def _read(path: Path) -> Table:
    match path.suffix.lower():
        case ".csv" | ".jsonl":
            return _read_text(path)
        case ".parquet" | ".feather":
            schema, metadata, chunks = arrow.read(path)
            return _joined(schema, metadata, chunks)
        case ".npz":
            schema, metadata, records, names = npz.read(path)
            return Table(records, schema, metadata, names)
    raise InputError(f"{path}: unsupported table format (expected .csv, .jsonl, .parquet, .feather or .npz)")


def _read_text(path: Path) -> Table:
    parse = parse_csv if path.suffix.lower() == ".csv" else parse_json
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            schema, chunks = parse(file)
            return _joined(schema, read_metadata(path), chunks)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _joined(schema: Schema, metadata: dict[str, object], chunks: Iterable[tuple[Records, list[str]]]) -> Table:
    parts, names = [np.zeros(0, schema.dtype)], list[str]()
    for records, more in chunks:
        if more:
            records["picture"] += len(names)
            names += more
        parts.append(records)
    return Table(np.concatenate(parts), schema, metadata, names)


def metadata_path(table: Path) -> Path:
    """Return the path of the JSON beside a text table: points.csv -> points.csv.json."""
    return table.with_name(table.name + ".json")


def read_metadata(table: Path) -> dict[str, object]:
    """Return the metadata beside a text table, or nothing if there is none."""
    path = metadata_path(table)
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is a folder, a pipe or a device (expected the metadata of {table.name})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable metadata ({error})") from error
    return content if isinstance(content, dict) else {}
