"""Errors for users are one line, whatever a file contains."""

import pytest

from canthus.runtime.errors import BackendError, CanthusError, EngineError, InputError, ModelError, printable


@pytest.mark.parametrize("kind", [CanthusError, InputError, ModelError, BackendError, EngineError])
def test_message_is_one_line_without_control_characters(kind):
    assert str(kind("a.json: size\n\r\u2028\x1b[31m: unknown")) == r"a.json: size\n\r\u2028\x1b[31m: unknown"
    assert str(kind("ärger in 東京 😀.png")) == "ärger in 東京 😀.png"


def test_name_that_is_not_valid_text_can_be_printed():
    assert printable("photo\udcff.jpg").encode() == rb"photo\udcff.jpg"
