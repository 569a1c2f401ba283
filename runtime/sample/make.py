"""Makes the sample clip: scikit-image's public-domain portrait of Eileen Collins (NASA), first still, then moved.

Run as `python -m canthus.runtime.sample.make`; it needs scikit-image, from the `dev` extra. Every frame carries fresh
sensor noise, so that a still face is as restless as a webcam's.
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
STILL, MOVED = 90, 210  # frames
FACE = (224.0, 118.0)  # middle of the face in the portrait, pixels
NOISE = 2.5  # standard deviation, grey levels
BACKDROP = (44, 50, 62)  # RGB


def place(frame: int) -> NDArray[np.float64]:
    """(2, 3) affine, portrait pixel -> frame pixel: at rest, then swaying, leaning and coming nearer."""
    seconds = max(frame - STILL, 0) / RATE
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
    """Write the clip and its motion beside this file."""
    portrait = data.astronaut()
    rng = np.random.default_rng(0)
    places = [place(frame) for frame in range(STILL + MOVED)]
    with av.open(str(CLIP), "w", options={"movflags": "+faststart"}) as file:
        stream = file.add_stream("libx264", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "24", "preset": "slow"}
        for affine in places:
            picture = cv2.warpAffine(portrait, affine, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderValue=BACKDROP)
            noisy = picture + rng.normal(0, NOISE, picture.shape)
            image = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
    told = {"still_frames": STILL, "portrait_to_frame": [np.round(one, 6).tolist() for one in places]}
    MOTION.write_text(json.dumps(told) + "\n")
    print(f"wrote {CLIP} and {MOTION}")


if __name__ == "__main__":
    main()
