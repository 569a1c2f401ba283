"""`canthus data`: labelled faces, checked and cut out, or turned; `canthus label`: labels for faces that have none."""

import argparse
import contextlib
import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from canthus.runtime.errors import BackendError, InputError
from canthus.runtime.extras import install_command
from canthus.trainer.commands import parser_of, refuse_existing

PACK_FILES = ("crops.npy", "labels.npz")
SHARD_FILES = ("images", "list_98pt_rect_attr.txt")


def data(arguments: list[str]) -> int:
    """Make labelled faces ready for training: `prepare` cuts them out, `turn` makes profiles, `relabel` looks again."""
    parser = parser_of(
        "data",
        data,
        "  canthus data prepare WFLW -o packs/wflw --recipe wflw-hrnet\n"
        "  canthus data prepare shard-0.tar shard-1.tar WFLW -o packs/more\n"
        "  canthus data prepare COFW_train_color.mat -o packs/cofw --recipe cofw-hrnet\n"
        "  canthus data turn WFLW -o shards/turned --faces 7000\n"
        "  canthus train packs/wflw --recipe wflw-hrnet -o runs/first\n"
        "  canthus data relabel packs/more --model runs/first/best.safetensors -o packs/again\n",
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")
    prepare = steps.add_parser(
        "prepare",
        help="check and cut out",
        description=_prepare.__doc__,
        formatter_class=parser.formatter_class,
        epilog=parser.epilog,
    )
    prepare.add_argument(
        "sets",
        type=Path,
        nargs="+",
        metavar="SET",
        help="WFLW: the folder into which both its archives were unpacked (WFLW_images, WFLW_annotations); COFW: its "
        "folder or .mat file; 300W: its folder; keypoints in COCO's form: their .json; a shard: its folder or .tar",
    )
    prepare.add_argument("-o", "--output", type=Path, required=True, metavar="PACK", help="the folder to write")
    prepare.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="what to train with: crops get its network's pixels, and the room in which it turns, scales and shifts "
        "faces (default: what `canthus train` takes here: HRNet's recipe where there is a CUDA GPU, else student)",
    )
    prepare.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="side of a crop, its room included (default: as the recipe needs it: 192 for student, 512 for wflw-hrnet)",
    )
    prepare.add_argument(
        "--split",
        default="train",
        choices=("train", "test"),
        help="which of the official lists (default: %(default)s)",
    )
    prepare.add_argument(
        "--allow-missing", action="store_true", help="leave out faces whose picture is missing or unreadable"
    )
    prepare.add_argument("--overwrite", action="store_true", help="replace an existing pack")
    prepare.set_defaults(run=_prepare, fail=prepare.error)
    _add_turn(steps, parser.formatter_class)
    _add_relabel(steps, parser.formatter_class)
    told = parser.parse_args(arguments)
    return int(told.run(told))


def _add_turn(steps: Any, formatter: Any) -> None:
    turn = steps.add_parser(
        "turn",
        help="profiles out of frontal faces",
        description=_turn.__doc__,
        formatter_class=formatter,
        epilog="examples:\n"
        "  canthus data turn WFLW -o shards/turned\n"
        "  canthus data turn shard-0.tar shard-1.tar -o shards/turned --faces 7000 --yaw 40 85 --seed 1\n"
        "  canthus data prepare WFLW shards/turned -o packs/more\n",
    )
    turn.add_argument(
        "sets", type=Path, nargs="+", metavar="SET", help="faces with 98 points, as `canthus data prepare` takes them"
    )
    turn.add_argument("-o", "--output", type=Path, required=True, metavar="SHARD", help="the folder to write")
    turn.add_argument(
        "--faces",
        type=int,
        default=4000,
        metavar="N",
        help="how many to make, in equal parts from each set (default: %(default)s)",
    )
    turn.add_argument(
        "--yaw",
        type=float,
        nargs=2,
        default=(25.0, 85.0),
        metavar=("LOW", "HIGH"),
        help="how far faces look aside, in degrees, half of them to each side (default: 25 85)",
    )
    turn.add_argument("--seed", type=int, default=0, metavar="N", help="another number, other turns (default: 0)")
    turn.set_defaults(run=_turn, fail=turn.error)


