"""Image files as a clip."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from canthus.gui import image_clip
from canthus.gui.image_clip import IMAGE_SECONDS, ImageClip
from canthus.runtime.errors import InputError


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Write three images of different brightness; the second one is damaged."""
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((40, 80, 3), 50 * number + 50, np.uint8))
    paths[1].write_bytes(b"no image")
    return paths


def test_images_are_shown_at_their_times_and_damaged_ones_left_out(paths: list[Path]) -> None:
    with ImageClip(paths) as clip:
        frames = list(clip)
        assert [(frame.index, frame.seconds, int(frame.image[0, 0, 0])) for frame in frames] == [
            (0, 0.0, 50),
            (2, 2 * IMAGE_SECONDS, 150),
        ]
        assert clip.duration == 3 * IMAGE_SECONDS
        assert "1.png: not a readable image" in clip.damaged
        assert [frame.index for frame in clip.frames_from(2 * IMAGE_SECONDS, lambda: False)] == [2]
        assert not list(clip.frames_from(0.0, lambda: True))


def test_images_of_which_none_can_be_read_are_an_error(paths: list[Path]) -> None:
    with pytest.raises(InputError, match="not a readable image"), ImageClip(paths[1:2]) as clip:
        list(clip)


def test_large_images_are_reduced(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_clip, "LONGEST_SIDE", 20)
    with ImageClip(paths[:1]) as clip:
        assert next(iter(clip)).image.shape == (10, 20, 3)
