"""Faces with eight points of a user's own, as keypoints in COCO format."""

import json
from pathlib import Path

import cv2
import numpy as np

PLACES = {  # of a frontal face; left and right are the person's
    "right_eye_outer": (30, 40), "right_eye_inner": (42, 40), "left_eye_inner": (58, 40), "left_eye_outer": (70, 40),
    "nose_tip": (50, 60), "right_mouth": (40, 75), "left_mouth": (60, 75), "chin": (50, 95),
}  # fmt: skip
SKELETON = [[1, 2], [3, 4], [6, 7]]


def write_own_points(folder: Path, count: int = 3, category: dict | None = None, places: dict | None = None) -> Path:
    """Write mine.json, faces whose place differs a little, with a white image for each."""
    if category is None:
        category = {"keypoints": list(places or PLACES), "skeleton": [] if places else SKELETON}
    places = PLACES if places is None else places
    content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "face", **category}]}
    for number in range(count):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((120, 120, 3), 255, np.uint8))
        keypoints = [value for x, y in places.values() for value in (x + number, y, 2)]
        content["images"].append({"id": number, "file_name": f"{number}.png"})
        content["annotations"].append({"image_id": number, "keypoints": keypoints, "bbox": [20, 30, 60, 70]})
    (folder / "mine.json").write_text(json.dumps(content))
    return folder / "mine.json"
