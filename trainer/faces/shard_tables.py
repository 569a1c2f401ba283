"""The tables of a shard: quality.csv, about its faces, and human.csv, about their points."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from canthus.runtime.errors import InputError
from canthus.runtime.wflw import POINTS
from canthus.trainer.faces.kinds import Kinds, PointKind, is_labelled, place_unlabelled
from canthus.trainer.faces.labelled import LabelledFace
from canthus.trainer.faces.parsing import MAX_COORDINATE, shorten

SHARD_QUALITY = "quality.csv"
SHARD_KINDS = "human.csv"


def read_tables(faces: list[LabelledFace], read_table: Callable[[str], str | None], shard: Path) -> list[LabelledFace]:
    """Set what the tables of a shard say about each face. `read_table` returns None for a table it does not have."""
    if (quality := read_table(SHARD_QUALITY)) is not None:
        faces = _with_quality(faces, quality, f"{shard}/{SHARD_QUALITY}")
    if (kinds := read_table(SHARD_KINDS)) is not None:
        faces = _with_kinds(faces, kinds, f"{shard}/{SHARD_KINDS}")
    return faces


class _Quality(NamedTuple):
    spread: float = 0.0
    yaw: float = math.nan


def _with_quality(faces: Sequence[LabelledFace], table: str, source: str) -> list[LabelledFace]:
    """Set spread and yaw of each face from quality.csv; its points are pseudo-labels.

    If all yaws are 0, none is set.
    """
    rows = csv.DictReader(io.StringIO(table))
    found: dict[str, _Quality] = {}
    try:
        for row in rows:
            quality = _Quality(float(row["ensemble_sd"]), float(row.get("yaw") or math.nan))
            if not 0 <= quality.spread < MAX_COORDINATE or abs(quality.yaw) >= MAX_COORDINATE:
                raise ValueError
            found[row["image"]] = quality
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{source}, line {rows.line_num}: expected the columns image and ensemble_sd, a number of at least 0 "
            "(and optionally yaw, a number)"
        ) from error
    if not any(one.yaw for one in found.values()):  # nan is true: a column of zeros was not measured
        found = {name: one._replace(yaw=math.nan) for name, one in found.items()}
    pseudo = np.full(POINTS, PointKind.PSEUDO, np.uint8)
    return [replace(face, kinds=pseudo, **found.get(face.image, _Quality())._asdict()) for face in faces]


def _with_kinds(faces: Sequence[LabelledFace], table: str, source: str) -> list[LabelledFace]:
    """Set the kinds of the points of each face from human.csv. Faces that it does not list keep theirs."""
    rows = csv.DictReader(io.StringIO(table))
    images = {face.image for face in faces}
    found: dict[str, Kinds] = {}
    try:
        for row in rows:
            place = f"{source}, line {rows.line_num}"
            found[row["image"]] = _parse_kinds(row["points"], place)
            if row["image"] not in images:
                raise InputError(f"{place}: {shorten(row['image'])} is not in the list; correct or remove it")
    except (KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{source}, line {rows.line_num}: expected the columns image and points") from error
    return [
        replace(face, kinds=found[face.image], points=place_unlabelled(face.points, found[face.image]))
        if face.image in found
        else face
        for face in faces
    ]


def _parse_kinds(digits: str, place: str) -> Kinds:
    """Parse one digit per point, the value of its `PointKind`."""
    if len(digits) != POINTS or not set(digits) <= set("".join(str(kind.value) for kind in PointKind)):
        raise InputError(
            f"{place}: expected {POINTS} digits from 0 to {max(PointKind)}, got {len(digits)} characters: "
            f"{shorten(digits)}"
        )
    kinds = np.array(list(digits), np.uint8)
    if not is_labelled(kinds).any():
        raise InputError(f"{place}: a face without a labelled point; remove it")
    return kinds
