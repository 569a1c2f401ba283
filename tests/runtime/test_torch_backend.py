"""The PyTorch backend keeps the backend contract: points in crop pixels and calibrated scores."""

import numpy as np
import pytest
import torch

from canthus.runtime.backends.torch import TorchBackend
from canthus.runtime.calibration import apply_calibration
from canthus.runtime.errors import BackendError

CURVE = (1.5, -1.25)


class FixedNetwork(torch.nn.Module):
    """Returns the same points and peaks for every crop."""

    def forward(self, crops):
        points = torch.arange(98 * 2, dtype=torch.float32).view(1, 98, 2).expand(len(crops), -1, -1)
        return points, torch.linspace(0, 1, 98).expand(len(crops), -1)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_scores_are_calibrated_for_any_number_of_crops(count):
    with TorchBackend(FixedNetwork(), 64, CURVE) as backend:
        points, scores = backend.predict(np.zeros((count, 64, 64, 3), np.uint8))
        assert backend.size == 64
        assert backend.name.endswith("on the CPU")
    assert points.shape == (count, 98, 2)
    expected = apply_calibration(np.linspace(0, 1, 98, dtype=np.float32), CURVE)
    np.testing.assert_allclose(scores, np.broadcast_to(expected, (count, 98)), atol=1e-6)


def test_network_that_fails_is_one_clear_error():
    class Failing(torch.nn.Module):
        def forward(self, crops):
            raise RuntimeError("not enough memory\nstack of C++")

    with TorchBackend(Failing(), 64) as backend, pytest.raises(BackendError, match=r"failed \(not enough memory\)$"):
        backend.predict(np.zeros((1, 64, 64, 3), np.uint8))


def test_missing_gpu_is_reported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="finds no NVIDIA GPU"):
        TorchBackend(FixedNetwork(), 64, device="cuda")
