"""`canthus images` on unusual names and folders. Bright areas count as faces here."""

import csv
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from canthus.runtime import image_files
from canthus.runtime.abandoned import claim
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("fake_networks")


@pytest.fixture
def photos(tmp_path):
    """Return a folder with an image of one face in a sub-folder."""
    image = np.zeros((100, 160, 3), np.uint8)
    image[20:80, 20:70] = 200
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    (tmp_path / "photos" / "deep" / "face.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return tmp_path / "photos"


def run(*arguments):
    return main(["images", *map(str, arguments)])


def names(table):
    return [row["picture"] for row in csv.DictReader(table.read_text(errors="surrogateescape").splitlines())]


def test_drawn_images_are_not_read_by_the_next_run(photos, tmp_path):
    for _ in range(2):
        assert run(photos, "-o", photos / "drawn", "--table", tmp_path / "t.csv", "--overwrite") == 0
        assert names(tmp_path / "t.csv") == [str(Path("deep", "face.png"))]
    assert [path.relative_to(photos) for path in sorted(photos.rglob("*.png"))] == [
        Path("deep", "face.png"),
        Path("drawn", "deep", "face.png"),
    ]


def test_output_folder_may_contain_the_source(photos, tmp_path):
    assert run(photos / "deep", "-o", photos, "--table", tmp_path / "t.csv") == 0
    assert names(tmp_path / "t.csv") == ["face.png"]
    assert (photos / "face.png").is_file()


def test_folder_named_like_an_image_is_not_read(photos, tmp_path, capsys):
    (photos / "album.jpg").mkdir()
    assert run(photos, "--table", tmp_path / "t.csv") == 0
    assert capsys.readouterr().out == "images: 1, faces: 1\n"


def test_images_have_no_smoothing_option(photos, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(photos, "--table", tmp_path / "t.csv", "--no-smoothing")
    assert "unrecognized arguments: --no-smoothing" in capsys.readouterr().err


def test_table_does_not_replace_a_source(photos, capsys):
    source = photos / "face.csv"  # an image, whatever its name
    (photos / "deep" / "face.png").rename(source)
    before = source.read_bytes()
    assert run(source, "--table", source, "--overwrite") == 2
    assert "is a source" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_file_name_that_is_not_utf8_is_kept(photos, tmp_path):
    name = os.fsdecode(b"\xff.png")
    (photos / "deep" / "face.png").rename(photos / name)
    assert run(photos, "-o", tmp_path / "drawn", "--table", tmp_path / "t.csv") == 0
    assert names(tmp_path / "t.csv") == [name]
    assert (tmp_path / "drawn" / name).is_file()


def test_drawn_webp_is_smaller_than_a_jpeg(photos, tmp_path, capfd):
    image = np.random.default_rng(0).integers(0, 90, (100, 160, 3), np.uint8)
    for name in ("noise.webp", "noise.jpg"):
        (photos / name).write_bytes(cv2.imencode(name[5:], image)[1].tobytes())
    assert run(photos, "-o", tmp_path / "drawn") == 0
    assert capfd.readouterr().err == ""
    assert (tmp_path / "drawn" / "noise.webp").stat().st_size < (tmp_path / "drawn" / "noise.jpg").stat().st_size


def test_unusable_output_folder_is_refused_before_any_work(photos, tmp_path, capsys):
    (photos / "deep" / "face.png").rename(tmp_path / "face")
    assert run(tmp_path / "face", "--table", tmp_path / "t.csv") == 0
    assert run(tmp_path / "face", "-o", tmp_path / "drawn") == 1
    assert "unsupported output format (supported: .jpg" in capsys.readouterr().err
    (tmp_path / "face").rename(photos / "deep" / "face.png")
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "deep").touch()
    assert run(photos, "-o", tmp_path / "drawn", "--overwrite") == 1
    assert "deep: this folder cannot be created" in capsys.readouterr().err
    assert run(photos, "-o", tmp_path / "new.csv", "--table", tmp_path / "new.csv") == 1
    assert "is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["p.xlsx", "p.xyz", "p"])
def test_unknown_table_format_is_refused_before_any_work(photos, tmp_path, capsys, name):
    assert run(photos, "--table", tmp_path / name) == 2
    supported = ".csv, .jsonl, .parquet, .feather, .npz"
    assert capsys.readouterr().err.endswith(f"{name}: unsupported table format (supported: {supported})\n")
    assert not (tmp_path / name).exists()


def test_table_goes_to_standard_output(photos, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(photos, "--table", "-") == 0
    output = capfd.readouterr()
    assert [row["picture"] for row in csv.DictReader(output.out.splitlines())] == [str(Path("deep", "face.png"))]
    assert output.err == "images: 1, faces: 1\n"
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("output", ["drawn", "t.csv"])
def test_second_run_on_the_same_folder_or_table_is_refused_in_one_line(photos, tmp_path, capsys, output):
    (tmp_path / "drawn").mkdir()
    with claim(tmp_path / output):
        assert run(photos, "-o", tmp_path / "drawn", "--table", tmp_path / "t.csv") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{output}: another run is writing it" in error
        assert not (tmp_path / "t.csv").exists()
    assert run(photos, "-o", tmp_path / "drawn", "--table", tmp_path / "t.csv") == 0
    left = sorted(path.name for path in tmp_path.rglob("*"))
    assert left == ["deep", "deep", "drawn", "face.png", "face.png", "photos", "t.csv", "t.csv.json"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda jpeg: jpeg[: len(jpeg) * 9 // 10], "its end is missing"),
        (lambda jpeg: jpeg[: len(jpeg) * 9 // 10] + bytes(len(jpeg) // 10), "its end is missing"),
        (lambda jpeg: jpeg[: len(jpeg) * 9 // 10] + b"\xff\xd9", "Corrupt JPEG data: "),
        (
            lambda jpeg: jpeg[:-300] + bytes(200) + jpeg[-100:],
            "Corrupt JPEG data: ",
        ),
    ],
    ids=["cut", "zeros at the end", "cut with an end marker", "hole"],
)
def test_face_of_a_damaged_jpeg_is_found_and_the_damage_is_named_once(photos, tmp_path, capfd, damage, reason):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (400, 160, 3), np.uint8)
    image[20:80, 20:70] = 200
    full_color = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]  # gray is not bright then
    whole = cv2.imencode(".jpg", image, full_color)[1].tobytes()
    (photos / "deep" / "face.png").unlink()
    (photos / "a.jpg").write_bytes(damage(whole))
    (photos / "b.jpg").write_bytes(whole)
    assert run(photos, "--table", tmp_path / "t.csv") == 0
    output = capfd.readouterr()
    assert output.out == "images: 2, faces: 2\n"
    assert output.err.startswith(f"canthus images: {photos / 'a.jpg'}: is damaged ({reason}")
    assert output.err.endswith("); the rest was processed\n")
    assert output.err.count("\n") == 1
    assert names(tmp_path / "t.csv") == ["a.jpg", "b.jpg"]


def test_jpeg_with_a_few_extra_bytes_is_not_damaged(photos, tmp_path, capfd):
    """Some cameras write them."""
    whole = cv2.imencode(".jpg", cv2.imread(str(photos / "deep" / "face.png")))[1].tobytes()
    (photos / "a.jpg").write_bytes(whole[:-2] + b"\0\0\xff\xd9" + bytes(100))
    assert run(photos, "--table", tmp_path / "t.csv") == 0
    assert capfd.readouterr().err == ""


def test_jpeg_without_pixels_is_skipped_by_name(photos, tmp_path, capfd):
    whole = cv2.imencode(".jpg", cv2.imread(str(photos / "deep" / "face.png")))[1].tobytes()
    for length in range(20, 700, 50):
        (photos / "a.jpg").write_bytes(whole[:length])
        code = run(photos, "--table", tmp_path / "t.csv", "--overwrite")
        line = capfd.readouterr().err
        assert line.startswith(f"canthus images: {'skipped ' * code}{photos / 'a.jpg'}: ")
        assert line.count("\n") == 1
        assert code == 1 or length > 600


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("the disk is full")])
def test_table_of_a_stopped_run_has_the_name_of_a_part(photos, tmp_path, capsys, monkeypatch, error):
    shutil.copy(photos / "deep" / "face.png", photos / "zoo.png")

    def stop(path, image):
        if path.name == "zoo.png":
            raise error

    monkeypatch.setattr(image_files, "write_image", stop)
    assert run(photos, "--table", tmp_path / "t.csv", "-o", tmp_path / "drawn") in (1, 130)
    assert f"stopped; {tmp_path / 't.partial.csv'}: what was written until then" in capsys.readouterr().err
    assert not (tmp_path / "t.csv").exists()
    assert names(tmp_path / "t.partial.csv") == [str(Path("deep", "face.png")), "zoo.png"]
    monkeypatch.undo()
