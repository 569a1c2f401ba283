"""A training session: trains for some minutes, then measures the best checkpoint on labelled faces, all in time.

Time on a GPU often comes in pieces of minutes. Before the training, the time for the measurements is estimated on some
faces. After each measured set the report of the run is written again, so that a machine that is taken away early leaves
what was done so far.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from canthus.runtime.backends import Backend
from canthus.runtime.backends.torch import TorchBackend
from canthus.runtime.closeable import Closeable
from canthus.runtime.errors import InputError, UsageError
from canthus.runtime.files import write_file
from canthus.trainer.evaluation import tables
from canthus.trainer.evaluation.evaluate import Candidate, Result, evaluate, leave_out_unmeasurable, open_candidate
from canthus.trainer.evaluation.json_report import to_json
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.labelled import LabelledSet
from canthus.trainer.log import REPORT, SESSIONS
from canthus.trainer.networks.network import DecodingNetwork, build, window_sigma, with_flip_tta
from canthus.trainer.recipe import Recipe

SAMPLE = 12
"""Images of each set on which the time of its measurement is estimated."""

SAFETY = 1.25
"""Time that is kept for the measurements, over the estimated time."""

END_SECONDS = 3.0
"""Time that is kept for the report and the end of the process."""

MAX_SHARE = 0.6
"""Largest part of a session that the measurements may take."""


class _TimeIsUpError(Exception):
    """The time of the session is up."""


class _LimitedBackend(Closeable):
    """A backend that raises `_TimeIsUpError` from `deadline` (time.monotonic) on."""

    def __init__(self, backend: Backend, deadline: float) -> None:
        self._backend, self._deadline = backend, deadline
        self.name, self.size, self.scheme = backend.name, backend.size, backend.scheme

    def predict(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `Backend.predict`."""
        if time.monotonic() >= self._deadline:
            raise _TimeIsUpError
        return self._backend.predict(crops)

    def close(self) -> None:
        self._backend.close()


@dataclass(frozen=True)
class TimedSet:
    """Faces to measure on, and the estimated duration of that."""

    labelled: LabelledSet
    seconds: float


def open_sets(sets: Sequence[Path], held_out_sets: Sequence[Path], held_out: int) -> list[LabelledSet]:
    """Open the sets to measure on; of `held_out_sets` only the faces that a recipe with `held_out` keeps back.

    Raises:
        InputError: A set cannot be read, or no face of it is left.
    """
    if held_out_sets and not held_out:
        raise UsageError("--eval-held-out: the recipe holds no faces out (held_out=0); name other faces with --eval")
    opened = [leave_out_unmeasurable(open_set(path)) for path in sets]
    for path in held_out_sets:
        one = leave_out_unmeasurable(open_set(path, "train")).held_out_subset(held_out)
        # Another name, because the whole set may be measured too.
        opened.append(dataclasses.replace(one, name=f"{path}, one face in {held_out}"))
    for one in opened:
        if not one.faces:
            raise InputError(f"{one.name}: no face is left to measure; leave the set out")
    return opened


