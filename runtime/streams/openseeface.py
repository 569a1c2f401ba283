"""OpenSeeFace's UDP packet, so that programs which read OpenSeeFace work unchanged.

Source: `facetracker.py` (writes) and `Unity/OpenSee.cs` (reads) of https://github.com/emilianavt/OpenSeeFace. Its axes
are unusual. On a head: to the left of the image, up, towards the viewer; the unit is the head's, see UNIT. In the
camera: down, to the right, away. Its fit of the pose ends with a head behind the camera, whose projection is the same:
position and the first two rows of the rotation have the opposite sign. The quaternion is the conjugate of the
rotation's. Receivers undo all of that. `PACKET` is the layout.
"""

import math
import time

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.measures import MEASURE_COLUMNS, VALUES, Measures
from canthus.runtime.measures.head import PUPIL_DISTANCE, Floats, included_head
from canthus.runtime.measures.pose import Pose, guess_camera, lines_of_sight, points_on_head
from canthus.runtime.streams.address import Address, UdpStream
from canthus.runtime.streams.vmc import quaternion_from_rotation
from canthus.runtime.types import Faces, Frame
from canthus.runtime.wflw import IBUG_68, PUPILS

POINTS = tuple(point for place, point in enumerate(IBUG_68) if place not in (48, 54))
"""Its first 66 points: those of iBUG without the outer corners of the mouth. The pupils follow."""

PACKET = np.dtype(
    [
        ("time", "<f8"),  # seconds since 1970
        ("id", "<i4"),
        ("size", "<f4", 2),  # width and height of the frame
        ("eyes_open", "<f4", 2),  # right and left of the person, 0 to 1
        ("success", "u1"),  # whether the pose is known
        ("error", "<f4"),  # of the pose, pixels
        ("quaternion", "<f4", 4),  # x, y, z, w
        ("euler", "<f4", 3),  # degrees, as of cv2.RQDecomp3x3
        ("translation", "<f4", 3),
        ("scores", "<f4", 68),
        ("points", "<f4", (68, 2)),  # x, y in frame pixels
        ("points_3d", "<f4", (70, 3)),  # x, -y, -z on the head; the pupils are followed by the centers of the eyeballs
        ("features", "<f4", 14),
    ]
)
"""Layout of one face; the packet of a frame has them one after the other."""

MAX_FACES = 36
"""More do not fit into a datagram."""

UNIT = PUPIL_DISTANCE / 0.516
"""Its unit in mm: the pupils of its head are 0.516 apart."""

EYEBALL = 0.385
"""How far the center of an eyeball is behind the corners of the eye, relative to their distance."""

NOSE_TIP = 54
"""The origin of its head."""

