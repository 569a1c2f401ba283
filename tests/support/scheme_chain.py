"""Take faces with other points than WFLW's the whole way: prepare, train, eval, export, engine, video, images, viewer.

    PYTHONPATH=tests python -m support.scheme_chain FACES -o build/schemes --only COFW own

FACES are faces with 98 points, such as a shard. A few are converted to each scheme, and a network is overfitted to
them. The images in the output folder are for looking at.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

from canthus.runtime.schemes import included_schemes
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.kinds import PointKind
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet
from support.other_schemes import PARTS, Parts, convert
from support.repository import REPOSITORY

CLIP = REPOSITORY / "runtime" / "sample" / "portrait.mp4"

_OWN = {
    "left_brow_outer": 46, "left_brow_inner": 42, "right_brow_inner": 37, "right_brow_outer": 33,
    "left_eye_outer": 72, "left_eye_upper": 70, "left_eye_inner": 68, "left_eye_lower": 74,
    "right_eye_inner": 64, "right_eye_upper": 62, "right_eye_outer": 60, "right_eye_lower": 66,
    "nose_tip": 54, "left_nostril": 59, "right_nostril": 55,
    "left_mouth": 82, "mouth_upper": 79, "right_mouth": 76, "mouth_lower": 85, "chin": 16,
}  # fmt: skip
"""20 points as a user may name them: left and right are the person's."""
_OWN_LINES = [[1, 2], [3, 4], [5, 6], [6, 7], [7, 8], [8, 5], [9, 10], [10, 11], [11, 12], [12, 9], [14, 13], [13, 15],
              [16, 17], [17, 18], [18, 19], [19, 16]]  # fmt: skip
OWN = "own"
"""Its file own.toml names the points of WFLW, so that training starts from their maps."""

RECIPE = {
    "epochs": 40, "batch": 10, "warm_up": 10, "learning_rate": 1e-3, "weight_decay": 0, "ema_decay": 0.95,
    "held_out": 0, "negative_fraction": 0, "augmentation.rotation": 10, "augmentation.dropout_p": 0,
    "augmentation.occluder_p": 0, "augmentation.webcam_p": 0, "augmentation.blur_p": 0, "augmentation.downscale_p": 0,
}  # fmt: skip


def parts_of(name: str) -> Parts:
    """Return how the points of a scheme are made from those of WFLW."""
    return dict(enumerate(_OWN.values())) if name == OWN else PARTS[name]


def write_faces(source: LabelledSet, name: str, count: int, folder: Path) -> Path:
    """Write some faces of a set as keypoints in COCO format. Points behind the head have v = 0."""
    parts = parts_of(name)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    category: dict[str, object] = {"id": 1, "name": "face"}
    if name == OWN:
        category |= {"keypoints": list(_OWN), "skeleton": _OWN_LINES}
        (folder / f"{name}.toml").write_text(f"wflw = {list(_OWN.values())}\n")
    content: dict[str, list] = {"images": [], "annotations": [], "categories": [category]}
    for number, face in enumerate(source.faces[:: len(source.faces) // count][:count]):
        file = f"{number}.png"
        cv2.imwrite(str(folder / "images" / file), source.read_image(face.image)[..., ::-1])
        points = convert(face.points, parts)
        low, high = points.min(0), points.max(0)
        keypoints = np.concatenate([points, visibility(face, parts)[:, None]], 1)
        content["images"].append({"id": number, "file_name": file})
        content["annotations"].append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "keypoints": keypoints.ravel().tolist(),
                "bbox": [*low.tolist(), *(high - low).tolist()],
            }
        )
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def visibility(face: LabelledFace, parts: Parts) -> np.ndarray:
    """Return v (K,) of COCO: 0 for points behind the head, 1 for covered ones, else 2."""
    kinds = [face.kinds[np.atleast_1d(parts[point])] for point in range(len(parts))]
    hidden = [bool((one == PointKind.HIDDEN).any()) for one in kinds]
    covered = [bool((one == PointKind.COVERED).any()) for one in kinds]
    return np.where(hidden, 0, np.where(covered, 1, 2))


def canthus(*words: object) -> None:
    """Run a command, and print it and the time that it took."""
    arguments = [str(word) for word in words]
    print("\n$ canthus", *arguments, flush=True)
    started = time.monotonic()
    subprocess.run([Path(sys.executable).with_name("canthus"), *arguments], check=True)
    print(f"  {time.monotonic() - started:.0f} s", flush=True)