def estimate(sets: Sequence[LabelledSet], recipe: Recipe, points: int) -> list[TimedSet]:
    """Estimate how long the measurement of a network takes on each set, with a network of random weights.

    Raises:
        ModelError: A set has another number of points.
    """
    metadata = {"points": points, "stride": recipe.stride, "flip_tta": recipe.flip_tta, "decode": recipe.decode}
    plain = build(recipe.network, points)
    network = DecodingNetwork(with_flip_tta(plain, metadata), recipe.stride, window_sigma(metadata))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    timed = []
    with TorchBackend(network, recipe.size, device=device) as backend:
        candidate = Candidate(recipe.network, backend)
        for number, one in enumerate(sets):
            names = sorted({face.image for face in one.faces})
            if not number:  # the first inference loads libraries
                evaluate([_with_images(one, names[:1])], [candidate])
            sample = names[:: -(-len(names) // SAMPLE)]
            started = time.monotonic()
            evaluate([_with_images(one, sample)], [candidate])
            timed.append(TimedSet(one, (time.monotonic() - started) * len(names) / len(sample)))
    return timed


def _with_images(labelled: LabelledSet, names: Sequence[str]) -> LabelledSet:
    """Return the set with only the faces of some images."""
    wanted = set(names)
    return dataclasses.replace(labelled, faces=tuple(face for face in labelled.faces if face.image in wanted))


def reserved_seconds(sets: Sequence[TimedSet], seconds: float) -> float:
    """Return how much of the `seconds` of a session to keep for the measurements.

    Raises:
        InputError: Too little is left for the training.
    """
    reserve = SAFETY * sum(one.seconds for one in sets) + END_SECONDS
    if reserve > MAX_SHARE * seconds:
        raise InputError(
            f"measuring would take {reserve / 60:.1f} of the {seconds / 60:g} minutes; give fewer sets, or more "
            "--minutes"
        )
    return reserve


@dataclass
class Session:
    """What a session has done; `write` adds it to the report of the run."""

    number: int
    first_step: int  # steps of the run before this session
    last_step: int
    training_seconds: float
    best_step: int  # of the best checkpoint so far, which is measured
    validation_error: float | None  # of the best checkpoint, %
    former_error: float | None  # before the session
    sets: dict[str, list[Result]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)  # sets for which no time was left

    def text(self) -> str:
        """Return the section of the report."""
        error = "none" if self.validation_error is None else f"{self.validation_error:.2f} %"
        if self.former_error is not None:
            error += f" (before: {self.former_error:.2f} %)"
        lines = [
            f"session {self.number}: steps {self.first_step} to {self.last_step} in "
            f"{self.training_seconds / 60:.1f} minutes; validation error {error}, best checkpoint of step "
            f"{self.best_step}"
        ]
        for name, results in self.sets.items():
            lines += ["", name, tables.results_table(results)]
            lines += [tables.placed_caption(), tables.placed_table(results)] if tables.has_placed(results) else []
        lines += ["", *(f"{name}: not measured, the time was up" for name in self.left_out)] if self.left_out else []
        return "\n".join(lines)

    def values(self) -> dict[str, Any]:
        """Return everything as values for json."""
        fields = {one.name: getattr(self, one.name) for one in dataclasses.fields(self) if one.name != "sets"}
        return {**fields, "sets": {name: to_json(results) for name, results in self.sets.items()}}


def progress_of_run(folder: Path) -> tuple[int, float | None]:
    """Return the steps of a run so far, and the validation error (%) of its best checkpoint; (0, None) without one."""
    path = folder / "last.json"
    if not path.is_file():
        return 0, None
    metadata = _read_json(path)
    return int(metadata["step"]), metadata["best"]


def start_session(folder: Path, former: tuple[int, float | None], training_seconds: float) -> Session:
    """Return the session that has just trained the run in `folder`. `former`: its progress before."""
    last_step, error = progress_of_run(folder)
    best = _read_json(folder / "best.json")
    number = len(_former_sessions(folder)) + 1
    return Session(number, former[0], last_step, training_seconds, int(best["step"]), error, former[1])


def measure(folder: Path, session: Session, sets: Sequence[TimedSet], deadline: float) -> Iterator[Session]:
    """Measure the best checkpoint on each set until the time is up, and write the report after each.

    deadline: when to end (time.monotonic).
    """
    former_sessions = _former_sessions(folder)
    former_text = "\n\n".join(one.get("text", "") for one in former_sessions)
    opened = open_candidate(str(folder / "best.safetensors"))
    with _LimitedBackend(opened.backend, deadline) as backend:
        candidate = dataclasses.replace(opened, name=folder.resolve().name, backend=backend)
        for one in [None, *sets]:  # None: the training alone
            if one is not None:
                try:
                    session.sets[one.labelled.name] = evaluate([one.labelled], [candidate])
                except _TimeIsUpError:
                    session.left_out.append(one.labelled.name)
            text = session.text()
            values = [*former_sessions, {**session.values(), "text": text}]
            write_file(folder / SESSIONS, (json.dumps(values, indent=2) + "\n").encode())
            write_file(folder / REPORT, ("\n\n".join(filter(None, (former_text, text))) + "\n").encode())
            yield session


def _former_sessions(folder: Path) -> list[dict[str, Any]]:
    path = folder / SESSIONS
    sessions = _read_json(path) if path.is_file() else []
    if not isinstance(sessions, list):
        raise InputError(f"{path}: not the sessions of a run; move the file away")
    return sessions


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); move the file away, or start a new run") from error
