"""What a run of `canthus video` that has stopped leaves, and how another run goes on with it.

While a run works, it saves a checkpoint every 16 frames in the hidden folder of its first output. A later run with
the same settings copies the frames of the video up to the last usable checkpoint, removes the rows of the table that
were written after it, restores the state of the tracker, and goes on.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from canthus.runtime.abandoned import abandoned_drafts
from canthus.runtime.errors import InputError
from canthus.runtime.fields import check, parse_fields, parse_json
from canthus.runtime.fragments import count_packets, videos_left

CHECKPOINT_INTERVAL = 16
"""Frames from one checkpoint to the next."""

CHECKPOINTS = 64
"""How many checkpoints are kept. The encoder holds some frames, so the last ones may be after the end of the video."""

IDENTITY_BYTES = 1_000_000
"""How much of the start and of the end of a source is hashed to recognize it."""

_RUN, _SUFFIX = "run.json", ".checkpoint"


@dataclass(frozen=True)
class Progress:
    """How far a run was."""

    frames: int = field(default=0, metadata=check(at_least=0))  # of those that are selected
    with_faces: int = field(default=0, metadata=check(at_least=0))
    position: int = field(default=0, metadata=check(at_least=0))  # in the table, of `TableSink.position`


class Checkpoint(NamedTuple):
    """The progress of a run, and the state of its landmarker then."""

    progress: Progress
    state: bytes


class Checkpoints:
    """Saves the checkpoints of a run.

    folder: where to save them. run: what must be the same in the run that goes on.
    """

    def __init__(self, folder: Path, run: Mapping[str, object]) -> None:
        self._folder = folder
        self.saved = False  # at least one
        (folder / _RUN).write_text(json.dumps(run), encoding="utf-8")

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint, and delete the oldest one."""
        frames = checkpoint.progress.frames
        path = self._folder / f"{frames:012d}{_SUFFIX}"
        written = path.with_suffix(".new")
        written.write_bytes(json.dumps(asdict(checkpoint.progress)).encode() + b"\n" + checkpoint.state)
        written.replace(path)
        self.saved = True
        for old in sorted(self._folder.glob(f"*{_SUFFIX}"))[:-CHECKPOINTS]:
            old.unlink()


class StoppedRun(NamedTuple):
    """A run to go on with."""

    checkpoint: Checkpoint
    folders: dict[Path, Path]  # of the draft of each output


def run_identity(source: Path, details: Mapping[str, object]) -> dict[str, object]:
    """Return what must be the same in the run that goes on: the source, the model, the settings, the outputs."""
    size = source.stat().st_size
    with source.open("rb") as file:
        digest = hashlib.sha256(file.read(IDENTITY_BYTES))
        file.seek(max(size - IDENTITY_BYTES, 0))
        digest.update(file.read(IDENTITY_BYTES))
    # Through JSON, so that tuples are lists as in the file.
    identity: dict[str, object] = json.loads(json.dumps({"source": [size, digest.hexdigest()], **details}))
    return identity


def find_stopped_run(outputs: Sequence[Path], run: Mapping[str, object], overlay: Path | None) -> StoppedRun | None:
    """Return the stopped run of the outputs, or None if there is none that can go on.

    Args:
        outputs: The paths of the outputs, first the one whose draft has the checkpoints.
        run: The identity of the new run.
        overlay: Which of the outputs is a video.

    Raises:
        InputError: If the stopped run had another source or other settings.
    """
    found = {path: abandoned_drafts(path) for path in outputs}
    if not all(found.values()):
        return None
    folders = {path: drafts[0] for path, drafts in found.items()}
    home = folders[outputs[0]]
    before = _read_run(home)
    if before is None:
        return None
    if different := sorted(name for name in {*before, *run} if before.get(name) != run.get(name)):
        raise InputError(
            f"{outputs[0]}: the stopped run differs in {different[0]}; give the same options and source, or leave out "
            "--resume to start again"
        )
    limit = max(map(count_packets, videos_left(folders[overlay], overlay)), default=0) if overlay else None
    for path in sorted(home.glob(f"*{_SUFFIX}"), reverse=True):
        checkpoint = _read_checkpoint(path)
        if checkpoint is not None and (limit is None or checkpoint.progress.frames <= limit):
            return StoppedRun(checkpoint, folders)
        path.unlink(missing_ok=True)  # what it is about is written again
    return None


def _read_run(folder: Path) -> dict[str, object] | None:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        run = json.loads((folder / _RUN).read_text(encoding="utf-8"))
        return run if isinstance(run, dict) else None
    return None


def _read_checkpoint(path: Path) -> Checkpoint | None:
    try:
        head, _, state = path.read_bytes().partition(b"\n")
        return Checkpoint(parse_fields(Progress, parse_json(head.decode())), state)
    except (OSError, ValueError):
        return None
