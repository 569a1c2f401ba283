"""`canthus images`: a folder of pictures in, a table of points and marked pictures out; each picture stands alone."""

import argparse
import contextlib
import sys
from pathlib import Path

from canthus.runtime.errors import InputError
from canthus.runtime.options import add_landmarking, settings_from_args

EXAMPLES = """examples:
  canthus images photos/ --table points.csv
  canthus images photos/ --table points.csv -o marked/
  canthus images portrait.jpg -o marked/"""


def command(arguments: list[str]) -> int:
    """Put 98 points on every face of a folder of pictures."""
    parser = argparse.ArgumentParser(
        prog="canthus images",
        description=command.__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="a folder (its sub-folders too), or one picture")
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where to write marked pictures")
    parser.add_argument("--table", type=Path, metavar="OUT.csv", help="the table to write: a row a face")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument("--no-lines", action="store_true", help="draw points without lines")
    add_landmarking(parser, max_faces=100, moving=False)
    chosen = parser.parse_args(arguments)
    if not (chosen.output or chosen.table):
        parser.error("nothing to write: give --table OUT.csv, -o FOLDER, or both")
    from canthus.runtime.sources import find_images

    pictures = find_images(chosen.source, chosen.output)
    done, found, unreadable = process(chosen, pictures)
    print(f"pictures: {done}, faces: {found}")
    for line in unreadable:
        print(f"canthus images: left out: {line}", file=sys.stderr)
    return 1 if unreadable else 0


def process(chosen: argparse.Namespace, pictures: list[Path]) -> tuple[int, int, list[str]]:
    """Run the pictures through; -> how many were done, how many faces, and a line for each unreadable one."""
    import cv2
    from tqdm import tqdm

    from canthus.runtime.draw import draw
    from canthus.runtime.files import check_output, write_file
    from canthus.runtime.pipeline import Landmarker
    from canthus.runtime.sinks import IMAGE_COLUMNS, TableSink
    from canthus.runtime.sources import read_image

    root = chosen.source if chosen.source.is_dir() else chosen.source.parent
    names = [path.relative_to(root) for path in pictures]
    if chosen.output:
        _check_folder(chosen.output, root, names, chosen.overwrite)
    if chosen.table:
        if chosen.table.resolve() in (path.resolve() for path in pictures):
            raise InputError(f"{chosen.table}: is a source itself")
        check_output(chosen.table, chosen.overwrite)
    done = found = 0
    unreadable = []
    with contextlib.ExitStack() as stack:
        landmarker = stack.enter_context(Landmarker(settings_from_args(chosen)))
        table = stack.enter_context(TableSink(chosen.table, IMAGE_COLUMNS)) if chosen.table else None
        for path, name in zip(tqdm(pictures, chosen.source.name, unit="picture", disable=None), names, strict=True):
            try:
                image = read_image(path)
            except InputError as error:
                unreadable.append(str(error))
                continue
            faces = landmarker.landmark(image)
            if table:
                table.write_image(str(name), faces)
            if chosen.output:
                marked = cv2.cvtColor(draw(image, faces, lines=not chosen.no_lines), cv2.COLOR_RGB2BGR)
                # As .jpg has it by itself; a .webp would be without loss, in seven times the time.
                how = [cv2.IMWRITE_WEBP_QUALITY, 95] if name.suffix.lower() == ".webp" else []
                write_file(chosen.output / name, cv2.imencode(name.suffix, marked, how)[1].tobytes())
            done, found = done + 1, found + len(faces)
    return done, found, unreadable


def _check_folder(output: Path, root: Path, names: list[Path], overwrite: bool) -> None:
    """Make the folder and its sub-folders, or raise InputError, before any work is done."""
    from canthus.runtime.files import check_free
    from canthus.runtime.sources import IMAGE_SUFFIXES

    if output.resolve() == root.resolve():
        raise InputError(f"{output}: is the source folder; marked pictures go elsewhere")
    for name in names:
        if name.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(
                f"{root / name}: a marked picture keeps its name, which must end in {', '.join(IMAGE_SUFFIXES)}"
            )
        check_free(output / name, overwrite)
    for folder in (output, *sorted({(output / name).parent for name in names})):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as refused:
            raise InputError(f"{folder}: cannot be made a folder ({refused.strerror})") from refused
