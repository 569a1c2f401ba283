"""Make the sample clip from scikit-image's public-domain portrait of Eileen Collins (NASA), first at rest, then moved.

Run it as `python -m canthus.runtime.sample.make`. It needs scikit-image, from the `dev` extra. Each frame has its own
sensor noise, so that points on the face at rest jitter as on a webcam.
"""

import json
import math
from fractions import Fraction

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from canthus.runtime.sample import CLIP, MOTION

WIDTH, HEIGHT, RATE = 1280, 720, 30
FRAMES_AT_REST, FRAMES_MOVING = 90, 210
FACE = (224.0, 118.0)  # center of the face in the portrait, (x, y) in pixels
NOISE = 2.5  # standard deviation, in gray levels
BACKGROUND = (44, 50, 62)  # RGB


def portrait_to_frame(frame: int) -> NDArray[np.float64]:
    """Return the affine (2, 3) from portrait to frame pixels. After the rest it translates, rotates and scales."""
    seconds = max(frame - FRAMES_AT_REST, 0) / RATE
    ease = min(seconds, 1.0)
    x = WIDTH / 2 + ease * 190 * math.sin(1.9 * seconds)
    y = 290 + ease * 50 * math.sin(2.7 * seconds)
    angle = ease * math.radians(22) * math.sin(1.4 * seconds)
    scale = 2.0 + ease * 0.5 * math.sin(1.1 * seconds)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    return np.array(
        [
            [cos, -sin, x - cos * FACE[0] + sin * FACE[1]],
            [sin, cos, y - sin * FACE[0] - cos * FACE[1]],
        ]
    )


def main() -> None:
    """Write the clip and its motion to this folder."""
    portrait = data.astronaut()
    rng = np.random.default_rng(0)
    affines = [portrait_to_frame(frame) for frame in range(FRAMES_AT_REST + FRAMES_MOVING)]
    with av.open(str(CLIP), "w", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "24", "preset": "slow"}
        for affine in affines:
            moved = cv2.warpAffine(portrait, affine, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderValue=BACKGROUND)
            noisy = moved + rng.normal(0, NOISE, moved.shape)
            image = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
    motion = {"still_frames": FRAMES_AT_REST, "portrait_to_frame": [np.round(one, 6).tolist() for one in affines]}
    MOTION.write_text(json.dumps(motion) + "\n")
    print(f"wrote {CLIP} and {MOTION}")


if __name__ == "__main__":
    main()
