"""`canthus data`: prepares labelled faces for training, makes more of them, and measures with them."""

import argparse
from pathlib import Path
from typing import Any

from canthus.runtime.errors import InputError
from canthus.runtime.files import write_file
from canthus.trainer.commands.data_derive import add_relabel, add_turn
from canthus.trainer.commands.data_measure import add_batch_speed, add_calibrate, add_fit_boxes, add_fit_head
from canthus.trainer.commands.shared import PACK_FILES, add_step, make_parser, refuse_existing


def command(arguments: list[str]) -> int:
    """Prepare labelled faces for training: check and crop them, make profiles, correct labels, measure."""
    parser = make_parser(
        "data",
        command,
        "  canthus data prepare WFLW -o packs/wflw --recipe wflw-hrnet\n"
        "  canthus data turn WFLW -o shards/turned --faces 7000\n"
        "  canthus data prepare WFLW shards/turned -o packs/more\n"
        "  canthus data relabel packs/more --model runs/first/best.safetensors -o packs/relabelled\n"
        "  canthus data prepare --help\n",
    )
    steps = parser.add_subparsers(required=True, metavar="STEP")
    _add_prepare(steps)
    add_turn(steps)
    add_relabel(steps)
    add_calibrate(steps)
    add_fit_boxes(steps)
    add_fit_head(steps)
    add_batch_speed(steps)
    args = parser.parse_args(arguments)
    return int(args.run(args))


def _add_prepare(steps: Any) -> None:
    parser = add_step(
        steps,
        "prepare",
        _prepare,
        "check labelled faces and write a pack of crops for training",
        "  canthus data prepare WFLW -o packs/wflw --recipe wflw-hrnet\n"
        "  canthus data prepare shard-0.tar shard-1.tar WFLW -o packs/more\n"
        "  canthus data prepare WFLW 300W -o packs/both --as-98\n"
        "  canthus data prepare COFW_train_color.mat -o packs/cofw --recipe cofw-hrnet\n"
        "  canthus data prepare WFLW -o packs/small --recipe wflw-hrnet --size 256 --webp 80\n"
        "  canthus train packs/wflw --recipe wflw-hrnet -o runs/first\n",
    )
    parser.add_argument(
        "sets",
        type=Path,
        nargs="+",
        metavar="SET",
        help="WFLW: the folder with both unpacked archives (WFLW_images, WFLW_annotations); COFW: its folder or .mat "
        "file; 300W: its folder; COCO keypoints: the .json file; a shard: its folder or .tar file",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PACK", help="the folder to write")
    parser.add_argument(
        "--recipe",
        metavar="NAME|FILE",
        help="the recipe to train with: it sets the size of the crops and the margin for rotation, scale and shift "
        "(default: as `canthus train`: the HRNet recipe if there is a CUDA GPU, else student)",
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="side of a crop with its margin (default: from the recipe; 192 for student, 512 for wflw-hrnet)",
    )
    parser.add_argument(
        "--webp",
        type=int,
        metavar="QUALITY",
        help="compress the crops as WebP of this quality, 1 to 100; a crop of 256 px takes about 4 kB with 80, 200 kB "
        "without. Training on a CPU then decodes each crop when it is drawn",
    )
    parser.add_argument(
        "--split",
        default="train",
        choices=("train", "test"),
        help="the official list of faces to read (default: %(default)s)",
    )
    parser.add_argument(
        "--as-98",
        action="store_true",
        help="convert faces with 68 points to WFLW's 98; the 30 points that the 68 lack are not trained on",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave out faces whose image file is missing or unreadable"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing pack")


def _prepare(args: argparse.Namespace) -> int:
    """Read labelled sets, check every face, and write the crops, summary.txt and a contact sheet (sheet.png)."""
    if args.size is not None and not 32 <= args.size <= 1024:
        args.fail("--size must lie between 32 and 1024")
    if args.webp is not None and not 1 <= args.webp <= 100:
        args.fail("--webp needs a quality between 1 and 100")
    refuse_existing(args.output, PACK_FILES, "--overwrite replaces it", args.overwrite)

    from canthus.trainer.faces.contact_sheet import write_image
    from canthus.trainer.faces.conversion import convert_to_98
    from canthus.trainer.faces.formats import open_set
    from canthus.trainer.packs.pack import write_pack
    from canthus.trainer.packs.summary import pack_contact_sheet, summarize_pack
    from canthus.trainer.recipe import SMALL_NETWORK, default_name, find_recipe

    sets = [open_set(path, args.split) for path in args.sets]
    if args.as_98:
        sets = [convert_to_98(one) for one in sets]
    name = args.recipe or default_name("hrnet_w18" if _has_gpu() else SMALL_NETWORK, sets[0].scheme.points)
    recipe = find_recipe(name)
    how = recipe.augmentation
    # The margin around the region of the network: PACK_MARGIN and a little, or the whole region twice.
    size = args.size or round(recipe.size * (2 if how.uniform or how.published else 1.5))
    try:
        pack, findings = write_pack(sets, args.output, size, recipe.augmentation, args.allow_missing, webp=args.webp)
        lines = [
            f"{args.output}: {line}" if number == 0 else line
            for number, line in enumerate(summarize_pack(sets, pack, findings))
        ]
        lines.insert(1, f"  crops for recipe {name}" + ("" if args.recipe else " (the default here; see --recipe)"))
        if args.webp:
            megabytes = (args.output / "crops.zip").stat().st_size / 1e6
            lines.insert(2, f"  compressed to {megabytes:.3g} MB (crops.zip, WebP of quality {args.webp})")
        write_file(args.output / "summary.txt", ("\n".join(lines) + "\n").encode())
    except OSError as unwritable:
        raise InputError(f"{args.output}: cannot be written: {unwritable.strerror}") from unwritable
    write_image(args.output / "sheet.png", pack_contact_sheet(pack))
    print("\n".join(lines))
    print(f"  see some of the crops in {args.output / 'sheet.png'}")
    return 0


def _has_gpu() -> bool:
    """Return whether `canthus train` would use a GPU here."""
    try:
        from torch import cuda
    except ImportError:
        return False
    return cuda.is_available()
