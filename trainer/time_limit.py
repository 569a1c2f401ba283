"""A training run with a time limit: how far it is, and when it must stop to end in time."""

import time
from dataclasses import dataclass, field

EXIT_SECONDS = 1.0
"""Time to reserve for the end of the process."""

BYTES_PER_PARAMETER = 20
"""Of both checkpoints: the averaged weights twice, the weights, and two moments of AdamW."""

WRITE_SPEED = 50e6
"""Slowest expected speed, bytes per second, at which checkpoints are written."""


@dataclass
class TimeLimit:
    """The time that a run may take, counted from `started`.

    The schedule of the learning rate begins after the first step, which may compile the network, and ends `reserve`
    before the limit. What is left is for the last validation, the checkpoints and the calibration.
    """

    seconds: float
    started: float = field(default_factory=time.monotonic)
    reserve: float = 0.0  # seconds to keep for the end
    steps: int = 0  # done within this time limit
    _first_step_end: float = 0.0

    def reserve_end(self, validation_seconds: float, calibration_seconds: float, parameters: int) -> None:
        """Set how much time to keep, from the durations of both and the number of parameters to save."""
        saving_seconds = BYTES_PER_PARAMETER * parameters / WRITE_SPEED
        self.reserve = validation_seconds + calibration_seconds + saving_seconds + EXIT_SECONDS

    def count_step(self) -> None:
        """Count a step that has ended."""
        self.steps += 1
        if self.steps == 1:
            self._first_step_end = time.monotonic()

    def progress(self) -> float:
        """Return the elapsed fraction of the schedule, 1 if the run must stop. It is 0 until the first step."""
        if not self.steps:
            return 0.0
        now, end = time.monotonic(), self.started + self.seconds - self.reserve
        mean_step = (now - self._first_step_end) / max(self.steps - 1, 1)
        if now + mean_step >= end:
            return 1.0
        return (now + mean_step - self._first_step_end) / (end - self._first_step_end)

    def total_steps(self, progress: float) -> int:
        """Estimate the number of steps in the time limit."""
        return max(round(self.steps / progress), self.steps + 1) if progress else 1_000_000_000
