"""Steps of `canthus data` that make new training data: `turn` makes profile faces, `relabel` corrects labels."""

import argparse
import contextlib
import itertools
from pathlib import Path
from typing import Any

from canthus.runtime.options import positive_int
from canthus.trainer.commands.shared import (
    PACK_FILES,
    SHARD_FILES,
    add_label_options,
    add_step,
    not_installed,
    refuse_existing,
    report_shard,
)


def add_turn(steps: Any) -> None:
    """Add the step `turn` to the parser of `canthus data`."""
    parser = add_step(
        steps,
        "turn",
        _turn,
        "make profile faces from frontal faces",
        "  canthus data turn WFLW -o shards/turned\n"
        "  canthus data turn shard-0.tar shard-1.tar -o shards/turned --faces 7000 --yaw 40 85 --seed 1\n"
        "  canthus data prepare WFLW shards/turned -o packs/more\n",
    )
    parser.add_argument(
        "sets", type=Path, nargs="+", metavar="SET", help="faces with 98 points, in any form that `prepare` reads"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="SHARD", help="the folder to write")
    parser.add_argument(
        "--faces",
        type=positive_int,
        default=4000,
        metavar="N",
        help="number of faces to make, in equal parts from each set (default: %(default)s)",
    )
    parser.add_argument(
        "--yaw",
        type=float,
        nargs=2,
        default=(25.0, 85.0),
        metavar=("LOW", "HIGH"),
        help="range of the yaw in degrees; half of the faces turn left, half turn right (default: 25 85)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random angles (default: 0)")


def _turn(args: argparse.Namespace) -> int:
    """Rotate frontal faces in 3D, with their points, and write them as a shard. Real profile faces are rare."""
    if not 0 <= args.yaw[0] <= args.yaw[1] <= 90:
        args.fail("--yaw needs two angles between 0 and 90, the smaller first")
    if args.seed < 0:
        args.fail("--seed must be at least 0")
    refuse_existing(args.output, SHARD_FILES, "choose another folder for the new shard", overwrite=False)

    from tqdm import tqdm

    from canthus.trainer.faces.formats import open_set
    from canthus.trainer.labels.labelling import ShardWriter

    try:
        from canthus.trainer.labels.profiles import TurnOptions, generate_turned_faces
    except ImportError as missing:
        raise not_installed("`canthus data turn`", missing) from missing

    sets = [open_set(path, "train") for path in args.sets]
    unreadable: list[str] = []
    faces = generate_turned_faces(sets, TurnOptions((args.yaw[0], args.yaw[1]), args.seed), unreadable)
    first = next(faces)  # raises an error in the sets before the folder of the shard is made
    stopped = False
    with ShardWriter(args.output) as shard, contextlib.closing(faces):
        try:
            bar = tqdm(itertools.chain([first], faces), "turning faces", args.faces, unit="face", disable=None)
            for name, image, label in itertools.islice(bar, args.faces):
                shard.write(name, image, [label])
        except KeyboardInterrupt:
            stopped = True
    print(f"{args.output}: {shard.faces} turned faces")
    return report_shard("data turn", shard.faces, unreadable, stopped)


