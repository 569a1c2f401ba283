"""`canthus images`: find the faces of image files, each separately; write a table of points, drawn images, or both."""

import contextlib
import logging
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from canthus.runtime.batch.options import add_batch_options, batch_from_args, is_batch
from canthus.runtime.errors import InputError, UsageError
from canthus.runtime.options import (
    Outputs,
    add_landmarker_options,
    add_measure_options,
    add_output_options,
    check_used,
    command_parser,
    outputs_from_args,
    settings_from_args,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from canthus.runtime.pipeline import Settings
    from canthus.runtime.tables import TableSink

_log = logging.getLogger(__name__)

DESCRIPTION = """Find the points of every face of an image file, or of all images in a folder and its sub-folders.

The included models have 98 points, your own as many as they were trained with.

The table has one row for each face: `picture` (path of the image below the folder), face (its number in the image),
the face's box and scores, then x, y and score of each point. Coordinates are pixels. An image without a face has a row
with the other columns empty. The drawn images keep their names.
Give -o, --table, or both. Image files that cannot be read are listed at the end, and the exit code is 1 then. A JPEG
that is cut or damaged is processed as far as it can be decoded and listed too; the exit code is 0 then. Images of more
than 100 megapixels (50 in AVIF, JPEG 2000 and animated WebP) are not read, unless the environment variable
CANTHUS_MAX_IMAGE_MEGAPIXELS sets another limit.

Many images: --jobs N uses N processes, and several sources can be given: files, folders, glob patterns in quotes, @LIST
(one of these on each line) or addresses such as s3://BUCKET/FOLDER. What is finished is kept in the folder TABLE.parts,
so that a second run processes only new and changed images; delete it if there will be no such run. Memory does not grow
with the number of images. summary.csv beside the table has one row for each image."""

EXAMPLES = """examples:
  canthus images photos/ --table points.csv                  write the coordinates of the points
  canthus images photos/ --table points.csv -o drawn/        and draw them, into another folder
  canthus images portrait.jpg -o drawn/                      draw one image, as drawn/portrait.jpg
  canthus images photos/ --table - | head                    write them to standard output
  canthus images photos/ more/ --table t.parquet --jobs 4    many images, in four processes"""


@dataclass(frozen=True)
class Report:
    """The result of a run."""

    images: int
    faces: int
    unreadable: tuple[str, ...]  # one message for each image file that could not be read
    damaged: tuple[str, ...]  # one message for each image file that could be read in part


def command(arguments: list[str]) -> int:
    """Find the points of every face of image files."""
    parser = command_parser("canthus images", DESCRIPTION, EXAMPLES)
    parser.add_argument("sources", nargs="+", metavar="IMAGE", help="an image file or a folder, or several; see above")
    add_output_options(parser, "FOLDER", "write the images with points drawn on every face to this folder")
    add_landmarker_options(parser, max_faces=100, tracking=False)
    add_measure_options(parser)
    add_batch_options(parser)
    args = parser.parse_args(arguments)
    if not (args.output or args.table):
        parser.error("nothing to write: give --table FILE, -o FOLDER, or both")

    if not args.output:
        check_used(parser, args, "-o", "draw", "no_lines")
    if not args.table:
        check_used(parser, args, "--table", "faces_only")
    if not args.ray:
        check_used(parser, args, "--ray", "gpus", "fetch")
    outputs, settings = outputs_from_args(args), settings_from_args(args)
    if not settings.measures:
        check_used(parser, args, "--measures", "focal", "person")
    if is_batch(args, args.sources, folders=False):
        return _process_many(args, outputs, settings)
    report = process_images(Path(args.sources[0]), outputs, settings)
    _print_report(outputs, report)
    return 1 if report.unreadable else 0


def _process_many(args: "argparse.Namespace", outputs: Outputs, settings: "Settings") -> int:
    from canthus.runtime.batch.identity import describe_settings
    from canthus.runtime.batch.images import ImageBatch, process_image_files

    if args.table and str(args.table) == "-":
        raise UsageError("-: images in several processes cannot be written to standard output; give --table FILE")
    if args.fetch:
        raise UsageError(
            "--fetch: is for videos; put images where the cluster can read them, or at an address of fsspec"
        )
    bare = replace(outputs, overlay=None, table=None, overwrite=True)
    identity = {"outputs": asdict(bare), "settings": describe_settings(settings)}
    table, drawn = (str(path) if path else "" for path in (args.table, args.output))
    batch = ImageBatch(args.sources, table, drawn, bare, settings, identity, args.overwrite)
    return process_image_files(batch, batch_from_args(args))


def process_images(source: Path, outputs: Outputs, settings: "Settings") -> Report:
    """Find the faces of an image file or of a folder of them, and write the outputs.

    Raises:
        InputError: If there are no images, an output cannot be written, or another run writes it. Checked before the
            work starts.
    """
    from tqdm import tqdm

    from canthus.runtime.abandoned import claim
    from canthus.runtime.draw import draw
    from canthus.runtime.image_files import find_images, read_damaged_image, write_image
    from canthus.runtime.pipeline import Landmarker
    from canthus.runtime.run_details import describe_model, describe_points, describe_settings
    from canthus.runtime.tables import IMAGES, STDOUT, TableSink

    paths = find_images(source, outputs.overlay)
    root = source if source.is_dir() else source.parent
    _check_outputs(outputs, root, paths)
    faces_found = 0
    unreadable, damaged = [], []
    with contextlib.ExitStack() as stack:
        for output in (outputs.overlay, outputs.table):
            if output and output != STDOUT:
                stack.enter_context(claim(output))
        landmarker = stack.enter_context(Landmarker(settings))
        table = None
        if outputs.table:
            details = {
                "source": {"path": str(source), "images": len(paths)},
                "model": describe_model(settings, landmarker.backend_name),
                "scheme": describe_points(landmarker.backend.scheme),
                "settings": describe_settings(settings),
            }
            schema = IMAGES.with_points(landmarker.backend.scheme).with_measures(outputs.measures)
            table = stack.enter_context(_committed(TableSink(outputs.table, schema, details, outputs.faces_only)))
        for path in tqdm(paths, source.name, unit="image", disable=None):
            try:
                image, damage = read_damaged_image(path)
            except InputError as error:
                unreadable.append(str(error))
                continue
            if damage:
                damaged.append(f"{path}: is damaged ({damage}); the rest was processed")
            faces = landmarker.landmark(image)
            faces_found += len(faces)
            name = path.relative_to(root)
            if table:
                table.write_image(str(name), faces)
            if outputs.overlay:
                write_image(outputs.overlay / name, draw(image, faces, drawings=outputs.drawings))
    return Report(len(paths) - len(unreadable), faces_found, tuple(unreadable), tuple(damaged))


@contextlib.contextmanager
def _committed(table: "TableSink") -> "Iterator[TableSink]":
    """Give a table its name after the block; after an error or Ctrl-C in it, that of a part."""
    from canthus.runtime.files import keep_parts

    try:
        yield table
    except BaseException:
        for part in keep_parts([table]):
            _log.warning("stopped; %s: what was written until then", part)
        raise
    table.close()


def _check_outputs(outputs: Outputs, root: Path, paths: list[Path]) -> None:
    """Check that all outputs can be written, and make their folders."""
    from canthus.runtime.tables import check_table

    if outputs.overlay:
        _check_folder(outputs.overlay, root, [path.relative_to(root) for path in paths], outputs.overwrite)
    if outputs.table:
        if outputs.table.resolve() in (path.resolve() for path in paths):
            raise UsageError(f"{outputs.table}: is a source; choose another name for the table")
        check_table(outputs.table, outputs.overwrite)


def _check_folder(folder: Path, root: Path, names: list[Path], overwrite: bool) -> None:
    """Check that the drawn images can be written to `folder`, and create it and its sub-folders."""
    from canthus.runtime.files import check_free
    from canthus.runtime.image_files import IMAGE_SUFFIXES

    if folder.resolve() == root.resolve():
        raise UsageError(f"{folder}: is the source folder; choose another folder for the drawn images")
    for name in names:
        if name.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{folder / name}: unsupported output format (supported: {', '.join(IMAGE_SUFFIXES)})")
        check_free(folder / name, overwrite)
    for parent in (folder, *sorted({(folder / name).parent for name in names})):
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{parent}: this folder cannot be created ({error.strerror})") from error


def _print_report(outputs: Outputs, report: Report) -> None:
    from canthus.runtime.tables import STDOUT

    print(
        f"images: {report.images}, faces: {report.faces}",
        file=sys.stderr if outputs.table == STDOUT else sys.stdout,
    )
    for line in report.unreadable:
        print(f"canthus images: skipped {line}", file=sys.stderr)
    for line in report.damaged:
        print(f"canthus images: {line}", file=sys.stderr)
