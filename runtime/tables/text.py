"""Rows of a table as text: CSV and JSON Lines."""

import csv
import functools
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from canthus.runtime.errors import InputError
from canthus.runtime.tables.schema import NO_FACE, Records, Schema

CHUNK = 4096
"""Rows that are parsed at once."""

Place = Sequence[float | str]
"""The values of the first columns: frame and seconds, or the path of an image file."""


def csv_header(schema: Schema) -> str:
    """Return the first line of a CSV table."""
    return _csv_line(schema.columns)


def csv_rows(schema: Schema, rows: Records, place: Place) -> str:
    """Return the lines of the rows of one frame. Coordinates have two decimals, scores three."""
    template = _template(schema)
    start = _csv_line([f"{value:.6f}" if isinstance(value, float) else value for value in place]).rstrip("\r\n")
    lines = []
    for face, values in zip(rows["face"].tolist(), schema.flat(rows).tolist(), strict=True):
        if face == NO_FACE:
            lines.append(f"{start},{',' * len(values)}\r\n")
            continue
        line = template % tuple(values)
        lines.append(f"{start},{face},{line.replace('nan', '')}\r\n")
    return "".join(lines)


@functools.cache
def _template(schema: Schema) -> str:
    """Return the format of the columns after `face`."""
    points = ["%.2f", "%.2f", "%.3f"] * schema.points
    return ",".join([*["%.2f"] * 4, "%.3f", "%.3f", *points, *["%.4g"] * len(schema.measures)])


def _csv_line(values: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


def json_rows(schema: Schema, rows: Records, place: Place) -> str:
    """Return one JSON object a line for the rows of one frame, with the decimals of CSV."""
    lines = []
    for row in rows:
        start = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in zip(schema.place, place, strict=True)
        }
        if row["face"] == NO_FACE:
            lines.append(json.dumps(start | {"face": None}) + "\n")
            continue
        face: dict[str, object] = {
            "face": int(row["face"]),
            "box": _rounded(row["box"].tolist(), 2),
            "face_score": _number(float(row["face_score"]), 3),
            "detection_score": _number(float(row["detection_score"]), 3),
            "points": [_rounded(point, 2) for point in row["points"].tolist()],
            "scores": _rounded(row["scores"].tolist(), 3),
        }
        if schema.measures:
            numbers = [_number(float(f"{value:.4g}"), 9) for value in row["measures"].tolist()]
            face["measures"] = dict(zip(schema.measures, numbers, strict=True))
        lines.append(json.dumps(start | face) + "\n")
    return "".join(lines)


def _rounded(values: Iterable[float], decimals: int) -> list[float | None]:
    return [_number(value, decimals) for value in values]


def _number(value: float, decimals: int) -> float | None:
    """Return a rounded number; JSON has no NaN."""
    return round(value, decimals) if math.isfinite(value) else None


Chunk = tuple[Records, list[str]]
"""Records, and the paths of image files that their field `picture` counts."""


def parse_csv(lines: Iterable[str]) -> tuple[Schema, Iterator[Chunk]]:
    """Return the schema of a CSV table, and its rows in chunks. Raises InputError if it is not one of canthus."""
    reader = csv.reader(lines)
    columns = next(reader, [])
    kind = "images" if "picture" in columns[:1] else "frames"
    points = sum(name.startswith("score_") and name[6:].isdigit() for name in columns)
    schema = Schema("images" if kind == "images" else "frames", (), points)
    known = {*schema.columns}
    schema = Schema(schema.kind, tuple(name for name in columns if name not in known), points)
    missing = [name for name in schema.columns if name not in columns and name != "detection_score"]
    if missing or not points:
        raise InputError(f"not a table of canthus (column {(missing or ['x_0'])[0]} is missing)")
    places = [columns.index(name) if name in columns else -1 for name in schema.columns]
    return schema, _csv_chunks(schema, reader, places)


