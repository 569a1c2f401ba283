"""Steps of `canthus data` that measure: score calibration, face boxes, the 3D head, the speed of batches."""

import argparse
from pathlib import Path
from typing import Any

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.options import positive_int
from canthus.trainer.commands.shared import add_step, not_installed


def add_calibrate(steps: Any) -> None:
    """Add the step `calibrate` to the parser of `canthus data`."""
    parser = add_step(
        steps,
        "calibrate",
        _calibrate,
        "fit the score calibration of a checkpoint again",
        "  canthus data calibrate runs/first/best.safetensors packs/wflw\n"
        "  canthus data calibrate best.safetensors packs/other --recipe wflw-published\n",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a .safetensors file; it is updated")
    parser.add_argument(
        "pack",
        type=Path,
        metavar="PACK",
        help="the pack of the run, of which the validation faces are used; if its recipe has held_out=0, another "
        "pack, of which all faces are used",
    )
    parser.add_argument(
        "--recipe", metavar="NAME|FILE", help="recipe of the run (default: recipe.json beside the checkpoint)"
    )


def _calibrate(args: argparse.Namespace) -> int:
    """Fit the score calibration of a checkpoint on validation faces, and write it into the checkpoint.

    `canthus train` does this at the end of a run. If people labelled some of the validation faces, only these count.
    The table shows what the scores claim, and the share of accurate points, by pose and occlusion, before and after.
    """
    _need_torch("calibrate")
    from canthus.trainer.calibrate import calibrate_checkpoint
    from canthus.trainer.packs.pack import open_pack
    from canthus.trainer.recipe import find_recipe

    own_recipe = args.checkpoint.with_name("recipe.json")
    if not args.checkpoint.is_file():
        raise ModelError(f"{args.checkpoint}: no such file (expected a checkpoint)")
    if not (args.recipe or own_recipe.is_file()):
        raise InputError(f"{own_recipe}: no such file; name the recipe of the run: --recipe NAME|FILE")
    recipe = find_recipe(args.recipe or str(own_recipe))
    print(calibrate_checkpoint(args.checkpoint, open_pack(args.pack), recipe))
    return 0


def add_fit_boxes(steps: Any) -> None:
    """Add the step `fit-boxes` to the parser of `canthus data`."""
    parser = add_step(
        steps,
        "fit-boxes",
        _fit_boxes,
        "measure where the detector's box lies on a face",
        "  canthus data fit-boxes WFLW\n  canthus data fit-boxes shard-0.tar shard-1.tar --every 10\n",
    )
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET", help="training faces, as `prepare` reads them")
    parser.add_argument(
        "--every", type=positive_int, default=1, metavar="N", help="use one face in N (default: %(default)s)"
    )


def _fit_boxes(args: argparse.Namespace) -> int:
    """Measure the constants BOX_SCALE and BOX_SHIFT_Y of runtime/geometry.py on training faces, and print them."""
    from canthus.runtime.detector import Detector
    from canthus.trainer.boxes import fit_boxes
    from canthus.trainer.faces.formats import open_set

    with Detector() as detector:
        print(fit_boxes([open_set(path, "train") for path in args.sets], detector, args.every))
    return 0


def add_fit_head(steps: Any) -> None:
    """Add the step `fit-head` to the parser of `canthus data`."""
    parser = add_step(
        steps,
        "fit-head",
        _fit_head,
        "fit the 3D model of the points for the head pose",
        "  canthus data fit-head human98-aflw-0.tar human98-aflw-1.tar --pose pose.csv -o head.json\n",
    )
    parser.add_argument("sets", type=Path, nargs="+", metavar="SET", help="labelled faces, as `prepare` reads them")
    parser.add_argument(
        "--pose", type=Path, required=True, metavar="FILE.csv", help="image, yaw, pitch, roll of faces, in degrees"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="HEAD.json", help="the file to write")
    parser.add_argument(
        "--held-out",
        type=int,
        default=2,
        metavar="N",
        help="leave out one image in N, those that `canthus eval --held-out N` measures (default: %(default)s)",
    )


def _fit_head(args: argparse.Namespace) -> int:
    """Fit where the 98 points lie on a head in 3D, to labelled faces whose poses are known, and their mirror images.

    runtime/measures/head.json was made so.
    """
    if args.held_out < 2:
        args.fail("--held-out must be at least 2")
    if args.output.exists():
        raise InputError(f"{args.output}: already exists; choose another name")
    from canthus.runtime.measures.head import write_head
    from canthus.trainer.faces.formats import open_set
    from canthus.trainer.head_model import fit_head, posed_faces, read_poses, with_mirror_images

    poses = read_poses(args.pose)
    faces = posed_faces([open_set(path, "train") for path in args.sets], poses, args.held_out)
    try:
        write_head(args.output, *fit_head(with_mirror_images(faces)))
    except OSError as error:
        raise InputError(f"{args.output}: cannot be written ({error.strerror})") from error
    print(f"{args.output}: fitted to {len(faces.points)} faces")
    return 0


def add_batch_speed(steps: Any) -> None:
    """Add the step `batch-speed` to the parser of `canthus data`."""
    parser = add_step(
        steps,
        "batch-speed",
        _batch_speed,
        "measure how fast training batches are made",
        "  canthus data batch-speed packs/wflw --recipe wflw-hrnet\n",
    )
    parser.add_argument("pack", type=Path, metavar="PACK", help="a folder that `canthus data prepare` wrote")
    parser.add_argument(
        "--recipe", default="wflw-hrnet", metavar="NAME|FILE", help="of the batches (default: %(default)s)"
    )
    parser.add_argument("--steps", type=positive_int, default=40, metavar="N", help="batches (default: 40)")


def _batch_speed(args: argparse.Namespace) -> int:
    """Measure how many training images per second this machine makes, with different numbers of worker processes."""
    _need_torch("batch-speed")
    from canthus.trainer.packs.batch_speed import measure_batch_speed
    from canthus.trainer.packs.pack import open_pack
    from canthus.trainer.recipe import find_recipe

    for line in measure_batch_speed(open_pack(args.pack), find_recipe(args.recipe), args.steps):
        print(line)
    return 0


def _need_torch(step: str) -> None:
    """Raise BackendError if torch is not installed."""
    try:
        import torch  # noqa: F401 (only whether it is there)
    except ImportError as missing:
        raise not_installed(f"`canthus data {step}`", missing) from missing
