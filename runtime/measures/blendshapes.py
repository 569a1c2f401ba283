"""Blend shapes of ARKit (`ARFaceAnchor.BlendShapeLocation`) that 98 points can carry.

Left and right in ARKit's names are the person's, the other way round than in canthus.

Left out, because no point shows them: cheekPuff, cheekSquint, noseSneer, tongueOut, jawForward, jawLeft, jawRight (the
contour slides with the pose), eyeSquint (looks like a half closed eye), mouthClose, mouthPress, mouthRoll,
mouthShrug and mouthDimple (the lips turn in or tighten, but their edges hardly move).
"""

import numpy as np

from canthus.runtime.measures.features import FEATURES
from canthus.runtime.measures.head import Floats

BLENDSHAPES = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeWideLeft", "eyeWideRight",
    "eyeLookDownLeft", "eyeLookDownRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight",
    "jawOpen", "mouthFunnel", "mouthPucker", "mouthLeft", "mouthRight",
    "mouthSmileLeft", "mouthSmileRight", "mouthFrownLeft", "mouthFrownRight",
    "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "mouthLowerDownLeft", "mouthLowerDownRight",
)  # fmt: skip
"""Names of the columns of `blendshapes`."""

LOOK_DEGREES = 30.0
"""Rotation of an eye that counts as 1."""


def blendshapes(change: Floats, eyes_open: tuple[float, float], looks: Floats, neutral_width: float) -> Floats:
    """Return BLENDSHAPES of one face, each 0 (neutral) to 1 (as far as most people can).

    Args:
        change: (16,) the features minus those of the neutral face.
        eyes_open: Opening of the image's left and right eye, 1 = neutral.
        looks: (2, 2) rotation of each eye in the head: to the left of the image and up, in degrees.
        neutral_width: Width of the neutral mouth, mm.

    The formulas, with changes in mm:
        browDown: inner end down / 5. browInnerUp: inner ends up / 8. browOuterUp: outer end up / 7.
        eyeBlink: 1 - opening. eyeWide: (opening - 1) / 0.4. eyeLook: degrees / 30.
        jawOpen: gap of the lips / (0.6 neutral widths).
        mouthFunnel, mouthPucker: how much narrower than neutral the mouth is / 0.3; funnel if open, pucker if closed.
        mouthLeft, mouthRight: shift / 8. mouthStretch: corner out without up / 10.
        mouthSmile: (corner up + corner out) / 14. mouthFrown: corner down / 7.
        mouthUpperUp: upper edge of the lips up / 6. mouthLowerDown: lower edge down beyond the gap of the jaw / 8.
    """
    get = dict(zip(FEATURES, change.tolist(), strict=True))
    gap = max(get["lip_gap"], 0.0)
    jaw = gap / (0.6 * neutral_width)
    narrower = max(-get["mouth_width"] / neutral_width, 0.0) / 0.3
    is_open = min(jaw / 0.25, 1.0)
    # A corner that only follows the jaw down is no frown.
    up = [get[f"corner_raise_{side}"] + 0.25 * gap for side in ("right", "left")]
    out = [get[f"corner_out_{side}"] for side in ("right", "left")]
    inner = [get[f"brow_inner_{side}"] for side in ("right", "left")]
    outer = [get[f"brow_outer_{side}"] for side in ("right", "left")]
    smile = [(max(up[side], 0.0) + max(out[side], 0.0)) / 14 if up[side] > 0 else 0.0 for side in (0, 1)]
    shift = get["mouth_shift"]
    upper, lower = get["upper_lip_raise"] / 6, (-get["lower_lip_drop"] - gap) / 8
    left, up_down = (looks.T / LOOK_DEGREES).tolist()  # of the image's left and right eye
    wide = [(one - 1) / 0.4 for one in eyes_open]
    values = (
        -inner[0] / 5, -inner[1] / 5, (inner[0] + inner[1]) / 16, outer[0] / 7, outer[1] / 7,
        1 - eyes_open[1], 1 - eyes_open[0], wide[1], wide[0],
        -up_down[1], -up_down[0], up_down[1], up_down[0],
        # The person's left eye is the image's right one, and looks in if it looks to the left of the image.
        left[1], -left[0], -left[1], left[0],
        jaw, narrower * is_open, narrower * (1 - is_open), shift / 8, -shift / 8,
        smile[0], smile[1], -up[0] / 7, -up[1] / 7,
        (out[0] - max(up[0], 0.0)) / 10, (out[1] - max(up[1], 0.0)) / 10, upper, upper, lower, lower,
    )  # fmt: skip
    return np.asarray(np.minimum(np.maximum(np.array(values), 0.0), 1.0))
