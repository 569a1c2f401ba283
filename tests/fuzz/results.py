"""Files that canthus writes and reads again: traces, persons, tables of points, pages about them, states of runs."""

import contextlib
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from canthus.runtime.errors import InputError
from canthus.runtime.measures import Measurer
from canthus.runtime.processing import Inputs, Processing, Processor
from canthus.runtime.saved_state import load_state, save_state
from canthus.runtime.schemes import Scheme
from canthus.runtime.types import Faces, Frame
from fuzz.mutations import read_zip, write_zip
from support.fakes import FakeBackend, bright_boxes, scene
from support.shape import SHAPE

FIVE = Scheme("five", 5)

FRAMES = 6
"""Frames of the tables and traces: few, so that thousands are read quickly."""

PAGE_TAGS = (
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "b", "span", "i", "small", "figure",
    "figcaption", "svg", "g", "rect", "line", "polyline", "text", "path", "table", "tr", "th", "td", "a", "br", "img",
    "footer",
)  # fmt: skip
"""The tags of a report. Any other one comes from the table."""


def _five_points(index: int) -> Faces:
    """Return the faces of frame `index`: none, one or two, of five points each."""
    count = index % 3
    points = np.random.default_rng(index).uniform(0, 100, (count, 5, 2)).astype(np.float32)
    return Faces(points, np.full((count, 5), 0.8, np.float32), np.arange(count), scheme=FIVE)


def _measured(index: int) -> Faces:
    """Return the faces of image `index`, with measures: none, one or two."""
    count = index % 3
    points = np.array([SHAPE * 60 + 20 + 100 * face for face in range(count)], np.float32).reshape(count, 98, 2)
    faces = Faces(points, np.full((count, 98), 0.8, np.float32), np.arange(count))
    return replace(faces, measures=Measurer().update(points, faces.scores, faces.ids, 0.0, (320, 240)))


def make_traces(folder: Path) -> dict[str, bytes]:
    """Return a trace of faces that are measured, one of faces that are not, and one that starts with a state."""
    from canthus.runtime.trace import Recorder
    from canthus.runtime.tracker import TrackerSettings

    kinds = {"measured.trace": Processing(measures=True), "raw.trace": Processing(TrackerSettings(1), None)}
    kinds["middle.trace"] = Processing(measures=True)
    seeds = {}
    for name, processing in kinds.items():
        with Recorder(folder / name, "fakes") as recorder:
            state = _state(processing) if name == "middle.trace" else b""
            recorder.start(processing, "fake", state=state)
            processor = Processor(recorder.watch(Inputs(bright_boxes, FakeBackend())), processing)
            if state:
                processor.restore(load_state(state))
            for index in range(FRAMES):
                frame = Frame(scene((100 + 3 * index, 100)), index, index / 30)
                recorder.start_frame(frame)
                recorder.end_frame(processor.update(frame))
        seeds[name] = same_time((folder / name).read_bytes())
    return seeds


def _state(processing: Processing) -> bytes:
    """Return the state of a processor that follows a face."""
    processor = Processor(Inputs(bright_boxes, FakeBackend()), processing)
    for index in range(FRAMES):
        processor.update(Frame(scene((97 + index, 100)), index, index / 30 - 1))
    return save_state(processor.state())


def same_time(archive: bytes) -> bytes:
    """Return a ZIP archive whose members have no time: the same bytes each time."""
    return write_zip(read_zip(archive))


def read_trace(path: Path) -> None:
    """Replay a trace, as `canthus replay` does, and check the faces."""
    from canthus.runtime.trace.format import read_header
    from canthus.runtime.trace.replay import describe, replay

    assert "\n" not in describe(read_header(path))
    for one in replay(path):
        assert np.isfinite(one.faces.points).all()
        assert ((one.faces.scores >= 0) & (one.faces.scores <= 1)).all()
        if one.faces.measures is not None:
            assert np.isfinite(one.faces.measures.blendshapes).all()


def make_people(folder: Path) -> dict[str, bytes]:
    """Return the file of a person."""
    from canthus.runtime.measures.features import POPULATION
    from canthus.runtime.measures.known import make_known
    from canthus.runtime.person_file import write_person

    head = np.random.default_rng(0).normal(0, 2, (98, 3))
    write_person(folder / "me.json", make_known(POPULATION, (0.15, 0.16), head))
    return {"me.json": (folder / "me.json").read_bytes()}


