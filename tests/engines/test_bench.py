"""`canthus engine bench` on a fake GPU: what is measured, how failures are reported, and the report itself."""

import json
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from canthus.engines import gpu_bench, gpu_measure
from canthus.engines.build import CompiledEngine
from canthus.engines.commands.engine import command
from canthus.engines.gpu_bench import BenchOptions, bench
from canthus.engines.gpu_measure import compare_decodes, graph_ms, measure
from canthus.engines.gpu_report import goals, markdown
from canthus.engines.verify import ParityRow, Prediction, exact_prediction, sample_crops, sample_scene
from canthus.runtime.cuda.launch import Gpu, find_gpu
from canthus.runtime.errors import BackendError, EngineError, InputError
from canthus.runtime.models import Manifest, included_models, read_model, sha256
from support.host_cuda import HostCuda, MarkedMaps, compile_shim

MAX_BATCH = 2


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def network(shim):
    return MarkedMaps(HostCuda(shim), 64, 98, 4, max_batch=MAX_BATCH)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"a network")
    Manifest(sha256(path), "student", 64, 98, 4).write(path)
    return path


def test_each_step_is_timed_as_launch_and_in_a_graph(network):
    results = measure(network.runner, repeats=2, frames=10)
    assert list(results["faces"]) == ["1", "2"]
    times = results["faces"]["2"]
    assert next(iter(times["steps"])) == "upload part"
    assert list(times["steps"])[1:] == [
        "upload frame",
        "upload regions",
        "crop",
        "network",
        "decode",
        "download points",
    ]
    for step in times["steps"].values():
        assert 0 < step["launches"]["device_median"] <= step["launches"]["device_p99"]
        assert step["graph_ms"] > 0
    for total in times["total"].values():
        assert 0 < total["clock_median"] <= total["clock_p99"]
    assert results["graph equals launches"] is True
    assert results["long run"]["device growth"] == [0, 0]
    assert results["long run"]["same results"]
    json.dumps(results)


def test_network_that_cannot_be_captured_is_timed_as_launch(shim):
    network = MarkedMaps(HostCuda(shim), 64, 98, 4, max_batch=1)
    network.graphs = False
    results = measure(network.runner, repeats=2, frames=4)
    assert results["faces"]["1"]["total"]["graph"] is None
    assert results["faces"]["1"]["steps"]["network"]["graph_ms"] is None
    assert results["graph equals launches"] is None
    assert graph_ms(network.cuda, lambda: False, 1) is None
    times = compare_decodes(network.runner, lambda faces: False, 2)
    assert set(times["1"]) == {"network + decode.cu", "network with decode"}
    assert goals(results)["memory does not grow"] in (True, False)


def test_step_that_fails_during_capture_has_no_graph_time(network):
    def start():
        if network.cuda.recorded is not None:
            raise BackendError("did not run: the stream is being captured")

    assert graph_ms(network.cuda, start, 1) is None


def test_memory_leak_and_changing_results_miss_the_goals(shim):
    network = MarkedMaps(HostCuda(shim), 64, 98, 4, max_batch=1)
    network.graphs = False
    compute = network.maps_of

    def leak(crops):
        network.cuda.allocate(1000)
        return compute(crops) + np.random.default_rng(len(network.cuda.held)).random(1, np.float32)

    network.maps_of = leak
    results = measure(network.runner, repeats=1, frames=10)
    assert sum(results["long run"]["device growth"]) >= 10_000
    assert not goals(results)["memory does not grow"]
    assert not goals(results)["the results are the same in every frame"]


