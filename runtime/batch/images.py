"""Find the faces of very many image files: in worker processes, in bounded memory, without doing finished work again.

The images are processed in groups. What is found in a group is kept in a part, a small table in the folder TABLE.parts.
Its name is a hash of the names, sizes and times of the images, the settings and the model: if it exists, the group is
finished. At the end the table is written from the parts.
"""

import contextlib
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.runtime.abandoned import delete_abandoned
from canthus.runtime.addresses import without_password
from canthus.runtime.batch import storage
from canthus.runtime.batch.listing import SourceFile, find_sources
from canthus.runtime.batch.options import BatchOptions
from canthus.runtime.batch.pools import open_pool
from canthus.runtime.batch.progress import Table
from canthus.runtime.batch.run import run_tasks
from canthus.runtime.batch.state import WHOLE, Shard, part_claimed
from canthus.runtime.batch.summary import Row, check_summary, write_summary
from canthus.runtime.batch.tasks import Figures, OnProgress, Task
from canthus.runtime.draw import draw
from canthus.runtime.errors import InputError, printable
from canthus.runtime.files import DRAFT_PREFIX
from canthus.runtime.image_files import IMAGE_SUFFIXES, read_damaged_image, write_image
from canthus.runtime.kept_landmarker import open_landmarker
from canthus.runtime.options import Outputs
from canthus.runtime.pipeline import Settings
from canthus.runtime.run_details import describe_model, describe_points, describe_settings
from canthus.runtime.tables import IMAGES, TableSink, check_table, read_table
from canthus.runtime.tables.schema import Schema

GROUP, MAX_GROUP = 128, 512
"""Number of images of a group: on average, and at most. A group ends after a name whose hash is a multiple of GROUP,
so that a new image changes its own group only."""

KEY_NAME = f"{DRAFT_PREFIX}key"
"""A file among the parts: a hash of all that determines them beside the images."""

SHOWN_FAILURES = 10
"""How many failed images are named at the end. All are in the summary."""

FIGURES = ("faces",)
"""Columns of the summary."""


@dataclass(frozen=True)
class ImagesWork:
    """Processes a group of images: writes their part, and the drawn images."""

    outputs: Outputs  # without paths
    settings: Settings
    drawn: str  # the folder of the drawn images as an address, or empty
    goes_on: ClassVar[bool] = False  # a group takes seconds

    def __call__(self, task: Task, _source: Path, outputs: Mapping[str, Path], progress: OnProgress) -> Figures:
        """Write the part of the group, and beside it the messages about images that are damaged or not readable."""
        messages: dict[str, str] = dict.fromkeys(task.excluded, "failed: its process was ended twice")
        faces = 0
        with contextlib.ExitStack() as stack:
            landmarker = stack.enter_context(open_landmarker(self.settings))
            scheme = landmarker.backend.scheme
            details = {
                "model": describe_model(self.settings, landmarker.backend_name),
                "scheme": describe_points(scheme),
                "settings": describe_settings(self.settings),
            }
            schema = IMAGES.with_points(scheme).with_measures(self.outputs.measures)
            sink = stack.enter_context(TableSink(outputs["part"], schema, details))
            for index, part in enumerate(task.parts):
                if part.name in task.excluded:
                    continue
                progress(index, len(task.parts), part.name)
                try:
                    with storage.local_copy(part.address) as path:
                        image, damage = read_damaged_image(path)
                except InputError as error:
                    messages[part.name] = f"failed: {error}"
                    continue
                if damage:
                    messages[part.name] = f"is damaged ({damage})"
                found = landmarker.landmark(image)
                faces += len(found)
                sink.write_image(part.name, found)
                if self.drawn:
                    _write_drawn(
                        storage.join(self.drawn, part.name), draw(image, found, drawings=self.outputs.drawings)
                    )
        outputs["part"].with_suffix(".json").write_text(json.dumps(messages))
        return {"faces": faces}


def _write_drawn(address: str, image: "NDArray[np.uint8]") -> None:
    if storage.is_remote(address):
        with storage.staged(address) as path:
            write_image(path, image)
    else:
        storage.make_folder(str(Path(address).parent))
        write_image(Path(address), image)


