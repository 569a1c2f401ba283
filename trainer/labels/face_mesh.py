"""Two networks of MediaPipe: a 3D mesh of 468 points on the face, and a mask of the pixels that show a person.

Their files are in MediaPipe's wheel (see runtime/downloads.py), and OpenVINO runs them. The mesh: Kartynnik et al.,
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
"""Sides of the inputs of the two networks, pixels."""

FIRST_MARGIN, MARGIN = 1.4, 1.2
"""Side of the input of the mesh network over the side of a region: of the 98 points, then of the mesh. MARGIN is the
value of MediaPipe."""

# Points of the mesh: left and right in the image; on the middle line; the outer eye corners.
TEMPLES, EARS = (127, 356), (234, 454)
BROW, CHIN, TOP = 168, 152, 10
EYES = (33, 263)

TILT = math.radians(7)
"""Angle by which the line from the top of a face to its chin is tilted back if the face has no pitch: the median of 240
faces."""

SHARED_POINTS = (
    (33, 60), (133, 64), (362, 68), (263, 72), (4, 54), (2, 57), (61, 76), (291, 82), (0, 79), (17, 85), (152, 16),
)  # fmt: skip
"""Pairs of a point of the mesh and a point of WFLW at the same place."""


@dataclass(frozen=True, eq=False)
class MeshedFace:
    """The output of both networks for one face, in pixels of its image. z grows away from the camera."""

    mesh: NDArray[np.float64]  # (468, 3)
    person: NDArray[np.float32]  # (H, W) probability that a pixel shows a person
    score: float  # probability that there is a face

    @property
    def width(self) -> float:
        """Distance of the ears, pixels."""
        return float(np.linalg.norm(np.subtract(*self.mesh[list(EARS)])))

    @property
    def axes(self) -> NDArray[np.float64]:
        """(3, 3) rotation matrix. Its columns are the directions right, down and back of the face in the image."""
        right = np.subtract(*self.mesh[list(EYES[::-1])])
        right = right / np.linalg.norm(right)
        down = self.mesh[CHIN] - self.mesh[TOP]
        down = down - right * (down @ right)
        down = down / np.linalg.norm(down)
        back = np.cross(right, down)
        cos, sin = math.cos(TILT), math.sin(TILT)
        return np.stack([right, cos * down - sin * back, cos * back + sin * down], 1)

    @property
    def yaw(self) -> float:
        """Yaw of the face towards the right of the image, radians."""
        return math.asin(max(-1.0, min(1.0, -float(self.axes[0, 2]))))

    def distances(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the distances (11,) of the mesh from labels (98, 2) at SHARED_POINTS, over the size of the face."""
        ours, theirs = (list(group) for group in zip(*SHARED_POINTS, strict=True))
        size = float(np.ptp(points, axis=0).max())
        distances: NDArray[np.float64] = np.linalg.norm(self.mesh[ours, :2] - points[theirs], axis=1) / max(size, 1.0)
        return distances


class FaceMesher(Closeable):
    """Runs both networks on labelled faces. It belongs to the thread that opened it.

    Raises:
        ModelError: A network is not in the cache and cannot be downloaded, or OpenVINO cannot load it.
    """

    def __init__(self) -> None:
        face, person = find_downloads([FACE_MODEL, PERSON_MODEL])
        settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self._face = core().compile_model(core().read_model(face), "CPU", settings)
            self._person = core().compile_model(_read_person_model(person), "CPU", settings)
        except RuntimeError as error:
            raise ModelError(f"{face.parent}: OpenVINO cannot load the face mesh: {error}") from error

    def predict(self, image: NDArray[np.uint8], points: NDArray[np.floating]) -> MeshedFace:
        """Return mesh and mask of the upright face with labels (98, 2) in an image (H, W, 3) RGB."""
        first, _ = self._predict_mesh(image, _scaled(roi_from_points(points), FIRST_MARGIN))
        mesh, score = self._predict_mesh(image, _scaled(roi_from_points(first[:, :2]), MARGIN))
        small = cv2.resize(image, (PERSON_SIZE, PERSON_SIZE), interpolation=cv2.INTER_AREA)
        output = self._person([small[None].astype(np.float32) / 255])[0]
        person = np.asarray(output, np.float32).reshape(PERSON_SIZE, PERSON_SIZE)
        return MeshedFace(mesh, cv2.resize(person, image.shape[1::-1]).astype(np.float32), score)

    def _predict_mesh(self, image: NDArray[np.uint8], roi: Roi) -> tuple[NDArray[np.float64], float]:
        affine = to_frame(roi, FACE_SIZE)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(image, affine, (FACE_SIZE, FACE_SIZE), flags=flags, borderMode=cv2.BORDER_REFLECT)
        output = self._face([crop[None].astype(np.float32) / 255])
        mesh = np.asarray(output[0], np.float64).reshape(MESH_POINTS, 3)  # crop pixels
        logit = float(np.asarray(output[1]).reshape(()))
        depth = mesh[:, 2] * roi.side / FACE_SIZE
        return np.column_stack([transform(affine, mesh[:, :2]), depth]), 1 / (1 + math.exp(-logit))

    def close(self) -> None:
        """Free the networks."""
        del self._face, self._person


def _scaled(roi: Roi, factor: float) -> Roi:
    return Roi(roi.x, roi.y, roi.side * factor, roi.angle)


def _read_person_model(path: Path) -> openvino.Model:
    """Read the network of the person mask, and replace its last layer, a custom operator of MediaPipe.

    The operator is a transposed convolution (2 x 2, stride 2) with a bias. The sigmoid after it is lost with it and is
    added again.
    """
    ops = openvino.opset13
    reader = openvino.frontend.FrontEndManager().load_by_framework("tflite")
    partial = reader.convert_partially(reader.load(str(path)))
    (custom,) = [one for one in partial.get_ops() if one.get_type_name() == "TFFrameworkNode"]
    features, kernel, bias = (custom.input_value(index) for index in range(3))
    first, weights = ops.transpose(features, [0, 3, 1, 2]), ops.transpose(kernel, [3, 0, 1, 2])
    upsampled = ops.convolution_backprop_data(
        first, weights, [2, 2], pads_begin=[0, 0], pads_end=[0, 0], dilations=[1, 1]
    )
    mask = ops.sigmoid(ops.add(ops.transpose(upsampled, [0, 2, 3, 1]), bias))
    return openvino.Model([mask.output(0)], partial.get_parameters())