class Decoding:
    """Fakes the parts of TensorRT that `DecodingEngine` uses: runtime, engine and context in one."""

    def __init__(self, cuda):
        self.cuda, self.shapes, self.runs = cuda, [], True

    def deserialize_cuda_engine(self, data):
        return self if data == b"good" else None

    def get_tensor_shape(self, name):
        return {"crops": (-1, 64, 64, 3), "points": (-1, 98, 2), "scores": (-1, 98)}[name]

    def create_runtime_config(self):
        return SimpleNamespace()

    def create_execution_context(self, settings):
        assert settings.dynamic_shapes_kernel_specialization_strategy == "eager"
        return self

    def set_input_shape(self, name, shape):
        self.shapes.append(shape)

    def set_tensor_address(self, name, address):
        assert address in self.cuda.held

    def execute_async_v3(self, stream):
        return self.runs


def test_engine_with_decode_reads_the_crops_of_the_runner(network, monkeypatch):
    engine = Decoding(network.cuda)
    trt = SimpleNamespace(
        ILogger=type("ILogger", (), {"__init__": lambda self: None}),
        Runtime=lambda log: engine,
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )
    monkeypatch.setattr(gpu_measure, "load_flavour", lambda flavour: trt)
    start = gpu_measure.DecodingEngine(network.runner, "tensorrt-rtx", b"good")
    assert set(compare_decodes(network.runner, start, 2)) == {"1", "2"}
    assert engine.shapes == [(1, 64, 64, 3), (2, 64, 64, 3)]
    engine.runs = False
    with pytest.raises(BackendError, match="did not run"):
        start(1)
    with pytest.raises(EngineError, match="refuses"):
        gpu_measure.DecodingEngine(network.runner, "tensorrt-rtx", b"bad")


def fake_everything(monkeypatch, network, backend):
    reference = ParityRow("PyTorch, float32", 0.0, 0.0, 0.0, None, None)
    ran = ParityRow("ONNX", 0.001, 0.002, 0.003, 9.0, 0.001)
    not_run = ParityRow("engine", float("nan"), float("nan"), float("nan"), None, None, "no GPU")
    for name, value in {
        "find_gpu": lambda: Gpu("NVIDIA X", 90),
        "installed_flavours": lambda: ("tensorrt-rtx",),
        "rtx_targets": lambda: ("sm86",),
        "flavour_version": lambda flavour: "1.7",
        "build": lambda options, output, quiet: output,
        "engine_graph": lambda *_, **__: b"",
        "engine_recipe": lambda *_: None,
        "compile_engine": lambda *_, **__: CompiledEngine(b"", (), {}),
        "verify": lambda *_: [reference, ran, not_run],
        "DecodingEngine": lambda *_: lambda faces: None,
        "TensorRTBackend": backend,
    }.items():
        monkeypatch.setattr(gpu_bench, name, value)


def test_report_is_complete_and_is_written_after_each_measurement(network, model, tmp_path, monkeypatch):
    opened = []

    def backend(engine, skip_check):
        opened.append(json.loads((tmp_path / "r" / "report.json").read_text()))
        return nullcontext(SimpleNamespace(runner=network.runner))

    fake_everything(monkeypatch, network, backend)
    path = bench(BenchOptions(str(model), frames=10, repeats=2), tmp_path / "r")
    assert len(opened[0]["backends"]) == 3  # PyTorch is written before the engine, which does not support this GPU
    results = json.loads((tmp_path / "r" / "report.json").read_text(), parse_constant=pytest.fail)
    text = path.read_text()
    assert markdown(results) == text
    assert text.startswith("# Engines on NVIDIA X (sm90)")
    for part in (
        "## tensorrt-rtx 1.7, fp16",
        "| 2 | ",
        "network with decode",
        "not run: no GPU",
        "memory does not grow",
    ):
        assert part in text
    assert "same bits as single launches: yes" in text
    assert "tolerance of float32: yes" in text
    assert "compute-sanitizer --error-exitcode 1 pytest tests/runtime/test_cuda_kernels.py" in text
    if find_gpu() is None:
        assert text.count("Not measured. The error was: this PyTorch finds no NVIDIA GPU") == 2  # eager, compiled
        assert text.count(f"Not measured. The error was: PyTorch {torch.__version__} finds no NVIDIA GPU") == 1