def _add_relabel(steps: Any, formatter: Any) -> None:
    relabel = steps.add_parser(
        "relabel",
        help="labels moved towards what trained models see",
        description=_relabel.__doc__,
        formatter_class=formatter,
        epilog="examples:\n"
        "  canthus data relabel packs/pseudo --model accurate -o packs/pseudo-2\n"
        "  canthus data relabel packs/pseudo --model runs/a/best.safetensors fast -o packs/pseudo-2 --share 0.3\n"
        "  canthus train packs/pseudo-2 --recipe student-again --pretrained runs/a/best.safetensors -o runs/b\n",
    )
    relabel.add_argument("pack", type=Path, metavar="PACK", help="what `canthus data prepare` wrote")
    relabel.add_argument("-o", "--output", type=Path, required=True, metavar="PACK", help="the folder to write")
    _add_models(relabel)
    relabel.add_argument(
        "--share",
        type=float,
        default=0.5,
        metavar="PART",
        help="how far labels move towards the models' mean: 0 not at all, 1 all the way (default: %(default)s)",
    )
    relabel.add_argument(
        "--held-out",
        type=int,
        default=32,
        metavar="N",
        help="leave the one face in N as it is that training with held_out=N chooses checkpoints by (default: 32)",
    )
    relabel.add_argument("--overwrite", action="store_true", help="replace an existing pack")
    relabel.set_defaults(run=_relabel, fail=relabel.error)


def _add_models(parser: argparse.ArgumentParser) -> None:
    """Which models label, and which of their labels are too doubtful to be taken."""
    parser.add_argument(
        "--model",
        nargs="+",
        default=[None],
        metavar="MODEL",
        help="shipped models' names, .onnx files or checkpoints; of several the mean (default: the default model)",
    )
    parser.add_argument(
        "--max-spread",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="take no label whose looks lie further apart, in sizes of the face (default: %(default)s)",
    )


def _relabel(told: argparse.Namespace) -> int:
    """Look at a pack's faces again, from several sides, and write a pack whose labels lean to what models see there."""
    if not 0 < told.share <= 1:
        told.fail("--share must lie above 0, and be at most 1")
    if told.held_out < 0:
        told.fail("--held-out must be at least 0")
    if not told.max_spread >= 0:
        told.fail("--max-spread must be at least 0")
    if told.output.resolve() == told.pack.resolve():
        told.fail("-o must name another folder than the pack to read")
    refuse_existing(told.output, PACK_FILES, "--overwrite replaces it", told.overwrite)

    from canthus.trainer.evaluation.evaluate import open_entrant
    from canthus.trainer.labels.relabel import relabel

    with contextlib.ExitStack() as opened:
        entrants = [open_entrant(name) for name in told.model]
        for entrant in entrants:
            opened.enter_context(entrant.backend)
        done = relabel(told.pack, entrants, told.output, told.share, told.held_out, told.max_spread)
    print(
        f"{told.output}: {done.changed} faces labelled again, their points moved by {100 * done.moved:.2f} % of the "
        f"face's size; as they were: {done.kept_aside} held out, {done.doubtful} that the models doubt"
    )
    return 0


def _turn(told: argparse.Namespace) -> int:
    """Turn the frontal faces of the sets aside, with their points, and write them as a shard: profiles are rare."""
    if told.faces < 1:
        told.fail("--faces must be at least 1")
    if not 0 <= told.yaw[0] <= told.yaw[1] <= 90:
        told.fail("--yaw needs two angles between 0 and 90, the smaller first")
    if told.seed < 0:
        told.fail("--seed must be at least 0")
    refuse_existing(told.output, SHARD_FILES, "give the new shard another folder", overwrite=False)

    from tqdm import tqdm

    from canthus.trainer.faces.formats import open_set
    from canthus.trainer.labels.labelling import ShardWriter

    try:
        from canthus.trainer.labels.turn import Wish, turned
    except ImportError as missing:
        raise BackendError(
            f"turning faces needs {missing.name}, which is not installed: {install_command('train')}"
        ) from missing

    sets = [open_set(path, "train") for path in told.sets]
    unreadable: list[str] = []
    flow = turned(sets, Wish((told.yaw[0], told.yaw[1]), told.seed), unreadable)
    first = next(flow)  # before the shard's folder is made: whatever is wrong with the sets shows here
    stopped = False
    with ShardWriter(told.output) as shard, contextlib.closing(flow):
        try:
            bar = tqdm(itertools.chain([first], flow), "turning faces", told.faces, unit="face", disable=None)
            for name, picture, label in itertools.islice(bar, told.faces):
                shard.write(name, picture, [label])
        except KeyboardInterrupt:
            stopped = True
    print(f"{told.output}: {shard.faces} turned faces")
    return _ended("data turn", shard.faces, unreadable, stopped)


