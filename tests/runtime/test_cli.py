"""How the `canthus` command handles errors, signals and log messages of its sub-commands."""

import argparse
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from canthus.runtime import cli, interrupts
from canthus.runtime.errors import InputError
from canthus.runtime.options import add_landmarker_options

COMMAND = (sys.executable, "-c", "import sys; from canthus.runtime.cli import main; sys.exit(main())")

NO_GL = "libGL.so.1: cannot open shared object file: No such file or directory"


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs another one as the sub-command `canthus work`."""

    def start(work, *options):
        point = SimpleNamespace(name="work", load=lambda: lambda arguments: work())
        monkeypatch.setattr(cli.metadata, "entry_points", lambda group: [point])
        return cli.main(["work", *options])

    return start


def raising(error):
    def work():
        raise error

    return work


def test_help_lists_the_commands_of_other_packages_last(monkeypatch, capsys):
    def command(arguments):
        """Do something else."""

    points = [SimpleNamespace(name=name, load=lambda: command) for name in ("alien", "train", "view")]
    monkeypatch.setattr(cli.metadata, "entry_points", lambda group: points)
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if line.endswith("Do something else.")]
    assert names == ["view", "train", "alien"]


def test_system_error_is_one_line(run, capsys):
    assert run(raising(OSError(28, "No space left on device", "out.csv"))) == 1
    assert run(raising(OSError("no reason given"))) == 1
    assert capsys.readouterr().err == "canthus work: out.csv: No space left on device\ncanthus work: no reason given\n"


@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_missing_system_library_is_one_line_with_its_packages(run, capsys, kind):
    assert run(raising(kind(NO_GL))) == 1
    message = capsys.readouterr().err
    assert NO_GL in message
    assert "apt install libegl1 libgl1" in message
    assert len(message.splitlines()) == 1


def test_import_error_of_our_own_code_has_a_traceback(run):
    with pytest.raises(ImportError):
        run(raising(ImportError("cannot import name 'x'")))


def test_doctor_works_without_a_system_library(tmp_path):
    (tmp_path / "cv2.py").write_text(f"raise ImportError({NO_GL!r})")
    words = [sys.executable, "-c", "import sys; from canthus.runtime.cli import main; sys.exit(main())", "doctor"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    doctor = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert (doctor.returncode, doctor.stderr) == (0, "")
    assert doctor.stdout.count(f"does not load: {NO_GL}") == 2
    assert "models/fast.onnx" in doctor.stdout


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signal_ends_a_command_like_ctrl_c_and_only_once(run, capsys, monkeypatch, name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)
    finished = []

    def work():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(number)  # must not interrupt the cleanup
            finished.append(True)

    try:
        assert run(work) == 130
        assert finished == [True]
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        assert run(lambda: signal.raise_signal(number) or 0) == 0
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err.strip().endswith("stopped")


def test_second_ctrl_c_does_not_interrupt_the_cleanup(run, capsys):
    finished = []

    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            finished.append(True)

    assert run(work) == 130
    assert finished == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert capsys.readouterr().err.strip().endswith("stopped")


def test_ctrl_c_long_after_the_first_ends_a_cleanup_that_hangs(run, monkeypatch):
    monkeypatch.setattr(interrupts, "CLOSING_SECONDS", 0.0)
    finished = []

    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            finished.append(True)

    assert run(work) == 130
    assert finished == []


def test_other_signals_reach_the_ctrl_c_handler_of_a_command(run):
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    received = []

    def work():
        handler = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGINT, handler)
        return 0

    try:
        assert run(work) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGINT]


def test_file_name_that_is_not_utf8_can_be_printed():
    script = "import os, sys; from canthus.runtime import cli; cli.main(['--version']); print(os.fsdecode(b'\\xff'))"
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)
    assert printed.stdout.endswith(b"\xff\n")


@pytest.mark.parametrize("text", ["abc", "0", "-1", "2.5"])
def test_number_of_faces_must_be_a_positive_integer(capsys, text):
    parser = argparse.ArgumentParser()
    add_landmarker_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--max-faces", text])
    assert f"'{text}' is not a positive integer" in capsys.readouterr().err


def log_lines():
    logger = logging.getLogger("canthus.runtime.backends")
    logger.debug("details")
    logger.info("the engine is built")
    logger.warning("no engine for the GPU")
    return 0


def test_log_messages_are_lines_on_stderr(run, capsys):
    assert run(log_lines) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "canthus: the engine is built\ncanthus: no engine for the GPU\n"
    assert logging.getLogger("canthus").handlers == []


def test_debug_shows_debug_messages_and_a_traceback(run, capsys):
    def work():
        log_lines()
        raise InputError("no such file")

    with pytest.raises(InputError):
        run(work, "--debug")
    assert "canthus: details\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["video", "a.mp4", "--table", "t.csv", "--crf", "3"], "--crf has no effect without -o"),
        (["video", "a.mp4", "--table", "t.csv", "--overlay-only"], "--overlay-only has no effect without -o"),
        (["video", "a.mp4", "-o", "o.mp4", "--faces-only"], "--faces-only has no effect without --table"),
        (["video", "a.mp4", "--table", "t.csv", "--focal", "900"], "--focal has no effect without --measures"),
        (["video", "a.mp4", "--table", "t.csv", "--table-format", "npz"], "--table-format has no effect without"),
        (["video", "a", "b", "--table", "t", "--fetch"], "--fetch has no effect without --ray"),
        (["images", "a", "--table", "t.csv", "--draw", "lines"], "--draw has no effect without -o"),
        (["video", "a.mp4", "--table", "t.csv", "--every", "0"], "argument --every: '0' is not a positive integer"),
    ],
)
def test_wrong_usage_is_one_line(capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    error = capsys.readouterr().err
    assert message in error
    assert error.endswith(f"; `canthus {words[0]} --help` shows all options\n")
    assert error.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_output_that_cannot_be_written_is_no_traceback(words):
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (result.returncode, result.stderr) == (1, b"canthus: standard output: No space left on device\n")


@pytest.mark.parametrize("words", [["--help"], ["replay", "--help"]])
def test_output_that_nobody_reads_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([*COMMAND, *words], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert result.stderr == b""
