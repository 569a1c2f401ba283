"""Other people's 98-point networks, to be measured beside ours: the PFLD family as ONNX files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends.openvino_without_telemetry import core
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import ModelError
from canthus.runtime.wflw import POINTS

MARGIN = 1.2
"""Side of the region over the longer side of the box of the points, as these networks were trained."""


class Peer(Closeable):
    """Colours in BGR and -1 to 1, one face at a time in; 98 points in sides of the crop out. No scores."""

    name = "OpenVINO on the CPU"

    def __init__(self, path: Path) -> None:
        try:
            model = core().read_model(path)
            compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as refused:
            raise ModelError(f"{path}: OpenVINO cannot load it") from refused
        shapes = [list(port.partial_shape.get_min_shape()) for port in (*compiled.inputs, *compiled.outputs)]
        if len(shapes) != 2 or shapes[0][:2] != [1, 3] or shapes[1] != [1, 2 * POINTS]:
            raise ModelError(f"{path}: expected one image (1, 3, S, S) in and (1, {2 * POINTS}) out")
        self.size = int(shapes[0][2])
        self._request = compiled.create_infer_request()

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        points = np.zeros((len(crops), POINTS, 2), np.float32)
        images = (crops[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255) - 0.5) / 0.5
        for place, image in enumerate(images.astype(np.float32)):
            answer = self._request.infer([image[None]])[0]
            # From the first pixel's centre, not its outer edge: so these networks do best.
            points[place] = answer.reshape(POINTS, 2) * self.size
        return points, np.ones((len(crops), POINTS), np.float32)

    def close(self) -> None:
        """Nothing is held that Python does not free."""
