"""Builds a TensorRT engine in a process of its own, with progress and cancel."""

import os
import re
import signal
import sys
from pathlib import Path

from PyQt6.QtCore import QProcess, QProcessEnvironment, QTimer, pyqtSignal
from PyQt6.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

COMMAND = ("-P", "-c", "import sys; from canthus.runtime.cli import main; sys.exit(main())", "engine", "build")
"""Arguments of Python. The command is found by its entry point, because gui does not import canthus.engines."""

STEP = re.compile(r"^(\d+)/(\d+) (.+)$")
"""A line that the build prints when a step begins, if CANTHUS_PROGRESS is "lines"."""

KILL_MS = 2000
"""How long a cancelled build has to delete its temporary files."""


class EngineBuilder(QWidget):
    """A button that builds the engine of a model, with a progress bar and a button to cancel.

    `built` is emitted when there is a new engine.
    """

    built = pyqtSignal()

    def __init__(self, program: str = sys.executable, arguments: tuple[str, ...] = COMMAND) -> None:
        super().__init__()
        self.model: str | Path | None = None  # whose engine is built; None = the default on a GPU
        self._program, self._arguments = program, arguments
        self._process: QProcess | None = None
        self._cancelled = False
        self._last = ""  # line of the output that is no step
        self.start = QPushButton(self.tr("Build engine"))
        self.start.setToolTip(self.tr("Compile the model for NVIDIA GPUs; takes up to some minutes"))
        self.cancel = QPushButton(self.tr("Cancel"))
        self.cancel.setToolTip(self.tr("Stop the build"))
        self.bar = QProgressBar()
        self.bar.setAccessibleName(self.tr("Progress of the engine build"))
        self.bar.setToolTip(self.bar.accessibleName())
        self.note = QLabel()
        self.note.setWordWrap(True)
        self.start.clicked.connect(self.build)
        self.cancel.clicked.connect(self.stop)
        row = QHBoxLayout()
        row.addWidget(self.start)
        row.addWidget(self.cancel)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(row)
        column.addWidget(self.bar)
        column.addWidget(self.note)
        self._show_running(False)

    @property
    def running(self) -> bool:
        """Whether a build goes on."""
        return self._process is not None

    def build(self) -> None:
        """Start the build. Returns at once."""
        if self._process is not None:
            return
        arguments = [*self._arguments, *(["--model", str(self.model)] if self.model else [])]
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("CANTHUS_PROGRESS", "lines")
        process.setProcessEnvironment(environment)
        process.setProcessChannelMode(QProcess.ProcessChannelMode.MergedChannels)
        process.readyReadStandardOutput.connect(self._read)
        process.finished.connect(self._finish)
        process.errorOccurred.connect(self._fail)
        self._process, self._cancelled, self._last = process, False, ""
        self._show_running(True)
        self.note.setText(self.tr("Starting…"))
        process.start(self._program, arguments)

    def stop(self) -> None:
        """Cancel the build. It deletes its temporary files, or is killed."""
        process = self._process
        if process is None:
            return
        self._cancelled = True
        self.note.setText(self.tr("Cancelling…"))
        if sys.platform != "win32" and process.processId():
            os.kill(process.processId(), signal.SIGINT)  # as Ctrl-C, so that it cleans up
        else:
            process.terminate()
        QTimer.singleShot(KILL_MS, lambda: self._kill(process))

    def _kill(self, process: QProcess) -> None:
        """Kill a cancelled build that has not ended yet."""
        if self._process is process:
            process.kill()

    def close_now(self) -> None:
        """End the build with the window: ask it to end, and kill it if it does not."""
        process = self._process
        if process is not None:
            self.stop()
            process.finished.disconnect()
            if not process.waitForFinished(1000):
                process.kill()
                process.waitForFinished(500)
            self._process = None

    def _read(self) -> None:
        if self._process is None:
            return
        for line in bytes(self._process.readAllStandardOutput().data()).decode(errors="replace").splitlines():
            step = STEP.match(line.strip())
            if step:
                self.bar.setRange(0, int(step[2]))
                self.bar.setValue(int(step[1]) - 1)
                self.note.setText(step[3])
            elif line.strip():
                self._last = line.strip().removeprefix("canthus engine: ")

    def _finish(self, code: int, _status: QProcess.ExitStatus) -> None:
        self._read()
        if self._cancelled:
            self.note.setText(self.tr("The build was cancelled."))
        else:
            done = self.tr("The engine is built. An NVIDIA GPU of this machine uses it from now on.")
            self.note.setText(self.tr("The build failed: {reason}").format(reason=self._last) if code else done)
        self._show_running(False)
        if self._process is not None:
            self._process.deleteLater()
        self._process = None
        if not (code or self._cancelled):
            self.built.emit()

    def _fail(self, error: QProcess.ProcessError) -> None:
        if error is QProcess.ProcessError.FailedToStart:
            self._last = self.tr("the process cannot be started")
            self._finish(1, QProcess.ExitStatus.CrashExit)

    def _show_running(self, running: bool) -> None:
        self.bar.setRange(0, 0)  # busy, until the first step is known
        self.bar.setVisible(running)
        self.start.setEnabled(not running)
        self.cancel.setEnabled(running)
        self.note.setVisible(running or bool(self.note.text()))
