"""Build a TensorRT engine in a background process."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from canthus.runtime.closeable import Closeable
from canthus.runtime.engine_files import Flavour
from canthus.runtime.errors import BackendError

# The command is found by its entry point, because runtime does not import canthus.engines. It runs at a low priority,
# where the system has priorities, so that it does not slow down the frames.
BUILD_COMMAND = (
    sys.executable,
    "-P",  # ignore modules in the current folder that have the name of a library
    "-c",
    "import os, sys; hasattr(os, 'nice') and os.nice(10); from canthus.runtime.cli import main; sys.exit(main())",
    *("engine", "build", "--quiet"),
)
STOP_TIMEOUT = 1.0
"""Seconds that a build has to end after it was interrupted. Then it is killed."""


class EngineBuild(Closeable):
    """A running `canthus engine build` for the GPU of this machine.

    overwrite: replace an engine that is in the cache already.

    Raises OSError if the process cannot be started.
    """

    def __init__(self, model: Path, flavour: Flavour, overwrite: bool = False) -> None:
        command = [*BUILD_COMMAND, "--model", str(model), "--flavour", flavour, "--target", "current"]
        command += ["--overwrite"] if overwrite else []
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open until the build ends
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=subprocess.STDOUT
            )
        except OSError:
            self._output.close()
            raise

    @property
    def running(self) -> bool:
        """Whether the build has not ended yet. The call does not wait."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise BackendError with the last line of the output if the build failed."""
        if self._process.wait():
            self._output.seek(0)
            lines = self._output.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1].removeprefix("canthus engine: ") if lines else "no output"
            raise BackendError(f"the engine build failed ({reason})")

    def close(self) -> None:
        """Stop the build if it is running. It deletes its temporary files."""
        if self.running:
            # The same as Ctrl-C, so that it cleans up.
            self._process.terminate() if sys.platform == "win32" else self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._output.close()
