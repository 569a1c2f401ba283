"""Two networks of MediaPipe that see a head in depth: a mesh of 468 points on the face, and which pixels are a person.

Both come out of its wheel (`canthus.runtime.downloads.Download`) and run through OpenVINO. The mesh: Kartynnik et al.,
"Real-time facial surface geometry from monocular video on mobile GPUs", 2019.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends.openvino_without_telemetry import core, openvino
from canthus.runtime.closeable import Closeable
from canthus.runtime.downloads import Download, find_downloads
from canthus.runtime.errors import ModelError
from canthus.runtime.geometry import roi_from_points, to_frame, transform
from canthus.runtime.types import Roi

FACE_MODEL = Download(
    "the face mesh's model",
    "face_landmark.tflite",
    "1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
    "canthus data turn",
)
PERSON_MODEL = Download(
    "the person mask's model",
    "selfie_segmentation.tflite",
    "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
    "canthus data turn",
)

MESH_POINTS = 468
FACE_SIZE, PERSON_SIZE = 192, 256
"""Sides of what the two networks look at, pixels."""

FIRST_MARGIN, MARGIN = 1.4, 1.2
"""Side of the mesh network's square over that of the region of the 98 points, and of the mesh, as MediaPipe has it."""

TEMPLES, EARS = (127, 356), (234, 454)
BROW, CHIN, TOP, NOSE = 168, 152, 10, 4
EYES = (33, 263)
"""Points of the mesh: left and right of the picture; on the middle line; the outer canthi."""

LEAN = math.radians(7)
"""How far the line from a face's top to its chin leans back in a face that looks straight: median of 240 faces."""

SAME = (
    (33, 60), (133, 64), (362, 68), (263, 72), (4, 54), (2, 57), (61, 76), (291, 82), (0, 79), (17, 85), (152, 16),
)  # fmt: skip
"""Points of the mesh and of WFLW that mark the same place."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A face in depth, in pixels of its picture; z grows away from the camera."""

    mesh: NDArray[np.float64]  # (468, 3)
    person: NDArray[np.float32]  # (H, W) 0 to 1
    score: float  # is there a face where it was looked for?

    @property
    def width(self) -> float:
        """From ear to ear, pixels."""
        return float(np.linalg.norm(np.subtract(*self.mesh[list(EARS)])))

    @property
    def axes(self) -> NDArray[np.float64]:
        """(3, 3) rotation whose columns are the face's right, down and back, in the picture's axes."""
        across = np.subtract(*self.mesh[list(EYES[::-1])])
        across = across / np.linalg.norm(across)
        down = self.mesh[CHIN] - self.mesh[TOP]
        down = down - across * (down @ across)
        down = down / np.linalg.norm(down)
        back = np.cross(across, down)
        cos, sin = math.cos(LEAN), math.sin(LEAN)
        return np.stack([across, cos * down - sin * back, cos * back + sin * down], 1)

    @property
    def yaw(self) -> float:
        """How far the face looks to the picture's right, radians."""
        return math.asin(max(-1.0, min(1.0, -float(self.axes[0, 2]))))

    def disagreement(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """How far the mesh lies from labels (98, 2) at the places that both mark, over the size of the face."""
        ours, theirs = (list(group) for group in zip(*SAME, strict=True))
        size = float(np.ptp(points, axis=0).max())
        apart: NDArray[np.float64] = np.linalg.norm(self.mesh[ours, :2] - points[theirs], axis=1) / max(size, 1.0)
        return apart


class Looker(Closeable):
    """Sees faces in depth. It belongs to the thread that opened it."""

    def __init__(self) -> None:
        face, person = find_downloads([FACE_MODEL, PERSON_MODEL])
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self._face = core().compile_model(core().read_model(face), "CPU", settings)
            self._person = core().compile_model(_whole(person), "CPU", settings)
        except RuntimeError as refused:
            raise ModelError(f"{face.parent}: OpenVINO cannot load the face mesh: {refused}") from refused

    def look(self, picture: NDArray[np.uint8], points: NDArray[np.floating]) -> Seen:
        """The upright face with labels (98, 2) in a picture (H, W, 3) RGB."""
        region = _times(roi_from_points(points), FIRST_MARGIN)
        first, _ = self._mesh(picture, region)
        mesh, score = self._mesh(picture, _times(roi_from_points(first[:, :2]), MARGIN))
        small = cv2.resize(picture, (PERSON_SIZE, PERSON_SIZE), interpolation=cv2.INTER_AREA)
        answer = self._person([small[None].astype(np.float32) / 255])[0]
        person = np.asarray(answer, np.float32).reshape(PERSON_SIZE, PERSON_SIZE)
        return Seen(mesh, cv2.resize(person, picture.shape[1::-1]).astype(np.float32), score)

    def _mesh(self, picture: NDArray[np.uint8], region: Roi) -> tuple[NDArray[np.float64], float]:
        affine = to_frame(region, FACE_SIZE)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        cut = cv2.warpAffine(picture, affine, (FACE_SIZE, FACE_SIZE), flags=flags, borderMode=cv2.BORDER_REFLECT)
        answer = self._face([cut[None].astype(np.float32) / 255])
        found = np.asarray(answer[0], np.float64).reshape(MESH_POINTS, 3)
        flag = float(np.asarray(answer[1]).reshape(()))
        depth = found[:, 2] * region.side / FACE_SIZE
        return np.column_stack([transform(affine, found[:, :2]), depth]), 1 / (1 + math.exp(-flag))

    def close(self) -> None:
        """Free the networks."""
        del self._face, self._person


def _times(region: Roi, factor: float) -> Roi:
    return Roi(region.x, region.y, region.side * factor, region.angle)


def _whole(path: Path) -> openvino.Model:
    """The mask's network, whose last layer is an operator of MediaPipe's own that OpenVINO has not.

    It is a transposed convolution (2 x 2, stride 2) with a bias; the sigmoid after it stays away with it.
    """
    ops = openvino.opset13
    reader = openvino.frontend.FrontEndManager().load_by_framework("tflite")
    partial = reader.convert_partially(reader.load(str(path)))
    (unknown,) = [one for one in partial.get_ops() if one.get_type_name() == "TFFrameworkNode"]
    features, kernel, bias = (unknown.input_value(place) for place in range(3))
    first, rows = ops.transpose(features, [0, 3, 1, 2]), ops.transpose(kernel, [3, 0, 1, 2])
    grown = ops.convolution_backprop_data(first, rows, [2, 2], pads_begin=[0, 0], pads_end=[0, 0], dilations=[1, 1])
    mask = ops.sigmoid(ops.add(ops.transpose(grown, [0, 2, 3, 1]), bias))
    return openvino.Model([mask.output(0)], partial.get_parameters())
