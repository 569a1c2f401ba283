import contextlib
import csv
import json
import os
import sys

import numpy as np
import pytest

from canthus.runtime import read_table
from canthus.runtime.errors import InputError
from canthus.runtime.files import DRAFT_PREFIX, keep_parts
from canthus.runtime.measures import Measurer
from canthus.runtime.tables import FRAMES, IMAGES, SCHEMA_VERSION, TABLE_SUFFIXES, TableSink, check_table, journal
from canthus.runtime.tables.text import csv_header
from canthus.runtime.types import Faces
from support.disk import full_disk
from support.shape import SHAPE

DETAILS = {"source": {"path": "clip.mp4"}, "settings": {"max_faces": 8}}
ROUNDING = 0.0051
"""Coordinates in text have two decimals."""


def two_faces(measures=False):
    """Return two faces; the detector has found one of them."""
    points = np.stack([SHAPE * 100, SHAPE * 50 + 7]).astype(np.float32)
    scores = np.linspace(0, 1, 196, dtype=np.float32).reshape(2, 98)
    ids, detection = np.array([3, 8]), np.array([0.75, np.nan], np.float32)
    values = Measurer().update(points, scores, ids, 0.0, (640, 480)) if measures else None
    return Faces(points, scores, ids, detection, values)


def write(path, measures=False, **options):
    """Write a table: a frame without a face, then one with two."""
    with TableSink(path, FRAMES.with_measures(measures), DETAILS, **options) as table:
        table.write(0, 0.0, Faces.none())
        table.write(1, 1 / 30, two_faces(measures))
    return path


