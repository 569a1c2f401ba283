"""The summary of a batch: one row for each file, as `summary.csv` in the output folder."""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from canthus.runtime.addresses import without_password
from canthus.runtime.batch import storage
from canthus.runtime.batch.tasks import Figures
from canthus.runtime.errors import InputError

SUMMARY_NAME = "summary.csv"

COLUMNS = ("source", "name", "status")
LAST_COLUMNS = ("processing_seconds", "attempts", "message")


@dataclass(frozen=True)
class Row:
    """A row of the summary."""

    source: str
    name: str
    status: str  # "done", "skipped" (finished by an earlier run) or "failed"
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0  # that a worker needed for the last attempt
    attempts: int = 0  # of this run
    message: str = ""  # why it failed


def check_summary(folder: str) -> None:
    """Raise InputError if the folder has a summary.csv that is not ours."""
    address = storage.join(folder, SUMMARY_NAME)
    text = storage.read_text(address)
    if text and not text.startswith(",".join(COLUMNS)):
        raise InputError(f"{address}: exists and is not a summary of canthus; rename it")


def write_summary(folder: str, rows: Iterable[Row], figure_names: tuple[str, ...]) -> str:
    """Write the rows in their order, and return the address of the file. Figures that a row lacks are empty."""
    address = storage.join(folder, SUMMARY_NAME)
    header: list[object] = [*COLUMNS, *figure_names, *LAST_COLUMNS]
    lines = itertools.chain([header], _cells(rows, figure_names))
    storage.write_lines(address, (_line(cells) for cells in lines))
    return address


def _cells(rows: Iterable[Row], figure_names: tuple[str, ...]) -> Iterator[list[object]]:
    for row in rows:
        source = without_password(row.source) if storage.is_remote(row.source) else row.source
        message = row.message.replace(row.source, source) if row.source else row.message
        figures = [row.figures.get(name, "") for name in figure_names]
        last = [f"{row.seconds:.3f}" if row.seconds else "", row.attempts, message]
        yield [source, row.name, row.status, *figures, *last]


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
