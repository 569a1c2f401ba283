"""Pages of tables, made of small synthetic tables and clips."""

import base64
import dataclasses
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from canthus.runtime.cli import main
from canthus.runtime.report.charts import Series, clock, line_chart, runs
from canthus.runtime.report.figures import compute_figures, measure_jitter
from canthus.runtime.run_details import describe_points, described_points
from canthus.runtime.schemes import WFLW, Scheme
from canthus.runtime.tables import FRAMES, IMAGES, TableSink, read_table
from canthus.runtime.types import Faces
from support.shape import SHAPE
from support.videos import write_video

FRAMES_PER_SECOND = 25.0

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the names are not possible elsewhere")


def faces(*ids, score=0.8, at=(10.0, 10.0)):
    points = np.stack([40 * SHAPE + at for _ in ids]).astype(np.float32) if ids else np.zeros((0, 98, 2), np.float32)
    scores = np.full((len(ids), 98), score, np.float32)
    return Faces(points, scores, np.array(ids, np.int64))


def write_table(path, frames, source=None):
    """Write a table of a video with these faces in its frames."""
    with TableSink(path, FRAMES, {"source": {"path": str(source)}} if source else None) as sink:
        for index, found in enumerate(frames):
            sink.write(index, index / FRAMES_PER_SECOND, found)
    return path


class Page(HTMLParser):
    """Collects the tags and the text of a page, and checks that its elements are closed."""

    VOID = ("meta", "img", "br", "polyline", "line", "th", "td", "tr", "i", "p")

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.open = [], [], []
        self.content = path.read_text()
        self.feed(self.content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_a_table_of_other_points_has_images_with_their_lines_and_jitter_by_their_normalizer(tmp_path):
    scheme = Scheme("corners", 3, normalizer=((0,), (1,)), lines=((0, 1, 2),))
    points = np.array([[[20, 20], [40, 20], [30, 44]]], np.float32)
    found = Faces(points, np.ones((1, 3), np.float32), np.zeros(1, np.int64), scheme=scheme)
    clip = write_video(tmp_path / "clip.mp4", [0.0, 0.04, 0.08])
    about = {"source": {"path": str(clip)}, "scheme": describe_points(scheme)}
    with TableSink(tmp_path / "points.csv", FRAMES.with_points(scheme), about) as sink:
        for index, shift in enumerate((0, 1, 0)):
            moved = dataclasses.replace(found, points=points + np.float32(shift))
            sink.write(index, index / FRAMES_PER_SECOND, moved)
    table = read_table(tmp_path / "points.csv")
    assert described_points(table.metadata, 3) == scheme
    assert described_points({"scheme": {"definition": "nonsense"}}, 98) == WFLW
    assert compute_figures(table, tmp_path / "points.csv").tracks[0].jitter[1] == pytest.approx(100 * 2**0.5 / 20)
    assert main(["report", str(tmp_path / "points.csv"), "-o", str(tmp_path / "r.html")]) == 0
    (image, *_) = re.findall(r"data:image/jpeg;base64,([^\"]+)", (tmp_path / "r.html").read_text())
    drawn = cv2.imdecode(np.frombuffer(base64.b64decode(image), np.uint8), cv2.IMREAD_COLOR)
    assert drawn[30:45, 100].min(1).max() > 100  # the line between the first two points


@pytest.fixture
def table(tmp_path):
    """Return a table of 50 frames: face 0 in all but 10, face 1 in ten of them, with one bad frame."""
    frames = [faces(0)] * 20 + [faces()] * 10 + [faces(0, 1)] * 10 + [faces(0, score=0.3)] + [faces(0)] * 9
    return write_table(tmp_path / "points.csv", frames)


def test_page_has_coverage_lost_spans_faces_and_needs_no_other_file(table, capsys):
    assert main(["report", str(table)]) == 0
    page = Page(table.with_suffix(".html"))
    assert capsys.readouterr().out == f"wrote {table.with_suffix('.html')}\n"
    assert not page.open
    assert page.links == []
    assert "script" not in page.tags
    assert "<b>80.0 %</b>" in page.content
    assert "<b>1, 0.4 s</b>" in page.content
    assert page.content.count("no face from 0:00.8 to 0:01.2") == 1
    assert "http" not in re.sub(r"http-equiv|https?://www.w3.org", "", page.content)


def test_figures_are_those_of_the_table(table):
    figures = compute_figures(read_table(table), table)
    one = figures.overview
    assert (one.count, one.with_faces, one.faces, one.lost_spans) == (50, 40, 2, 1)
    assert one.duration == pytest.approx(49 / FRAMES_PER_SECOND)
    assert [(track.id, len(track.rows)) for track in figures.tracks] == [(0, 40), (1, 10)]
    assert figures.table.frame[figures.worst[0]] == 40
    assert one.median_jitter == pytest.approx(0, abs=1e-3)


def test_jitter_is_zero_for_steady_motion_and_unknown_beside_a_gap():
    steps = np.arange(6.0)[:, None, None]
    moving = 40 * SHAPE[None] + 3 * steps
    places = np.array([0, 1, 2, 3, 5, 6])
    jitter = measure_jitter(moving, places)
    np.testing.assert_allclose(jitter[1:3], 0, atol=1e-9)
    assert np.isnan(jitter[[0, 3, 4, 5]]).all()
    shaken = moving.copy()
    shaken[2] += 1.0
    eyes = np.linalg.norm(shaken[2, 60] - shaken[2, 72])
    assert measure_jitter(shaken, places)[2] == pytest.approx(100 * np.sqrt(2) / eyes)


def test_page_of_a_table_without_faces_or_rows_is_written(tmp_path):
    for name, frames in (("none.csv", [faces()] * 3), ("empty.csv", [])):
        path = write_table(tmp_path / name, frames)
        assert main(["report", str(path)]) == 0
        assert "<b>0.0 %</b>" in Page(path.with_suffix(".html")).content


def test_names_and_messages_are_escaped(tmp_path):
    path = write_table(tmp_path / "<b>&.csv", [faces(0)] * 3, source="<script>alert(1)</script>.mp4")
    assert main(["report", str(path)]) == 0
    page = Page(path.with_suffix(".html"))
    assert "script" not in page.tags
    assert "&lt;b&gt;&amp;.csv" in page.content


HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


@ONLY_LINUX
@pytest.mark.parametrize("suffix", [".csv", ".npz"])
def test_text_of_a_table_is_text_on_the_page(tmp_path, suffix):
    details = {
        "source": {"path": f"/videos/{HOSTILE}.mp4"},
        "model": {"file": HOSTILE, "backend": HOSTILE},
        "settings": {"max_faces": HOSTILE},
    }
    folder = tmp_path / f"a{HOSTILE.replace('/', '')}"
    folder.mkdir()
    with TableSink(folder / f"b'{HOSTILE.replace('/', '')}{suffix}", IMAGES, details) as sink:
        sink.write_image(HOSTILE, faces(0))
        sink.write_image(f"{HOSTILE}2", faces())
    (folder / "summary.csv").write_text(f"source,name,status,message\nx,'{HOSTILE}',failed,'{HOSTILE}'\n")
    assert main(["report", str(folder), "-o", str(tmp_path / "pages")]) == 0
    pages = [Page(path) for path in (tmp_path / "pages").rglob("*.html")]
    assert len(pages) == 2
    for page in pages:
        assert "script" not in page.tags
        assert "img" not in page.tags
        assert "&lt;script&gt;" in page.content


@ONLY_LINUX
def test_name_that_is_not_utf8_has_a_page_and_a_link(tmp_path):
    name = os.fsdecode(b"bad\xff.csv")
    (tmp_path / "tables").mkdir()
    write_table(tmp_path / "tables" / name, [faces(0)] * 3)
    assert main(["report", str(tmp_path / "tables"), "-o", str(tmp_path / "pages")]) == 0
    assert Page(tmp_path / "pages" / "index.html").links == ["bad%FF.csv.html"]
    assert (tmp_path / "pages" / f"{name}.html").is_file()


def test_table_cannot_show_images_outside_of_its_source(tmp_path):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "private.png"), np.full((64, 64, 3), 90, np.uint8))
    with TableSink(tmp_path / "i.csv", IMAGES, {"source": {"path": str(tmp_path / "photos")}}) as sink:
        sink.write_image("../private.png", faces(0))
        sink.write_image(str(tmp_path / "private.png"), faces(0))
    assert main(["report", str(tmp_path / "i.csv")]) == 0
    assert "data:image" not in Page(tmp_path / "i.html").content


