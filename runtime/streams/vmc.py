"""VMC protocol: head, eyes and blend shapes of one face, for VSeeFace, Warudo, Unity and Blender.

Source: the specification of the marionette's side at https://protocol.vmc.info/marionette-spec.
"""

import math
import time

import numpy as np

from canthus.runtime.measures import BLENDSHAPES
from canthus.runtime.measures.head import Floats
from canthus.runtime.streams.address import Address, UdpStream
from canthus.runtime.streams.osc_template import FLOAT, Message, OscTemplate
from canthus.runtime.types import Faces, Frame

LOADED, CALIBRATED, NORMAL = 1, 3, 0
"""State of the sender: its avatar, its calibration, and its mode."""

ARKIT_NAMES = tuple(name[0].upper() + name[1:] for name in BLENDSHAPES)
"""Names of the blend shapes in avatars with "perfect sync", which has ARKit's with a capital."""

VRM_NAMES = ("Blink_L", "Blink_R", "A", "I", "U", "O")
"""Blend shapes that every VRM avatar has. Left is the person's."""

_PLACE = {name: place for place, name in enumerate(BLENDSHAPES)}

Quaternion = tuple[float, float, float, float]


class VmcStream(UdpStream):
    """Sends the first face, the one with the smallest id.

    arkit: send the names of ARKit, else those of VRM. An avatar that has both would move twice with both.
    """

    def __init__(self, address: Address, arkit: bool = True) -> None:
        super().__init__("VMC", address)
        self._arkit = arkit
        self._began = time.monotonic()
        pose = [FLOAT] * 7
        clock: Message = ("/VMC/Ext/T", [FLOAT])
        self._lost = OscTemplate([("/VMC/Ext/OK", [LOADED, CALIBRATED, NORMAL, 0]), clock])
        messages: list[Message] = [("/VMC/Ext/OK", [LOADED, CALIBRATED, NORMAL, 1]), clock]
        messages += [("/VMC/Ext/Bone/Pos", [bone, *pose]) for bone in ("Head", "LeftEye", "RightEye")]
        messages += [("/VMC/Ext/Blend/Val", [name, FLOAT]) for name in (ARKIT_NAMES if arkit else VRM_NAMES)]
        self._face = OscTemplate([*messages, ("/VMC/Ext/Blend/Apply", [])])

    def send(self, _frame: Frame, faces: Faces) -> None:
        """Send a frame. Without a face, say that tracking is lost; receivers keep the last pose."""
        if faces.measures is None or not len(faces):
            self._send_lost()
            return
        seconds = time.monotonic() - self._began
        rotation = faces.measures.rotations[0]
        head, eye = head_quaternion(rotation), eye_quaternion(rotation, faces.measures.gaze_directions[0])
        shapes = faces.measures.blendshapes[0]
        shapes = shapes if self._arkit else vrm_shapes(shapes)
        here = (0.0, 0.0, 0.0)  # bones turn, but stay at their places in the avatar
        self._sender.send(self._face.pack([seconds, *here, *head, *here, *eye, *here, *eye, *shapes.tolist()]))

    def close(self) -> None:
        """Say that tracking is lost, and stop sending."""
        self._send_lost()
        super().close()

    def _send_lost(self) -> None:
        self._sender.send(self._lost.pack([time.monotonic() - self._began]))


def vrm_shapes(shapes: np.ndarray) -> np.ndarray:
    """Return VRM_NAMES of BLENDSHAPES (32,).

    O is the funnel, U the pucker, I the stretch of both corners, and A how open the jaw is without the funnel.
    """
    left, right, jaw, funnel, pucker, one, other = (
        shapes[_PLACE[name]]
        for name in (
            "eyeBlinkLeft",
            "eyeBlinkRight",
            "jawOpen",
            "mouthFunnel",
            "mouthPucker",
            "mouthStretchLeft",
            "mouthStretchRight",
        )
    )
    return np.array([left, right, max(jaw - funnel, 0.0), (one + other) / 2, pucker, funnel])


def head_quaternion(rotation: Floats) -> Quaternion:
    """Return the rotation of the head as Unity's quaternion x, y, z, w.

    The axes of an avatar are to its own right, up and forward: the negative ones of our head. A rotation has the same
    matrix in both, as each axis changes its sign.
    """
    return quaternion_from_rotation(rotation)


def eye_quaternion(rotation: Floats, gaze: Floats) -> Quaternion:
    """Return the rotation of the eyes in the head as Unity's quaternion; gaze: a unit vector in the camera's axes."""
    x, y, z = (-(rotation.T @ gaze)).tolist()  # in the axes of the avatar
    length = math.sqrt(max(2 * (1 + z), 1e-9))  # the shortest rotation from (0, 0, 1)
    return -y / length, x / length, 0.0, length / 2


def quaternion_from_rotation(rotation: Floats) -> Quaternion:
    """Return the quaternion x, y, z, w, with w >= 0 as far as rounding allows, of a rotation (3, 3).

    From the largest of the four values (Shepperd, "Quaternion from rotation matrix", 1978).
    """
    (a, b, c), (d, e, f), (g, h, i) = rotation.tolist()
    candidates = (a - e - i, e - a - i, i - a - e, a + e + i)
    largest = max(range(4), key=candidates.__getitem__)
    half = math.sqrt(max(1 + candidates[largest], 1e-12)) / 2
    values = (
        (half, (b + d) / (4 * half), (c + g) / (4 * half), (h - f) / (4 * half)),
        ((b + d) / (4 * half), half, (f + h) / (4 * half), (c - g) / (4 * half)),
        ((c + g) / (4 * half), (f + h) / (4 * half), half, (d - b) / (4 * half)),
        ((h - f) / (4 * half), (c - g) / (4 * half), (d - b) / (4 * half), half),
    )[largest]
    sign = -1.0 if values[3] < 0 else 1.0
    x, y, z, w = (sign * value for value in values)
    return x, y, z, w
