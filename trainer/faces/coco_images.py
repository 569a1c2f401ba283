"""Where the images of a file of keypoints in COCO format are."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from canthus.runtime.errors import InputError
from canthus.trainer.faces.parsing import shorten

SEARCHED = 20
"""So many of the images are searched for in each folder."""


class FoundImages(NamedTuple):
    """The images of a set."""

    folder: Path
    names: dict[str, str]  # name in the file -> name in the folder


def find_images(path: Path, names: Sequence[str]) -> FoundImages:
    """Find the images of the labels in `path`, by their names there.

    They are searched beside the file, in images/ there, and the same one folder up; then in subfolders of these with
    the last word of the file's name, such as train2017 of person_keypoints_train2017.json. If none is there, the same
    for the names without their folders, which labelling tools may know from another machine. The folder with the most
    of them is the one.

    Raises:
        InputError: No image was found.
    """
    unique = list(dict.fromkeys(names))
    sample = unique[:: max(len(unique) // SEARCHED, 1)]
    best, most = None, 0
    for found in _places(path, unique):
        count = sum(_is_file(found.folder / found.names[name]) for name in sample)
        if count > most:
            best, most = found, count
        if count == len(sample):
            break
    if best is None:
        folders = dict.fromkeys(str(folder) for folder in _folders(path))
        raise InputError(
            f"{path}: none of its images was found, such as {shorten(unique[0])} (searched in {', '.join(folders)}); "
            "put them into one of these folders"
        )
    return best


def _folders(path: Path) -> list[Path]:
    above, part = path.parent.parent, path.stem.rpartition("_")[2]
    folders = [path.parent, path.parent / "images", above / "images", above]
    return folders + [folder / part for folder in folders]


def _places(path: Path, names: Sequence[str]) -> Iterator[FoundImages]:
    """Yield each folder with the names that the images may have in it, the likely ones first."""
    whole = {name: name.replace("\\", "/") for name in names}
    last = {name: other.rpartition("/")[2] for name, other in whole.items()}
    differ = len(set(last.values())) == len(set(whole.values()))
    for renamed in (whole, last) if differ else (whole,):
        for folder in _folders(path):
            yield FoundImages(folder, renamed)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a zero byte
        return False
