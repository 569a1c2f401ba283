"""The sound of clips, with a fake speaker."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from canthus.gui import sound
from canthus.gui.clock import Clock
from canthus.gui.sound import BYTES_PER_SECOND, RATE, Sound, decode_audio
from canthus.runtime.errors import BackendError

SECONDS = 3


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 3 seconds of stereo audio whose value is 1000 in the first second, 2000 in the second, and so on."""
    path = tmp_path_factory.mktemp("sound") / "steps.wav"
    with av.open(str(path), "w") as container:
        track = container.add_stream("pcm_s16le", rate=RATE, layout="stereo")
        assert isinstance(track, av.AudioStream)
        levels = np.repeat(np.arange(1, SECONDS + 1) * 1000, 2 * RATE).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(levels[None], format="s16", layout="stereo")
        frame.sample_rate = RATE
        container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


class FakeSpeaker:
    """Hears what is written at once, or nothing."""

    def __init__(self, works: bool = True) -> None:
        self.works, self.written, self.restarts, self.closed = works, b"", 0, False
        self.since = time.monotonic()

    def restart(self) -> None:
        self.restarts, self.written, self.since = self.restarts + 1, b"", time.monotonic()

    def free(self) -> int:
        return max(0, BYTES_PER_SECOND // 10 + round(self.heard() * BYTES_PER_SECOND) - len(self.written))

    def write(self, samples: bytes) -> None:
        self.written += samples

    def heard(self) -> float:
        return min(time.monotonic() - self.since, len(self.written) / BYTES_PER_SECOND) if self.works else 0.0

    def close(self) -> None:
        self.closed = True


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 3
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture
def speaker() -> FakeSpeaker:
    return FakeSpeaker()


@pytest.fixture
def clock(clip: Path, speaker: FakeSpeaker) -> Iterator[Clock]:
    """The clock of a playback whose sound goes to `speaker`."""
    clock = Clock()
    with Sound(clip, 0.0, clock, lambda: False, lambda: speaker):
        yield clock
    assert speaker.closed


@pytest.mark.parametrize("start", [0.0, 0.25, 1.5])
def test_audio_is_decoded_from_any_time_on(clip: Path, start: float) -> None:
    samples = np.frombuffer(b"".join(decode_audio(clip, start)), np.int16).reshape(-1, 2)
    assert len(samples) == pytest.approx((SECONDS - start) * RATE, abs=2)
    assert np.array_equal(samples[:, 0], samples[:, 1])
    assert samples[0, 0] == 1000 * (int(start) + 1)
    assert samples[-1, 0] == 1000 * SECONDS


def test_audio_that_begins_later_is_preceded_by_silence(clip: Path) -> None:
    samples = np.frombuffer(b"".join(decode_audio(clip, -0.5)), np.int16).reshape(-1, 2)
    assert not samples[: RATE // 2].any()
    assert samples[RATE // 2 :].all()


def test_a_file_without_audio_is_silent(clip: Path) -> None:
    from canthus.runtime.sample import CLIP

    assert not list(decode_audio(CLIP, 0.0))


def test_clock_follows_what_is_heard(clock: Clock, speaker: FakeSpeaker) -> None:
    clock.pause(False)
    assert until(lambda: speaker.heard() > 0.2)
    assert clock.position() == pytest.approx(speaker.heard(), abs=0.1)


def test_a_jump_a_pause_and_another_speed_end_the_sound(clock: Clock, speaker: FakeSpeaker) -> None:
    time.sleep(0.05)
    assert not speaker.written
    clock.pause(False)
    assert until(lambda: len(speaker.written) > 0)
    first = np.frombuffer(speaker.written[:4], np.int16)[0]
    restarts = speaker.restarts
    clock.jump(2.2)
    assert until(lambda: speaker.restarts > restarts + 1 or (speaker.restarts > restarts and len(speaker.written) > 0))
    assert until(lambda: len(speaker.written) > 4 and np.frombuffer(speaker.written[:4], np.int16)[0] > 2 * first)
    clock.pause(True)
    assert until(lambda: not speaker.written)
    clock.pause(False)
    assert until(lambda: len(speaker.written) > 0)
    clock.set_speed(2.0)
    assert until(lambda: not speaker.written)


def test_an_output_that_plays_nothing_does_not_stop_the_clip(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sound, "START_SECONDS", 0.05)
    caplog.set_level("INFO")
    clock = Clock()
    broken = FakeSpeaker(works=False)
    with Sound(clip, 0.0, clock, lambda: False, lambda: broken):
        clock.pause(False)
        assert until(lambda: broken.closed)
        before = clock.position()
        assert until(lambda: clock.position() > before + 0.05)
    assert "takes no samples" in caplog.text


def test_a_machine_without_sound_plays_silently(clip: Path) -> None:
    def none() -> FakeSpeaker:
        raise BackendError("no sound: the system has no audio output")

    with Sound(clip, 0.0, Clock(), lambda: False, none) as silent:
        assert until(lambda: not silent._thread.is_alive())