_NEUTRAL = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""Its rotation of a head that looks into the camera."""

_ORDER = np.array([*POINTS, *PUPILS])
_OUTER_CORNERS, _INNER_CORNERS = np.array([60, 72]), np.array([64, 68])  # of the left and the right eye
_ORDER_3D = np.array([*_ORDER, *PUPILS])  # the last two are replaced by the centers of the eyeballs
_EYES_OPEN = slice(VALUES.index("eye_open_left"), VALUES.index("eye_open_right") + 1)
_SIGNS = np.array([[-1.0], [1.0], [1.0]]) / UNIT  # (x, -y, -z) of its axes, which are the negative ones of ours


class OpenSeeFaceStream(UdpStream):
    """Sends all faces of a frame in one datagram; nothing without a face, as OpenSeeFace does."""

    def __init__(self, address: Address, focal: float | None = None) -> None:
        super().__init__("OpenSeeFace", address)
        self._focal = focal

    def send(self, frame: Frame, faces: Faces) -> None:
        """Send a frame."""
        if faces.measures is not None and len(faces):
            self._sender.send([pack_faces(frame, faces, self._focal)])


def pack_faces(frame: Frame, faces: Faces, focal: float | None = None) -> bytes:
    """Return the packet of a frame with measured faces; focal: see `Settings`."""
    faces = faces[:MAX_FACES] if len(faces) > MAX_FACES else faces
    measures, points = faces.measures, faces.points
    assert measures is not None, "the faces must be measured"
    if not np.isfinite(points).all():
        points = np.where(np.isfinite(points), points, np.float32(0))
    height, width = frame.image.shape[:2]
    packets = np.zeros(len(faces), PACKET)
    packets["time"] = time.time()
    packets["id"] = faces.ids
    packets["size"] = width, height
    packets["eyes_open"] = np.minimum(measures.values[:, _EYES_OPEN], 1)
    packets["success"] = 1
    packets["scores"] = faces.scores.take(_ORDER, axis=1)
    packets["points"] = points.take(_ORDER, axis=1)
    packets["features"] = _features(measures)
    # Pixels that are not square are stretched first, as for the measures.
    stretch = max(frame.pixel_aspect, 1.0), max(1 / frame.pixel_aspect, 1.0)
    camera = guess_camera(round(width * stretch[0]), round(height * stretch[1]), focal)
    (lines,) = lines_of_sight([points if frame.pixel_aspect == 1 else points * stretch], camera)
    poses = map(Pose, measures.rotations, measures.translations.astype(np.float64))
    for packet, pose, yaw, seen in zip(packets, poses, measures.pose_yaw.tolist(), lines, strict=True):
        model = included_head().shape_at(yaw)
        placed = pose.rotation.dot(model) + pose.translation[:, None]
        missed = placed[:2] / placed[2] - seen[:2]
        packet["error"] = camera.focal * math.sqrt(np.vdot(missed, missed) / missed.size)
        packet["translation"] = -placed[[1, 0, 2], NOSE_TIP] / UNIT
        packet["points_3d"] = _points_3d(points_on_head(pose, model[2], seen), model).T
        rotation = _NEUTRAL.dot(pose.rotation)
        packet["quaternion"] = quaternion_from_rotation(rotation.T)
        packet["euler"] = _euler(rotation)
    return packets.tobytes()


def _euler(rotation: Floats) -> tuple[float, float, float]:
    """Return the angles in degrees of cv2.RQDecomp3x3, near (180, 0, 90) for a head that looks into the camera.

    Two triples describe the same rotation, and OpenCV returns either.
    """
    x, y, z = cv2.RQDecomp3x3(rotation)[0]
    if abs(x) < 90:
        x, y, z = x + 180, 180 - y, z + 180
    return (x + 180) % 360 - 180, (y + 180) % 360 - 180, (z + 180) % 360 - 180


def _points_3d(flat: Floats, model: Floats) -> Floats:
    """Return the 70 points (3, 70) on the head, of places (2, 98) as of `points_on_head` and model points (3, 98)."""
    ours = np.concatenate((flat, model[2:]))
    outer, inner = ours.take(_OUTER_CORNERS, axis=1), ours.take(_INNER_CORNERS, axis=1)
    middle, across = (outer + inner) / 2, outer - inner
    points = ours.take(_ORDER_3D, axis=1)
    points[2, 66:68] = middle[2]
    points[:, 68:] = middle
    points[2, 68:] += EYEBALL * np.sqrt((across * across).sum(0))
    points -= model[:, NOSE_TIP, None]
    points *= _SIGNS
    return points


def _features(measures: Measures) -> NDArray[np.float32]:
    """Return its 14 features (N, 14), -1 to 1."""
    columns = np.concatenate([measures.values, measures.blendshapes], axis=1)
    return np.asarray(np.minimum(np.maximum(columns @ _FACTORS - _NEUTRAL_FEATURES, -1), 1))


def _brow(side: str, image_side: str) -> tuple[dict[str, float], ...]:
    """Return steepness, height and quirk: how much more the outer end rises than the inner one; the quirk stays 0."""
    steepness = {f"browDown{side}": 1.0, f"browOuterUp{side}": 1.0, "browInnerUp": -1.0}
    return steepness, {f"brow_raise_{image_side}": 1.0}, {}


def _corner(side: str) -> tuple[dict[str, float], ...]:
    """Return how far a corner of the mouth is up, and how far out."""
    up = {f"mouthSmile{side}": 1.0, f"mouthFrown{side}": -1.0}
    return up, {f"mouthStretch{side}": 1.0, "mouthPucker": -1.0, "mouthFunnel": -1.0}


_FEATURES = (
    {"eye_open_right": 1.0}, {"eye_open_left": 1.0}, *_brow("Left", "right"), *_brow("Right", "left"),
    *_corner("Left"), *_corner("Right"), {"jawOpen": 1.0}, {"mouth_width": 3.0},
)  # fmt: skip
"""Its features as sums of columns with factors: eyes, brows, corners of the mouth, mouth; the person's left first."""

_FACTORS = np.array([[feature.get(name, 0.0) for feature in _FEATURES] for name in MEASURE_COLUMNS], np.float32)
_NEUTRAL_FEATURES = np.array([1, 1, *[0] * 11, 3], np.float32)
