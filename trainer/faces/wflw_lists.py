"""Lists in the format of WFLW: the official folder, and shards, which are folders or tar files."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from canthus.runtime.errors import InputError
from canthus.runtime.wflw import ATTRIBUTES, POINTS
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet
from canthus.trainer.faces.parsing import decode_text, parse_numbers, read_text, with_image_folder
from canthus.trainer.faces.schemes import WFLW
from canthus.trainer.faces.shard_tables import read_tables

LIST_FOLDER = "WFLW_annotations/list_98pt_rect_attr_train_test"
SHARD_LIST = "list_98pt_rect_attr.txt"
MAX_EXPANSION, MIN_UNPACKED_BYTES = 100, 100_000_000
"""A tar file whose content is this many times larger than the file itself, and larger than 100 MB, is refused. Images
hardly compress, so such a file was made to fill the memory."""

LINE_FIELDS = 2 * POINTS + 4 + len(ATTRIBUTES) + 1


def open_wflw(folder: Path, list_file: Path, split: str) -> LabelledSet:
    """Open the official WFLW folder with one of its lists."""
    faces = tuple(parse_list(read_text(list_file), str(list_file)))
    return with_image_folder(folder, folder / "WFLW_images", faces, WFLW, WFLW.published_counts[split == "test"])


def open_shard(folder: Path) -> LabelledSet:
    """Open a shard: a folder with images/, a list in WFLW's format, and optionally quality.csv and human.csv.

    quality.csv has the columns image, ensemble_sd (the spread of pseudo-labels) and optionally yaw. Its faces have
    pseudo-labels, unless human.csv (columns image and points) has the kinds of their points, one digit each.
    """

    def read_table(name: str) -> str | None:
        return read_text(folder / name) if (folder / name).is_file() else None

    list_file = folder / SHARD_LIST
    faces = read_tables(parse_list(read_text(list_file), str(list_file)), read_table, folder)
    return with_image_folder(folder, folder / "images", tuple(faces), WFLW)


def open_tar(path: Path) -> LabelledSet:
    """Open a shard that is one tar file, compressed or not."""
    try:
        with tarfile.open(path) as shard:
            files = dict(_read_members(shard, path))
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(":")
        raise InputError(
            f"{path}: damaged, or not a .tar, .mat or .json file ({reason}); get the file again"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path}: does not fit into memory; extract it and give the folder") from error
    if SHARD_LIST not in files:
        raise InputError(f"{path}: not a shard (expected {SHARD_LIST} in the tar file)")
    source = f"{path}/{SHARD_LIST}"
    faces = parse_list(decode_text(files[SHARD_LIST], source), source)

    def read_table(name: str) -> str | None:
        return decode_text(files[name], f"{path}/{name}") if name in files else None

    faces = read_tables(faces, read_table, path)
    return LabelledSet(str(path), tuple(faces), lambda name: files[f"images/{name}"])


def _read_members(shard: tarfile.TarFile, path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files in a tar file. Their sizes are checked before they are unpacked."""
    limit, size = max(MAX_EXPANSION * path.stat().st_size, MIN_UNPACKED_BYTES), 0
    for member in shard:
        size += member.size
        if size > limit:
            raise InputError(
                f"{path}: unpacks to more than {limit / 1e6:.0f} MB (expected at most {MAX_EXPANSION} times its size); "
                "if you trust it, extract it and give the folder"
            )
        file = shard.extractfile(member) if member.isfile() else None
        if file is not None:
            yield member.name.removeprefix("./"), file.read()


def parse_list(text: str, source: str) -> list[LabelledFace]:
    """Parse a list file of WFLW: per line 196 coordinates, 4 numbers of the rect, 6 attributes and the image name.

    Raises:
        InputError: If a line cannot be parsed; the message names `source` and the line.
    """
    faces = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{source}, line {number}"
        fields = line.split(maxsplit=LINE_FIELDS - 1)
        if len(fields) != LINE_FIELDS:
            raise InputError(f"{place}: expected {LINE_FIELDS} fields, got {len(fields)}")
        numbers = parse_numbers(fields[:-1], place)
        x0, y0, x1, y1 = (float(edge) for edge in numbers[2 * POINTS : 2 * POINTS + 4])
        faces.append(
            LabelledFace(
                image=fields[-1].strip(),
                points=numbers[: 2 * POINTS].reshape(POINTS, 2).astype(np.float32),
                rect=(x0, y0, x1, y1),
                attributes=numbers[2 * POINTS + 4 :] > 0.5,
            )
        )
    if not faces:
        raise InputError(f"{source}: the list is empty (expected a line per face)")
    return faces


def format_list_line(face: LabelledFace) -> str:
    """Return the line that `parse_list` parses to this face."""
    coordinates = " ".join(f"{value:.3f}" for value in (*face.points.ravel(), *face.rect))
    attributes = " ".join(str(int(value)) for value in face.attributes)
    return f"{coordinates} {attributes} {face.image}\n"
