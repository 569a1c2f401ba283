"""The automatic backend: the CPU until the GPU's engine is ready, then the GPU, and the CPU again if the GPU fails.

The GPU is simulated. The build is a real process that runs a script of the test.
"""

import ctypes
import hashlib
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from canthus.runtime import engine_files, pipeline
from canthus.runtime.backends import RegionBackend, automatic, engine_build, gpu_target, opening
from canthus.runtime.backends.regions import predict_regions
from canthus.runtime.bench import clip
from canthus.runtime.bench.command import command as bench
from canthus.runtime.calibration import Calibration
from canthus.runtime.cuda.launch import Gpu
from canthus.runtime.engine_files import EngineManifest, EngineRecipe
from canthus.runtime.errors import BackendError, EngineError
from canthus.runtime.models import Manifest, read_model, sha256
from canthus.runtime.pipeline import Landmarker, Settings
from canthus.runtime.schemes import guess_scheme
from canthus.runtime.types import Frame, Roi
from support.fakes import FakeBackend, FakeDetector

GPU = Gpu("NVIDIA X", 86)
VERSION = "1.7"
CURVE = (1.5, -1.25)
CPU_NAME = FakeBackend.name


class GpuBackend(FakeBackend):
    """A fake GPU backend that fails on demand. Its crops are larger than the CPU's."""

    name = "TensorRT on NVIDIA X"
    size = 96

    def __init__(self) -> None:
        super().__init__()
        self.closed, self.fails = False, False

    def predict(self, crops):
        if self.fails:
            raise BackendError("CUDA: CUDA_ERROR_LAUNCH_FAILED")
        assert crops.shape[1:] == (96, 96, 3)
        return super().predict(crops)

    def close(self) -> None:
        self.closed = True