@dataclass(frozen=True)
class ImageBatch:
    """What to do with many images."""

    sources: Sequence[str]  # words of the command line
    table: str  # addresses, or empty
    drawn: str
    outputs: Outputs  # without paths
    settings: Settings
    identity: Mapping[str, object]  # settings and model
    overwrite: bool = False

    @property
    def parts(self) -> str:
        """The folder of the parts."""
        return f"{self.table}.parts" if self.table else storage.join(self.drawn, ".canthus-parts")

    @property
    def salt(self) -> str:
        """What determines the results beside the images: version, settings, model, whether images are drawn."""
        parts = [metadata.version("canthus"), self.identity, bool(self.drawn)]
        return json.dumps(parts, sort_keys=True, default=str)

    @property
    def folder(self) -> str:
        """The folder of the summary."""
        return self.drawn if not self.table else storage.parent(self.table)

    def groups(self, shard: Shard) -> Iterator[Task]:
        """Yield the groups of images as tasks, in order. Only one is kept in memory."""
        salt = self.salt
        group: list[SourceFile] = []
        for source in find_sources(self.sources, IMAGE_SUFFIXES, [self.drawn] if self.drawn else []):
            group.append(source)
            name_hash = zlib.crc32(source.name.encode("utf-8", "surrogateescape"))
            if name_hash % GROUP == 0 or len(group) == MAX_GROUP:
                yield from self._task(group, salt, shard)
                group = []
        if group:
            yield from self._task(group, salt, shard)

    def _task(self, group: Sequence[SourceFile], salt: str, shard: Shard) -> Iterator[Task]:
        if not shard.has(group[0].name):
            return
        digest = hashlib.sha256(salt.encode())
        for source in group:
            with contextlib.suppress(InputError):  # a missing file of a list fails later
                digest.update(os.fsencode(f"{source.address}\0{source.name}\0{storage.stamp(source.address)}\0"))
        part = storage.join(self.parts, f"{digest.hexdigest()[:32]}.npz")
        yield Task(group[0].name, "", {"part": part}, parts=tuple(group))


def process_image_files(batch: ImageBatch, options: BatchOptions) -> int:
    """Process all images of a batch and return the exit code: 0 if all are finished, 1 if some failed.

    Raises:
        InputError: If there are no images, or outputs cannot be written. Checked before the work starts.
    """
    check_summary(batch.folder)
    total = _check(batch, options.shard)
    for folder in filter(None, (batch.parts, batch.drawn)):
        storage.make_folder(folder)
    failed: dict[str, str] = {}  # message by the name of the part
    with contextlib.ExitStack() as stack:
        if not storage.is_remote(batch.parts):
            stack.enter_context(part_claimed(Path(batch.parts), options.shard))
            delete_abandoned(Path(batch.parts))
        _check_key(batch)
        work = ImagesWork(batch.outputs, batch.settings, batch.drawn)
        table = stack.enter_context(Table("canthus images", total, "image", 0 if options.ray else options.workers))
        pool = stack.enter_context(open_pool(work, options))
        skipped: set[str] = set()
        try:
            for outcome in run_tasks(pool, _pending(batch, options.shard, skipped, table), table):
                if outcome.error:
                    failed[outcome.task.outputs["part"]] = outcome.error
        except KeyboardInterrupt:
            table.print(f"{table.count} of {total} images are finished; the same command does the rest")
            raise
    if not options.shard.is_whole:
        print(f"{total} images in part {options.shard.number} of {options.shard.count}")
        return 1 if failed else 0
    return _merge(batch, total, failed, skipped)


def _check(batch: ImageBatch, shard: Shard) -> int:
    """Check that the outputs can be written, and return the number of images."""
    is_own = storage.exists(batch.parts)  # an earlier run wrote the outputs
    total = 0
    for task in batch.groups(shard):
        total += len(task.parts)
        for part in task.parts:
            drawn = storage.join(batch.drawn, part.name) if batch.drawn else ""
            if drawn == part.address or batch.table == part.address:
                raise InputError(f"{part.address}: would be replaced; choose other outputs")
            if drawn and Path(part.name).suffix.lower() not in IMAGE_SUFFIXES:
                raise InputError(f"{drawn}: unsupported output format (supported: {', '.join(IMAGE_SUFFIXES)})")
            if drawn and not (is_own or batch.overwrite) and storage.size(drawn) is not None:
                raise InputError(f"{drawn}: exists already; use --overwrite to replace it")
    if batch.table and not storage.is_remote(batch.table):
        storage.make_folder(batch.folder)
        check_table(Path(batch.table), is_own or batch.overwrite)
    return total


