"""`canthus train-session`: trains for some minutes and measures the result, in one call that ends in time."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from canthus.runtime.errors import InputError
from canthus.trainer.commands import train
from canthus.trainer.commands.shared import make_parser, not_installed, report_errors_once
from canthus.trainer.commands.train_options import add_options

if TYPE_CHECKING:
    from canthus.trainer.session import TimedSet

MINUTES = 9.0


@report_errors_once()
def command(arguments: list[str]) -> int:
    """Train for 9 minutes (--minutes), measure the result on labelled faces, and write a report.

    The first call starts a run. The same call again goes on with it, on any machine that has its folder. Everything is
    written into that folder while it goes: log.csv, the checkpoints, sessions.json, and report.txt for people.
    """
    started = time.monotonic()
    parser = _parser()
    args = parser.parse_args(arguments)
    last, best = (args.output / f"{name}.safetensors" for name in ("last", "best"))
    if best.is_file() and not last.is_file():
        raise InputError(
            f"{best}: the run cannot go on without {last.name} beside it; start another one from these weights: "
            f"-o OTHER-RUN --pretrained {best}"
        )
    args.resume = last.is_file()
    args.overwrite = not args.resume  # there is no checkpoint; a killed run may have left a log
    ignored = _use_recipe_of_run(args) if args.resume else []
    train.check_args(parser, args)
    try:
        from canthus.trainer.session import measure, progress_of_run, reserved_seconds, start_session
    except ImportError as missing:
        raise not_installed("training", missing) from missing

    former = progress_of_run(args.output)
    seconds = 60 * args.minutes
    sets = _open_sets(args)
    reserve = reserved_seconds(sets, seconds)
    args.minutes = (seconds - reserve) / 60
    trained = train.run(args, ["train-session", *arguments], started)
    if trained.best is None:
        if trained.first:
            print("\ncanthus train-session: stopped; the same command goes on if a step was saved", file=sys.stderr)
        return 130
    if not trained.first:
        return 0
    if ignored:
        print(f"{args.output}: went on with recipe.json; {', '.join(ignored)} count for a new run only")
    session = start_session(args.output, former, time.monotonic() - started)
    for _ in measure(args.output, session, sets, started + seconds):
        pass
    print(f"\n{session.text()}\n\nreport: {args.output / 'report.txt'}; the same command goes on")
    return 0


def _use_recipe_of_run(args: argparse.Namespace) -> list[str]:
    """Remove the options that only a new run takes, and return their names."""
    new_run = {"--network": "network", "--recipe": "recipe", "--set": "settings", "--pretrained": "pretrained"}
    given = [option for option, name in new_run.items() if getattr(args, name)]
    args.network = args.recipe = args.pretrained = None
    args.settings = []
    return given


def _open_sets(args: argparse.Namespace) -> "list[TimedSet]":
    """Open the sets to measure on, and estimate how long that will take."""
    import torch

    from canthus.trainer.packs.pack import open_pack
    from canthus.trainer.session import estimate, open_sets

    pack = open_pack(args.pack)
    _, _, recipe = train.choose_recipe(args, pack, torch.cuda.is_available())
    return estimate(open_sets(args.eval, args.eval_held_out, recipe.held_out), recipe, pack.points.shape[1])


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "train-session",
        command,
        "  canthus train-session packs/wflw -o runs/gpu --recipe wflw-hrnet --pretrained hrnet_w18.pth --eval WFLW\n"
        "  canthus train-session packs/wflw -o runs/gpu --minutes 5 --eval WFLW      (goes on with the same run)\n"
        "  canthus train-session packs/more -o runs/a --eval WFLW --eval-held-out shard-0.tar shard-1.tar\n"
        "  cat runs/gpu/report.txt\n",
    )
    add_options(parser)
    measuring = parser.add_argument_group("what to measure at the end")
    measuring.add_argument(
        "--eval",
        nargs="+",
        default=[],
        type=Path,
        metavar="SET",
        help="measure the best checkpoint on these labelled faces, as `canthus eval` does with true boxes",
    )
    measuring.add_argument(
        "--eval-held-out",
        nargs="+",
        default=[],
        type=Path,
        metavar="SET",
        help="measure it on the faces of these sets that the recipe holds out (held_out), which are not trained on",
    )
    parser.set_defaults(minutes=MINUTES)
    return parser
