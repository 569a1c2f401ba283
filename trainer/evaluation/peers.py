"""Peers: public third-party networks for 98 points, of the PFLD family, as .onnx files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.backends.openvino_without_telemetry import core
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import ModelError
from canthus.runtime.schemes import WFLW
from canthus.runtime.wflw import POINTS

MARGIN = 1.2
"""Side of the region over the longer side of the box of the points, as in the training of these networks."""


class Peer(Closeable):
    """Runs a PFLD network as a backend. Its scores are all 1, as the network has none.

    The network takes one image (1, 3, S, S) at a time, BGR in [-1, 1], and returns points relative to the crop's side.
    """

    name = "OpenVINO on the CPU"
    scheme = WFLW

    def __init__(self, path: Path) -> None:
        try:
            model = core().read_model(path)
            compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise ModelError(f"{path}: OpenVINO cannot load it") from error
        shapes = [list(port.partial_shape.get_min_shape()) for port in (*compiled.inputs, *compiled.outputs)]
        if len(shapes) != 2 or shapes[0][:2] != [1, 3] or shapes[1] != [1, 2 * POINTS]:
            raise ModelError(
                f"{path}: not a network of the PFLD family (expected one input (1, 3, S, S) and one output "
                f"(1, {2 * POINTS}))"
            )
        self.size = int(shapes[0][2])
        self._request = compiled.create_infer_request()

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Crops (N, S, S, 3) RGB -> points (N, 98, 2) in crop pixels and scores (N, 98), all 1."""
        points = np.zeros((len(crops), POINTS, 2), np.float32)
        images = (crops[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255) - 0.5) / 0.5
        for index, image in enumerate(images.astype(np.float32)):
            output = self._request.infer([image[None]])[0]
            # 0 is the center of the first pixel, not its outer edge: these networks have a lower error with this rule.
            points[index] = output.reshape(POINTS, 2) * self.size
        return points, np.ones((len(crops), POINTS), np.float32)

    def close(self) -> None:
        """Do nothing: Python frees the network with the object."""
