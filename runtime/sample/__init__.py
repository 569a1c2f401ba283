"""A short clip of a portrait moved by a known path, and that path: what the demo shows and the bench measures on."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
CLIP = FOLDER / "portrait.mp4"
MOTION = FOLDER / "motion.json"


def motion() -> NDArray[np.float64]:
    """(frames, 2, 3) affines: pixel of the portrait -> pixel of the frame."""
    return np.array(json.loads(MOTION.read_text())["portrait_to_frame"])


def still_frames() -> int:
    """How many frames at the start show the portrait at rest."""
    return int(json.loads(MOTION.read_text())["still_frames"])