@ONLY_LINUX
def test_pipe_as_the_source_or_metadata_of_a_table_is_not_read(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.mp4")
    path = write_table(tmp_path / "points.csv", [faces(0)] * 3, tmp_path / "pipe.mp4")
    assert main(["report", str(path)]) == 0
    path.with_name("points.csv.json").unlink()
    os.mkfifo(path.with_name("points.csv.json"))
    assert main(["report", str(path), "--overwrite"]) == 1
    assert "points.csv.json: is a folder, a pipe or a device" in capsys.readouterr().err


def test_worst_frames_are_shown_if_the_source_is_there(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", [index / FRAMES_PER_SECOND for index in range(10)])
    frames = [faces(0)] * 5 + [faces(0, score=0.2)] + [faces(0)] * 4
    path = write_table(tmp_path / "points.csv", frames, clip)
    assert main(["report", str(path)]) == 0
    page = Page(path.with_suffix(".html"))
    assert page.content.count("data:image/jpeg;base64,") == 8
    assert "frame 5, face 0<br><small>score 0.20" in page.content
    assert main(["report", str(path), "--no-images", "--overwrite"]) == 0
    assert "data:image" not in Page(path.with_suffix(".html")).content
    clip.unlink()
    assert main(["report", str(path), "--overwrite"]) == 0
    assert "the source was not found" in Page(path.with_suffix(".html")).content


def test_page_that_exists_is_replaced_only_with_overwrite(table, capsys):
    table.with_suffix(".html").write_text("mine")
    assert main(["report", str(table)]) == 1
    assert "exists already; use --overwrite" in capsys.readouterr().err
    assert table.with_suffix(".html").read_text() == "mine"


def test_folder_of_tables_gets_pages_and_an_index_with_failures(tmp_path, table, capsys):
    folder = tmp_path / "tables"
    (folder / "deep").mkdir(parents=True)
    table.rename(folder / "a.csv")
    write_table(folder / "deep" / "b.npz", [faces(3)] * 4)
    (folder / "broken.csv").write_text("not,a,table\n1,2,3\n")
    (folder / "summary.csv").write_text("source,name,status,message\nx,x.mp4,failed,no <frame>\ny,y.mp4,done,\n")
    assert main(["report", str(folder), "-o", str(tmp_path / "report")]) == 1
    assert "broken.csv" in capsys.readouterr().err
    index = Page(tmp_path / "report" / "index.html")
    assert index.links == ["a.csv.html", "deep/b.npz.html"]
    assert all((tmp_path / "report" / link).is_file() for link in index.links)
    assert "no &lt;frame&gt;" in index.content
    assert "y.mp4" not in index.content
    assert ">deep/b.npz</a>" in index.content  # clips in several folders may have the same name
    assert main(["report", str(folder)]) == 2
    assert "give -o FOLDER" in capsys.readouterr().err


def test_failures_are_listed_though_all_tables_are_in_one_folder_below_the_summary(tmp_path, table):
    (tmp_path / "tables" / "deep").mkdir(parents=True)
    table.rename(tmp_path / "tables" / "deep" / "a.csv")
    (tmp_path / "tables" / "summary.csv").write_text("source,name,status,message\nx,x.mp4,failed,no frame\n")
    assert main(["report", str(tmp_path / "tables"), "-o", str(tmp_path / "report")]) == 0
    assert "no frame" in Page(tmp_path / "report" / "index.html").content


def test_failures_are_listed_once_however_the_folder_is_named(tmp_path, table, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tables").mkdir()
    table.rename(Path("tables", "a.csv"))
    Path("tables", "summary.csv").write_text("source,name,status,message\nx,x.mp4,failed,no frame\n")
    assert main(["report", "tables/../tables", "-o", "report"]) == 0
    assert Page(Path("report", "index.html")).content.count("no frame") == 1


def test_table_of_images_lists_those_without_a_face(tmp_path):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "one.png"), np.full((64, 64, 3), 90, np.uint8))
    with TableSink(tmp_path / "i.csv", IMAGES, {"source": {"path": str(tmp_path / "photos")}}) as sink:
        sink.write_image("one.png", faces(0))
        sink.write_image("none.png", faces())
    assert main(["report", str(tmp_path / "i.csv")]) == 0
    page = Page(tmp_path / "i.html")
    assert "<b>50.0 %</b>" in page.content
    assert "<td>none.png" in page.content
    assert page.content.count("data:image/jpeg;base64,") == 1


def test_long_series_is_averaged_and_gaps_stay_open():
    seconds = np.arange(100_000) / 30
    values = np.sin(seconds)
    values[40_000:60_000] = np.nan
    chart = line_chart("wave", [Series("a", seconds, values)], float(seconds[-1]))
    lines = re.findall(r'points="([^"]*)"', chart)
    assert len(lines) == 2
    assert len(chart) < 20_000
    assert line_chart("nothing", [Series("a", seconds, np.full(100_000, np.nan))], 1.0) == ""


def test_runs_end_at_missing_frames():
    places = np.array([3, 4, 5, 9, 12, 13])
    assert runs(places, places / 10) == [(0.3, 0.5), (0.9, 0.9), (1.2, 1.3)]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00.0"), (65.25, "1:05.2"), (3723, "1:02:03")])
def test_times_read_as_on_a_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize("source", ["x" * 5000, "a\0b"])
def test_source_that_cannot_exist_is_not_shown(tmp_path, source):
    table = write_table(tmp_path / "t.csv", [faces(0)], source)
    assert main(["report", str(table)]) == 0
    assert "img" not in Page(tmp_path / "t.html").tags


def test_numbers_of_any_size_give_a_page_without_warnings(tmp_path):
    large = np.full((2, 98, 2), 3e38, np.float32) * [[[1]], [[-1]]]
    found = Faces(large.astype(np.float32), np.full((2, 98), 0.5, np.float32), np.arange(2))
    with TableSink(tmp_path / "t.npz", FRAMES) as sink:
        for index, seconds in enumerate((0.0, 5e-324, 1.0, 1e300)):
            sink.write(index, seconds, found)
    assert main(["report", str(tmp_path / "t.npz")]) == 0
    Page(tmp_path / "t.html")


def test_missing_table_is_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path / "no.csv")]) == 1
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 1
    assert "contains no tables" in capsys.readouterr().err
    assert not list(Path(tmp_path).iterdir())