class TorchBackend:
    """The backend of PyTorch on a fake GPU, with points that are those of the model."""

    name = "PyTorch 2 on fake GPU"

    def __init__(self, network):
        self.runner = network.runner

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def predict(self, crops):
        return np.full((len(crops), 98, 2), 7.0, np.float32), np.ones((len(crops), 98), np.float32)


def test_pytorch_between_the_kernels_is_measured_and_compared_with_the_model(network, model, tmp_path, monkeypatch):
    fake_everything(monkeypatch, network, lambda engine, skip_check: nullcontext(network))
    monkeypatch.setattr("canthus.runtime.backends.torch_gpu.TorchGpuBackend", lambda _: TorchBackend(network))
    monkeypatch.setattr(
        gpu_bench,
        "exact_prediction",
        lambda model, manifest, images: Prediction("exact", np.full((len(images), 98, 2), 7.01, np.float32)),
    )
    bench(BenchOptions(str(model), frames=4, repeats=1), tmp_path / "r")
    backends = json.loads((tmp_path / "r" / "report.json").read_text())["backends"]
    measured = backends["PyTorch, fp16, in one CUDA graph with our kernels"]
    assert set(measured["faces"]["2"]["total"]) == {"launches", "graph"}
    assert measured["parity"]["rows"][1]["name"] == TorchBackend.name
    assert measured["parity"]["rows"][1]["mean"] == pytest.approx(0.0141, abs=1e-3)
    assert goals(measured)["points and NME are within the tolerance of float32"]


def test_pytorch_is_the_reference_where_openvino_is_not_installed(monkeypatch):
    opened = read_model(included_models()["fast"])
    crops = sample_crops(opened.manifest.size).images[:1]
    expected = exact_prediction(opened.path, opened.manifest, crops)
    monkeypatch.setitem(sys.modules, "canthus.runtime.backends.cpu", None)
    found = exact_prediction(opened.path, opened.manifest, crops)
    assert expected.name == "ONNX, float32, on the CPU"
    assert found.name == "ONNX, float32, with PyTorch on the CPU"
    np.testing.assert_allclose(found.points, expected.points, atol=0.02)  # crop pixels


def test_measurements_that_would_not_end_in_time_are_left_out(network, model, tmp_path, monkeypatch):
    clock = iter(range(0, 100_000, 150))
    monkeypatch.setattr(gpu_bench, "time", SimpleNamespace(monotonic=lambda: next(clock), perf_counter=lambda: 0.0))
    fake_everything(monkeypatch, network, lambda engine, skip_check: nullcontext(network))
    text = bench(BenchOptions(str(model), frames=4, repeats=1), tmp_path / "r").read_text()
    assert text.count("left out, because the time was short: --minutes 6") == 2  # those at 300 and 450 s
    assert "PyTorch, fp16, in one CUDA graph with our kernels" in text


def test_engine_that_supports_the_gpu_is_measured_first(network, model, tmp_path, monkeypatch):
    fake_everything(
        monkeypatch, network, lambda engine, skip_check: nullcontext(SimpleNamespace(runner=network.runner))
    )
    monkeypatch.setattr(gpu_bench, "rtx_targets", lambda: ("sm90",))
    bench(BenchOptions(str(model), frames=4, repeats=1), tmp_path / "r")
    results = json.loads((tmp_path / "r" / "report.json").read_text())
    assert next(iter(results["backends"])) == "tensorrt-rtx 1.7, fp16"


def test_report_contains_the_error_of_tensorrt(network, model, tmp_path, monkeypatch):
    def backend(engine, skip_check):
        assert skip_check
        raise EngineError("bench.engine: tensorrt-rtx refuses it: unsupported SM 9.0")

    fake_everything(monkeypatch, network, backend)
    text = bench(BenchOptions(str(model)), tmp_path / "r").read_text()
    assert "The error was: bench.engine: tensorrt-rtx refuses it: unsupported SM 9.0" in text


