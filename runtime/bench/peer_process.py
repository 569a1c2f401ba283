"""The processes of `canthus bench peers`, one for each candidate."""

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from canthus.runtime.bench.peer_environments import Candidate
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import BackendError

WORKER = Path(__file__).with_name("peer_worker.py")


class PeerProcess(Closeable):
    """A process that runs one candidate; see peer_worker.py.

    Raises BackendError if the candidate cannot be opened, or its process ends.
    """

    def __init__(self, candidate: Candidate, python: Path, frames: Path, threads: int) -> None:
        self.name = candidate.name
        self.reads_videos = candidate.kind in ("canthus", "face_mesh")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - what the candidate logs; closed in `close`
        words = [str(python), "-P", str(WORKER), candidate.kind, candidate.file, str(frames), str(threads)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment | {"GLOG_minloglevel": "2", "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        try:
            self.version = str(self._read()["ready"])
        except BaseException:
            self.close()
            raise

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a task."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, which `_read` reports
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BackendError(f"{self.name}: its process has ended ({self._last_line()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BackendError(f"it cannot be opened ({answer['error']})")
        return answer

    def _last_line(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.wait()}"

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
