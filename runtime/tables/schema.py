"""The columns of a table of points: names, types, units, and the records that hold the rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.measures import MEASURE_COLUMNS, MEASURES_VERSION
from canthus.runtime.schemes import WFLW, Scheme
from canthus.runtime.types import Faces

SCHEMA_VERSION = 2
"""Changes if a column gets another name, unit or meaning. Version 1 (canthus 0.2.0) had no `detection_score`, no rows
without a face and no metadata."""

NO_FACE = -1
"""`face` in the records of a frame without a face. Text has an empty field, Parquet and Feather have null."""

Records = NDArray[np.void]
"""Rows (R,) with the fields of `Schema.dtype`."""


class Column(NamedTuple):
    """What a column contains. `{point}` in a name stands for the number of each point."""

    name: str
    type: str
    unit: str
    meaning: str


COLUMNS = {
    column.name: column
    for column in (
        Column("frame", "int64", "", "number of the frame in the source, from 0"),
        Column("picture", "string", "", "path of the image file in its folder"),
        Column("seconds", "float64", "s", "time of the frame, from the first frame of the source"),
        Column("face", "int64", "", "id of the track, or number of the face in an image; empty if there is no face"),
        *(
            Column(name, "float32", "px", "edge of the bounding box of the points")
            for name in ("box_x0", "box_y0", "box_x1", "box_y1")
        ),
        Column("face_score", "float32", "0 to 1", "mean of the scores of the points"),
        Column("detection_score", "float32", "0 to 1", "confidence of the face detector when it last found the face"),
        Column("x_{point}", "float32", "px", "x of a point, from the left; pixel centers are integers"),
        Column("y_{point}", "float32", "px", "y of a point, from the top"),
        Column("score_{point}", "float32", "0 to 1", "probability that the error of a point is below 5 %"),
    )
}
"""The columns without those of measures, which `Measures` describes."""

_BOX = ("box_x0", "box_y0", "box_x1", "box_y1")


@dataclass(frozen=True)
class Schema:
    """The columns of one table."""

    kind: Literal["frames", "images"] = "frames"
    measures: tuple[str, ...] = ()  # names of the columns of measures, after all others
    points: int = WFLW.points

    def with_measures(self, measures: bool = True) -> "Schema":
        """Return the schema with the columns of measures, or without."""
        return replace(self, measures=MEASURE_COLUMNS if measures else ())

    def with_points(self, scheme: Scheme) -> "Schema":
        """Return the schema for faces with the points of a scheme."""
        return replace(self, points=scheme.points)

    def __post_init__(self) -> None:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("two columns have the same name")

    @property
    def place(self) -> tuple[str, ...]:
        """Names of the columns that say which frame or image a row is about."""
        return ("frame", "seconds") if self.kind == "frames" else ("picture",)

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in their order."""
        points = (f"{name}_{point}" for point in range(self.points) for name in ("x", "y", "score"))
        return [*self.place, "face", *_BOX, "face_score", "detection_score", *points, *self.measures]

    @cached_property
    def dtype(self) -> np.dtype:
        """The type of a record. `picture` is the number of a name in a list."""
        number, real = "<i8", "<f4"
        place = [("frame", number), ("seconds", "<f8")] if self.kind == "frames" else [("picture", number)]
        return np.dtype(
            [
                *place,
                ("face", number),
                ("box", real, (4,)),
                ("face_score", real),
                ("detection_score", real),
                ("points", real, (self.points, 2)),
                ("scores", real, (self.points,)),
                ("measures", real, (len(self.measures),)),
            ]
        )

    def records(self, faces: Faces, place: Sequence[float]) -> Records:
        """Return the rows of the faces of one frame: one without a face if there is none.

        place: the values of the columns `place`.
        """
        found = len(faces)
        rows = np.zeros(max(found, 1), self.dtype)
        for name, value in zip(self.place, place, strict=True):
            rows[name] = value
        if not found:
            rows["face"] = NO_FACE
            for name in ("box", "face_score", "detection_score", "points", "scores", "measures"):
                rows[name] = np.nan
            return rows
        rows["face"], rows["box"], rows["face_score"] = faces.ids, faces.boxes, faces.face_scores
        rows["detection_score"], rows["points"], rows["scores"] = faces.detection_scores, faces.points, faces.scores
        if self.measures:
            assert faces.measures is not None, "the table has measures, so the faces must"
            rows["measures"] = [list(faces.measures.as_dict(index).values()) for index in range(found)]
        return rows

    def flat(self, rows: Records) -> NDArray[np.float32]:
        """Return the values (R, C) of the columns after `face`, in their order."""
        count = len(rows)
        points = np.concatenate([rows["points"], rows["scores"][..., None]], axis=2)
        scores = np.stack([rows["face_score"], rows["detection_score"]], axis=1)
        return np.concatenate([rows["box"], scores, points.reshape(count, 3 * self.points), rows["measures"]], axis=1)

    def set_flat(self, rows: Records, values: NDArray[np.float32]) -> None:
        """Set the fields of records from the values (R, C) that `flat` returns."""
        rows["box"], rows["face_score"], rows["detection_score"] = values[:, :4], values[:, 4], values[:, 5]
        points = values[:, 6 : 6 + 3 * self.points].reshape(len(rows), self.points, 3)
        rows["points"], rows["scores"] = points[..., :2], points[..., 2]
        rows["measures"] = values[:, 6 + 3 * self.points :]

    def describe(self, details: Mapping[str, object] | None = None, faces_only: bool = False) -> dict[str, object]:
        """Return the metadata of a table: its versions, its columns, and `details` of the run.

        faces_only: The table has no row for a frame without a face.

        It contains no time, so that the same run writes the same file.
        """
        columns = [column._asdict() for name, column in COLUMNS.items() if name not in ("frame", "seconds", "picture")]
        others = "none without a face" if faces_only else "one without a face if there is none"
        place = [COLUMNS[name]._asdict() for name in self.place]
        described: dict[str, object] = {
            "schema": SCHEMA_VERSION,
            "canthus": metadata.version("canthus"),
            "rows": f"one for each face of each {self.kind.removesuffix('s')}; {others}",
            "points": self.points,
            **(details or {}),
            "columns": [*place, *columns],
        }
        if self.measures:
            described |= {"measures": list(self.measures), "measures_version": MEASURES_VERSION}
        return described


FRAMES = Schema("frames")
"""The table of a video: `frame`, `seconds`, then the columns of the faces."""

IMAGES = Schema("images")
"""The table of images: `picture`, then the columns of the faces."""
