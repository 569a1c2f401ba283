"""`canthus label`: labels for faces that have none."""

import argparse
import contextlib
import functools
from pathlib import Path

from canthus.runtime.errors import InputError, ModelError
from canthus.runtime.options import add_detector_option, positive_int
from canthus.trainer.commands.shared import SHARD_FILES, add_label_options, make_parser, refuse_existing, report_shard


def command(arguments: list[str]) -> int:
    """Label the faces in images and videos with models, and write a shard for `canthus data prepare`."""
    parser = make_parser(
        "label",
        command,
        "  canthus label photos clip.mp4 -o shards/more --model accurate\n"
        "  canthus label clip.mp4 -o shards/clip --every 5\n"
        "  canthus data prepare WFLW shards/more -o packs/more\n",
    )
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="image files, folders of them, videos")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="SHARD", help="the folder to write")
    add_label_options(parser)
    parser.add_argument(
        "--every", type=positive_int, default=10, metavar="N", help="label one in N frames of a video (default: 10)"
    )
    add_detector_option(parser)
    args = parser.parse_args(arguments)
    if not args.max_spread >= 0:
        parser.error("--max-spread must be at least 0")
    for source in args.sources:
        if not source.exists():
            raise InputError(f"{source}: no such file or folder")
    refuse_existing(args.output, SHARD_FILES, "choose another folder for the new shard", overwrite=False)
    return _label(args)


def _label(args: argparse.Namespace) -> int:
    from canthus.runtime.detector import Detector
    from canthus.runtime.schemes import WFLW
    from canthus.trainer.evaluation.evaluate import open_candidates
    from canthus.trainer.faces.schemes import same_order
    from canthus.trainer.labels import labelling

    dropped, stopped = 0, False
    unreadable: list[str] = []
    with contextlib.ExitStack() as opened:
        candidates = opened.enter_context(open_candidates(args.model))
        for one in candidates:
            if not same_order(scheme := one.backend.scheme, WFLW):
                raise ModelError(
                    f"{one.name}: predicts the {scheme.points} points of {scheme.name}, but a shard has the "
                    f"{WFLW.points} of {WFLW.name}; label with a model for these"
                )
        detector = opened.enter_context(Detector(args.detector_model))
        detect = functools.partial(detector.detect, exhaustive=True)
        shard = opened.enter_context(labelling.ShardWriter(args.output))
        try:
            for source in args.sources:
                for name, image in labelling.images_of(source, args.every, unreadable):
                    labels = labelling.label_image(image, detect, candidates)
                    certain = [one for one in labels if one.spread <= args.max_spread]
                    shard.write(name, image, certain)
                    dropped += len(labels) - len(certain)
        except KeyboardInterrupt:
            stopped = True
    print(f"{args.output}: {shard.faces} faces; dropped {dropped} with uncertain labels")
    return report_shard("label", shard.faces, unreadable, stopped)
