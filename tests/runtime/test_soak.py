"""`canthus bench soak` records memory, handles, threads and latency of a long run, and says how they grow."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from canthus.runtime.bench import soak
from canthus.runtime.bench.soak import Sample, describe, draw_samples, measure_growth
from canthus.runtime.cli import main
from canthus.runtime.errors import InputError
from canthus.runtime.pipeline import Settings
from support.disk import full_disk
from support.videos import write_video


def samples(count: int = 41, hours: float = 2.0, growth: float = 6.0) -> list[Sample]:
    """Return samples of a run whose memory jumps in the warm-up, and then grows by `growth` MB per hour."""
    found = []
    for number in range(count):
        part = number / (count - 1)
        memory = 300 + growth * hours * part if number else 100.0
        found.append(Sample(3600 * hours * part, memory, 20, 9, 100 * number, number, (5.0, 7.0, 9.0)))
    return found


def test_growth_is_the_slope_after_the_warm_up():
    growth = measure_growth(samples())
    assert growth.hours == 2
    assert growth.memory_mb_per_hour == pytest.approx(6.0, abs=0.01)
    assert (growth.handles, growth.threads) == (0, 0)


def test_one_outlier_hardly_changes_the_growth():
    changed = samples()
    changed[-1] = changed[-1]._replace(memory_mb=5000.0)
    assert measure_growth(changed).memory_mb_per_hour == pytest.approx(6.0, abs=0.1)


def test_change_of_handles_and_threads_is_that_after_the_warm_up():
    changed = samples()
    changed[0] = changed[0]._replace(handles=5, threads=1)
    changed[-1] = changed[-1]._replace(handles=23, threads=8)
    growth = measure_growth(changed)
    assert (growth.handles, growth.threads) == (3, -1)


@pytest.mark.parametrize("run", [samples(hours=0.01), samples(count=2)], ids=["minutes", "two samples"])
def test_growth_of_a_short_run_is_unknown(run):
    assert measure_growth(run).memory_mb_per_hour is None
    assert "too short a run" in describe(run)


def test_verdict_is_one_line_with_the_growth_per_hour():
    line = describe(samples())
    assert line == (
        "soak: 2.00 hours, 4000 frames (40 dropped); memory 312 MB, growing by +6.0 MB per hour; handles +0; "
        "threads +0; latency 5.0 ms, 99 % below 9.0 ms"
    )


def test_unknown_measures_are_left_out_of_verdict_and_image():
    unknown = [one._replace(memory_mb=None, handles=None, threads=None) for one in samples()]
    assert "not measured on this system" in describe(unknown)
    assert "handles" not in describe(unknown)
    lines = [line for line in ElementTree.fromstring(draw_samples(unknown)) if line.tag.endswith("polyline")]
    assert len(lines) == 3  # of the latency


def test_image_is_svg_with_all_lines_inside_it():
    root = ElementTree.fromstring(draw_samples(samples()))
    lines = [line for line in root if line.tag.endswith("polyline")]
    assert len(lines) == 6
    for line in lines:
        points = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        assert len(points) == 41
        assert all(0 <= x <= float(root.attrib["width"]) and 0 <= y <= float(root.attrib["height"]) for x, y in points)


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "clip.mp4", [index / 25 for index in range(10)])


@pytest.mark.parametrize("full_speed", [False, True])
def test_clip_is_repeated_and_time_goes_on(fake_networks, clip, full_speed):
    recorded = []
    soak.soak(clip, Settings(), 1.5, full_speed, lambda backend, one: recorded.append((backend, one)))
    assert {backend for backend, _ in recorded} == {"fake"}
    last = recorded[-1][1]
    assert len(recorded) == 2
    assert last.frames + last.dropped > 10
    assert last.seconds >= 1.5
    assert (last.dropped == 0) or not full_speed


def test_times_and_indices_increase_over_repetitions(clip):
    frames = [frame for frame, _ in zip(soak._repeat(clip), range(25), strict=False)]
    assert [frame.index for frame in frames] == list(range(25))
    assert [frame.seconds for frame in frames] == pytest.approx([index / 25 for index in range(25)], abs=0.002)


def test_unreadable_clip_ends_the_run_with_one_clear_error(fake_networks, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        soak.soak(tmp_path / "missing.mp4", Settings(), 1.0, False, lambda *_: None)


def test_record_and_image_are_written(fake_networks, clip, tmp_path, capsys):
    output = tmp_path / "run.json"
    command = ["bench", "soak", "--hours", "0.0003", "--clip", str(clip), "-o", str(output)]
    assert main(command) == 0
    assert "wrote" in capsys.readouterr().out
    content = json.loads(output.read_text())
    assert content["samples"][-1]["frames"] > 0
    assert content["growth"]["memory_mb_per_hour"] is None
    assert ElementTree.parse(tmp_path / "run.svg")
    assert main(command) == 1
    assert "exists already" in capsys.readouterr().err


def test_disk_that_becomes_full_does_not_end_the_run(fake_networks, clip, tmp_path, capsys):
    output = tmp_path / "run.json"
    with full_disk(10):
        assert main(["bench", "soak", "--hours", "0.0003", "--clip", str(clip), "-o", str(output)]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("soak: ")
    assert f"the record is not complete: {output}: cannot be written (File too large)" in shown


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "x"])
def test_impossible_duration_is_refused(hours, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "soak", "--hours", hours])
    assert "is not a number above 0" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_leaves_valid_files_and_a_verdict(tmp_path):
    script = Path(sys.executable).with_name("canthus")
    output = tmp_path / "run.json"
    command = [script, "bench", "soak", "--hours", "0.05", "--cpu", "-o", output]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not output.exists():  # the first sample
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith(b"soak: 0.00 hours")
    assert json.loads(output.read_text())["samples"]
    assert ElementTree.parse(tmp_path / "run.svg")