class Machine(logging.Handler):
    """A simulated machine with a GPU. It records what is logged, opened and built."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.folder, self.monkeypatch = folder, monkeypatch
        self.messages: list[str] = []
        self.gpu = GpuBackend()
        self.cpu = FakeBackend()
        self.model = folder / "m.onnx"
        self.model.write_bytes(b"a network")
        self.calibrations: list[Calibration] = []  # of the engines that were opened
        Manifest(sha256(self.model), "student", 64, 98, 4, CURVE).write(self.model)
        monkeypatch.setattr(engine_files, "engine_folder", lambda: folder)
        monkeypatch.setattr(pipeline, "Detector", lambda model: FakeDetector())
        monkeypatch.setattr(automatic, "open_backend", lambda model, points: self.cpu)
        monkeypatch.setattr(gpu_target, "gpu_expected", lambda: True)
        monkeypatch.setattr(gpu_target, "find_gpu", lambda: GPU)
        monkeypatch.setattr(gpu_target, "select_flavour", lambda: "tensorrt-rtx")
        monkeypatch.setattr(gpu_target, "flavour_version", lambda flavour: VERSION)
        monkeypatch.setattr(automatic, "TensorRTBackend", self.open_engine)
        self.set_build("raise SystemExit('no build is expected')")

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    def open_engine(self, engine: Path, calibration: Calibration) -> FakeBackend:
        if engine.read_bytes() != b"an engine":
            raise EngineError(f"{engine.name}: damaged")
        self.calibrations.append(calibration)
        return self.gpu

    def cache_engine(
        self, data: bytes = b"an engine", version: str = VERSION, passed: bool = True, points: int = 98
    ) -> Path:
        recipe = EngineRecipe(sha256(self.model), "tensorrt-rtx", version, "", ("sm86",), "fp16", (1, 4, 16))
        engine = self.folder / f"{recipe.key}.engine"
        engine.write_bytes(data)
        check = {"engine": {"within_tolerance": passed}}
        digest, scheme = hashlib.sha256(data).hexdigest(), guess_scheme(points)
        EngineManifest(digest, recipe, "m", 64, points, 4, "", (), check=check, scheme=scheme).write(engine)
        return engine

    def set_build(self, *lines: str) -> None:
        """Let the build run this script."""
        log = f"open({str(self.folder / 'builds')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')"
        script = "\n".join(["import sys, time, pathlib", log, *lines])
        self.monkeypatch.setattr(engine_build, "BUILD_COMMAND", (sys.executable, "-c", script))

    @property
    def builds(self) -> list[str]:
        log = self.folder / "builds"
        return log.read_text().splitlines() if log.exists() else []

    def landmarker(self, **changes) -> Landmarker:
        return Landmarker(Settings(model=str(self.model), **changes))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = Machine(tmp_path, monkeypatch)
    logger = logging.getLogger("canthus")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addHandler(machine)
    yield machine
    logger.removeHandler(machine)


def frames():
    image = np.zeros((100, 160, 3), np.uint8)
    image[20:80, 20:70] = 200
    index = 0
    while True:
        yield Frame(image.copy(), index, index / 30)
        index += 1


def run_until(landmarker, done, seconds=20.0):
    """Update with frames until `done`, and return the names of the backends that ran, without repeats."""
    names = []
    until = time.monotonic() + seconds
    for frame in frames():
        assert len(landmarker.update(frame)) == 1
        if landmarker.backend_name not in names[-1:]:
            names.append(landmarker.backend_name)
        if done():
            return names
        assert time.monotonic() < until, names
        time.sleep(0.01)


def run_some(landmarker):
    count = iter(range(1000))
    return run_until(landmarker, lambda: next(count) > 5)


def test_cached_engine_runs_from_the_first_frame(machine):
    machine.cache_engine()
    with machine.landmarker() as landmarker:
        assert run_until(landmarker, lambda: True) == [GpuBackend.name]
    assert machine.messages == []
    assert machine.calibrations == [CURVE]  # the model's, because the engine's manifest may be older
    assert machine.gpu.closed


def test_missing_engine_is_built_once_while_the_cpu_runs(machine):
    engine = machine.cache_engine()
    hidden = engine.rename(machine.folder / "later")
    machine.set_build(
        f"while not pathlib.Path({str(machine.folder / 'go')!r}).exists(): time.sleep(0.01)",
        f"pathlib.Path({str(hidden)!r}).rename({str(engine)!r})",
    )
    with machine.landmarker() as landmarker:
        assert run_some(landmarker) == [CPU_NAME]
        (machine.folder / "go").touch()
        names = run_until(landmarker, lambda: landmarker.backend_name == GpuBackend.name)
        assert names == [CPU_NAME, GpuBackend.name]
        landmarker.landmark(next(frames()).image)
        assert run_until(landmarker, lambda: True) == [GpuBackend.name]
    assert machine.builds == [f"--model {machine.model} --flavour tensorrt-rtx --target current"]
    assert machine.messages == [
        "building the engine of m for NVIDIA X, once; the CPU is used until it is ready",
        "the engine is built; TensorRT on NVIDIA X is used from now on",
    ]
    assert machine.calibrations == [CURVE]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("print('much'); sys.exit('canthus engine: no memory is left')", "failed (no memory is left)"),
        ("sys.exit(3)", "failed (no output)"),
        ("pass", "the engine that was built is not in the cache"),
    ],
)
def test_failed_build_is_logged_once_and_the_cpu_stays(machine, script, reason):
    machine.set_build(script)
    with machine.landmarker() as landmarker:
        assert run_until(landmarker, lambda: len(machine.messages) > 1) == [CPU_NAME]
        run_some(landmarker)
    assert len(machine.messages) == 2
    assert machine.messages[1].startswith("no engine for the GPU: ")
    assert reason in machine.messages[1]
    assert len(machine.builds) == 1


@pytest.mark.parametrize(
    ("cached", "overwrite"), [({"data": b"broken"}, True), ({"version": "1.6"}, False)], ids=["damaged", "old version"]
)
def test_cached_engine_that_cannot_be_used_is_built_again(machine, cached, overwrite):
    machine.cache_engine(**cached)
    machine.set_build("sys.exit('canthus engine: it is as before')")
    with machine.landmarker() as landmarker:
        run_until(landmarker, lambda: "as before" in machine.messages[-1])
    assert len(machine.builds) == 1
    assert machine.builds[0].endswith(" --overwrite") == overwrite


def test_engine_that_is_refused_after_its_build_is_not_built_at_every_start(machine):
    machine.cache_engine(data=b"broken")
    machine.set_build("pass")
    for _ in range(2):
        with machine.landmarker() as landmarker:
            run_until(landmarker, lambda: machine.messages[-1].startswith("no engine"))
    assert len(machine.builds) == 1
    assert "failed its check" in machine.messages[-1]
    assert "`canthus engine build" in machine.messages[-1]


def test_engine_whose_points_differ_is_not_built_at_every_start(machine):
    machine.cache_engine(passed=False)
    with machine.landmarker() as landmarker:
        assert run_until(landmarker, lambda: True) == [CPU_NAME]
    assert machine.builds == []
    assert "its points differ from the model's" in machine.messages[-1]
    assert not gpu_target.engine_ready(machine.model)


def test_gpu_that_tensorrt_does_not_support_is_logged_once_and_the_cpu_is_used(machine, monkeypatch):
    def refuse():
        raise BackendError("TensorRT-RTX does not support NVIDIA X (sm90)")

    monkeypatch.setattr(gpu_target, "select_flavour", refuse)
    with machine.landmarker() as landmarker:
        assert run_some(landmarker) == [CPU_NAME]
    reason = "TensorRT-RTX does not support NVIDIA X (sm90)"
    assert machine.messages == [f"no engine for the GPU: {reason}; the CPU is used"]
    assert gpu_target.describe_backend(machine.model) == f"OpenVINO on the CPU: {reason}"


class TorchBackend(GpuBackend):
    name = "PyTorch on NVIDIA X"


@pytest.fixture
def unsupported(machine, monkeypatch):
    """The machine, with a GPU that its TensorRT does not support and a PyTorch that does."""

    def refuse():
        raise BackendError("TensorRT-RTX does not support NVIDIA X (sm90)")

    monkeypatch.setattr(gpu_target, "select_flavour", refuse)
    monkeypatch.setattr(gpu_target, "torch_has_cuda", lambda: True)
    machine.gpu = TorchBackend()
    return machine


def test_pytorch_runs_on_a_gpu_that_tensorrt_does_not_support_and_says_so(unsupported, monkeypatch):
    go = threading.Event()

    def open_torch(model):
        assert go.wait(20)
        return unsupported.gpu

    monkeypatch.setattr(automatic, "_open_torch", open_torch)
    with unsupported.landmarker() as landmarker:
        assert run_some(landmarker) == [CPU_NAME]  # no frame waits for it
        go.set()
        assert run_until(landmarker, lambda: landmarker.backend_name == TorchBackend.name)[-1] == TorchBackend.name
    reason = "TensorRT-RTX does not support NVIDIA X (sm90)"
    assert unsupported.messages == [
        f"{reason}; PyTorch runs the network on the GPU, and the CPU is used until it is ready",
        "PyTorch is ready; PyTorch on NVIDIA X is used from now on",
    ]
    assert unsupported.builds == []
    assert unsupported.gpu.closed
    assert gpu_target.describe_backend(unsupported.model) == f"PyTorch on the GPU ({reason})"


def test_pytorch_that_cannot_use_the_gpu_is_logged_once_and_the_cpu_stays(unsupported, monkeypatch):
    def fail(model):
        raise BackendError("PyTorch 2.13 finds no NVIDIA GPU")

    monkeypatch.setattr(automatic, "_open_torch", fail)
    with unsupported.landmarker() as landmarker:
        assert run_until(landmarker, lambda: len(unsupported.messages) > 1) == [CPU_NAME]
    assert unsupported.messages[1] == "no engine for the GPU: PyTorch 2.13 finds no NVIDIA GPU; the CPU is used"


def test_backend_that_opens_after_close_is_closed(unsupported, monkeypatch):
    go = threading.Event()
    monkeypatch.setattr(opening, "CLOSE_TIMEOUT", 0.05)
    monkeypatch.setattr(automatic, "_open_torch", lambda model: unsupported.gpu if go.wait(20) else None)
    landmarker = unsupported.landmarker()
    thread = landmarker.backend._opening._thread
    landmarker.close()
    assert not unsupported.gpu.closed
    go.set()
    thread.join(20)
    assert unsupported.gpu.closed


def test_pytorch_without_cuda_is_not_tried(monkeypatch):
    monkeypatch.setattr(gpu_target.importlib.util, "find_spec", lambda name: object())
    for version, expected in (("2.13.0+cpu", False), ("2.13.0", True), ("2.13.0+cu130", True)):
        monkeypatch.setattr(gpu_target.importlib.metadata, "version", lambda name, version=version: version)
        assert gpu_target.torch_has_cuda() == expected
    monkeypatch.setattr(gpu_target.importlib.util, "find_spec", lambda name: None if name == "cuda" else object())
    assert not gpu_target.torch_has_cuda()


def test_frames_do_not_wait_while_a_built_engine_is_opened(machine, monkeypatch):
    engine = machine.cache_engine()
    hidden = engine.rename(machine.folder / "later")
    machine.set_build(f"pathlib.Path({str(hidden)!r}).rename({str(engine)!r})")
    go, real = threading.Event(), machine.open_engine
    monkeypatch.setattr(automatic, "TensorRTBackend", lambda *words, **named: go.wait(20) and real(*words, **named))
    with machine.landmarker() as landmarker:
        run_until(landmarker, lambda: landmarker.backend._opening is not None)
        assert run_some(landmarker) == [CPU_NAME]
        go.set()
        run_until(landmarker, lambda: landmarker.backend_name == GpuBackend.name)


def test_gpu_backend_that_cannot_be_freed_after_a_failure_is_left(machine, monkeypatch):
    machine.cache_engine()

    def fail():
        raise BackendError("CUDA: CUDA_ERROR_ILLEGAL_ADDRESS")

    with machine.landmarker() as landmarker:
        monkeypatch.setattr(machine.gpu, "close", fail)
        machine.gpu.fails = True
        assert run_some(landmarker) == [CPU_NAME]


def test_build_that_cannot_be_started_is_logged_and_the_cpu_is_used(machine, monkeypatch):
    monkeypatch.setattr(engine_build, "BUILD_COMMAND", (str(machine.folder / "missing"),))
    with machine.landmarker() as landmarker:
        assert run_some(landmarker) == [CPU_NAME]
    (message,) = machine.messages
    assert message.startswith("no engine for the GPU: ")
    assert "No such file" in message


def test_after_a_gpu_failure_the_cpu_runs_and_no_frame_is_lost(machine):
    machine.cache_engine()
    with machine.landmarker() as landmarker:
        run_until(landmarker, lambda: True)
        machine.gpu.fails = True
        assert run_some(landmarker) == [CPU_NAME]
        assert machine.gpu.closed
    assert machine.messages == ["CUDA: CUDA_ERROR_LAUNCH_FAILED; the CPU is used from now on"]


def test_gpu_failure_within_a_frame_repeats_only_the_inference(machine):
    machine.cache_engine()
    with machine.landmarker() as landmarker:
        source = frames()
        landmarker.update(next(source))
        tracker = landmarker.tracker
        before = (tracker._frame, tracker.detections)
        machine.gpu.fails = True
        assert len(landmarker.update(next(source))) == 1
        assert (tracker._frame, tracker.detections) == (before[0] + 1, before[1])


def test_gpu_failure_in_a_single_image_repeats_only_the_inference(machine):
    machine.cache_engine()
    with machine.landmarker() as landmarker:
        machine.gpu.fails = True
        assert len(landmarker.landmark(next(frames()).image)) == 1
        assert landmarker.backend_name == CPU_NAME


def test_one_error_is_raised_after_gpu_and_cpu_have_failed(machine, monkeypatch):
    machine.cache_engine()

    def fail(crops):
        raise BackendError("OpenVINO on the CPU: the network failed (out of memory)")

    monkeypatch.setattr(machine.cpu, "predict", fail)
    with machine.landmarker() as landmarker:
        machine.gpu.fails = True
        with pytest.raises(BackendError, match=r"out of memory.*NVIDIA X had failed before \(CUDA: CUDA_ERROR_LAUNCH"):
            landmarker.update(next(frames()))


def test_runtime_error_of_a_gpu_library_moves_to_the_cpu(machine, monkeypatch):
    machine.cache_engine()

    def fail(crops):
        raise RuntimeError("invalid argument")

    with machine.landmarker() as landmarker:
        monkeypatch.setattr(machine.gpu, "predict", fail)
        assert len(landmarker.update(next(frames()))) == 1
        assert landmarker.backend_name == CPU_NAME


def test_error_on_the_cpu_is_raised(machine, monkeypatch):
    def fail(crops):
        raise BackendError("out of memory")

    monkeypatch.setattr(machine.cpu, "predict", fail)
    with machine.landmarker(gpu=False) as landmarker, pytest.raises(BackendError, match="out of memory"):
        landmarker.update(next(frames()))


def test_both_backends_give_the_same_points_though_their_crops_differ_in_size(machine):
    machine.cache_engine()
    image, rois = next(frames()).image, [Roi(45, 50, 90), Roi(45, 50, 120, 0.1)]
    with automatic.AutomaticBackend(machine.cpu, read_model(machine.model)) as backend:
        assert isinstance(backend, RegionBackend)
        assert backend.size == 96
        on_gpu = backend.predict_regions(image, rois)
        crops = np.zeros((2, 96, 96, 3), np.uint8)
        crops[:, 24:72, 30:60] = 200
        crops_on_gpu = backend.predict(crops)
        machine.gpu.fails = True
        crops_on_cpu = backend.predict(crops)  # resized for the CPU's 64 pixels
        assert backend.size == 64
        assert backend.predict(crops[:0])[0].shape == (0, 98, 2)
        on_cpu = backend.predict_regions(image, rois)
    np.testing.assert_allclose(on_cpu[0], on_gpu[0], atol=2)  # image pixels; the fake backend has no sub-pixel accuracy
    np.testing.assert_allclose(crops_on_cpu[0], crops_on_gpu[0], atol=1.5)
    np.testing.assert_array_equal(on_cpu[0], predict_regions(machine.cpu, image, rois)[0])


def test_model_file_is_hashed_once_per_start(machine, monkeypatch):
    hashed = []
    real = automatic.read_model
    monkeypatch.setattr(automatic, "read_model", lambda path: hashed.append(path) or real(path))
    machine.cache_engine()
    with machine.landmarker() as landmarker:
        run_some(landmarker)
    assert hashed == [machine.model]


def test_build_command_is_found_by_its_entry_point_and_ignores_the_users_folder(tmp_path):
    (tmp_path / "platformdirs.py").write_text("raise SystemExit('a file of the folder ran')")
    command = [*engine_build.BUILD_COMMAND, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.startswith("usage: canthus engine build")


def test_close_stops_a_build_within_two_seconds(machine):
    machine.set_build("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)", "time.sleep(60)")
    landmarker = machine.landmarker()
    run_until(landmarker, lambda: bool(machine.builds))
    build = landmarker.backend._build
    began = time.monotonic()
    landmarker.close()
    assert time.monotonic() - began < 2
    assert not build.running
    assert "canthus engine build" in machine.messages[-1]
    landmarker.close()  # a second call does nothing


def test_gpu_false_keeps_the_cpu(machine):
    machine.cache_engine()
    with machine.landmarker(gpu=False) as landmarker:
        assert run_until(landmarker, lambda: True) == [CPU_NAME]


def test_without_a_driver_neither_tensorrt_nor_cuda_is_imported(machine, monkeypatch):
    monkeypatch.setattr(gpu_target, "gpu_expected", GPU_EXPECTED)
    monkeypatch.setattr(gpu_target, "installed_flavours", lambda: ("tensorrt", "tensorrt-rtx"))

    def no_driver(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    before = {name for name in sys.modules if name.startswith(("tensorrt", "cuda"))}
    assert not gpu_target.gpu_expected()
    assert automatic.open_automatic(machine.model) is machine.cpu
    assert gpu_target.describe_backend(machine.model) == "OpenVINO on the CPU"
    assert {name for name in sys.modules if name.startswith(("tensorrt", "cuda"))} == before


GPU_EXPECTED = gpu_target.gpu_expected


def test_description_says_whether_the_engine_is_built(machine):
    name = "tensorrt-rtx on NVIDIA X"
    assert gpu_target.describe_backend(machine.model) == f"{name}, after its engine is built, on first use"
    assert not gpu_target.engine_ready(machine.model)
    machine.cache_engine()
    assert gpu_target.describe_backend(machine.model) == f"{name}, its engine is built"
    assert gpu_target.engine_ready(machine.model)


def test_a_model_of_the_gpu_with_other_points_than_that_of_the_cpu_is_not_used(machine):
    machine.cpu.scheme = guess_scheme(29)
    with machine.landmarker() as landmarker:
        assert landmarker.backend.scheme.name == "COFW"
    assert "its points are those of WFLW (expected COFW, as the model of the CPU)" in machine.messages[-1]


def test_bench_measures_the_cpu_while_no_engine_is_built(machine, monkeypatch, capsys):
    on_cpu = []

    def measure(_, settings):
        on_cpu.append(not settings.gpu)
        return "fake", clip.Speed("1x1", 1, 1, 1.0, 1.0, 1.0, 1.0, None, 1.0, None, None)

    monkeypatch.setattr(clip, "measure_speed", measure)
    words = ["--clip", "clip.mp4", "--model", str(machine.model)]
    assert bench(words) == 0
    assert "`canthus engine build` first" in capsys.readouterr().err
    machine.cache_engine()
    assert bench(words) == 0
    assert on_cpu == [True, False]
    assert capsys.readouterr().err == ""