def _check_key(batch: ImageBatch) -> None:
    """Raise InputError if the parts are of other settings and are not to be replaced, and record those of this run."""
    address, key = storage.join(batch.parts, KEY_NAME), hashlib.sha256(batch.salt.encode()).hexdigest()
    found = storage.read_text(address)
    if found not in ("", key) and not batch.overwrite:
        raise InputError(
            f"{batch.table or batch.drawn}: has results of other settings, of another model or of another version; use "
            "--overwrite to replace them, or choose another name"
        )
    if found != key:
        storage.write_lines(address, [key])


def _pending(batch: ImageBatch, shard: Shard, skipped: set[str], table: Table) -> Iterator[Task]:
    for task in batch.groups(shard):
        if storage.size(task.outputs["part"]) is None:
            yield task
        else:
            skipped.add(task.outputs["part"])
            table.skip(len(task.parts))


def _describe(batch: ImageBatch, total: int) -> tuple[Schema, dict[str, object]]:
    """Return the schema and the metadata of the table: the first part has the points and the model."""
    paths = [without_password(word) if storage.is_remote(word) else word for word in batch.sources]
    source: dict[str, object] = {"path": paths[0]} if len(paths) == 1 else {"paths": paths}
    details: dict[str, object] = {"source": {**source, "images": total}}
    for task in batch.groups(WHOLE):
        if storage.size(task.outputs["part"]) is not None:
            with storage.local_copy(task.outputs["part"]) as path:
                part = read_table(path)
            more = {name: part.metadata[name] for name in ("model", "scheme", "settings") if name in part.metadata}
            return part.schema, details | more
    return IMAGES.with_measures(batch.outputs.measures), details


def _merge(batch: ImageBatch, total: int, failed: Mapping[str, str], skipped: set[str]) -> int:
    """Write the table and the summary from the parts, and delete parts of images that are no longer there."""
    used: set[str] = set()
    counts = {"done": 0, "skipped": 0, "failed": 0}

    def rows() -> Iterator[Row]:
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=total, unit="image", desc="joining", disable=None, leave=False))
            sink = None
            if batch.table:
                path = stack.enter_context(storage.staged(batch.table))
                sink = stack.enter_context(TableSink(path, *_describe(batch, total), batch.outputs.faces_only))
            for task in batch.groups(WHOLE):
                part = task.outputs["part"]
                used.add(part)
                for row in _rows_of_group(task, failed.get(part, ""), "skipped" if part in skipped else "done", sink):
                    counts[row.status] += 1
                    bar.update()
                    if row.status == "failed" and counts["failed"] <= SHOWN_FAILURES:
                        bar.write(f"canthus images: failed: {printable(row.message)}", file=sys.stderr)
                    yield row

    summary = write_summary(batch.folder, rows(), FIGURES)
    storage.delete_others(batch.parts, used)
    done = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    if (more := counts["failed"] - SHOWN_FAILURES) > 0:
        print(f"canthus images: {more} more failed; {summary} names them", file=sys.stderr)
    print(f"{sum(counts.values())} images: {done}; wrote {summary}")
    return 1 if counts["failed"] else 0


def _rows_of_group(task: Task, error: str, status: str, sink: TableSink | None) -> Iterator[Row]:
    """Add the faces of a group to the table, and yield the rows of the summary."""
    part = task.outputs["part"]
    if storage.size(part) is None:
        message = error or "changed while it was processed; run the command again"
        yield from (Row(one.address, one.name, "failed", message=message) for one in task.parts)
        return
    with storage.local_copy(part) as path:
        messages = json.loads(storage.read_text(f"{part.removesuffix('.npz')}.json"))
        table = read_table(path)
    rows = {name: table.records[table.records["picture"] == index] for index, name in enumerate(table.names)}
    for one in task.parts:
        message, found = messages.get(one.name, ""), rows.get(one.name)
        if found is None:
            yield Row(one.address, one.name, "failed", message=message.removeprefix("failed: "))
            continue
        faces = int((found["face"] >= 0).sum())
        if sink is not None:
            sink.write_image_rows(one.name, found)
        yield Row(one.address, one.name, status, {"faces": faces}, message=message)
