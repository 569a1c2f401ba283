"""The TensorRT backend with a fake TensorRT on a fake GPU: which calls it makes, and when."""

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from canthus.runtime.backends import RegionBackend, open_backend, trt
from canthus.runtime.calibration import apply_calibration
from canthus.runtime.cuda.runner import BUCKETS
from canthus.runtime.decode import decode
from canthus.runtime.engine_files import EngineManifest, EngineRecipe, read_engine_manifest, write_kernels
from canthus.runtime.errors import BackendError, EngineError
from canthus.runtime.schemes import guess_scheme
from canthus.runtime.types import Roi
from support.host_cuda import HostCuda, MarkedMaps, compile_shim, view_of

SIZE, POINTS, STRIDE, MOST = 64, 98, 4, 16
ENGINE_DATA = b"an engine"


class Context:
    def __init__(self, engine):
        self.engine, self.cuda, self.shapes = engine, engine.cuda, {}
        engine.contexts.append(self)

    def set_device_memory(self, address, size):
        assert address in self.cuda.held
        assert size == self.engine.device_memory_size_v2

    def set_input_shape(self, name, shape):
        assert not self.shapes, "the shape of a context changed, but a graph may use it"
        self.shapes[name] = shape

    def set_tensor_address(self, name, address):
        self.shapes[f"{name}@"] = address

    def execute_async_v3(self, stream):
        assert self.cuda.depth, "the context is not current"
        if self.engine.raises is not None:
            raise self.engine.raises
        self.cuda._do(self.run)
        return self.engine.runs

    def is_stream_capturable(self, stream):
        return True

    def run(self):
        shape = self.shapes["crops"]
        kind = np.float16 if self.engine.kind == "HALF" else np.float32
        maps = view_of(self.shapes["maps@"], (shape[0], 3, POINTS, SIZE // STRIDE, SIZE // STRIDE), kind)
        maps[:] = MarkedMaps.maps_of(NETWORK, view_of(self.shapes["crops@"], shape, np.uint8))


NETWORK = SimpleNamespace(size=SIZE, stride=STRIDE, points=POINTS)


class FakeTensorRT:
    """The part of TensorRT's module that the backend uses."""

    __version__ = "1.7"
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER=1)

    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

    def __init__(self, cuda):
        self.cuda, self.contexts, self.runs, self.seen, self.kernels = cuda, [], True, [], b"kernels"
        self.device_memory_size_v2, self.num_io_tensors = 4096, 2
        self.kind, self.raises = "HALF", None

    def Runtime(self, log):  # noqa: N802
        self.log = log
        return self

    def deserialize_cuda_engine(self, data):
        self.seen.append(data)
        if data == ENGINE_DATA:
            return self
        self.log.log(1, "not  an\nengine")
        return None

    def get_tensor_name(self, index):
        return ("crops", "maps")[index]

    def get_tensor_shape(self, name):
        cells = SIZE // STRIDE
        return (-1, SIZE, SIZE, 3) if name == "crops" else (-1, 3 * POINTS, cells, cells)

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.kind)

    def get_tensor_profile_shape(self, name, profile):
        return [(faces, SIZE, SIZE, 3) for faces in (1, 4, MOST)]

    def create_runtime_config(self):
        cache = SimpleNamespace(serialize=lambda: self.kernels, deserialize=self.seen.append)
        return SimpleNamespace(
            set_execution_context_allocation_strategy=lambda strategy: None,
            create_runtime_cache=lambda: cache,
            set_runtime_cache=lambda kept: True,
        )

    def create_execution_context(self, settings):
        return Context(self)


def write(folder: Path, data: bytes = ENGINE_DATA, **changes) -> Path:
    fields = {"model_sha256": "0", "flavour": "tensorrt-rtx", "version": "1.7", "gpu": "", "targets": ("sm86",)}
    recipe = EngineRecipe(**{**fields, "precision": "fp16", "batch": (1, 4, MOST), **changes})
    path = folder / "m.engine"
    path.write_bytes(data)
    EngineManifest(
        hashlib.sha256(data).hexdigest(), recipe, "fast", SIZE, POINTS, STRIDE, "", (), scheme=guess_scheme(POINTS)
    ).write(path)
    return path


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def tensorrt(shim, monkeypatch):
    cuda = HostCuda(shim)
    module = FakeTensorRT(cuda)
    monkeypatch.setattr(trt, "Cuda", lambda: cuda)
    monkeypatch.setattr(trt, "load_flavour", lambda flavour: module)
    monkeypatch.setattr(trt, "installed_flavours", lambda: ("tensorrt-rtx",))
    return module


