"""The clock of a playback."""

import pytest

from canthus.gui.clock import Clock


class Now:
    """A monotonic clock that a test moves."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_clock_runs_at_its_speed_unless_paused() -> None:
    now = Now()
    clock = Clock(now)
    now.seconds += 5
    assert clock.position() == 0
    clock.pause(False)
    now.seconds += 2
    assert clock.position() == 2
    clock.set_speed(0.5)
    now.seconds += 2
    assert clock.position() == 3
    assert clock.seconds_until(4.0) == 2
    clock.pause(True)
    now.seconds += 9
    assert clock.position() == 3


def test_clock_counts_what_changes_it() -> None:
    clock = Clock(Now())
    clock.pause(True)  # it is
    clock.set_speed(1.0)  # it has
    assert clock.changes == 0
    clock.pause(False)
    clock.set_speed(2.0)
    clock.jump(7.0)
    assert clock.changes == 3


def test_clock_approaches_the_sound_without_a_jump() -> None:
    now = Now()
    clock = Clock(now)
    clock.pause(False)
    clock.follow(0.08)
    assert 0 < clock.position() < 0.02
    for _ in range(100):
        clock.follow(0.08)
    assert clock.position() == pytest.approx(0.08, abs=0.001)
    clock.follow(1.0)  # far away
    assert clock.position() == pytest.approx(1.0)
    assert clock.changes == 1
