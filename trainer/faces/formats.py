"""Open labelled sets, whatever their format."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from canthus.runtime.errors import InputError
from canthus.trainer.faces.coco import open_coco
from canthus.trainer.faces.cofw import open_cofw
from canthus.trainer.faces.kinds import has_normalizer
from canthus.trainer.faces.labelled import MAX_LISTED, LabelledSet
from canthus.trainer.faces.pts import open_300w
from canthus.trainer.faces.wflw_lists import LIST_FOLDER, SHARD_LIST, open_shard, open_tar, open_wflw

MIN_NORMALIZER = 1e-3
"""Faces whose outer eye corners are closer together, in pixels, are left out: their errors cannot be normalized."""

PACK_LABELS = "labels.npz"
"""A file of each pack of `canthus data prepare`."""

_log = logging.getLogger(__name__)


def open_set(path: Path, split: str = "test") -> LabelledSet:
    """Open a labelled set; its format is detected.

    Faces whose outer eye corners coincide are left out, and a warning names them.

    Args:
        path: A folder (WFLW or 300W in the official layout, .pts files beside images, COFW, or a shard) or a file
            (a shard as .tar, COFW as .mat, keypoints in COCO format as .json).
        split: "train" or "test", for folders that contain both.

    Raises:
        InputError: If the set cannot be read. The message names the file, the line or face, and what is wrong there.
    """
    try:
        labelled = _open(path, split)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    points = np.stack([face.points for face in labelled.faces])
    normalizers = np.linalg.norm(labelled.scheme.normalizer_vector(points), axis=-1)  # (N,) pixels
    unlabelled = ~has_normalizer(np.stack([face.kinds for face in labelled.faces]), labelled.scheme)
    usable = (normalizers >= MIN_NORMALIZER) | unlabelled
    if usable.all():
        return labelled
    names = [face.image for face, good in zip(labelled.faces, usable, strict=True) if not good]
    message = (
        f"{path}: {len(names)} faces whose outer eye corners coincide, so that errors cannot be normalized: "
        f"{', '.join(names[:MAX_LISTED])}{' ...' * (len(names) > MAX_LISTED)}"
    )
    if not usable.any():
        raise InputError(message)
    _log.warning("left out of %s", message)
    return replace(labelled, faces=tuple(face for face, good in zip(labelled.faces, usable, strict=True) if good))


def _open(path: Path, split: str) -> LabelledSet:
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        match path.suffix.lower():
            case ".json":
                return open_coco(path)
            case ".mat":
                return open_cofw(path)
            case _:
                return open_tar(path)
    list_file = path / LIST_FOLDER / f"list_98pt_rect_attr_{split}.txt"
    if list_file.is_file():
        return open_wflw(path, list_file, split)
    if (path / SHARD_LIST).is_file():
        return open_shard(path)
    cofw_files = [path / f"COFW_{split}{suffix}.mat" for suffix in ("_color", "")]
    for file in cofw_files:
        if file.is_file():
            return open_cofw(file)
    if next(path.rglob("*.pts"), None):
        return open_300w(path, split)
    other = "train" if split == "test" else "test"
    if (path / LIST_FOLDER / f"list_98pt_rect_attr_{other}.txt").is_file():
        raise InputError(
            f"{path}: contains the {other} list of WFLW, not the {split} list; "
            f"use it with --split {other} (`canthus data prepare` and `canthus eval`)"
        )
    if (path / PACK_LABELS).is_file():
        raise InputError(
            f"{path}: is a pack of faces (expected the set that it was made from, with the images); give that set, and "
            "with --held-out N only the faces that a training on the pack leaves out are measured"
        )
    raise InputError(
        f"{path}: not a labelled set (expected {LIST_FOLDER}/{list_file.name} (WFLW), {SHARD_LIST} (a shard), "
        f"{cofw_files[0].name} (COFW) or .pts files (300W)); or give a .tar, .mat or .json file"
    )
