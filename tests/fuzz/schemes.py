"""Schemes of points: in a TOML file of their own, and in keypoints in COCO format with names."""

import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("left_eye", "right_eye", "left_mouth", "right_mouth", "nose_tip")

OWN = """
name = "mine"
mirror_pairs = [[0, 1], [2, 3]]
normalizer = [[0], [1]]
eyes = [[0], [1]]
nose_tip = 4
lines = [[0, 4, 1], [2, 3]]
[regions]
left_eye = [0]
right_eye = [1]
nose = [4]
[colors]
nose = [10, 20, 30]
"""


def make_schemes(_folder: Path) -> dict[str, bytes]:
    """Return two included schemes and a small one as TOML, and one as JSON."""
    from canthus.runtime import schemes

    included = resources.files(schemes)
    seeds = {f"{name}.toml": (included / f"{name}.toml").read_bytes() for name in ("cofw", "300w")}
    seeds["mine.toml"] = b"points = 5\n" + OWN.lstrip().encode()
    seeds["aflw.json"] = json.dumps(dataclasses.asdict(schemes.included_scheme("aflw"))).encode()
    return seeds


def read_scheme_file(path: Path) -> None:
    """Read a scheme, and use all of it on one face."""
    from canthus.runtime.schemes import parse_scheme, read_scheme, scheme_values

    use_scheme(scheme := read_scheme(path))
    assert parse_scheme(json.loads(json.dumps(scheme_values(scheme)))) == scheme


def use_scheme(scheme: Any) -> None:
    """Draw a face of a scheme, mirror it, and compute its roll."""
    from canthus.runtime.draw import draw
    from canthus.runtime.types import Faces

    if scheme.points > 10_000:  # more than any model has
        return
    points = np.random.default_rng(0).uniform(0, 32, (1, scheme.points, 2)).astype(np.float32)
    faces = Faces(points, np.ones((1, scheme.points), np.float32), np.zeros(1, np.int64), scheme=scheme)
    draw(np.zeros((32, 32, 3), np.uint8), faces, drawings=("points", "lines"))
    assert sorted(scheme.mirror.tolist()) == list(range(scheme.points))
    assert len(scheme.point_names) == len(scheme.point_colors) == scheme.points
    assert np.isfinite(scheme.rolls(points)).all()
    if scheme.normalizer[0]:
        assert np.isfinite(scheme.normalizer_vector(points)).all()


def make_coco_schemes(folder: Path) -> dict[str, bytes]:
    """Return keypoints of five points whose category names them, and a scheme that lies beside such a file."""
    import cv2

    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "0.png"), np.zeros((40, 40, 3), np.uint8))
    places = [(10, 12), (30, 12), (14, 30), (26, 30), (20, 22)]
    keypoints = [value for x, y in places for value in (x, y, 2)]
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "0.png", "height": 40, "width": 40}],
        "annotations": [
            {"id": one, "image_id": 1, "keypoints": keypoints, "bbox": [5, 5, 30, 30], "num_keypoints": 5}
            for one in (1, 2)
        ],
        "categories": [{"id": 1, "name": "face", "keypoints": NAMES, "skeleton": [[1, 5], [5, 2], [3, 4]]}],
    }
    named = json.dumps(content).encode()
    content["categories"][0] |= {"keypoints": list("abcde"), "flip_pairs": [[0, 1], ["c", "d"]]}
    (folder / "beside.json").write_text(json.dumps(content))
    return {"named.json": named, "beside.toml": OWN.encode()}


def read_coco_scheme(path: Path) -> None:
    """Open keypoints in COCO format, and use their scheme."""
    from canthus.trainer.faces.formats import open_set

    labelled = open_set(path.with_suffix(".json"))
    use_scheme(labelled.scheme)
    for face in labelled.faces:
        assert face.points.shape == (labelled.scheme.points, 2)
        assert np.isfinite(face.points).all()
