"""--source takes a file or the address of a stream."""

import pytest

from canthus.gui.app import _media, _parser, command
from canthus.runtime import stream
from canthus.runtime.errors import InputError


@pytest.mark.parametrize(
    ("words", "name", "live"),
    [
        ([], "camera 0", True),
        (["--source", "videos/clip.mp4"], "clip.mp4", False),
        (["--source", "rtsp://user:secret@host/live"], "rtsp://host/live", True),
    ],
)
def test_source_has_a_name_and_is_live_or_not(words, name, live):
    media = _media(_parser().parse_args(words))
    assert (media.name, media.live) == (name, live)


def test_address_opens_a_network_stream(monkeypatch):
    monkeypatch.setattr(stream, "OPEN_TIMEOUT", 0.5)
    args = _parser().parse_args(["--source", "http://user:secret@127.0.0.1:9/clip.mp4"])
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9/clip\.mp4: .*Connection refused"):
        _media(args).open()


def test_stream_cannot_be_looped(capsys):
    with pytest.raises(SystemExit):
        command(["--source", "http://host/clip.mp4", "--loop"])
    assert "--loop needs a file" in capsys.readouterr().err
