"""Reading a video from any time on."""

import av
import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.runtime.seek import SeekableVideo

RATE = 10
FRAMES = 40


@pytest.fixture(scope="module", params=["clip.mp4", "clip.mkv", "clip.avi", "clip.h264"])
def clip(request, tmp_path_factory):
    """Write a clip whose frames differ in brightness; a key frame every 15. The last two formats cannot be moved."""
    path = tmp_path_factory.mktemp("seek") / request.param
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": "15", "crf": "10"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(FRAMES):
            image = np.full((64, 64, 3), 20 + 5 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def brightness(frame):
    return round((float(frame.image.mean()) - 20) / 5)


@pytest.mark.parametrize(("seconds", "first"), [(0.0, 0), (0.7, 7), (0.75, 7), (1.5, 15), (2.999, 29), (99.0, 39)])
def test_the_frame_that_is_shown_at_a_time_comes_first_and_all_others_follow(clip, seconds, first):
    with SeekableVideo(clip) as video:
        frames = list(video.frames_from(seconds))
    assert [brightness(frame) for frame in frames] == list(range(first, FRAMES))
    assert [frame.index for frame in frames] == list(range(first, FRAMES))
    assert np.allclose([frame.seconds for frame in frames], np.arange(first, FRAMES) / RATE)


def test_the_duration_is_that_of_the_frames(clip):
    with SeekableVideo(clip) as video:
        assert video.duration == pytest.approx(0 if clip.suffix == ".h264" else FRAMES / RATE, abs=0.15)


def test_a_cancelled_jump_ends_early(clip):
    with SeekableVideo(clip) as video:
        assert not list(video.frames_from(2.0, cancelled=lambda: True))


def test_a_file_that_is_deleted_while_it_plays_is_an_error_of_the_user(clip, tmp_path):
    path = tmp_path / clip.name
    path.write_bytes(clip.read_bytes())
    with SeekableVideo(path) as video:
        path.unlink()
        with pytest.raises(InputError, match="cannot be read any more"):
            list(video.frames_from(3.0))