def test_table_contains_the_faces_of_each_frame(tmp_path):
    write(tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["face"] for row in rows] == ["", "3", "8"]
    assert [row["frame"] for row in rows] == ["0", "1", "1"]
    assert float(rows[2]["y_97"]) == pytest.approx(two_faces().points[1, 97, 1], abs=0.01)
    assert float(rows[1]["box_x1"]) == pytest.approx(two_faces().points[0, :, 0].max(), abs=0.01)
    assert [row["detection_score"] for row in rows] == ["", "0.750", ""]
    assert len(rows[0]) == 2 + 7 + 3 * 98
    assert set(rows[0].values()) == {"0", "0.000000", ""}


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
@pytest.mark.parametrize("measures", [False, True])
def test_read_table_returns_what_was_written(tmp_path, suffix, measures):
    faces = two_faces(measures)
    table = read_table(write(tmp_path / f"t{suffix}", measures))
    assert (table.frame.tolist(), table.face.tolist()) == ([0, 1, 1], [-1, 3, 8])
    assert table.seconds == pytest.approx([0, 1 / 30, 1 / 30], abs=1e-6)
    tolerance = ROUNDING if suffix in (".csv", ".jsonl") else 0
    np.testing.assert_allclose(table.points[1:], faces.points, atol=tolerance)
    np.testing.assert_allclose(table.scores[1:], faces.scores, atol=tolerance)
    np.testing.assert_allclose(table.box[1:], faces.boxes, atol=tolerance)
    np.testing.assert_allclose(table.detection_score, [np.nan, 0.75, np.nan])
    assert np.isnan(table.points[0]).all()
    assert np.isnan(table.face_score).tolist() == [True, False, False]
    if measures:
        assert table.measures["jawOpen"][1:] == pytest.approx(
            [faces.measures.as_dict(index)["jawOpen"] for index in (0, 1)], rel=1e-3
        )
    assert len(table.measures) == (59 if measures else 0)


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_metadata_of_the_run_is_in_or_beside_each_table(tmp_path, suffix):
    metadata = read_table(write(tmp_path / f"t{suffix}")).metadata
    assert metadata["schema"] == SCHEMA_VERSION
    assert metadata["source"] == DETAILS["source"]
    assert [column["name"] for column in metadata["columns"]][:3] == ["frame", "seconds", "face"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"t{suffix}",
        *([f"t{suffix}.json"] if suffix in (".csv", ".jsonl") else []),
    ]


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_the_same_run_writes_the_same_bytes(tmp_path, suffix):
    assert write(tmp_path / f"a{suffix}").read_bytes() == write(tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_frames_without_a_face_are_left_out_on_request(tmp_path, suffix):
    table = read_table(write(tmp_path / f"t{suffix}", faces_only=True))
    assert table.frame.tolist() == [1, 1]
    assert table.metadata["rows"] == "one for each face of each frame; none without a face"


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_have_the_columns_of_the_csv(tmp_path, suffix, library):
    pytest.importorskip(library)
    table = read_table(write(tmp_path / f"t{suffix}"))
    frame = table.to_pandas() if library == "pandas" else table.to_polars()
    assert list(frame.columns) == FRAMES.columns
    missing = frame["face"].isna() if library == "pandas" else frame["face"].is_null()
    assert missing.to_list() == [True, False, False]
    assert frame["x_5"].to_list()[1] == pytest.approx(two_faces().points[0, 5, 0], abs=ROUNDING)


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_pyarrow_and_pandas_read_the_files_themselves(tmp_path, suffix):
    pandas = pytest.importorskip("pandas")
    path = write(tmp_path / f"t{suffix}")
    frame = pandas.read_parquet(path) if suffix == ".parquet" else pandas.read_feather(path)
    assert list(frame.columns) == FRAMES.columns
    assert frame["face"].isna().tolist() == [True, False, False]
    assert frame["box_x0"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_tables_longer_than_a_chunk_are_complete(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(journal, "CHUNK", 2)
    with TableSink(tmp_path / f"t{suffix}", FRAMES) as sink:
        for index in range(5):
            sink.write(index, index / 10, Faces.none() if index % 2 else two_faces())
    assert read_table(tmp_path / f"t{suffix}").frame.tolist() == [0, 0, 1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_tables_of_images_have_their_names(tmp_path, suffix):
    with TableSink(tmp_path / f"t{suffix}", IMAGES) as sink:
        sink.write_image("a, b/ü.png", two_faces())
        sink.write_image("gray.png", Faces.none())
    table = read_table(tmp_path / f"t{suffix}")
    assert table.picture.tolist() == ["a, b/ü.png", "a, b/ü.png", "gray.png"]
    assert table.face.tolist() == [3, 8, -1]
    assert list(table.columns())[:2] == ["picture", "face"]


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_table_without_a_row_can_be_read(tmp_path, suffix):
    with TableSink(tmp_path / f"t{suffix}", FRAMES):
        pass
    table = read_table(tmp_path / f"t{suffix}")
    assert (len(table), table.points.shape) == (0, (0, 98, 2))
    assert {len(values) for values in table.columns().values()} == {0}


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".npz"])
def test_numpy_reads_the_draft_of_a_table_that_is_not_complete(tmp_path, suffix):
    sink = TableSink(tmp_path / f"t{suffix}", FRAMES)
    sink.write(0, 0.0, Faces.none())
    sink.write(1, 0.1, two_faces())
    (draft,) = tmp_path.glob(f"{DRAFT_PREFIX}*/*.npy")
    records = np.load(draft)
    assert records["face"].tolist() == [-1, 3, 8]
    assert records["points"][1:] == pytest.approx(two_faces().points)
    sink.close()


def test_table_of_canthus_0_2_can_be_read(tmp_path):
    names = [name for name in FRAMES.columns if name != "detection_score"]
    row = ["7", "0.233333", "0", *["1.50"] * (len(names) - 3)]
    (tmp_path / "old.csv").write_text("\r\n".join([",".join(names), ",".join(row)]) + "\r\n")
    table = read_table(tmp_path / "old.csv")
    assert (table.frame.tolist(), table.metadata) == ([7], {})
    assert np.isnan(table.detection_score).all()
    assert (table.points == 1.5).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"a,b\r\n1,2\r\n"),
        ("t.csv", b""),
        ("t.jsonl", b'{"a": 1}\n'),
        ("t.jsonl", b"not json\n"),
        ("t.parquet", b"PAR1"),
        ("t.feather", b"ARROW1"),
        ("t.npz", b"PK"),
        ("t.xlsx", b""),
    ],
)
def test_file_that_is_no_table_is_one_clear_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name) as raised:
        read_table(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_csv_that_ends_in_the_middle_of_a_row_is_one_clear_error(tmp_path, cut):
    path = write(tmp_path / "t.csv")
    path.write_bytes(path.read_bytes()[: -1400 - cut])
    with pytest.raises(InputError, match=r"line \d: \d+ fields"):
        read_table(path)


@pytest.mark.parametrize("name", ["t.parquet", "t.feather"])
def test_missing_pyarrow_is_one_clear_error_before_any_work(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install .*tables"):
        check_table(tmp_path / name, overwrite=False)


def test_existing_metadata_is_not_replaced_without_overwrite(tmp_path):
    (tmp_path / "t.csv.json").write_text("mine")
    with pytest.raises(InputError, match=r"t\.csv\.json: exists already"):
        check_table(tmp_path / "t.csv", overwrite=False)


def test_symbolic_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "t.csv").symlink_to(tmp_path / "far" / "t.csv")
    with TableSink(tmp_path / "t.csv", FRAMES):
        pass
    assert (tmp_path / "t.csv").is_symlink()
    assert (tmp_path / "far" / "t.csv").is_file()


def test_file_name_that_is_not_utf8_is_written_to_the_table(tmp_path):
    name = os.fsdecode(b"\xff.png")
    with TableSink(tmp_path / "t.csv", IMAGES) as table:
        table.write_image(name, two_faces())
    assert b"\xff.png," in (tmp_path / "t.csv").read_bytes()
    assert read_table(tmp_path / "t.csv").picture[0] == name
    for suffix in (".jsonl", ".parquet", ".npz"):
        with TableSink(tmp_path / f"t{suffix}", IMAGES) as table:
            table.write_image(name, two_faces())
        assert read_table(tmp_path / f"t{suffix}").picture[0].endswith(".png")


def test_each_line_of_json_is_an_object_without_nan(tmp_path):
    lines = write(tmp_path / "t.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert rows[0] == {"frame": 0, "seconds": 0.0, "face": None}
    assert np.shape(rows[1]["points"]) == (98, 2)
    assert rows[2]["detection_score"] is None


@pytest.mark.parametrize("suffix", TABLE_SUFFIXES)
def test_full_disk_leaves_no_partial_table(tmp_path, suffix):
    faces = Faces(np.tile(SHAPE, (50, 1, 1)), np.full((50, 98), 0.5, np.float32), np.arange(50))
    with (
        full_disk(),
        pytest.raises(InputError, match="cannot be written"),
        TableSink(tmp_path / f"t{suffix}", FRAMES) as table,
    ):
        table.write(0, 0.0, faces)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_full_disk_leaves_whole_rows_of_text_for_the_part(tmp_path, suffix):
    faces = Faces(np.tile(SHAPE, (2, 1, 1)), np.full((2, 98), 0.5, np.float32), np.arange(2))
    table = TableSink(tmp_path / f"t{suffix}", FRAMES)
    with full_disk(), pytest.raises(InputError, match="cannot be written"):
        for index in range(20):
            table.write(index, index / 30, faces)
    assert keep_parts([table]) == [tmp_path / f"t.partial{suffix}"]
    found = read_table(tmp_path / f"t.partial{suffix}").frame.tolist()
    assert found == sorted([*range(len(found) // 2)] * 2)
    assert 2 < len(found) < 20


def test_two_columns_with_one_name_are_refused(tmp_path):
    with TableSink(tmp_path / "t.npz", FRAMES.with_measures()) as table:
        table.write(0, 0.0, Faces.none())
    arrays = dict(np.load(tmp_path / "t.npz"))
    arrays["measure_names"][1] = arrays["measure_names"][0]
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(InputError, match="two columns have the same name"):
        read_table(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", '{"frame": 0, "face": null', "line 1: not JSON (Expecting ',' delimiter)"),
        ("t.jsonl", "[" * 100_000, "line 1: not JSON (maximum recursion depth exceeded"),
        ("t.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("t.jsonl", '{"frame": 0, "face": null}', "line 1: not a row of a table ('seconds' is"),
        (
            "t.jsonl",
            '{"frame": 0, "seconds": 0, "face": 0, "scores": [0.5], "box": [0, 0, 1e39, 2]}',
            "is damaged (overflow encountered",
        ),
        ("t.jsonl", '{"frame": 0, "face": 0, "scores": 5}\n', "is damaged (object of type 'int' has no len()); write"),
        (
            "t.jsonl",
            '{"frame": 0, "seconds": 0, "face": 1, "box": 1}\n',
            "line 1: not a row of a table ('face_score' is",
        ),
        ("t.jsonl", '{"picture": 1.5, "face": null}\n', "line 1: not a row of a table (picture is 1.5)"),
        ("t.jsonl", '{"frame": 0, "seconds": NaN, "face": null}\n', "is damaged (a time is not finite); write"),
        ("t.csv", "{header}0,inf" + "," * 301, "is damaged (a time is not finite); write"),
        ("t.csv", "{header}" + "z" + "," * 302, "line 2: frame: expected an integer (invalid literal for int()"),
        ("t.csv", "{header}" + "9" * 30 + "," * 302, "line 2: a number is missing or too large (Python int too large"),
        ("t.csv", "{header}0,,1" + "," * 300, "line 2: a number is missing or too large (could not convert"),
        ("t.csv", "{header}0,0.5,1,7,x" + "," * 298, "line 2: box_y0: expected a number (could not convert string"),
        ("t.csv", "{header}" + "9" * 200_000, "is damaged (field larger than field limit (131072)); write"),
    ],
)
def test_a_damaged_text_table_is_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content.replace("{header}", csv_header(FRAMES)))
    with pytest.raises(InputError) as raised:
        read_table(path)
    assert str(raised.value).startswith(f"{path}: {message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "change", [lambda points: points.astype(np.complex64), lambda points: points[:1]], ids=["type", "shape"]
)
def test_an_array_of_another_type_or_shape_in_a_table_is_one_line(tmp_path, change):
    path = write(tmp_path / "t.npz")
    with np.load(path) as arrays:
        content = dict(arrays)
    np.savez(path, **content | {"points": change(content["points"])})
    with pytest.raises(InputError, match=r"t\.npz: not a table of canthus \(points is \("):
        read_table(path)


@pytest.mark.parametrize("names", [np.array([1]), np.array([["a"]])])
def test_names_of_an_array_that_are_no_texts_are_one_line(tmp_path, names):
    with TableSink(tmp_path / "t.npz", IMAGES) as table:
        table.write_image("é.jpg", Faces.none())
    assert read_table(tmp_path / "t.npz").names == ["é.jpg"]
    content = dict(np.load(tmp_path / "t.npz"))
    np.savez(tmp_path / "t.npz", **content | {"picture": names})
    with pytest.raises(InputError, match=r"not a table of canthus \(a list of texts is \("):
        read_table(tmp_path / "t.npz")


def test_characters_that_do_not_exist_are_one_line(tmp_path):
    with TableSink(tmp_path / "t.npz", IMAGES) as table:
        table.write_image("a", Faces.none())
    content = dict(np.load(tmp_path / "t.npz"))
    np.savez(tmp_path / "t.npz", **content | {"picture": np.array([0x110000], np.uint32).view("<U1")})
    with pytest.raises(InputError, match="a text has characters that do not exist"):
        read_table(tmp_path / "t.npz")


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".npz"])
def test_flipped_bit_is_an_error_or_changes_no_value(tmp_path, suffix):
    whole = write(tmp_path / f"t{suffix}", measures=True).read_bytes()
    expected = read_table(tmp_path / f"t{suffix}").records.tobytes()
    for place in np.random.default_rng(1).integers(len(whole), size=40):
        damaged = bytearray(whole)
        damaged[place] ^= 16
        (tmp_path / f"d{suffix}").write_bytes(damaged)
        with contextlib.suppress(InputError):
            assert read_table(tmp_path / f"d{suffix}").records.tobytes() == expected, place


@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".npz"])
def test_flipped_bits_of_a_table_are_errors_of_canthus(tmp_path, suffix):
    whole = write(tmp_path / f"t{suffix}").read_bytes()
    random, read = np.random.default_rng(0), 0
    for _ in range(15):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(len(whole), size=4)] ^= 8
        (tmp_path / f"d{suffix}").write_bytes(damaged.tobytes())
        with contextlib.suppress(InputError):
            read_table(tmp_path / f"d{suffix}")
            read += 1
    assert read < 10
