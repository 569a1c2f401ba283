"""Very many images: parts, skipping, bounded memory. Bright areas count as faces here."""

import csv
import functools
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from canthus.runtime.batch import images
from canthus.runtime.cli import main
from canthus.runtime.schemes import included_scheme
from canthus.runtime.tables import read_table
from support.batch import inline
from support.fakes import FakeBackend


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Return a folder of six images in two folders, one of them without a face. Groups have two images or so."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(images, "MAX_GROUP", 2)
    for name in ("a.png", "b.png", "deep/c.png", "deep/d.png", "deep/e.png", "f.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, face=name != "b.png")
    return tmp_path / "photos"


@pytest.fixture
def pools(monkeypatch, fake_networks):
    made = []
    monkeypatch.setattr(images, "open_pool", functools.partial(inline, made))
    return made


def write_image(path, face=True):
    image = np.zeros((100, 160, 3), np.uint8)
    if face:
        image[20:80, 20:70] = 200
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def run(*arguments):
    return main(["images", *map(str, arguments)])


def summary():
    return {row["name"]: row for row in csv.DictReader(Path("summary.csv").read_text().splitlines())}


@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_table_is_that_of_a_run_without_processes(photos, pools, name):
    assert run("photos", "--table", f"one-{name}") == 0
    assert run("photos", "--table", name, "--jobs", "2") == 0
    one, two = read_table(f"one-{name}"), read_table(name)
    assert two.names == one.names if name == "t.npz" else two.picture.tolist() == one.picture.tolist()
    assert two.records.tobytes() == one.records.tobytes()
    for key in ("source", "model", "scheme", "settings"):
        assert two.metadata[key] == one.metadata[key]
    if name == "t.csv":
        assert Path(name).read_bytes() == Path(f"one-{name}").read_bytes()


def test_model_with_other_points_gives_a_table_of_them(photos, pools, monkeypatch):
    other = included_scheme("cofw")
    monkeypatch.setattr(FakeBackend, "scheme", other)
    assert run("photos", "--table", "one.csv") == 0
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 0
    assert Path("t.csv").read_bytes() == Path("one.csv").read_bytes()
    assert read_table("t.csv").points.shape[1:] == (other.points, 2)


def test_second_run_processes_only_groups_with_new_or_changed_images(photos, pools, capsys):
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 0
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 0
    assert pools[1].names == []
    assert {row["status"] for row in summary().values()} == {"skipped"}
    write_image(photos / "b.png")
    write_image(photos / "g.png")
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 0
    rows = summary()
    assert {name for name, row in rows.items() if row["status"] == "done"} >= {"b.png", "g.png"}
    assert rows["deep/c.png"]["status"] == "skipped"
    assert {row["faces"] for row in rows.values()} == {"1"}
    assert len(read_table("t.csv")) == 7
    assert capsys.readouterr().err == ""


def test_results_of_another_model_are_replaced_only_with_overwrite(photos, pools, capsys):
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 0
    before = sorted(path.name for path in Path("t.csv.parts").glob("*.npz"))
    assert run("photos", "--table", "t.csv", "--jobs", "2", "--max-faces", "1") == 1
    assert "t.csv: has results of other settings" in capsys.readouterr().err
    assert sorted(path.name for path in Path("t.csv.parts").glob("*.npz")) == before
    for _ in range(2):  # that the parts are of these settings is remembered
        assert run("photos", "--table", "t.csv", "--jobs", "2", "--max-faces", "1", "--overwrite") == 0
    assert run("photos", "--table", "t.csv", "--jobs", "2", "--max-faces", "1") == 0


def test_group_without_a_readable_image_does_not_stop_the_others(photos, pools):
    for name in ("a.png", "b.png"):  # one group
        (photos / name).write_text("no image")
    for _ in range(2):
        assert run("photos", "--table", "t.npz", "--jobs", "2") == 1
        assert read_table("t.npz").names == ["deep/c.png", "deep/d.png", "deep/e.png", "f.png"]
    for name in ("deep/c.png", "deep/d.png", "deep/e.png", "f.png"):
        (photos / name).write_text("no image")
    assert run("photos", "--table", "t.npz", "--jobs", "2") == 1
    assert len(read_table("t.npz")) == 0


def test_few_failed_images_are_named_at_the_end(photos, pools, monkeypatch, capsys):
    for name in ("a.png", "b.png"):
        (photos / name).write_text("no image")
    monkeypatch.setattr(images, "SHOWN_FAILURES", 1)
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"canthus images: failed: {Path('photos', 'a.png')}: not a readable image")
    assert lines[1] == "canthus images: 1 more failed; summary.csv names them"


