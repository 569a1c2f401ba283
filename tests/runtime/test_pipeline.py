"""The way from the CPU to an engine: found, or built once in the background, and the CPU until then and after failures.

The GPU is pretended; the build is a real process that does what it is told.
"""

import ctypes
import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from canthus.runtime import bench, engine_files, pipeline
from canthus.runtime.backends import first_use
from canthus.runtime.calibration import Calibration
from canthus.runtime.cuda.launch import Gpu
from canthus.runtime.engine_files import EngineManifest, EngineRecipe
from canthus.runtime.errors import BackendError, EngineError, ModelError
from canthus.runtime.models import Manifest, sha256
from canthus.runtime.pipeline import Landmarker, Settings
from canthus.runtime.types import Frame
from support.fakes import FakeBackend, PretendedDetector

GPU = Gpu("NVIDIA X", 86)
VERSION = "1.7"
CURVE = (1.5, -1.25)


class OnGpu(FakeBackend):
    name = "TensorRT on NVIDIA X"

    def __init__(self) -> None:
        super().__init__()
        self.closed, self.fails = False, False

    def predict(self, crops):
        if self.fails:
            raise BackendError("CUDA: CUDA_ERROR_LAUNCH_FAILED")
        return super().predict(crops)

    def close(self) -> None:
        self.closed = True