def read_person_file(path: Path) -> None:
    """Read the file of a person, and measure faces with it."""
    from canthus.runtime.person_file import read_person

    measurer = Measurer(None, read_person(path))
    points, scores = SHAPE[None].astype(np.float32) * 100, np.full((1, 98), 0.9, np.float32)
    for seconds in (0.0, 1 / 30):
        found = measurer.update(points, scores, np.zeros(1, np.int64), seconds, (320, 240))
        assert np.isfinite(found.blendshapes).all()


def make_point_tables(folder: Path) -> dict[str, bytes]:
    """Return tables of a video in each format, one of images, and the metadata beside one of the tables."""
    from canthus.runtime.tables import FRAMES as OF_FRAMES
    from canthus.runtime.tables import IMAGES, TABLE_SUFFIXES, TableSink

    names = []
    for suffix in TABLE_SUFFIXES:
        details = {"source": {"path": "clip.mp4"}}
        with TableSink(folder / f"video{suffix}", OF_FRAMES.with_points(FIVE), details) as table:
            for index in range(FRAMES):
                table.write(index, index / 30, _five_points(index))
        names.append(f"video{suffix}")
    for suffix in (".csv", ".jsonl", ".npz"):
        with TableSink(folder / f"images{suffix}", IMAGES.with_measures(), {"model": {"file": "fast"}}) as table:
            for index in range(FRAMES):
                table.write_image(f"a/{index}.jpg", _measured(index))
        names.append(f"images{suffix}")
    names.append("video.csv.json")
    seeds = {name: (folder / name).read_bytes() for name in names}
    seeds["beside.csv.json"] = seeds.pop("video.csv.json")
    (folder / "beside.csv").write_bytes(seeds["video.csv"])
    for name in seeds:
        (folder / name).unlink(missing_ok=True)
        (folder / f"{name}.json").unlink(missing_ok=True)
    return seeds


def read_point_table(path: Path) -> None:
    """Read a table of points, and all of its columns."""
    from canthus.runtime.tables import read_table

    table = read_table(path.with_suffix("") if path.name == "beside.csv.json" else path)
    columns = table.columns()
    assert {len(values) for values in columns.values()} == {len(table)}
    assert table.points.shape == (len(table), table.schema.points, 2)
    assert len(table.measures) == len(table.schema.measures)
    assert json.dumps(table.metadata)


class _PageParser(HTMLParser):
    """Refuses what a table has no way to write into a page."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in PAGE_TAGS, f"<{tag}> in the page"
        for name, value in attrs:
            assert not name.startswith("on"), f"{name} in the page"
            assert name not in ("src", "href") or str(value).startswith("data:image/jpeg;base64,"), f"{name}={value}"


def write_report(path: Path) -> None:
    """Write the page about a table."""
    from canthus.runtime.report.command import command

    table = path.with_suffix("") if path.name == "beside.csv.json" else path
    page = path.parent / "out" / "page.html"
    page.parent.mkdir(exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        command([str(table), "-o", str(page), "--overwrite"])
    _PageParser().feed(page.read_text(encoding="utf-8"))


def make_states(folder: Path) -> dict[str, bytes]:
    """Return what a run that stopped leaves: the state of a landmarker, and that of a batch."""

    records = [
        {"name": "a.mp4", "started": True},
        {"name": "a.mp4", "key": "k", "stamp": "1", "sha256": "ab", "sizes": {"table": 4}, "figures": {"frames": 3},
         "seconds": 0.5},
    ]  # fmt: skip
    lines = "".join(json.dumps(record) + "\n" for record in records)
    return {"state.checkpoint": _state(Processing(measures=True)), ".canthus-batch.jsonl": lines.encode()}


def read_state(path: Path) -> None:
    """Read what a run that stopped has left."""
    from canthus.runtime.batch.state import WHOLE, State
    from canthus.runtime.batch.tasks import Task

    if path.suffix == ".checkpoint":
        try:
            load_state(path.read_bytes())
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return
    (path.parent / "a.csv").write_bytes(b"1234")
    (path.parent / "a.mp4").write_bytes(b"video")
    task = Task("a.mp4", str(path.parent / "a.mp4"), {"table": str(path.parent / "a.csv")})
    with State(str(path.parent), "k", WHOLE) as state:
        assert state.has_other_results() in (True, False)
        assert state.is_started(task.name) in (True, False)
        record = state.find(task)
        if record is not None:
            assert isinstance(record.figures, dict)
            assert record.seconds >= 0
