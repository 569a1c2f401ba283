"""From the CPU to the GPU: the engine that fits this machine, found in the cache or built once in the background.

Where no NVIDIA driver or no TensorRT is installed, nothing of either is imported and nothing is said.
"""

import ctypes
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from canthus.runtime.backends import Backend
from canthus.runtime.backends.trt import (
    TensorRTBackend,
    capability_name,
    flavour_for_here,
    flavour_version,
    installed_flavours,
)
from canthus.runtime.cuda.launch import Gpu, find_gpu
from canthus.runtime.engine_files import Flavour, fitting_engines, give_up
from canthus.runtime.errors import BackendError, CanthusError, EngineError
from canthus.runtime.models import Manifest, read_manifest

# The dispatcher finds the builder by its entry point: runtime knows no engines room. Nice, where there is such a
# thing: the frames come first.
BUILD = (
    sys.executable,
    "-P",  # or Python would run what lies in the user's folder under the name of a library
    "-c",
    "import os, sys; hasattr(os, 'nice') and os.nice(10); from canthus.runtime.cli import main; sys.exit(main())",
    *("engine", "build", "--quiet"),
)
PATIENCE = 1.0
"""Seconds that a build has to end by itself when nobody waits for it any more."""

Tell = Callable[[str], object]


def gpu_expected() -> bool:
    """Whether a TensorRT and NVIDIA's driver are installed, asked without importing TensorRT or CUDA's bindings."""
    if not installed_flavours():
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


class FirstUse:
    """The way of one model to its engine. `tell` hears each thing once. It belongs to one thread.

    `take` is asked before every frame, so it only looks whether the build has ended.
    """

    def __init__(self, model: Path, tell: Tell) -> None:
        self._tell = tell
        self._build: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None  # what the build said
        self._ready: Backend | None = None
        try:
            self._manifest = read_manifest(model)
            flavour, gpu = _what_serves()
            found = _find(self._manifest, flavour, gpu)
            anew = found is not None and not self._open(found)
        except CanthusError as error:
            self._give_up(error)
            return
        if self._ready is None:
            words = [*BUILD, "--model", str(model), "--flavour", flavour, "--target", "current"]
            words += ["--overwrite"] if anew else []
            self._words = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the build
            self._build = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self._words, stderr=self._words)
            tell(f"building the engine of {model.stem} for {gpu.name}, once; the CPU runs meanwhile")

    def take(self) -> Backend | None:
        """The engine, opened, as soon as it is there, and only then."""
        ready, self._ready = self._ready, None
        if ready is not None or self._build is None or self._build.poll() is None:
            return ready
        build, self._build = self._build, None
        try:
            if build.returncode:
                raise BackendError(self._last_words() or "the build ended without a word")
            flavour, gpu = _what_serves()
            found = _find(self._manifest, flavour, gpu)
            if found is None:
                raise BackendError("the engine that was built is not in the cache")
            try:
                ready = TensorRTBackend(found, calibration=self._manifest.calibration)
            except EngineError as refused:
                give_up(found, str(refused))
                raise
        except CanthusError as error:
            self._give_up(error)
            return None
        self._tell(f"the engine is built; {ready.name} from here on")
        return ready

    def _open(self, engine: Path) -> bool:
        """Open an engine; False where it is refused, and must be built anew."""
        try:
            self._ready = TensorRTBackend(engine, calibration=self._manifest.calibration)
        except EngineError as error:
            self._tell(f"{error}; it is built anew")
            return False
        return True

    def _give_up(self, error: CanthusError) -> None:
        self._tell(f"no engine: {error}; the CPU is used")

    def _last_words(self) -> str:
        assert self._words is not None
        self._words.seek(0)
        return self._words.read().decode(errors="replace").strip().rpartition("\n")[2].removeprefix("canthus engine: ")

    def close(self) -> None:
        """End a build that is under way; what it began is lost."""
        build, self._build = self._build, None
        if build is not None and build.poll() is None:
            self._tell("the engine was not finished; `canthus engine build` makes it once for all")
            # As Ctrl-C, so that it clears up behind itself.
            build.terminate() if sys.platform == "win32" else build.send_signal(signal.SIGINT)
            try:
                build.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                build.kill()
                build.wait()
        if self._ready is not None:
            self._ready.close()
        if self._words is not None:
            self._words.close()


def _what_serves() -> tuple[Flavour, Gpu]:
    gpu = find_gpu()
    if gpu is None:
        raise BackendError("CUDA finds no NVIDIA GPU")
    return flavour_for_here(), gpu


def _find(model: Manifest, flavour: Flavour, gpu: Gpu) -> Path | None:
    """The newest engine that fits; EngineError where none holds, since the same build would give the same again."""
    fitting = list(fitting_engines(model.sha256, flavour, flavour_version(flavour), gpu.name, capability_name(gpu)))
    for engine, manifest in fitting:
        if manifest.holds:
            return engine
    if fitting:
        engine, manifest = fitting[0]
        why = manifest.check["engine"].get("why", "its points are not the model's")
        raise EngineError(f"{engine.name} did not pass its check ({why}); `{manifest.rebuild}` tries anew")
    return None


def engine_ready(model: Path) -> bool:
    """Whether a model's engine is built and this machine can run it."""
    try:
        return gpu_expected() and _find(read_manifest(model), *_what_serves()) is not None
    except CanthusError:
        return False


def outlook(model: Path) -> str:
    """What would run a model on this machine, for `canthus doctor`."""
    if not gpu_expected():
        return "OpenVINO on the CPU"
    try:
        flavour, gpu = _what_serves()
        found = _find(read_manifest(model), flavour, gpu)
    except CanthusError as error:
        return f"OpenVINO on the CPU: {error}"
    return f"{flavour} on {gpu.name}, {'its engine is built' if found else 'once its engine is built, on first use'}"
