"""The report about a GPU, on a pretended one: what is measured is measured, and what cannot be says why."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from canthus.engines import gpu_bench, gpu_measure
from canthus.engines.commands import command
from canthus.engines.gpu_bench import BenchOptions, bench
from canthus.engines.gpu_measure import beside, measure, record_ms
from canthus.engines.gpu_report import goals, markdown
from canthus.engines.verify import Row, sample_scene
from canthus.runtime.cuda.launch import Gpu, find_gpu
from canthus.runtime.errors import BackendError, EngineError, InputError
from canthus.runtime.models import Manifest, sha256
from support.host_cuda import HostCuda, MarkedMaps, compile_shim

MOST = 2


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def network(shim):
    return MarkedMaps(HostCuda(shim), 64, 98, 4, most=MOST)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"a network")
    Manifest(sha256(path), "student", 64, 98, 4).write(path)
    return path


def test_every_step_is_timed_plain_and_recorded(network):
    found = measure(network.runner, times=2, frames=10)
    assert list(found["faces"]) == ["1", "2"]
    told = found["faces"]["2"]
    assert list(told["steps"]) == ["frame up", "regions up", "crop", "network", "decode", "points down"]
    for step in told["steps"].values():
        assert 0 < step["plain"]["device_median"] <= step["plain"]["device_p99"]
        assert step["recorded_ms"] > 0
    for way in told["whole"].values():
        assert 0 < way["clock_median"] <= way["clock_p99"]
    assert found["recording equals plain launches"] is True
    assert found["long run"]["device growth"] == [0, 0]
    assert found["long run"]["same results"]
    json.dumps(found)


def test_what_cannot_be_recorded_is_timed_as_it_is(shim):
    network = MarkedMaps(HostCuda(shim), 64, 98, 4, most=1, graphs=False)
    found = measure(network.runner, times=2, frames=4)
    assert found["faces"]["1"]["whole"]["recorded"] is None
    assert found["faces"]["1"]["steps"]["network"]["recorded_ms"] is None
    assert found["recording equals plain launches"] is None
    assert record_ms(network.cuda, lambda: False, 1) is None
    times = beside(network.runner, lambda faces: False, 2)
    assert set(times["1"]) == {"network and decode.cu", "network that decodes"}
    assert goals(found)["memory does not grow"] in (True, False)


def test_what_fails_in_a_recording_is_timed_as_it_is(network):
    def start():
        if network.cuda.recorded is not None:
            raise BackendError("did not run: a stream that is captured")

    assert record_ms(network.cuda, start, 1) is None


def test_a_network_that_leaks_or_wavers_does_not_pass_the_long_run(shim):
    network = MarkedMaps(HostCuda(shim), 64, 98, 4, most=1, graphs=False)
    compute = network.maps_of

    def leaky(crops):
        network.cuda.memory(1000)
        return compute(crops) + np.random.default_rng(len(network.cuda.held)).random(1, np.float32)

    network.maps_of = leaky
    found = measure(network.runner, times=1, frames=10)
    assert sum(found["long run"]["device growth"]) >= 10_000
    assert not goals(found)["memory does not grow"]
    assert not goals(found)["the same results to the end"]


class Decoding:
    """An engine with points and scores, its runtime, and its contexts: as much as `DecodingEngine` uses."""

    def __init__(self, cuda):
        self.cuda, self.told, self.runs = cuda, [], True

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
        self.told.append(shape)

    def set_tensor_address(self, name, address):
        assert address in self.cuda.held

    def execute_async_v3(self, stream):
        return self.runs


def test_an_engine_that_decodes_runs_over_the_runners_crops(network, monkeypatch):
    engine = Decoding(network.cuda)
    trt = SimpleNamespace(
        ILogger=type("ILogger", (), {"__init__": lambda self: None}),
        Runtime=lambda log: engine,
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )
    monkeypatch.setattr(gpu_measure, "load_flavour", lambda flavour: trt)
    start = gpu_measure.DecodingEngine(network.runner, "tensorrt-rtx", b"good")
    assert set(beside(network.runner, start, 2)) == {"1", "2"}
    assert engine.told == [(1, 64, 64, 3), (2, 64, 64, 3)]
    engine.runs = False
    with pytest.raises(BackendError, match="did not run"):
        start(1)
    with pytest.raises(EngineError, match="refuses"):
        gpu_measure.DecodingEngine(network.runner, "tensorrt-rtx", b"bad")


def pretend(monkeypatch, network, backend):
    row = Row("PyTorch, float32", 0.0, 0.0, 0.0, None, None)
    ran = Row("ONNX", 0.001, 0.002, 0.003, 9.0, 0.001)
    missing = Row("engine", float("nan"), float("nan"), float("nan"), None, None, "no GPU")
    for name, value in {
        "find_gpu": lambda: Gpu("NVIDIA X", 90),
        "installed_flavours": lambda: ("tensorrt-rtx",),
        "rtx_targets": lambda: ("sm86",),
        "flavour_version": lambda flavour: "1.7",
        "build": lambda options, output, quiet: output,
        "engine_graph": lambda *_, **__: b"",
        "engine_recipe": lambda *_: None,
        "compile_network": lambda *_, **__: (b"", (), {}),
        "verify": lambda *_: [row, ran, missing],
        "DecodingEngine": lambda *_: lambda faces: None,
        "TensorRTBackend": backend,
    }.items():
        monkeypatch.setattr(gpu_bench, name, value)


def test_the_report_tells_everything_and_grows_part_by_part(network, model, tmp_path, monkeypatch):
    opened = []

    def backend(engine, anyway):
        opened.append(json.loads((tmp_path / "r" / "report.json").read_text()))
        return nullcontext(SimpleNamespace(runner=network.runner))

    pretend(monkeypatch, network, backend)
    path = bench(BenchOptions(str(model), frames=10, times=2), tmp_path / "r")
    assert len(opened[0]["ways"]) == 3  # PyTorch's, written before an engine ran that does not serve this GPU
    facts = json.loads((tmp_path / "r" / "report.json").read_text(), parse_constant=pytest.fail)
    text = path.read_text()
    assert markdown(facts) == text
    assert text.startswith("# Engines on NVIDIA X (sm90)")
    for part in (
        "## tensorrt-rtx 1.7, fp16",
        "| 2 | ",
        "network that decodes",
        "not run: no GPU",
        "memory does not grow",
    ):
        assert part in text
    assert "bit for bit: yes" in text
    assert "tolerances of float32: yes" in text
    assert "compute-sanitizer --error-exitcode 1 pytest" in text
    if find_gpu() is None:
        assert text.count("Not measured. It answered: this PyTorch finds no NVIDIA GPU") == 3


def test_an_engine_that_serves_the_gpu_is_measured_first(network, model, tmp_path, monkeypatch):
    pretend(monkeypatch, network, lambda engine, anyway: nullcontext(SimpleNamespace(runner=network.runner)))
    monkeypatch.setattr(gpu_bench, "rtx_targets", lambda: ("sm90",))
    bench(BenchOptions(str(model), frames=4, times=1), tmp_path / "r")
    facts = json.loads((tmp_path / "r" / "report.json").read_text())
    assert next(iter(facts["ways"])) == "tensorrt-rtx 1.7, fp16"


def test_what_tensorrt_answers_stands_in_the_report(network, model, tmp_path, monkeypatch):
    def backend(engine, anyway):
        assert anyway
        raise EngineError("bench.engine: tensorrt-rtx refuses it: unsupported SM 9.0")

    pretend(monkeypatch, network, backend)
    text = bench(BenchOptions(str(model)), tmp_path / "r").read_text()
    assert "It answered: bench.engine: tensorrt-rtx refuses it: unsupported SM 9.0" in text


def test_a_way_that_fails_in_a_new_manner_leaves_the_others(network, model, tmp_path, monkeypatch):
    def backend(engine, anyway):
        raise AttributeError("'NoneType' object has no attribute 'serialize'")

    pretend(monkeypatch, network, backend)
    text = bench(BenchOptions(str(model)), tmp_path / "r").read_text()
    assert "It answered: AttributeError: 'NoneType' object has no attribute 'serialize'" in text
    assert "## PyTorch, fp16, compiled" in text


def test_a_tensorrt_that_does_not_load_leaves_the_others(model, tmp_path, monkeypatch):
    def absent(name):
        raise OSError("libtensorrt_rtx.so.1: cannot open shared object file")

    monkeypatch.setattr(gpu_bench, "find_gpu", lambda: Gpu("NVIDIA X", 120))
    monkeypatch.setattr(gpu_bench, "installed_flavours", lambda: ("tensorrt-rtx",))
    monkeypatch.setattr(gpu_bench, "by_torch", lambda *_: {"why": "as it were"})
    monkeypatch.setattr("canthus.runtime.backends.trt.importlib.import_module", absent)
    text = bench(BenchOptions(str(model)), tmp_path / "r").read_text()
    assert "It answered: tensorrt-rtx is not installed or does not load (libtensorrt_rtx.so.1: cannot open" in text
    assert text.count("as it were") == 3


def test_what_fails_beside_the_times_leaves_the_times(network, model, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise EngineError("no decode, no faces")

    pretend(monkeypatch, network, lambda engine, anyway: nullcontext(SimpleNamespace(runner=network.runner)))
    for name in ("compile_network", "verify"):
        monkeypatch.setattr(gpu_bench, name, refuse)
    text = bench(BenchOptions(str(model), frames=4, times=1), tmp_path / "r").read_text()
    assert "| 2 | " in text
    assert "Decode in the graph: not measured: no decode, no faces" in text
    assert "Parity: not compared: no decode, no faces" in text


def test_a_report_is_not_replaced_unasked(network, model, tmp_path, monkeypatch):
    pretend(monkeypatch, network, lambda engine, anyway: nullcontext(SimpleNamespace(runner=network.runner)))
    bench(BenchOptions(str(model), frames=4, times=1), tmp_path / "r")
    with pytest.raises(InputError, match="--overwrite"):
        bench(BenchOptions(str(model), frames=4, times=1), tmp_path / "r")
    bench(BenchOptions(str(model), frames=4, times=1), tmp_path / "r", overwrite=True)
    with pytest.raises(InputError, match="cannot be made a folder"):
        bench(BenchOptions(str(model)), model)


def test_what_others_take_of_the_device_is_no_growth_of_ours():
    way = {
        "faces": {},
        "long run": {"device growth": [2**20, -4096], "host growth": 0, "same results": True},
        "recording equals plain launches": None,
    }
    assert goals(way)["memory does not grow"]
    way["long run"]["device growth"] = [2**20, 2**20]
    assert not goals(way)["memory does not grow"]


def test_without_a_gpu_one_line_says_so(tmp_path):
    if find_gpu() is not None:
        pytest.skip("a GPU is here")
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        command(["bench", "-o", str(tmp_path / "r")])
    assert not list(tmp_path.iterdir())


def test_the_scene_is_the_samples_frame_with_regions_inside_it():
    image, rois = sample_scene()
    assert image.shape == (720, 1280, 3)
    assert len(rois) == 16
    assert all(400 < roi.x < 900 and 100 < roi.y < 550 for roi in rois)


@pytest.mark.parametrize("words", [["verify", "KEY", "--limit", "0"], ["bench", "-o", "report", "--frames", "-3"]])
def test_numbers_that_measure_nothing_are_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(words)
    assert "not a positive integer" in capsys.readouterr().err
