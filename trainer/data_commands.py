"""`canthus data prepare`: labelled faces, checked and cut out for training."""

import argparse
from pathlib import Path

from canthus.runtime.errors import InputError
from canthus.trainer.commands import parser_of, refuse_existing

PACK_FILES = ("crops.npy", "labels.npz")


def data(arguments: list[str]) -> int:
    """Check labelled faces of any known data set and cut them out, once, into a pack that training reads fast."""
    parser = parser_of(
        "data",
        data,
        "  canthus data prepare WFLW -o packs/wflw\n"
        "  canthus data prepare shard-0.tar shard-1.tar WFLW -o packs/more --size 360\n"
        "  canthus data prepare COFW_train_color.mat -o packs/cofw\n"
        "  canthus train packs/wflw -o runs/first\n",
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")
    prepare = steps.add_parser("prepare", help="check and cut out", description=_prepare.__doc__)
    prepare.add_argument(
        "sets",
        type=Path,
        nargs="+",
        metavar="SET",
        help="the folder of WFLW, COFW or 300W as published; a COFW .mat file; a shard, as a folder or a tar file; "
        "keypoints in COCO's form (.json)",
    )
    prepare.add_argument("-o", "--output", type=Path, required=True, metavar="PACK", help="the folder to write")
    prepare.add_argument(
        "--size",
        type=int,
        default=192,
        metavar="PIXELS",
        help="side of a crop, 1.4 times what the network sees (default: %(default)s, for 128 px networks)",
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
    told = parser.parse_args(arguments)
    if not 32 <= told.size <= 1024:
        parser.error("--size must lie between 32 and 1024")
    refuse_existing(told.output, PACK_FILES, "--overwrite replaces it", told.overwrite)
    return _prepare(told)


def _prepare(told: argparse.Namespace) -> int:
    """Read the sets, check every face, and write the crops, a summary and a contact sheet (sheet.png)."""
    from canthus.trainer.data import Findings, open_set, write_pack
    from canthus.trainer.prepare import pack_sheet, summary
    from canthus.trainer.sheet import write_picture

    sets = [open_set(path, told.split) for path in told.sets]
    findings = Findings()
    try:
        pack = write_pack(sets, told.output, told.size, told.allow_missing, findings)
        lines = [
            f"{told.output}: {line}" if number == 0 else line
            for number, line in enumerate(summary(sets, pack, findings))
        ]
        (told.output / "summary.txt").write_text("\n".join(lines) + "\n")
    except OSError as unwritable:
        raise InputError(f"{told.output}: cannot be written: {unwritable.strerror}") from unwritable
    write_picture(told.output / "sheet.png", pack_sheet(pack))
    print("\n".join(lines))
    print(f"  look at some of them: {told.output / 'sheet.png'}")
    return 0
