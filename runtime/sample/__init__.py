"""A clip of a portrait that is moved along a known path. The demo shows it, and `canthus bench` measures on it."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
CLIP = FOLDER / "portrait.mp4"
MOTION = FOLDER / "motion.json"


def motion() -> NDArray[np.float64]:
    """Return the affines (frames, 2, 3) from portrait pixels to frame pixels."""
    return np.array(json.loads(MOTION.read_text())["portrait_to_frame"])


def still_frames() -> int:
    """Return the number of frames at the start on which the portrait is at rest."""
    return int(json.loads(MOTION.read_text())["still_frames"])


def true_points(first: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the points (K, 2) of the first frame, moved as the portrait is: (frames, K, 2)."""
    path = motion()
    portrait = (first - path[0][:, 2]) @ np.linalg.inv(path[0][:, :2]).T
    points: NDArray[np.float64] = portrait @ np.swapaxes(path[:, :, :2], 1, 2) + path[:, None, :, 2]
    return points
