"""A third-party network of `canthus bench peers`, run with OpenVINO."""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends.openvino_without_telemetry import core
from canthus.runtime.detector import Detector
from canthus.runtime.errors import ModelError
from canthus.runtime.geometry import crop_all, roi_from_box
from canthus.runtime.landmarks import predict_landmarks, refine_landmarks
from canthus.runtime.schemes import WFLW
from canthus.runtime.tracker import Tracker, TrackerSettings
from canthus.runtime.types import FaceBox
from canthus.runtime.wflw import POINTS


class OnnxPeer:
    """Runs a network with one input (1, 3, S, S), RGB or BGR in [-1, 1].

    A network with one output of 196 values is of the PFLD family: its points are tracked as ours. Of any other, such as
    those of OpenSeeFace, only the crop and the network are run, in a fixed region, and it has no points.
    """

    scheme = WFLW

    def __init__(self, file: str, threads: int) -> None:
        path = Path(file)
        try:
            compiled = core().compile_model(core().read_model(path), "CPU", {"INFERENCE_NUM_THREADS": str(threads)})
        except RuntimeError as error:
            raise ModelError(f"{path}: OpenVINO cannot load it") from error
        shapes = [list(port.partial_shape.get_min_shape()) for port in (*compiled.inputs, *compiled.outputs)]
        if len(compiled.inputs) != 1 or shapes[0][1:2] != [3] or len(shapes[0]) != 4:
            raise ModelError(f"{path}: has the input {shapes[0]} (expected one of (1, 3, S, S))")
        self.size, self.name = int(shapes[0][2]), "OpenVINO on the CPU"
        self.has_points = len(shapes) == 2 and int(np.prod(shapes[1])) == 2 * POINTS
        self.version = "OpenVINO" if self.has_points else "OpenVINO, crop and network only"
        self._request = compiled.create_infer_request()
        self._detector = Detector()
        self._boxes: list[FaceBox] = []
        settings = TrackerSettings(max_faces=1)
        self._tracker = Tracker(self._detector.detect_in_stream, self, settings)  # type: ignore[arg-type]

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) RGB -> points (N, 98, 2) in crop pixels and scores (N, 98), all 1."""
        images = (crops[..., ::-1].transpose(0, 3, 1, 2) / np.float32(127.5) - 1).astype(np.float32)
        outputs = [np.array(self._request.infer([image[None]])[0]) for image in images]
        if not self.has_points:
            outputs = [np.zeros(2 * POINTS)] * len(images)
        points = np.array(outputs, np.float32).reshape(-1, POINTS, 2) * self.size
        return points, np.ones(points.shape[:2], np.float32)

    def run(self, frame: NDArray[np.uint8], index: int) -> int:
        """Return the number of faces in the next frame."""
        if self.has_points:
            return len(self._tracker.update(frame, index / 30))
        if not self._boxes:
            self._boxes = self._detector.detect(frame)[:1]
        rois = [roi_from_box(box) for box in self._boxes]
        self.predict(crop_all(frame, rois, self.size).images)
        return len(rois)

    def place(self, image: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Return the points (98, 2) of the face in a single image, or None."""
        boxes = self._detector.detect(image, exhaustive=True)[:1] if self.has_points else []
        if not boxes:
            return None
        predict = partial(predict_landmarks, self, image)  # type: ignore[arg-type]
        points: NDArray[np.float32] = refine_landmarks(predict, [roi_from_box(boxes[0])]).points[0]
        return points
