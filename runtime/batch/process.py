"""Process each of many files into files of its own: plan, skip what is finished, run, summarize."""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from canthus.runtime.abandoned import delete_abandoned, delete_drafts
from canthus.runtime.batch import storage
from canthus.runtime.batch.listing import find_sources
from canthus.runtime.batch.options import BatchOptions
from canthus.runtime.batch.pools import open_pool
from canthus.runtime.batch.progress import Table
from canthus.runtime.batch.run import run_tasks
from canthus.runtime.batch.state import State
from canthus.runtime.batch.summary import Row, check_summary, write_summary
from canthus.runtime.batch.tasks import Figures, Outcome, Task, Work
from canthus.runtime.errors import InputError, UsageError


@dataclass(frozen=True)
class Batch:
    """What to do with many files."""

    command: str  # its name in messages: "canthus video"
    unit: str  # what a file is called: "video"
    sources: Sequence[str]  # words of the command line
    suffixes: tuple[str, ...]  # of the files of a folder that are sources
    outputs: Mapping[str, tuple[str, str]]  # by kind: the folder, and the suffix of its files
    work: Work
    identity: Mapping[str, object]  # settings and model: what determines the outputs beside the source
    figures: tuple[str, ...]  # columns of the summary
    overwrite: bool = False

    @property
    def folder(self) -> str:
        """The folder of the state and of the summary: that of the first output."""
        return next(iter(self.outputs.values()))[0]

    @property
    def key(self) -> str:
        """A hash of the identity and of the version of canthus."""
        identity = {"version": metadata.version("canthus"), **self.identity}
        return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:32]


def process_files(batch: Batch, options: BatchOptions) -> int:
    """Process all files of a batch and return the exit code: 0 if all are finished, 1 if some failed.

    Raises:
        InputError: If there are no files, or outputs cannot be written. Checked before the work starts.
    """
    folders = [folder for folder, _ in batch.outputs.values()]
    tasks = [task for task in plan(batch, folders) if options.shard.has(task.name)]
    check_summary(batch.folder)
    for folder in folders:
        storage.make_folder(folder)
    rows: list[Row] = []
    with State(batch.folder, batch.key, options.shard) as state:
        if state.has_other_results() and not batch.overwrite:
            raise InputError(
                f"{batch.folder}: has results of other settings, of another model or of another version; use "
                "--overwrite to replace them, or choose another folder"
            )
        with (
            Table(batch.command, len(tasks), batch.unit, 0 if options.ray else options.workers) as table,
            open_pool(batch.work, options) as pool,
        ):
            pending = _pending(batch, tasks, state, rows, table)
            try:
                for outcome in run_tasks(pool, pending, table):
                    if not outcome.error:
                        state.finish(outcome)
                    elif not options.shard.is_whole:
                        _delete_drafts_of(outcome.task)
                    rows.append(_row(batch, outcome))
            except KeyboardInterrupt:
                table.print(f"{len(rows)} of {len(tasks)} {batch.unit}s are finished; the same command does the rest")
                raise
    if options.shard.is_whole:  # other parts may go on with theirs
        _delete_drafts(folders)
    summary = (
        write_summary(batch.folder, sorted(rows, key=lambda row: row.name), (*batch.outputs, *batch.figures))
        if options.shard.is_whole
        else ""
    )
    _print(batch, rows, summary)
    return 1 if any(row.status == "failed" for row in rows) else 0


def _delete_drafts(folders: Sequence[str]) -> None:
    """Delete what processes that were killed left in the output folders."""
    for folder in folders:
        if not storage.is_remote(folder):
            delete_abandoned(Path(folder))


def _delete_drafts_of(task: Task) -> None:
    for address in task.outputs.values():
        if not storage.is_remote(address):
            delete_drafts(Path(address))


def plan(batch: Batch, folders: Sequence[str]) -> list[Task]:
    """Return a task for each source.

    The outputs have the name of the source with another suffix. If that is the same for two sources (a.mp4 and a.mov),
    the suffix is added instead.

    Raises InputError if two sources have the same name, or an output would replace a source.
    """
    sources = list(find_sources(batch.sources, batch.suffixes, folders))
    stems = Counter(_stem(source.name) for source in sources)
    tasks = []
    for source in sources:
        stem = source.name if stems[_stem(source.name)] > 1 else _stem(source.name)
        outputs = {kind: storage.join(folder, f"{stem}{suffix}") for kind, (folder, suffix) in batch.outputs.items()}
        if any(_is_same(source.address, output) for output in outputs.values()):
            raise UsageError(f"{source.address}: would be replaced; choose another folder for the outputs")
        tasks.append(Task(source.name, source.address, outputs))
    return tasks


def _is_same(address: str, other: str) -> bool:
    if storage.is_remote(address) or storage.is_remote(other):
        return address == other
    return os.path.abspath(address) == os.path.abspath(other)  # noqa: PTH100 - without a look at the disk


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).suffix else name


def _pending(batch: Batch, tasks: Sequence[Task], state: State, rows: list[Row], table: Table) -> Iterator[Task]:
    """Yield the tasks that are not finished; add a row for each that is."""
    for task in tasks:
        record = state.find(task)
        if record is not None:
            figures = _names(batch, task) | record.figures
            rows.append(Row(task.source, task.name, "skipped", figures, record.seconds))
            table.skip()
            continue
        exists = next((output for output in task.outputs.values() if storage.size(output) is not None), None)
        if exists and not (batch.overwrite or state.is_started(task.name)):
            error = f"{exists}: exists and is not of this batch; use --overwrite to replace it"
            table.end(Outcome(task, error=error))
            rows.append(Row(task.source, task.name, "failed", message=error))
            continue
        state.start(task)
        yield task


def _names(batch: Batch, task: Task) -> Figures:
    """Return the names of the outputs in their folders, for the summary."""
    return {kind: storage.relative(address, batch.outputs[kind][0]) for kind, address in task.outputs.items()}


def _row(batch: Batch, outcome: Outcome) -> Row:
    task, error = outcome.task, outcome.error
    figures = {} if error else _names(batch, task) | outcome.figures
    return Row(task.source, task.name, "failed" if error else "done", figures, outcome.seconds, task.attempt, error)


def _print(batch: Batch, rows: Sequence[Row], summary: str) -> None:
    count = Counter(row.status for row in rows)
    parts = [f"{count['done']} processed"]
    if count["skipped"]:
        parts.append(f"{count['skipped']} finished before")
    if count["failed"]:
        parts.append(f"{count['failed']} failed")
    wrote = f"; wrote {summary}" if summary else ""
    print(f"{len(rows)} {batch.unit}s: {', '.join(parts)}{wrote}", file=sys.stdout)