def test_interrupted_run_says_how_many_images_are_finished(photos, pools, monkeypatch, capsys):
    def stop(*_):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "run_tasks", stop)
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 130
    assert "0 of 6 images are finished; the same command does the rest" in capsys.readouterr().err


def test_parts_of_images_that_are_gone_are_deleted(photos, pools):
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 0
    before = len(list(Path("t.csv.parts").glob("*.npz")))
    for name in ("deep/c.png", "deep/d.png", "deep/e.png"):
        (photos / name).unlink()
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 0
    assert len(list(Path("t.csv.parts").glob("*.npz"))) < before
    assert list(summary()) == ["a.png", "b.png", "f.png"]


def test_images_that_cannot_be_read_are_in_the_summary(photos, pools, capsys):
    (photos / "b.png").write_text("no image")
    for _ in range(2):
        assert run("photos", "--table", "t.csv", "--jobs", "1") == 1
        row = summary()["b.png"]
        assert row["status"] == "failed"
        assert "not a readable image" in row["message"]
    assert "1 failed" in capsys.readouterr().out
    assert len(read_table("t.csv")) == 5


def test_image_that_ends_its_process_twice_is_left_out(photos, pools):
    pools.append({"deep/c.png": 2})
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 1
    rows = summary()
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {"deep/c.png"}
    assert "ended twice" in rows["deep/c.png"]["message"]
    assert len(read_table("t.csv")) == 5


def test_drawn_images_are_mirrored_and_not_read_again(photos, pools):
    for _ in range(2):
        assert run("photos", "-o", "photos/drawn", "--table", "t.csv", "--jobs", "2") == 0
    assert {path.name for path in (photos / "drawn" / "deep").iterdir()} == {"c.png", "d.png", "e.png"}
    assert len(summary()) == 6
    assert pools[1].names == []


def test_drawn_images_without_a_table(photos, pools):
    for _ in range(2):
        assert run("photos", "-o", "drawn", "--jobs", "2") == 0
    assert Path("drawn/summary.csv").is_file()
    assert pools[1].names == []


def test_files_of_others_are_not_replaced(photos, pools, capsys):
    Path("t.csv").write_text("mine")
    assert run("photos", "--table", "t.csv", "--jobs", "2") == 1
    Path("drawn/deep").mkdir(parents=True)
    write_image(Path("drawn/deep/c.png"))
    assert run("photos", "-o", "drawn", "--jobs", "2") == 1
    assert capsys.readouterr().err.count("exists already; use --overwrite") == 2
    assert Path("t.csv").read_text() == "mine"
    assert not pools


def test_shards_are_merged_by_a_run_without_shard(photos, pools):
    for part in ("1/2", "2/2"):
        assert run("photos", "--table", "t.csv", "--shard", part) == 0
    assert not Path("t.csv").exists()
    assert run("photos", "--table", "t.csv", "--jobs", "1") == 0
    assert pools[2].names == []
    assert len(read_table("t.csv")) == 6


def test_images_are_not_sent_to_a_cluster(photos, pools, capsys):
    assert run("photos", "--table", "t.csv", "--ray", "auto", "--fetch") == 2
    assert "--fetch: is for videos" in capsys.readouterr().err


def test_standard_output_is_refused(photos, pools, capsys):
    assert run("photos", "--table", "-", "--jobs", "2") == 2
    assert "standard output" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_number_of_images(tmp_path, monkeypatch):
    """Groups are listed lazily: of 2,000 names in 20 folders, few are kept."""
    monkeypatch.chdir(tmp_path)
    for folder in range(20):
        (tmp_path / "photos" / f"{folder:02}").mkdir(parents=True)
        for number in range(100):
            (tmp_path / "photos" / f"{folder:02}" / f"{number}.png").touch()

    def peak(source):
        batch = images.ImageBatch([source], "t.csv", "", None, None, {})
        tracemalloc.start()
        count = sum(len(task.parts) for task in batch.groups(images.WHOLE))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return count, highest

    # The smaller of two: the first imports, and Python's table of interned names may grow in one of them.
    few, many = (min(peak(source) for _ in range(2)) for source in ("photos/00", "photos"))
    assert (few[0], many[0]) == (100, 2000)
    assert many[1] < 2 * few[1]


def test_images_of_two_folders_with_one_name_are_refused(photos, pools, capsys):
    write_image(photos.parent / "photos" / "deep" / "a.png")
    assert run("photos/deep", "photos/f.png", "photos/a.png", "--table", "t.csv", "-o", "drawn") == 1
    assert "photos/a.png: would have the same outputs as another file with the name a.png" in capsys.readouterr().err
    assert not Path("drawn").exists()
    assert run("photos", "photos/a.png", "--table", "t.csv") == 0
    assert len(summary()) == 7
