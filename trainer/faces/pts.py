"""300W's .pts files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet
from canthus.trainer.faces.parsing import parse_numbers, read_text, with_image_folder
from canthus.trainer.faces.schemes import W300, scheme_of

W300_FOLDERS = {
    "train": {"afw": "", "helen/trainset": "", "lfpw/trainset": ""},
    "test": {"helen/testset": "common", "lfpw/testset": "common", "ibug": "challenge"},
}
"""The official splits: folder, and the subset that its faces belong to. The "full" test set of 300W is both subsets."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")


def open_300w(folder: Path, split: str) -> LabelledSet:
    """Open 300W: .pts files beside images of the same name.

    `split` selects folders if the folder has the official layout. Else all .pts files are read.
    """
    folders = W300_FOLDERS[split]
    official = any((folder / part).is_dir() for parts in W300_FOLDERS.values() for part in parts)
    if official and (missing := [part for part in folders if not (folder / part).is_dir()]):
        raise InputError(f"{folder}: 300W's {split} set is {', '.join(folders)}; missing: {', '.join(missing)}")
    faces = []
    for part, subset in folders.items() if official else (("", ""),):
        for labels in sorted((folder / part).rglob("*.pts")):
            points = parse_pts(read_text(labels), str(labels))
            (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
            candidates = [labels.with_suffix(suffix) for suffix in IMAGE_SUFFIXES]
            image = next((path for path in candidates if path.is_file()), candidates[0])
            attributes = np.array([subset == name for name in W300.subsets])
            faces.append(LabelledFace(str(image.relative_to(folder)), points, (x0, y0, x1, y1), attributes))
    if not faces:
        raise InputError(f"{folder}: contains no .pts files of the {split} set")
    if odd := next((face for face in faces if len(face.points) != len(faces[0].points)), None):
        raise InputError(
            f"{folder}: {odd.image} has {len(odd.points)} points, but {faces[0].image} {len(faces[0].points)}; "
            "keep faces with different numbers of points in different folders"
        )
    count = W300.published_counts[split == "test"] if official else 0
    return with_image_folder(folder, folder, tuple(faces), scheme_of(len(faces[0].points)), count)


def parse_pts(text: str, source: str) -> NDArray[np.float32]:
    """Parse a .pts file to points (K, 2). The file counts pixels from 1; the result counts from 0.

    Raises:
        InputError: If a line cannot be parsed; the message names `source` and the line.
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    keys = [fields[0].rstrip(":") for _, fields in lines]
    if keys[:1] != ["version"] or "{" not in keys:
        raise InputError(f'{source}, line 1: expected "version: 1", "n_points: K" and the points between braces')
    first = keys.index("{") + 1
    last = keys.index("}") if "}" in keys else len(keys)
    declared = next((fields[-1] for _, fields in lines[:first] if fields[0].startswith("n_points")), "?")
    for number, fields in lines[first:last]:
        if len(fields) != 2:
            raise InputError(f"{source}, line {number}: expected x and y, got {len(fields)} fields")
        parse_numbers(fields, f"{source}, line {number}")
    points = np.array([fields for _, fields in lines[first:last]], np.float64).reshape(-1, 2)
    if declared.rpartition(":")[2] != str(len(points)):
        raise InputError(f"{source}: n_points is {declared}, but {len(points)} points follow")
    scheme_of(len(points), source)
    return (points - 1).astype(np.float32)
