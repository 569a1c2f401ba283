"""How far a training run is, as its checkpoints keep it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from canthus.runtime.errors import ModelError
from canthus.runtime.fields import FieldError, check, parse_fields


@dataclass(frozen=True)
class RunProgress:
    """How far a run is, in the metadata of its checkpoints."""

    step: int = field(metadata=check(at_least=0))  # steps done
    averaged: int = field(metadata=check(at_least=0))  # steps in the moving average of the weights
    best: float | None = None  # lowest NME (%) on the validation faces; None = not measured
    validation_faces: str | None = None  # `validation_fingerprint`
    # Of the steps of the epoch that a resumed run goes on with; checkpoints of version 0.2.0 have neither.
    loss_sum: float = 0.0
    losses_summed: int = field(default=0, metadata=check(at_least=0))


def read_progress(path: Path, metadata: dict[str, Any]) -> RunProgress:
    """Return how far the run of a checkpoint is. Raises ModelError if its metadata is damaged."""
    names = {one.name for one in dataclasses.fields(RunProgress)}
    try:
        return parse_fields(RunProgress, {name: metadata[name] for name in names & metadata.keys()})
    except FieldError as wrong:
        raise ModelError(f"{path}: its metadata is damaged: {wrong}; start a new run") from wrong
