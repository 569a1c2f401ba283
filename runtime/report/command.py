"""`canthus report`: coverage, lost faces, scores and jitter of tables of points, as HTML pages."""

import contextlib
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from canthus.runtime.errors import CanthusError, InputError, UsageError
from canthus.runtime.options import command_parser

if TYPE_CHECKING:
    import argparse

    from canthus.runtime.report.figures import Overview

DESCRIPTION = """Write an HTML page about a table of points.

It shows the share of frames with a face, spans in which the face is lost, when each face is there, scores and jitter
over time, measures if the table has them, and images of the frames with the lowest scores. The page loads no other file
and connects to nothing.

Several tables, or a folder of them, give a folder with one page for each and an index.html. The failed files of a
batch are listed there.

The images are read from the source that the table names, or from --source. They contain faces: a page with them is as
private as the video. --no-images leaves them out."""

EXAMPLES = """examples:
  canthus report points.csv                        writes points.html
  canthus report points.parquet -o report.html     under another name
  canthus report tables/ -o report/                of a batch: report/index.html"""

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet", ".feather", ".npz")


def command(arguments: list[str]) -> int:
    """Write HTML pages about tables of points: coverage, lost faces, scores, jitter."""
    parser = command_parser("canthus report", DESCRIPTION, EXAMPLES)
    parser.add_argument("tables", nargs="+", type=Path, metavar="TABLE", help="a table, or a folder of tables")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="PAGE", help="an .html file, or a folder for several tables"
    )
    parser.add_argument("--source", type=Path, metavar="PATH", help="the video, or a folder with the videos or images")
    parser.add_argument("--no-images", action="store_true", help="leave out the images of faces")
    parser.add_argument("--overwrite", action="store_true", help="replace pages that exist")
    args = parser.parse_args(arguments)

    tables, root = _find_tables(args.tables)
    several = len(tables) > 1 or args.tables[0].is_dir()
    if not several:
        page = args.output or tables[0].with_suffix(".html")
        if page.is_dir():
            page = page / f"{tables[0].stem}.html"
        from canthus.runtime.files import check_suffix

        check_suffix(page, (".html", ".htm"), "format of a page")
        _check_pages([page], args.overwrite)
        _write_page(tables[0], page, args.source, args.no_images)
        print(f"wrote {page}")
        return 0
    if args.output is None or args.output.suffix == ".html":
        raise UsageError("several tables give several pages; give -o FOLDER for them")
    pages = [args.output / table.relative_to(root).parent / f"{table.name}.html" for table in tables]
    _check_pages([args.output / "index.html", *pages], args.overwrite)
    return _write_pages(tables, pages, root, args)


def _find_tables(words: Sequence[Path]) -> tuple[list[Path], Path]:
    """Return all tables, and the folder that they are below."""
    from canthus.runtime.batch.summary import SUMMARY_NAME

    found: list[Path] = []
    for word in words:
        if word.is_dir():
            inside = [path for path in sorted(word.rglob("*")) if path.suffix.lower() in TABLE_SUFFIXES]
            inside = [path for path in inside if path.name != SUMMARY_NAME and not path.name.startswith(".")]
            if not inside:
                raise InputError(f"{word}: contains no tables ({', '.join(TABLE_SUFFIXES)})")
            found += inside
        elif word.is_file():
            found.append(word)
        else:
            raise InputError(f"{word}: no such file or folder (expected a table)")
    absolute = [Path(os.path.abspath(path)) for path in found]  # noqa: PTH100 - without following links
    return absolute, Path(os.path.commonpath([path.parent for path in absolute]))


def _check_pages(pages: Sequence[Path], overwrite: bool) -> None:
    from canthus.runtime.batch.storage import make_folder
    from canthus.runtime.files import check_free

    for page in pages:
        check_free(page, overwrite)
    for folder in sorted({page.parent for page in pages}):
        make_folder(str(folder))


def _write_page(table_path: Path, page: Path, source: Path | None, no_images: bool) -> "Overview":
    from canthus.runtime.files import write_file
    from canthus.runtime.report.figures import compute_figures
    from canthus.runtime.report.page import table_page
    from canthus.runtime.report.thumbnails import make_thumbnails
    from canthus.runtime.tables import read_table

    table = read_table(table_path)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers of others may be of any size
        figures = compute_figures(table, table_path)
        found = _find_source(figures.source, table_path, source)
        thumbnails = {} if no_images or found is None else make_thumbnails(table, figures.worst, found)
        content = table_page(figures, thumbnails, table_path.name)
    write_file(page, content.encode("utf-8", "replace"))
    return figures.overview


def _find_source(named: str, table: Path, given: Path | None) -> Path | None:
    """Return the source of a table: the given one, or what its metadata names, also beside the table."""
    if given is not None and not given.exists():
        raise InputError(f"{given}: no such file or folder (expected the source of the table)")
    name = Path(named).name if named else ""
    candidates = [given / name] if given and given.is_dir() and name else []
    candidates += [given] if given else [Path(named), table.parent / name] if named else []
    return next((path for path in candidates if _exists(path)), None)


def _exists(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # a name that is too long, or has a NUL
        return path.is_file() or path.is_dir()
    return False


def _write_pages(tables: Sequence[Path], pages: Sequence[Path], root: Path, args: "argparse.Namespace") -> int:
    """Write a page for each table and the index, which names them below `root`. Return 1 if one could not be read."""
    from dataclasses import replace

    from tqdm import tqdm

    from canthus.runtime.files import write_file
    from canthus.runtime.report.page import index_page

    rows, unreadable, folder = [], [], args.output
    for table, page in zip(tqdm(tables, unit="table", disable=None), pages, strict=True):
        try:
            figures = _write_page(table, page, args.source, args.no_images)
        except CanthusError as error:
            unreadable.append((table.relative_to(root).as_posix(), str(error)))
            print(f"canthus report: skipped {error}", file=sys.stderr)
            continue
        figures = replace(figures, name=table.relative_to(root).as_posix())
        rows.append((figures, quote(os.fsencode(page.relative_to(folder).as_posix()))))
    folders = {path.resolve() for path in (*(table.parent for table in tables), *filter(Path.is_dir, args.tables))}
    failed = [*_failed_files(folders), *unreadable]
    index = folder / "index.html"
    write_file(index, index_page(f"{len(rows)} tables", rows, failed).encode("utf-8", "replace"))
    print(f"wrote {index} and {len(rows)} pages")
    return 1 if unreadable else 0


def _failed_files(folders: set[Path]) -> list[tuple[str, str]]:
    """Return the name and the message of each failed file in the summaries of batches."""
    from canthus.runtime.batch.summary import SUMMARY_NAME

    failed = []
    for folder in sorted(folders):
        path = folder / SUMMARY_NAME
        if path.is_file():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                rows = [row for row in csv.DictReader(file) if row.get("status") == "failed"]
            failed += [(row.get("name") or "", row.get("message") or "") for row in rows]
    return failed
