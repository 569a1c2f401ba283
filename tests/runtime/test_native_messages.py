"""Messages that native libraries print to standard error are caught; nothing else is."""

import os
import re
import subprocess
import sys
import threading

import pytest

from canthus.runtime.native_messages import MAX_BYTES, native_log_removed, native_messages_caught

LOG = re.compile(rb"(?m)^log: .*$\n?")


def test_lines_of_the_block_are_caught_and_later_ones_are_not(capfd):
    with native_messages_caught() as lines:
        os.write(2, b"one\ntwo \xff\n")
    os.write(2, b"three\n")
    assert lines == ["one", "two \ufffd"]
    assert capfd.readouterr().err == "three\n"


def test_standard_error_is_restored_after_an_exception(capfd):
    with pytest.raises(ZeroDivisionError), native_messages_caught() as lines:
        os.write(2, b"one\n")
        raise ZeroDivisionError
    os.write(2, b"two\n")
    assert lines == ["one"]
    assert capfd.readouterr().err == "two\n"


def test_long_output_is_cut():
    with native_messages_caught() as lines:
        os.write(2, b"x" * (MAX_BYTES + 100))
    assert lines == ["x" * MAX_BYTES]


def test_closed_standard_error_does_not_matter(monkeypatch):
    def fail(_: int) -> int:
        raise OSError

    monkeypatch.setattr(os, "dup", fail)
    with native_messages_caught() as lines:
        pass
    assert lines == []


def stderr_target():
    status = os.fstat(2)
    return status.st_dev, status.st_ino


def test_the_log_is_removed_and_other_lines_are_kept(capfd):
    with native_log_removed(LOG):
        os.write(2, b"log: one\ntwo\nlog: three\n")
    assert capfd.readouterr().err == "two\n"


def test_after_an_error_all_lines_are_removed(capfd):
    with pytest.raises(ZeroDivisionError), native_log_removed(LOG):
        os.write(2, b"a native stack trace\n")
        raise ZeroDivisionError
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("inner", [lambda: native_log_removed(LOG), native_messages_caught])
def test_standard_error_is_restored_after_overlapping_blocks_of_two_threads(capfd, inner):
    before = stderr_target()
    inside, let_go = threading.Event(), threading.Event()

    def other():
        with inner():
            inside.set()
            let_go.wait(5)

    with native_log_removed(LOG):
        os.write(2, b"kept\nlog: one\n")
        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(5)
    assert stderr_target() != before  # the block of the other thread is open
    let_go.set()
    thread.join()
    assert stderr_target() == before
    assert capfd.readouterr().err == "kept\n"


@pytest.mark.parametrize("start", ["os.close(2)", "sys.stderr = None"])
def test_a_block_works_without_standard_error(start):
    script = (
        f"import os, re, sys\n{start}\nfrom canthus.runtime.native_messages import native_log_removed\n"
        "with native_log_removed(re.compile(b'log')):\n    print('in')"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "in\n"
