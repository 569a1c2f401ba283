"""Messages that native libraries print to standard error are caught; nothing else is."""

import os

import pytest

from canthus.runtime.native_messages import MAX_BYTES, native_messages_caught


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