def _ended(command: str, faces: int, unreadable: Sequence[str], stopped: bool) -> int:
    """Tell what a shard of so many faces lacks; the exit code."""
    for line in unreadable:
        print(f"canthus {command}: left out: {line}", file=sys.stderr)
    if stopped:
        whole = "; what is written is a whole shard" if faces else ""
        print(f"canthus {command}: stopped{whole}", file=sys.stderr)
        return 130
    return 1 if unreadable else 0


def _prepare(told: argparse.Namespace) -> int:
    """Read the sets, check every face, and write the crops, a summary and a contact sheet (sheet.png)."""
    if told.size is not None and not 32 <= told.size <= 1024:
        told.fail("--size must lie between 32 and 1024")
    refuse_existing(told.output, PACK_FILES, "--overwrite replaces it", told.overwrite)

    from canthus.trainer.faces.formats import open_set
    from canthus.trainer.faces.sheet import write_picture
    from canthus.trainer.packs.pack import Findings, write_pack
    from canthus.trainer.packs.prepare import pack_sheet, summary
    from canthus.trainer.recipe import default_name, find_recipe

    sets = [open_set(path, told.split) for path in told.sets]
    name = told.recipe or default_name("hrnet_w18" if _has_gpu() else "student", sets[0].scheme.points)
    recipe = find_recipe(name)
    # the network's pixels times the room: PACK_ROOM and a little, or twice the region for most faces
    size = told.size or round(recipe.size * (2 if recipe.augmentation.even else 1.5))
    findings = Findings()
    try:
        pack = write_pack(sets, told.output, size, told.allow_missing, findings, recipe.augmentation)
        lines = [
            f"{told.output}: {line}" if number == 0 else line
            for number, line in enumerate(summary(sets, pack, findings))
        ]
        lines.insert(1, f"  cut for the recipe {name}" + ("" if told.recipe else ", the default here (--recipe)"))
        (told.output / "summary.txt").write_text("\n".join(lines) + "\n")
    except OSError as unwritable:
        raise InputError(f"{told.output}: cannot be written: {unwritable.strerror}") from unwritable
    write_picture(told.output / "sheet.png", pack_sheet(pack))
    print("\n".join(lines))
    print(f"  look at some of them: {told.output / 'sheet.png'}")
    return 0


def _has_gpu() -> bool:
    """Would `canthus train` here train on a GPU?"""
    try:
        from torch import cuda
    except ImportError:
        return False
    return cuda.is_available()


def label(arguments: list[str]) -> int:
    """Label the faces of pictures or videos with models, as a shard that `canthus data prepare` reads."""
    parser = parser_of(
        "label",
        label,
        "  canthus label photos clip.mp4 -o shards/more --model accurate\n"
        "  canthus label clip.mp4 -o shards/clip --every 5\n"
        "  canthus data prepare WFLW shards/more -o packs/more\n",
    )
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="pictures, folders of them, or videos")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="SHARD", help="the folder to write")
    _add_models(parser)
    parser.add_argument(
        "--every", type=int, default=10, metavar="N", help="of a video, one frame in N (default: %(default)s)"
    )
    parser.add_argument("--detector-model", type=Path, metavar="PATH", help="a detector of your own (.tflite)")
    told = parser.parse_args(arguments)
    if told.every < 1:
        parser.error("--every must be at least 1")
    if not told.max_spread >= 0:
        parser.error("--max-spread must be at least 0")
    for source in told.sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder")
    refuse_existing(told.output, SHARD_FILES, "give the new shard another folder", overwrite=False)

    return _label(told)


def _label(told: argparse.Namespace) -> int:
    from canthus.runtime.detector import Detector
    from canthus.trainer.evaluation import evaluate
    from canthus.trainer.labels import labelling

    dropped, stopped = 0, False
    unreadable: list[str] = []
    with contextlib.ExitStack() as opened:
        entrants = [evaluate.open_entrant(name) for name in told.model]
        for entrant in entrants:
            opened.enter_context(entrant.backend)
        detector = opened.enter_context(Detector(told.detector_model))
        detect = functools.partial(detector.detect, exhaustive=True)
        shard = opened.enter_context(labelling.ShardWriter(told.output))
        try:
            for source in told.sources:
                for name, picture in labelling.pictures_of(source, told.every, unreadable):
                    labels = labelling.label(picture, detect, entrants)
                    sure = [one for one in labels if one.spread <= told.max_spread]
                    shard.write(name, picture, sure)
                    dropped += len(labels) - len(sure)
        except KeyboardInterrupt:
            stopped = True
    print(f"{told.output}: {shard.faces} faces; {dropped} doubtful ones were dropped")
    return _ended("label", shard.faces, unreadable, stopped)
