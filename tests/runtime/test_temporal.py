"""The lag of measured points behind their true path."""

import numpy as np
import pytest

from canthus.runtime.temporal import lag_in_frames


def path(delay: float) -> np.ndarray:
    """Return points (120, 3, 2) that move along a curve, `delay` frames late."""
    times = np.arange(120) - delay
    curve = np.stack([40 * np.sin(times / 9), 25 * np.cos(times / 7)], axis=1)
    return curve[:, None] + np.array([[0, 0], [30, 5], [10, 60]])


@pytest.mark.parametrize("delay", [-0.5, 0.0, 0.35, 1.0, 2.5])
def test_lag_is_the_delay_of_the_points(delay):
    assert lag_in_frames(path(delay), path(0)) == pytest.approx(delay, abs=0.05)


def test_frames_at_the_ends_do_not_count():
    measured = path(1.0)
    measured[:5] += 300
    measured[-5:] -= 300
    assert lag_in_frames(measured, path(0)) == pytest.approx(1.0, abs=0.05)