def add_relabel(steps: Any) -> None:
    """Add the step `relabel` to the parser of `canthus data`."""
    parser = add_step(
        steps,
        "relabel",
        _relabel,
        "move the labels of a pack towards the predictions of trained models",
        "  canthus data relabel packs/pseudo --model accurate -o packs/pseudo-2\n"
        "  canthus data relabel packs/all --model a.onnx fast --peer PFLD.onnx --views 2 5 3 --share 1 "
        "-o packs/all-2\n"
        "  canthus data relabel packs/all --model a.onnx --sets wild --held-out 22 -o packs/all-2\n"
        "  canthus train packs/pseudo-2 --recipe student-again --pretrained runs/a/best.safetensors -o runs/b\n",
    )
    parser.add_argument("pack", type=Path, metavar="PACK", help="a folder that `canthus data prepare` wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PACK", help="the folder to write")
    add_label_options(parser)
    parser.add_argument(
        "--peer",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE.onnx",
        help="public third-party networks of the PFLD family, which predict as well",
    )
    parser.add_argument(
        "--views",
        type=int,
        nargs="+",
        default=[5],
        metavar="N",
        help="in how many views (rotated and scaled, each also mirrored) each face is predicted: one number, or one "
        "for each model and peer (default: 5, at most 9)",
    )
    parser.add_argument(
        "--share",
        type=float,
        default=0.5,
        metavar="PART",
        help="how far each label moves towards the mean prediction, above 0; 1 is fully (default: %(default)s)",
    )
    parser.add_argument(
        "--sets",
        nargs="+",
        default=[],
        metavar="PART",
        help="relabel only the faces of sets that have one of these in their names (default: all)",
    )
    parser.add_argument(
        "--held-out",
        type=int,
        default=32,
        metavar="N",
        help="do not change the validation faces of a recipe with held_out=N, one face in N (default: 32)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing pack")


def _relabel(args: argparse.Namespace) -> int:
    """Predict the points of each face of a pack in several views, and write a pack with corrected labels.

    Points that people placed stay. The spread of the predictions becomes the quality of each pseudo-labelled face. On
    the CPU an exported model (`canthus export`) is faster than its checkpoint.
    """
    _check_relabel(args)
    refuse_existing(args.output, PACK_FILES, "--overwrite replaces it", args.overwrite)

    from canthus.trainer.evaluation.evaluate import open_candidates
    from canthus.trainer.labels.labelling import VIEWS
    from canthus.trainer.labels.relabel import RelabelOptions, relabel

    models = len(args.model) + len(args.peer)
    if len(args.views) not in (1, models) or not all(1 <= count <= len(VIEWS) for count in args.views):
        args.fail(f"--views must be one number, or one for each of the {models} models, from 1 to {len(VIEWS)}")
    views = tuple(args.views * models if len(args.views) == 1 else args.views)
    options = RelabelOptions(args.share, args.held_out, args.max_spread, views, tuple(args.sets))
    with open_candidates(args.model, args.peer) as candidates:
        done = relabel(args.pack, candidates, args.output, options)
    print(
        f"{args.output}: relabelled {done.changed} faces; their points moved by {100 * done.moved:.2f} % of the face "
        f"size on average; unchanged: {done.held_out} validation faces, {done.uncertain} uncertain faces, "
        f"{done.skipped} faces of other sets or without a point that may move"
    )
    if done.checks:
        print(_check_table(done.checks, args.max_spread))
    return 0


def _check_relabel(args: argparse.Namespace) -> None:
    """Exit with an error message if an option is out of range."""
    if not 0 < args.share <= 1:
        args.fail("--share must be above 0 and at most 1")
    if args.held_out < 0:
        args.fail("--held-out must be at least 0")
    if not args.max_spread >= 0:
        args.fail("--max-spread must be at least 0")
    if args.output.resolve() == args.pack.resolve():
        args.fail("-o must name another folder than the pack to read")


def _check_table(checks: list[tuple[float, float]], max_spread: float) -> str:
    """Return the error of the predictions on held-out faces with placed points, by spread: it shows a good limit."""
    import numpy as np

    spread, error = np.array(checks).T
    lines = [
        f"the predictions on {len(spread)} validation faces, at the points that people placed, in % of the root of "
        "their box's area:",
        f"  all: {error.mean():.2f}, spread up to {max_spread:g}: {error[spread <= max_spread].mean():.2f}"
        if (spread <= max_spread).any()
        else f"  all: {error.mean():.2f}",
    ]
    edges = np.quantile(spread, np.linspace(0, 1, 6))
    groups = np.clip(np.searchsorted(edges[1:-1], spread), 0, 4)
    lines += [
        f"  spread {edges[index]:.4f} to {edges[index + 1]:.4f}: {error[groups == index].mean():.2f} "
        f"({int((groups == index).sum())} faces)"
        for index in range(5)
        if (groups == index).any()
    ]
    return "\n".join(lines)
