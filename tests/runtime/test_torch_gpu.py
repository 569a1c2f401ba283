"""PyTorch between the CUDA kernels: an exported model runs as in OpenVINO, and the backend runs on a fake GPU."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from canthus.engines.verify import sample_crops
from canthus.runtime.backends import torch_gpu
from canthus.runtime.backends.cpu import run_exactly
from canthus.runtime.backends.onnx_network import OnnxNetwork
from canthus.runtime.backends.torch_gpu import TorchGpuBackend
from canthus.runtime.calibration import apply_calibration
from canthus.runtime.decode import decode
from canthus.runtime.errors import BackendError, ModelError
from canthus.runtime.models import find_model, read_model
from canthus.runtime.types import Roi
from support.host_cuda import HostCuda, compile_shim, view_of

SHIFT = 0.05  # crop pixels: fp16 against float32


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize("half", [False, True])
def test_exported_model_has_the_same_points_in_pytorch_as_in_openvino(half):
    model = read_model(find_model("fast"))
    crops = sample_crops(model.manifest.size).images[:2]
    with torch.inference_mode():
        maps = OnnxNetwork(model.path, half)(torch.from_numpy(crops))
    assert maps.dtype == (torch.float16 if half else torch.float32)
    parts = maps.float().numpy().reshape(2, 3, model.manifest.points, *maps.shape[2:])
    points, _ = decode(parts[:, 0], parts[:, 1:], model.manifest.stride)
    np.testing.assert_allclose(points, run_exactly(model.path, crops)[0], atol=SHIFT if half else 2e-3)


def small_model(path, *nodes, **constants):
    """Write a model from crops (N, 8, 8, 3) to maps, with these nodes."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["crops"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["float"], ["images"], perm=[0, 3, 1, 2]),
            *nodes,
        ],
        "small",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return path


def test_operations_of_flip_test_time_augmentation_equal_openvino(tmp_path):
    node = helper.make_node
    model = small_model(
        tmp_path / "m.onnx",
        node("Transpose", ["images"], ["columns first"], perm=[3, 0, 1, 2]),
        node("GatherND", ["columns first", "mirror"], ["mirrored columns"]),
        node("Transpose", ["mirrored columns"], ["mirrored"], perm=[1, 2, 3, 0]),
        node("Concat", ["images", "mirrored"], ["both"], axis=0),
        node("Conv", ["both", "weight"], ["features"], pads=[0, 0, 1, 1], strides=[2, 2]),
        node("Shape", ["features"], ["count"], start=0, end=2),
        node("Concat", ["count", "side"], ["sizes"], axis=0),
        node("Resize", ["features", "", "", "sizes"], ["large"], mode="linear",
             coordinate_transformation_mode="half_pixel"),
        node("Reshape", ["large", "split"], ["pairs"]),
        node("Slice", ["pairs", "zero", "one", "zero"], ["first"]),
        node("Squeeze", ["first", "zero"], ["plain"]),
        node("Mul", ["plain", "signs"], ["signed"]),
        node("Resize", ["signed", "", "scales"], ["maps"], mode="nearest", nearest_mode="floor",
             coordinate_transformation_mode="asymmetric"),
        mirror=np.arange(7, -1, -1)[:, None],
        weight=np.random.default_rng(0).normal(0, 0.1, (4, 3, 2, 2)).astype(np.float32),
        side=np.array([8, 8]),
        split=np.array([2, -1, 4, 8, 8]),
        zero=np.array([0]),
        one=np.array([1]),
        signs=np.array([1, -1, 1, -1], np.float32).reshape(4, 1, 1),
        scales=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    crops = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    (expected,) = run_exactly(model, crops)
    with torch.inference_mode():
        found = OnnxNetwork(model)(torch.from_numpy(crops)).numpy()
    assert found.shape == (3, 4, 16, 16)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_unknown_operation_and_missing_maps_are_refused(tmp_path):
    model = small_model(tmp_path / "m.onnx", helper.make_node("Erf", ["images"], ["maps"]))
    with pytest.raises(ModelError, match=r"m\.onnx: its operation Erf cannot be run with PyTorch"):
        OnnxNetwork(model)
    model = small_model(tmp_path / "n.onnx", helper.make_node("Relu", ["images"], ["points"]))
    with pytest.raises(ModelError, match="no value `maps`"):
        OnnxNetwork(model)


class FakeTorchCuda(HostCuda):
    torch_stream = None


def test_backend_runs_the_model_between_the_kernels(shim, monkeypatch):
    """On a fake GPU; PyTorch runs on the CPU, on the memory of the runner."""
    cuda = FakeTorchCuda(shim)
    run = TorchGpuBackend._run
    kinds = {"|u1": np.uint8, "<f2": np.float16}
    for owner, name, value in [
        (torch_gpu, "TorchCuda", lambda: cuda),
        (torch_gpu, "MAX_BATCH", 2),
        (torch_gpu, "as_tensor", lambda at, shape, kind: torch.from_numpy(view_of(at, shape, kinds[kind]))),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "stream", lambda stream: nullcontext()),
        (OnnxNetwork, "cuda", lambda network: network),
        (TorchGpuBackend, "_run", lambda backend, faces: cuda._do(run, backend, faces) is None),
    ]:
        monkeypatch.setattr(owner, name, value)
    model = read_model(find_model("fast"))
    manifest = model.manifest
    crops = sample_crops(manifest.size).images[:3]
    points, scores = run_exactly(model.path, crops)[:2]
    with TorchGpuBackend(model) as backend:
        assert "fake GPU" in backend.name
        prepared = cuda.replays
        assert prepared == 2  # of the batch sizes 1 and 2
        found, found_scores = backend.predict(crops)
        np.testing.assert_allclose(found, points, atol=SHIFT)
        np.testing.assert_allclose(found_scores, apply_calibration(scores, manifest.calibration), atol=0.01)
        whole = Roi((manifest.size - 1) / 2, (manifest.size - 1) / 2, manifest.size)
        np.testing.assert_allclose(backend.predict_regions(crops[1], [whole])[0][0], points[1], atol=SHIFT)
        assert cuda.replays == prepared + 3

        def fail(*_):
            raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

        monkeypatch.setattr(backend.runner, "predict", fail)
        with pytest.raises(BackendError, match=r"PyTorch failed \(CUDA error: an illegal memory access"):
            backend.predict(crops)
    assert cuda.closed == 1


def test_pytorch_without_a_gpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(BackendError, match="finds no NVIDIA GPU"):
        TorchGpuBackend(SimpleNamespace())
