"""The sources of `canthus view`: files, folders, a camera, or the address of a stream."""

from pathlib import Path

import pytest

from canthus.gui.app import _media, _parser, command
from canthus.gui.media import AddressMedia, media_of_paths
from canthus.runtime import network_stream
from canthus.runtime.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MOV", "notes.txt", "2.png", "1.jpg"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "names", "live"),
    [
        ([], [], []),
        (["--camera", "2"], ["camera 2"], [True]),
        (["b.mp4"], ["b.mp4"], [False]),
        (["notes.txt", "--source", "b.mp4"], ["notes.txt", "b.mp4"], [False, False]),  # its content decides
        (["rtsp://user:secret@host/live"], ["rtsp://host/live"], [True]),
    ],
)
def test_sources_have_names_and_are_live_or_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], names: list[str], live: list[bool]
) -> None:
    monkeypatch.chdir(folder)
    media = _media(_parser().parse_args(words))
    assert [shown.name for shown in media] == names
    assert [shown.live for shown in media] == live


def test_a_folder_is_its_videos_and_its_images_as_one_clip(folder: Path) -> None:
    assert [shown.name for shown in media_of_paths([folder])] == ["a.MOV", "b.mp4", folder.name]
    images = media_of_paths([folder / "2.png", folder / "1.jpg"])
    assert len(images) == 1


def test_a_folder_without_media_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="contains no video and no image"):
        media_of_paths([tmp_path])
    with pytest.raises(InputError, match=r"x\.mp4: no such file or folder"):
        media_of_paths([tmp_path / "x.mp4"])


def test_address_opens_a_network_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_stream, "OPEN_TIMEOUT", 0.5)
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9/clip\.mp4: .*Connection refused"):
        AddressMedia("http://user:secret@127.0.0.1:9/clip.mp4").open()


def test_stream_cannot_be_looped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command(["http://host/clip.mp4", "--loop"])
    assert "--loop needs a file" in capsys.readouterr().err