def test_unexpected_error_of_one_backend_leaves_the_others(network, model, tmp_path, monkeypatch):
    def backend(engine, skip_check):
        raise AttributeError("'NoneType' object has no attribute 'serialize'")

    fake_everything(monkeypatch, network, backend)
    text = bench(BenchOptions(str(model)), tmp_path / "r").read_text()
    assert "The error was: AttributeError: 'NoneType' object has no attribute 'serialize'" in text
    assert "## PyTorch, fp16, compiled" in text


def test_tensorrt_that_cannot_be_loaded_leaves_the_others(model, tmp_path, monkeypatch):
    def absent(name):
        raise OSError("libtensorrt_rtx.so.1: cannot open shared object file")

    monkeypatch.setattr(gpu_bench, "find_gpu", lambda: Gpu("NVIDIA X", 120))
    monkeypatch.setattr(gpu_bench, "installed_flavours", lambda: ("tensorrt-rtx",))
    monkeypatch.setattr(gpu_bench, "measure_torch", lambda *_: {"error": "not now"})
    monkeypatch.setattr(gpu_bench, "measure_torch_backend", lambda *_: {"error": "not now"})
    monkeypatch.setattr("canthus.runtime.backends.trt.importlib.import_module", absent)
    text = bench(BenchOptions(str(model)), tmp_path / "r").read_text()
    assert "The error was: tensorrt-rtx is not installed or does not load (libtensorrt_rtx.so.1: cannot open" in text
    assert text.count("not now") == 3


def test_failed_decode_and_parity_leave_the_times(network, model, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise EngineError("no decode, no faces")

    fake_everything(
        monkeypatch, network, lambda engine, skip_check: nullcontext(SimpleNamespace(runner=network.runner))
    )
    for name in ("compile_engine", "verify"):
        monkeypatch.setattr(gpu_bench, name, refuse)
    text = bench(BenchOptions(str(model), frames=4, repeats=1), tmp_path / "r").read_text()
    assert "| 2 | " in text
    assert "Network with decode: not measured. The error was: no decode, no faces" in text
    assert "Parity: not compared. The error was: no decode, no faces" in text


def test_existing_report_is_kept_without_overwrite(network, model, tmp_path, monkeypatch):
    fake_everything(
        monkeypatch, network, lambda engine, skip_check: nullcontext(SimpleNamespace(runner=network.runner))
    )
    bench(BenchOptions(str(model), frames=4, repeats=1), tmp_path / "r")
    with pytest.raises(InputError, match="--overwrite"):
        bench(BenchOptions(str(model), frames=4, repeats=1), tmp_path / "r")
    bench(BenchOptions(str(model), frames=4, repeats=1), tmp_path / "r", overwrite=True)
    with pytest.raises(InputError, match="cannot be created"):
        bench(BenchOptions(str(model)), model)


def test_device_memory_counts_as_growth_only_if_both_halves_grow():
    backend = {
        "faces": {},
        "long run": {"device growth": [2**20, -4096], "host growth": 0, "same results": True},
        "graph equals launches": None,
    }
    assert goals(backend)["memory does not grow"]
    backend["long run"]["device growth"] = [2**20, 2**20]
    assert not goals(backend)["memory does not grow"]


def test_bench_without_a_gpu_fails_and_writes_nothing(tmp_path):
    if find_gpu() is not None:
        pytest.skip("a GPU is here")
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        command(["bench", "-o", str(tmp_path / "r")])
    assert not list(tmp_path.iterdir())


def test_sample_scene_is_a_frame_with_regions_on_the_face():
    image, rois = sample_scene()
    assert image.shape == (720, 1280, 3)
    assert len(rois) == 16
    assert all(400 < roi.x < 900 and 100 < roi.y < 550 for roi in rois)


@pytest.mark.parametrize("arguments", [["verify", "KEY", "--limit", "0"], ["bench", "-o", "report", "--frames", "-3"]])
def test_numbers_below_one_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(arguments)
    assert "not a positive integer" in capsys.readouterr().err
