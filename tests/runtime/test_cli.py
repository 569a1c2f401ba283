"""What the dispatcher makes of a command that ends otherwise than by returning."""

import argparse
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from canthus.runtime import cli
from canthus.runtime.options import add_landmarker_options

NO_GL = "libGL.so.1: cannot open shared object file: No such file or directory"


@pytest.fixture
def run(monkeypatch):
    """Runs a function as a command's whole work."""

    def pretend(work):
        point = SimpleNamespace(name="work", load=lambda: lambda arguments: work())
        monkeypatch.setattr(cli.metadata, "entry_points", lambda group: [point])
        return cli.main(["work"])

    return pretend


def raising(error):
    def work():
        raise error

    return work


def test_what_the_system_refuses_is_one_line(run, capsys):
    assert run(raising(OSError(28, "No space left on device", "out.csv"))) == 1
    assert run(raising(OSError("no reason given"))) == 1
    assert capsys.readouterr().err == "canthus work: out.csv: No space left on device\ncanthus work: no reason given\n"


@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_a_library_that_does_not_load_names_its_packages(run, capsys, kind):
    assert run(raising(kind(NO_GL))) == 1
    told = capsys.readouterr().err
    assert NO_GL in told
    assert "apt install libegl1 libgl1" in told
    assert len(told.splitlines()) == 1


def test_an_import_that_fails_by_our_mistake_is_shown_whole(run):
    with pytest.raises(ImportError):
        run(raising(ImportError("cannot import name 'x'")))


def test_a_missing_system_library_leaves_the_doctor_talking(tmp_path):
    (tmp_path / "cv2.py").write_text(f"raise ImportError({NO_GL!r})")
    asked = [sys.executable, "-c", "import sys; from canthus.runtime.cli import main; sys.exit(main())", "doctor"]
    surroundings = os.environ | {"PYTHONPATH": str(tmp_path)}
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, env=surroundings)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.count(f"does not load: {NO_GL}") == 2
    assert "models/fast.onnx" in answer.stdout


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_as_ctrl_c_does_and_once(run, capsys, monkeypatch, name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)
    heard = []

    def work():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)  # must not break into the ending
            heard.append("finished")

    try:
        assert run(work) == 130
        assert heard == ["finished"]
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        assert run(lambda: signal.raise_signal(number) or 0) == 0
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err.strip().endswith("stopped")


def test_a_command_that_hears_ctrl_c_itself_hears_the_others_so(run):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    heard = []

    def work():
        former = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGINT, former)
        return 0

    try:
        assert run(work) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGINT]


def test_a_name_that_is_not_text_can_be_printed():
    script = "import os, sys; from canthus.runtime import cli; cli.main(['--version']); print(os.fsdecode(b'\\xff'))"
    surroundings = os.environ | {"PYTHONIOENCODING": "utf-8"}
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=surroundings)
    assert answer.stdout.endswith(b"\xff\n")


@pytest.mark.parametrize("text", ["abc", "0", "-1", "2.5"])
def test_a_count_that_is_none_is_told(capsys, text):
    parser = argparse.ArgumentParser()
    add_landmarker_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--max-faces", text])
    assert f"'{text}' is not a positive integer" in capsys.readouterr().err
