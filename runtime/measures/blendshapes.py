"""Blend shapes of ARKit (`ARFaceAnchor.BlendShapeLocation`) that 98 points can carry.

Left and right in ARKit's names are the person's, the other way round than in canthus.

Left out, because no point shows them: cheekPuff, cheekSquint, noseSneer, tongueOut, jawForward, jawLeft, jawRight (the
contour slides with the pose), eyeSquint (looks like a half closed eye), mouthClose, mouthPress, mouthRoll,
mouthShrug and mouthDimple (the lips turn in or tighten, but their edges hardly move).
"""

from collections.abc import Sequence

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


def blendshapes(
    change: Sequence[float], eyes_open: tuple[float, float], looks: Sequence[Sequence[float]], neutral_width: float
) -> tuple[float, ...]:
    """Return BLENDSHAPES of one face: 0 is neutral, 1 as far as most people can. The caller limits them to 0 to 1.

    Args:
        change: The 16 FEATURES minus those of the neutral face.
        eyes_open: Opening of the image's left and right eye, 1 = neutral.
        looks: Rotation of each eye in the head: to the left of the image and up, in degrees.
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
    # The person's left is the image's right.
    (
        _, _, gap, width, up_right, up_left, out_right, out_left,
        inner_right, inner_left, outer_right, outer_left, _, shift, upper_lip, lower_lip,
    ) = change  # fmt: skip
    open_right, open_left = eyes_open
    (aside_right, lift_right), (aside_left, lift_left) = looks
    aside_left, aside_right = aside_left / LOOK_DEGREES, aside_right / LOOK_DEGREES
    lift_left, lift_right = lift_left / LOOK_DEGREES, lift_right / LOOK_DEGREES
    gap = max(gap, 0.0)
    jaw = gap / (0.6 * neutral_width)
    narrower = max(-width / neutral_width, 0.0) / 0.3
    is_open = min(jaw / 0.25, 1.0)
    # A corner that only follows the jaw down is no frown.
    up_left, up_right = up_left + 0.25 * gap, up_right + 0.25 * gap
    upper, lower = upper_lip / 6, (-lower_lip - gap) / 8
    return (
        -inner_left / 5, -inner_right / 5, (inner_left + inner_right) / 16, outer_left / 7, outer_right / 7,
        1 - open_left, 1 - open_right, (open_left - 1) / 0.4, (open_right - 1) / 0.4,
        -lift_left, -lift_right, lift_left, lift_right,
        # The person's left eye looks in if it looks to the left of the image.
        aside_left, -aside_right, -aside_left, aside_right,
        jaw, narrower * is_open, narrower * (1 - is_open), shift / 8, -shift / 8,
        _smile(up_left, out_left), _smile(up_right, out_right), -up_left / 7, -up_right / 7,
        (out_left - max(up_left, 0.0)) / 10, (out_right - max(up_right, 0.0)) / 10, upper, upper, lower, lower,
    )  # fmt: skip


def _smile(up: float, out: float) -> float:
    return (up + max(out, 0.0)) / 14 if up > 0 else 0.0