class Machine:
    """What the tests see of a machine with a GPU: what was said, opened and built."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.said: list[str] = []
        self.gpu = OnGpu()
        self.model = folder / "m.onnx"
        self.model.write_bytes(b"a network")
        self.calibrations: list[Calibration] = []  # that engines were opened with
        Manifest(sha256(self.model), "student", 64, 98, 4, CURVE).write(self.model)
        monkeypatch.setattr(engine_files, "engine_folder", lambda: folder)
        monkeypatch.setattr(pipeline, "open_backend", lambda model: FakeBackend())
        monkeypatch.setattr(pipeline, "tell", self.said.append)
        monkeypatch.setattr(pipeline, "Detector", lambda model: PretendedDetector())
        monkeypatch.setattr(first_use, "gpu_expected", lambda: True)
        monkeypatch.setattr(first_use, "find_gpu", lambda: GPU)
        monkeypatch.setattr(first_use, "flavour_for_here", lambda: "tensorrt-rtx")
        monkeypatch.setattr(first_use, "flavour_version", lambda flavour: VERSION)
        monkeypatch.setattr(first_use, "TensorRTBackend", self.open)
        self.builds("raise SystemExit('no build is expected')")

    def open(self, engine: Path, calibration: Calibration) -> FakeBackend:
        if engine.read_bytes() != b"an engine":
            raise EngineError(f"{engine.name}: damaged")
        self.calibrations.append(calibration)
        return self.gpu

    def keep(self, data: bytes = b"an engine", version: str = VERSION, holds: bool = True, points: int = 98) -> None:
        recipe = EngineRecipe(sha256(self.model), "tensorrt-rtx", version, "", ("sm86",), "fp16", (1, 4, 16))
        engine = self.folder / f"{recipe.key}.engine"
        engine.write_bytes(data)
        check = {"engine": {"holds": holds}}
        EngineManifest(hashlib.sha256(data).hexdigest(), recipe, "m", 64, points, 4, "", (), check=check).write(engine)

    def builds(self, *lines: str) -> None:
        """Let the build be this script; what a true one would leave, `keep` left before under another name."""
        log = f"open({str(self.folder / 'builds')!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')"
        script = "\n".join(["import sys, time, pathlib", log, *lines])
        self.monkeypatch.setattr(first_use, "BUILD", (sys.executable, "-c", script))

    @property
    def built(self) -> list[str]:
        log = self.folder / "builds"
        return log.read_text().splitlines() if log.exists() else []

    def landmarker(self, **changes) -> Landmarker:
        return Landmarker(Settings(model=str(self.model), **changes))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def frames():
    image = np.zeros((100, 160, 3), np.uint8)
    image[20:80, 20:70] = 200
    index = 0
    while True:
        yield Frame(image.copy(), index, index / 30)
        index += 1


def run_until(landmarker, done, seconds=20.0):
    """Feed frames until `done`; -> the names of what ran them, without repeats."""
    names = []
    until = time.monotonic() + seconds
    for frame in frames():
        assert len(landmarker.update(frame)) == 1
        if landmarker.backend.name not in names[-1:]:
            names.append(landmarker.backend.name)
        if done():
            return names
        assert time.monotonic() < until, names
        time.sleep(0.01)


def test_an_engine_in_the_cache_runs_from_the_first_frame_on(machine):
    machine.keep()
    with machine.landmarker() as landmarker:
        assert run_until(landmarker, lambda: True) == [OnGpu.name]
    assert machine.said == []
    assert machine.calibrations == [CURVE]  # the model's; the engine's manifest tells none
    assert machine.gpu.closed


def test_a_missing_engine_is_built_once_while_the_cpu_runs(machine):
    machine.keep()
    (engine,) = machine.folder.glob("*.engine")
    hidden = engine.rename(machine.folder / "later")
    machine.builds(
        f"while not pathlib.Path({str(machine.folder / 'go')!r}).exists(): time.sleep(0.01)",
        f"pathlib.Path({str(hidden)!r}).rename({str(engine)!r})",
    )
    with machine.landmarker() as landmarker:
        count = iter(range(1000))
        assert run_until(landmarker, lambda: next(count) > 5) == ["fake"]
        (machine.folder / "go").touch()
        assert run_until(landmarker, lambda: landmarker.backend.name == OnGpu.name) == ["fake", OnGpu.name]
        landmarker.landmark(next(frames()).image)
        assert run_until(landmarker, lambda: True) == [OnGpu.name]
    assert machine.built == [f"--model {machine.model} --flavour tensorrt-rtx --target current"]
    assert [text.split(" ")[0] for text in machine.said] == ["building", "the"]
    assert "the CPU runs meanwhile" in machine.said[0]
    assert machine.calibrations == [CURVE]


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("print('much'); sys.exit('canthus engine: no memory is left')", "no memory is left"),
        ("sys.exit(3)", "the build ended without a word"),
        ("pass", "the engine that was built is not in the cache"),
    ],
)
def test_a_build_that_fails_leaves_the_cpu_and_is_told_once(machine, script, why):
    machine.builds(script)
    with machine.landmarker() as landmarker:
        assert run_until(landmarker, lambda: len(machine.said) > 1) == ["fake"]
        count = iter(range(1000))
        run_until(landmarker, lambda: next(count) > 5)
    assert len(machine.said) == 2
    assert machine.said[1].startswith(f"no engine: {why}")
    assert len(machine.built) == 1


@pytest.mark.parametrize(("kept", "anew"), [({"data": b"broken"}, True), ({"version": "1.6"}, False)], ids=str)
def test_a_kept_engine_that_does_not_serve_is_built_anew(machine, kept, anew):
    machine.keep(**kept)
    machine.builds("sys.exit('canthus engine: it is as before')")
    with machine.landmarker() as landmarker:
        run_until(landmarker, lambda: "as before" in machine.said[-1])
    assert len(machine.built) == 1
    assert machine.built[0].endswith(" --overwrite") == anew  # what looks sound is replaced too


def test_an_engine_that_is_refused_again_after_its_build_is_not_built_at_every_start(machine):
    machine.keep(data=b"broken")
    machine.builds("pass")
    for _ in range(2):
        with machine.landmarker() as landmarker:
            run_until(landmarker, lambda: machine.said[-1].startswith("no engine: "))
    assert len(machine.built) == 1
    assert "did not pass its check" in machine.said[-1]
    assert "`canthus engine build" in machine.said[-1]


def test_an_engine_that_moves_points_is_not_built_at_every_start(machine):
    machine.keep(holds=False)
    with machine.landmarker() as landmarker:
        assert run_until(landmarker, lambda: True) == ["fake"]
    assert machine.built == []
    assert "its points are not the model's" in machine.said[-1]
    assert not first_use.engine_ready(machine.model)


def test_a_gpu_that_no_tensorrt_here_serves_leaves_the_cpu_and_is_told_once(machine, monkeypatch):
    def refuse():
        raise BackendError("TensorRT-RTX does not serve NVIDIA X (sm90)")

    monkeypatch.setattr(first_use, "flavour_for_here", refuse)
    with machine.landmarker() as landmarker:
        count = iter(range(1000))
        assert run_until(landmarker, lambda: next(count) > 5) == ["fake"]
    assert machine.said == ["no engine: TensorRT-RTX does not serve NVIDIA X (sm90); the CPU is used"]
    assert first_use.outlook(machine.model) == "OpenVINO on the CPU: TensorRT-RTX does not serve NVIDIA X (sm90)"


def test_a_gpu_that_fails_in_the_middle_leaves_the_cpu_and_loses_no_frame(machine):
    machine.keep()
    with machine.landmarker() as landmarker:
        run_until(landmarker, lambda: True)
        machine.gpu.fails = True
        count = iter(range(1000))
        assert run_until(landmarker, lambda: next(count) > 5) == ["fake"]
        assert machine.gpu.closed
    assert machine.said == ["CUDA: CUDA_ERROR_LAUNCH_FAILED; the CPU is used from here on"]


def test_the_build_finds_the_builder_by_its_entry_point_and_nothing_in_the_users_folder(tmp_path):
    (tmp_path / "platformdirs.py").write_text("raise SystemExit('a file of the folder ran')")
    asked = subprocess.run([*first_use.BUILD, "--help"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert asked.stdout.startswith("usage: canthus engine build")


def test_closing_ends_a_build_within_two_seconds(machine):
    machine.builds("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)", "time.sleep(60)")
    landmarker = machine.landmarker()
    run_until(landmarker, lambda: bool(machine.built))
    build = landmarker._first_use._build
    began = time.monotonic()
    landmarker.close()
    assert time.monotonic() - began < 2
    assert build.poll() is not None
    assert "canthus engine build" in machine.said[-1]
    landmarker.close()  # a second call does nothing


def test_the_cpu_is_kept_to_when_asked(machine):
    machine.keep()
    with machine.landmarker(gpu=False) as landmarker:
        assert run_until(landmarker, lambda: True) == ["fake"]


def test_without_a_driver_nothing_of_tensorrt_or_cuda_is_imported(machine, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(first_use, "installed_flavours", lambda: ("tensorrt", "tensorrt-rtx"))

    def no_driver(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    before = {name for name in sys.modules if name.startswith(("tensorrt", "cuda"))}
    assert not first_use.gpu_expected()
    assert pipeline._first_use(None) is None
    assert first_use.outlook(Path("m.onnx")) == "OpenVINO on the CPU"
    assert {name for name in sys.modules if name.startswith(("tensorrt", "cuda"))} == before


def test_the_outlook_tells_whether_the_engine_is_built(machine):
    assert first_use.outlook(machine.model) == "tensorrt-rtx on NVIDIA X, once its engine is built, on first use"
    assert not first_use.engine_ready(machine.model)
    machine.keep()
    assert first_use.outlook(machine.model) == "tensorrt-rtx on NVIDIA X, its engine is built"
    assert first_use.engine_ready(machine.model)


def test_an_engine_of_other_points_is_refused(machine):
    machine.keep(points=29)
    (engine,) = machine.folder.glob("*.engine")
    with pytest.raises(ModelError, match="gives 29 points"):
        Landmarker(Settings(model=str(engine)))


def test_the_bench_measures_no_build(machine, monkeypatch, capsys):
    asked = []

    def measure(clip, chosen):
        asked.append(chosen.cpu)
        return "fake", bench.Speed("1x1", 1, 1.0, 1.0, 1.0, 1.0, 1.0, None, None)

    monkeypatch.setattr(bench, "measure_speed", measure)
    words = ["--clip", "clip.mp4", "--model", str(machine.model)]
    assert bench.command(words) == 0
    assert "`canthus engine build` first" in capsys.readouterr().err
    machine.keep()
    assert bench.command(words) == 0
    assert asked == [True, False]
    assert capsys.readouterr().err == ""
