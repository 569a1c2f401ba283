"""The kernels compile for every GPU. On a GPU they give the same results as NumPy and PyTorch."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from canthus.engines.build import BuildOptions, build
from canthus.engines.export import export, synthetic_crops
from canthus.engines.raw_maps import RawMapsBackend
from canthus.engines.verify import SHIFT_TOLERANCE
from canthus.runtime.backends.trt import TensorRTBackend, capability_name, installed_flavours
from canthus.runtime.cuda import compile as kernels
from canthus.runtime.cuda.compile import SOURCES, cached_kernel, compile_kernel, supported_capabilities
from canthus.runtime.cuda.launch import Cuda, Gpu, find_gpu
from canthus.runtime.cuda.runner import FaceRunner, RunnerSizes
from canthus.runtime.decode import decode, encode
from canthus.runtime.errors import BackendError
from canthus.runtime.geometry import crop_all, transform
from canthus.runtime.types import Roi
from canthus.trainer.networks.checkpoint import Checkpoint, save
from canthus.trainer.networks.network import build as build_network
from canthus.trainer.networks.network import normalize

SIZE, POINTS, STRIDE = 64, 98, 4
CROP_TOLERANCE = 1  # gray level
POINT_TOLERANCE = 1e-3  # crop pixels


@pytest.fixture(scope="module")
def nvrtc() -> None:
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed: pip install -e '.[rtx]'")
    try:
        supported_capabilities()
    except BackendError as missing:
        pytest.fail(str(missing)) if os.environ.get("CANTHUS_REQUIRE_CUDA") == "1" else pytest.skip(str(missing))


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    found = find_gpu()
    if found is None:
        assert os.environ.get("CANTHUS_REQUIRE_CUDA") != "1", "CANTHUS_REQUIRE_CUDA=1, and no NVIDIA GPU is here"
        pytest.skip("no NVIDIA GPU")
    return found


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("name", SOURCES)
def test_kernels_compile_for_every_capability(name):
    capabilities = supported_capabilities()
    assert {75, 86, 89, 90, 120} <= set(capabilities)
    for capability in capabilities if name == "crop.cu" else (75, 86, 90, 120):  # the other one takes longer
        code = compile_kernel(name, capability, "ptx").decode()
        assert f".target sm_{capability}" in code
        assert ".visible .entry" in code
        assert ".local" not in code  # no register is spilled to memory


@pytest.mark.usefixtures("nvrtc")
def test_kernel_is_compiled_once_and_again_if_the_cached_one_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path)
    code = cached_kernel("crop.cu", 89)
    (kept,) = (tmp_path / "kernels").iterdir()
    monkeypatch.setattr(kernels, "compile_kernel", lambda *_: pytest.fail("compiled again"))
    assert cached_kernel("crop.cu", 89) == code
    kept.write_bytes(kept.read_bytes()[:-1])
    monkeypatch.undo()
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path)
    assert cached_kernel("crop.cu", 89) == code


@pytest.mark.usefixtures("nvrtc")
def test_gpu_that_is_newer_than_the_compiler_gets_ptx_for_the_newest_it_knows(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "cache_folder", lambda: tmp_path)
    newest = max(supported_capabilities())
    code = cached_kernel("decode.cu", newest + 10)
    assert f".target sm_{newest}".encode() in code
    assert b".entry decode_half_maps" in code
    assert code.endswith(b"\0")  # the driver reads it as a string
    (kept,) = (tmp_path / "kernels").iterdir()
    assert kept.name.startswith(f"decode-sm{newest}")
    assert kept.suffix == ".ptx"
    with pytest.raises(BackendError, match=r"no code for GPUs of capability 10 \(it supports"):
        cached_kernel("decode.cu", 10)


@pytest.mark.usefixtures("nvrtc")
def test_error_of_a_kernel_that_does_not_compile_has_the_compilers_log(monkeypatch):
    monkeypatch.setattr(kernels, "source", lambda name: "__global__ void k() { nonsense; }")
    with pytest.raises(BackendError, match="nonsense"):
        compile_kernel("crop.cu", 89)


def test_raw_maps_backend_on_the_cpu_returns_the_points_of_pytorch_and_numpy():
    torch.manual_seed(8)
    network = build_network("student", POINTS).eval()
    crops = synthetic_crops(18, SIZE)  # more than one batch
    image, rois = crops.reshape(-1, SIZE, 3), [Roi(30, 200, 80, 0.3), Roi(20, 500, 50)]
    with RawMapsBackend(lambda images: network(normalize(images)), SIZE, POINTS, STRIDE) as backend:
        points, scores = backend.predict(crops)
        assert points.shape == (18, POINTS, 2)
        assert scores.shape == (18, POINTS)
        assert backend.predict(crops[:0])[0].shape == (0, POINTS, 2)
        cut = crop_all(image, rois, SIZE)
        np.testing.assert_allclose(
            backend.predict_regions(image, rois)[0], transform(cut.to_frame, backend.predict(cut.images)[0]), atol=1e-4
        )
    with torch.inference_mode():
        maps = network(normalize(torch.from_numpy(crops[:16]))).numpy().reshape(16, 3, POINTS, 16, 16)
    np.testing.assert_allclose(points[:16], decode(maps[:, 0], maps[:, 1:], STRIDE)[0], atol=POINT_TOLERANCE)


def device_copy(cuda: Cuda, address: int, array: np.ndarray) -> None:
    pinned = cuda.allocate_pinned(array.nbytes)
    pinned[:] = array.reshape(-1).view(np.uint8)
    cuda.upload(address, pinned, array.nbytes)
    cuda.synchronize()


def host_copy(cuda: Cuda, address: int, shape: tuple[int, ...]) -> np.ndarray:
    pinned = cuda.allocate_pinned(int(np.prod(shape)))
    cuda.download(pinned, address, pinned.size)
    cuda.synchronize()
    return pinned.reshape(shape).copy()


@pytest.mark.cuda
@pytest.mark.usefixtures("nvrtc", "gpu")
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_crop_and_decode_on_a_gpu_equal_opencv_and_numpy(kind):
    random = np.random.default_rng(9)
    image = random.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    rois = [Roi(*random.uniform(-20, 500, 2), random.uniform(30, 400), random.uniform(-3, 3)) for _ in range(16)]
    scores, offsets = encode(random.uniform(0, SIZE, (16, POINTS, 2)).astype(np.float32), SIZE // STRIDE, STRIDE, 2.0)
    scores[0, :8, :3] = 1.0  # ties
    scores[1, :8, 5, 5] = np.nan
    scores, offsets = (array.astype(kind).astype(np.float32) for array in (scores, offsets))
    cuda = Cuda()
    try:
        with cuda.active():
            sizes = RunnerSizes(SIZE, POINTS, STRIDE, 16, half=kind == np.float16)
            runner = FaceRunner(cuda, sizes, lambda faces: True)
            runner.prepare()
            device_copy(cuda, runner.maps, np.concatenate([scores[:, None], offsets], 1).astype(kind))
        points, found_scores = runner.predict_regions(image, rois)
        crops = crop_all(image, rois, SIZE)
        with cuda.active():
            cut = host_copy(cuda, runner.crops, crops.images.shape)
        assert np.abs(cut.astype(int) - crops.images.astype(int)).max() <= CROP_TOLERANCE
        expected, expected_scores = decode(scores, offsets, STRIDE)
        np.testing.assert_allclose(points, transform(crops.to_frame, expected), atol=2e-3)
        np.testing.assert_array_equal(found_scores, expected_scores)
        again, again_scores = runner.predict_regions(image, rois)  # from the graph
        np.testing.assert_array_equal(again, points)
        np.testing.assert_array_equal(again_scores, found_scores)
    finally:
        cuda.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(10)
    folder = tmp_path_factory.mktemp("model")
    network = build_network("student", POINTS)
    with torch.no_grad():
        network.head[3].weight.normal_(0, 0.05)
    metadata = {"network": "student", "points": POINTS, "size": SIZE, "stride": STRIDE}
    save(folder / "best", Checkpoint(network.state_dict(), metadata, {}, {}))
    export(folder / "best", folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.cuda
@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engine_on_a_gpu_equals_pytorch_and_allocates_nothing_after_the_first_runs(gpu, model, tmp_path, precision):
    if not installed_flavours():
        pytest.skip("no TensorRT is installed")
    try:
        engine = build(BuildOptions(str(model), None, precision, targets="current"), tmp_path / "m.engine", quiet=True)
    except BackendError as refused:
        pytest.skip(f"{capability_name(gpu)}: {refused}")
    from canthus.trainer.networks.checkpoint import load_network

    network, _ = load_network(model.with_name("best"))
    crops = synthetic_crops(19, SIZE)
    with (
        RawMapsBackend(lambda images: network(normalize(images)), SIZE, POINTS, STRIDE) as reference,
        TensorRTBackend(engine) as backend,
    ):
        expected, _ = reference.predict(crops)
        for _ in range(2):  # the second time from graphs
            points, _ = backend.predict(crops)
            assert np.quantile(np.abs(points - expected), 0.9) <= SHIFT_TOLERANCE * SIZE
        image, rois = crops.reshape(-1, SIZE, 3), [Roi(30, 200, 80, 0.3), Roi(20, 500, 50)]
        first = backend.predict_regions(image, rois)
        assert np.median(np.abs(first[0] - reference.predict_regions(image, rois)[0])) <= 0.1
        with backend._cuda.active():
            free = backend._cuda.available_memory()
        for _ in range(500):
            again = backend.predict_regions(image, rois)
        with backend._cuda.active():
            assert backend._cuda.available_memory() >= free - 2**20
        np.testing.assert_array_equal(again[0], first[0])


@pytest.mark.cuda
@pytest.mark.usefixtures("nvrtc", "gpu")
def test_raw_maps_backend_returns_the_same_on_a_gpu_and_on_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    torch.manual_seed(11)
    network = build_network("student", POINTS).eval()
    with torch.no_grad():
        network.head[3].weight.normal_(0, 0.05)
    crops = synthetic_crops(19, SIZE)
    with RawMapsBackend(lambda images: network(normalize(images)), SIZE, POINTS, STRIDE) as backend:
        expected, _ = backend.predict(crops)
    network = network.cuda()
    with RawMapsBackend(lambda images: network(normalize(images)), SIZE, POINTS, STRIDE, "cuda") as backend:
        points, _ = backend.predict(crops)
    assert np.quantile(np.abs(points - expected), 0.9) <= 0.05