def test_engine_runs_any_number_of_faces_and_saves_its_kernels(tensorrt, tmp_path):
    engine = write(tmp_path)
    crops = np.random.default_rng(1).integers(0, 256, (21, SIZE, SIZE, 3), dtype=np.uint8)
    maps = MarkedMaps.maps_of(NETWORK, crops).astype(np.float16).astype(np.float32)
    expected, _ = decode(maps[:, 0], maps[:, 1:], STRIDE)
    with open_backend(engine) as backend:
        assert sorted(context.shapes["crops"][0] for context in tensorrt.contexts) == list(BUCKETS)  # before any frame
        assert backend.size == SIZE
        assert "fake GPU" in backend.name
        for count in (0, 1, 3, 21, 3):
            points, scores = backend.predict(crops[:count])
            np.testing.assert_allclose(points, expected[:count], atol=1e-3)
            assert scores.shape == (count, POINTS)
        assert isinstance(backend, RegionBackend)
        found, _ = backend.predict_regions(crops[0], [Roi(31.5, 31.5, SIZE)])
        np.testing.assert_allclose(found[0], expected[0], atol=1e-3)
    assert len(tensorrt.contexts) == len(BUCKETS)
    assert engine.with_suffix(".runtime").read_bytes().endswith(b"kernels")
    assert tensorrt.cuda.closed == 1
    backend.close()
    assert tensorrt.cuda.closed == 1
    with open_backend(engine):
        assert b"kernels" in tensorrt.seen


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": "1.6"}, r"version: built with tensorrt-rtx 1\.6.*rebuild it: canthus engine build --model fast"),
        ({"targets": ("sm89", "sm120")}, "targets: built for sm89, sm120, but this machine has sm86"),
        ({"gpu": "NVIDIA H100"}, "gpu: built for NVIDIA H100"),
    ],
)
def test_engine_for_another_machine_is_refused_before_it_is_deserialized(tensorrt, tmp_path, changes, why):
    with pytest.raises(EngineError, match=why):
        open_backend(write(tmp_path, **changes))
    assert not tensorrt.seen
    assert tensorrt.cuda.closed == 1


def test_saved_kernels_are_read_only_as_they_were_written_for_this_engine(tensorrt, tmp_path):
    engine = write(tmp_path)
    open_backend(engine).close()
    saved = engine.with_suffix(".runtime")
    whole = saved.read_bytes()
    write_kernels(tmp_path / "n.engine", "0" * 64, b"kernels")  # those of another engine
    for content in (whole[:-1], b"kernels", b"", (tmp_path / "n.runtime").read_bytes()):
        saved.write_bytes(content)
        tensorrt.seen.clear()
        open_backend(engine).close()
        assert b"kernels" not in tensorrt.seen
        assert saved.read_bytes() == whole


def test_engine_with_float32_maps_runs_as_before(tensorrt, tmp_path):
    tensorrt.kind = "FLOAT"
    crops = np.random.default_rng(2).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    maps = MarkedMaps.maps_of(NETWORK, crops)
    with open_backend(write(tmp_path)) as backend:
        np.testing.assert_allclose(backend.predict(crops)[0], decode(maps[:, 0], maps[:, 1:], STRIDE)[0], atol=1e-3)
    tensorrt.kind = "INT8"
    with pytest.raises(EngineError, match="maps are INT8, expected HALF or FLOAT"):
        open_backend(write(tmp_path))


@pytest.mark.parametrize(
    "error", [TypeError("incompatible function arguments"), AttributeError("no set_x"), MemoryError()]
)
def test_errors_of_tensorrts_bindings_are_backend_errors(tensorrt, tmp_path, error):
    with open_backend(write(tmp_path)) as backend:
        backend.runner._graphs.clear()
        tensorrt.raises = error
        with pytest.raises(BackendError, match=rf"tensorrt-rtx 1\.7.*TensorRT failed \({type(error).__name__}"):
            backend.predict(np.zeros((1, SIZE, SIZE, 3), np.uint8))
    with pytest.raises(BackendError, match=r"m\.engine: TensorRT failed"):
        open_backend(write(tmp_path))
    assert tensorrt.cuda.closed == 2


def test_backend_of_a_gpu_that_hangs_is_closed_without_waiting_for_it(tensorrt, tmp_path):
    with open_backend(write(tmp_path)):
        tensorrt.cuda.hung = True
    assert tensorrt.cuda.closed == 0


def test_error_of_tensorrt_is_part_of_the_message(tensorrt, tmp_path):
    with pytest.raises(EngineError, match="refuses it: not an engine; rebuild"):
        open_backend(write(tmp_path, data=b"something else"))
    tensorrt.runs, tensorrt.kernels = False, None
    with pytest.raises(BackendError, match="did not run"):
        open_backend(write(tmp_path))
    assert tensorrt.cuda.closed == 2


def test_scores_are_calibrated_by_the_engines_manifest_or_by_the_models_calibration(tensorrt, tmp_path):
    crops = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    engine = write(tmp_path)
    with open_backend(engine) as backend:
        peaks = backend.predict(crops)[1]
    dataclasses.replace(read_engine_manifest(engine), calibration=(1.5, -1.0)).write(engine)
    for calibration, expected in ((None, (1.5, -1.0)), ((2.0, 0.5), (2.0, 0.5))):
        with trt.TensorRTBackend(engine, calibration=calibration) as backend:
            np.testing.assert_array_equal(backend.predict(crops)[1], apply_calibration(peaks, expected))
            assert isinstance(backend, RegionBackend)
            whole = Roi((SIZE - 1) / 2, (SIZE - 1) / 2, SIZE)
            found = backend.predict_regions(crops[0], [whole])[1]
            np.testing.assert_allclose(found[0], apply_calibration(peaks[0], expected), atol=1e-3)


def test_trust_opens_an_engine_without_a_manifest(tensorrt, tmp_path):
    engine = write(tmp_path)
    engine.with_suffix(".json").unlink()
    with pytest.raises(EngineError, match="--trust"):
        open_backend(engine)
    with trt.TensorRTBackend(engine, trust=True) as backend:
        assert backend.predict(np.zeros((2, SIZE, SIZE, 3), np.uint8))[0].shape == (2, POINTS, 2)
