import csv
import os
import resource

import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.tables import FRAME_COLUMNS, IMAGE_COLUMNS, TableSink
from canthus.runtime.types import Faces
from support.shape import SHAPE


def test_table_contains_the_faces_of_each_frame(tmp_path):
    points = np.stack([SHAPE * 100, SHAPE * 50 + 7]).astype(np.float32)
    faces = Faces(points, np.full((2, 98), 0.5, np.float32), np.array([3, 8]))
    with TableSink(tmp_path / "t.csv", FRAME_COLUMNS) as table:
        table.write(0, 0.0, Faces.none())
        table.write(1, 1 / 30, faces)
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["face"] for row in rows] == ["3", "8"]
    assert [row["frame"] for row in rows] == ["1", "1"]
    assert float(rows[1]["y_97"]) == pytest.approx(points[1, 97, 1], abs=0.01)
    assert float(rows[0]["box_x1"]) == pytest.approx(points[0, :, 0].max(), abs=0.01)
    assert len(rows[0]) == 2 + 6 + 3 * 98


def test_symbolic_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "t.csv").symlink_to(tmp_path / "far" / "t.csv")
    with TableSink(tmp_path / "t.csv", FRAME_COLUMNS):
        pass
    assert (tmp_path / "t.csv").is_symlink()
    assert (tmp_path / "far" / "t.csv").is_file()


def test_file_name_that_is_not_utf8_is_written_to_the_table(tmp_path):
    name = os.fsdecode(b"\xff.png")
    points = SHAPE[None] * 100
    with TableSink(tmp_path / "t.csv", IMAGE_COLUMNS) as table:
        table.write_image(name, Faces(points, np.full((1, 98), 0.5, np.float32), np.array([0])))
    assert b"\xff.png," in (tmp_path / "t.csv").read_bytes()


def test_full_disk_leaves_no_partial_table(tmp_path):
    faces = Faces(np.tile(SHAPE, (50, 1, 1)), np.full((50, 98), 0.5, np.float32), np.arange(50))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with (
            pytest.raises(InputError, match="cannot be written"),
            TableSink(tmp_path / "t.csv", FRAME_COLUMNS) as table,
        ):
            table.write(0, 0.0, faces)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