def learn(name: str, faces: Path, real: list[Path], folder: Path) -> Path:
    """Train a network on the faces and real ones of the same scheme, measure it, and return the exported model."""
    settings = [word for key, value in RECIPE.items() for word in ("--set", f"{key}={value}")]
    best, model = folder / "run" / "best.safetensors", folder / "model.onnx"
    canthus("data", "prepare", faces, *real, "-o", folder / "pack", "--recipe", "student", "--overwrite")
    train = ("train", folder / "pack", "-o", folder / "run", "--recipe", "student", "--pretrained", "fast")
    # Before: the weights it starts from, after one step with a learning rate of nearly 0.
    still = ("--set", "epochs=0.1", "--set", "learning_rate=1e-9", "--no-compile", "--overwrite")
    canthus(*train, *settings, *still)
    canthus("eval", "--model", best, "--data", faces)
    canthus(*train, *settings, "--no-compile", "--overwrite")
    for one in (faces, *real):
        canthus("eval", "--model", best, "--data", one)
    canthus("export", best, "-o", model, "--overwrite")
    return model


def use(model: Path, images: Path, folder: Path, engine: bool) -> None:
    """Run an exported model in the commands. Leaves still.png, drawn/ and viewer.png."""
    if engine:
        build = ("--flavour", "tensorrt-rtx", "--target", "sm86", "--max-batch", 2, "--quiet", "--overwrite")
        canthus("engine", "build", "--model", model, "-o", folder / "built.engine", *build)
    video, trace = folder / "drawn.mp4", folder / "clip.trace"
    own = ("--model", model, "--cpu", "--overwrite")
    end = ("--start", "0", "--end", "1")
    canthus("video", CLIP, "-o", video, "--table", folder / "clip.csv", "--record-trace", trace, *end, *own)
    canthus("replay", trace, "--table", folder / "again.csv", "--overwrite")
    canthus("images", images, "-o", folder / "drawn", "--table", folder / "images.csv", *own)
    capture = cv2.VideoCapture(str(video))
    capture.set(cv2.CAP_PROP_POS_FRAMES, 15)
    cv2.imwrite(str(folder / "still.png"), capture.read()[1])
    capture.release()
    subprocess.run([sys.executable, "-m", "support.scheme_chain", "--show", str(model), str(folder)], check=True)


def show(model: Path, image: Path) -> None:
    """Play the clip in the viewer without a screen, and save the window as an image."""
    from canthus.gui.finder import Tracking, TrackingControl
    from canthus.gui.media import VideoMedia
    from canthus.gui.stream import Stream
    from canthus.gui.tools import Tools
    from canthus.gui.window import Window
    from support.viewer import application, wait_for

    qt = application()
    next(qt)
    control = TrackingControl(Tracking(model=str(model), gpu=False))
    window = Window(Stream(control.open))
    tools = Tools(window, control)
    window.resize(900, 700)
    window.show()
    window.stream.start()
    window.controls.loop.setChecked(True)
    window.open(VideoMedia(CLIP))
    found = wait_for(lambda: tools._result is not None and len(tools._result.faces) > 0, 120)
    window.switches.actions["regions"].setChecked(True)
    for dock in tools.docks.values():
        dock.show()
    wait_for(lambda: False, 2)
    window.grab().save(str(image))
    tools.close()
    window.close()
    assert found, "no face was found"


def main() -> None:
    """Run the schemes that the options name."""
    if sys.argv[1:2] == ["--show"]:
        show(Path(sys.argv[2]), Path(sys.argv[3]) / "viewer.png")
        os._exit(0)  # as the viewer ends: threads of other libraries may still run
    parser = argparse.ArgumentParser(prog="python -m support.scheme_chain", description=__doc__.split("\n")[0])
    parser.add_argument("faces", type=Path, help="faces with 98 points")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/schemes"), help="default: %(default)s")
    parser.add_argument("--only", nargs="+", default=[OWN, *PARTS], choices=[OWN, *PARTS], help="these schemes only")
    parser.add_argument("--count", type=int, default=20, help="number of faces (default: %(default)s)")
    parser.add_argument("--samples", type=Path, help="folder NAME/test_NAME.json with real faces of the schemes")
    parser.add_argument("--no-engine", action="store_true", help="build no engine (needs tensorrt-rtx)")
    args = parser.parse_args()
    source = open_set(args.faces)
    for name in args.only:
        folder = args.output / name
        faces = write_faces(source, name, args.count, folder)
        lower = name.lower()
        real = [args.samples / lower / f"test_{lower}.json"] if args.samples and name != OWN else []
        model = learn(name, faces, real, folder)
        use(model, real[0].parent if real else faces.parent / "images", folder, not args.no_engine)
    assert {scheme.name for scheme in included_schemes()} == {*PARTS, "WFLW"}


if __name__ == "__main__":
    main()