def _csv_chunks(schema: Schema, reader: Iterator[list[str]], places: list[int]) -> Iterator[Chunk]:
    lead = len(schema.place)
    width = max(places) + 1

    def parse(rows: list[list[str]], lines: list[int]) -> Chunk:
        try:
            return convert(rows)
        except (ValueError, OverflowError):
            for row, line in zip(rows, lines, strict=True):
                try:
                    convert([row])
                except (ValueError, OverflowError) as error:
                    raise InputError(f"line {line}: {_wrong_field(schema, row, places)} ({error})") from error
            raise

    def convert(rows: list[list[str]]) -> Chunk:
        records = np.zeros(len(rows), schema.dtype)
        names = [row[places[0]] for row in rows] if schema.kind == "images" else []
        if names:
            records["picture"] = np.arange(len(rows))
        else:
            records["frame"] = [int(row[places[0]]) for row in rows]
            records["seconds"] = [float(row[places[1]]) for row in rows]
        records["face"] = [int(row[places[lead]] or NO_FACE) for row in rows]
        schema.set_flat(
            records,
            np.array(
                [
                    [float(row[place] or "nan") if place >= 0 else math.nan for place in places[lead + 1 :]]
                    for row in rows
                ],
                np.float32,
            ),
        )
        return records, names

    rows: list[list[str]] = []
    lines: list[int] = []
    for row in reader:
        if len(row) < width:
            raise InputError(f"line {reader.line_num}: {len(row)} fields (expected {width})")  # type: ignore[attr-defined]
        rows.append(row)
        lines.append(reader.line_num)  # type: ignore[attr-defined]
        if len(rows) == CHUNK:
            yield parse(rows, lines)
            rows, lines = [], []
    if rows:
        yield parse(rows, lines)


def _wrong_field(schema: Schema, row: list[str], places: list[int]) -> str:
    """Return the name of the first column of a row whose text is no number, and what it should be."""
    for name, place in zip(schema.columns, places, strict=True):
        if place >= 0 and name != "picture" and row[place]:
            whole = name in ("frame", "face")
            try:
                int(row[place]) if whole else float(row[place])
            except ValueError:
                return f"{name}: expected {'an integer' if whole else 'a number'}"
    return "a number is missing or too large"


def parse_json(lines: Iterable[str]) -> tuple[Schema, Iterator[Chunk]]:
    """Return the schema of a table of JSON Lines, and its rows in chunks. Raises InputError or ValueError."""
    objects = [_json_object(number, line) for number, line in enumerate(lines, 1)]
    face: dict[str, Any] = next((row for row in objects if row.get("face") is not None), {})
    first = objects[0] if objects else {}
    kind = "images" if "picture" in first else "frames"
    if objects and not {"face", "picture" if kind == "images" else "frame"} <= first.keys():
        raise InputError("not a table of canthus (a line has no frame or no face)")
    schema = Schema("images" if kind == "images" else "frames", tuple(face.get("measures", ())))
    if "scores" in face:
        schema = Schema(schema.kind, schema.measures, len(face["scores"]))
    return schema, iter([_json_records(schema, objects)])


def _json_object(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"line {number}: not JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(row, dict):
        raise InputError(f"line {number}: not a JSON object")
    return row


def _json_records(schema: Schema, objects: list[dict]) -> Chunk:
    records = np.zeros(len(objects), schema.dtype)
    names: list[str] = []
    for index, row in enumerate(objects):
        try:
            _set_record(records[index], index, row)
            if schema.kind == "images":
                names.append(_text(row["picture"]))
        except (TypeError, ValueError, LookupError, OverflowError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"line {index + 1}: not a row of a table ({reason})") from error
    return records, names


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"picture is {value!r}")
    return value


def _set_record(record: np.void, index: int, row: dict[str, Any]) -> None:
    """Set the fields of a record from the object of a line."""
    if "picture" in (record.dtype.names or ()):
        record["picture"] = index
    else:
        record["frame"], record["seconds"] = row["frame"], row["seconds"]
    found = row["face"] is not None
    record["face"] = row["face"] if found else NO_FACE
    for name in ("box", "face_score", "detection_score", "points", "scores"):
        record[name] = np.array(row[name], np.float32) if found else np.nan
    measures = row.get("measures")
    record["measures"] = np.array([*measures.values()], np.float32) if measures else np.nan
