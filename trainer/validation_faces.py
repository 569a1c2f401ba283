"""The faces that the checkpoint of a run is chosen on."""

import hashlib
from pathlib import Path

from canthus.runtime.errors import InputError, ModelError
from canthus.trainer.faces.kinds import is_placed
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import Pack, open_pack
from canthus.trainer.recipe import Recipe


def open_validation_pack(recipe: Recipe) -> Pack | None:
    """Open the pack that chooses the checkpoint, if the recipe names one."""
    if not recipe.choose_on:
        return None
    try:
        return open_pack(Path(recipe.choose_on))
    except InputError as wrong:
        raise InputError(f"{wrong}; this pack chooses the best checkpoint, name it with --choose-on PACK") from wrong


def validation_fingerprint(batches: Batches) -> str | None:
    """Return a hash of the names of the validation faces, independent of the size of crops; None without faces.

    It also depends on whether only placed points are measured, as NMEs of the two kinds cannot be compared.
    """
    names = batches.validation_pack.names
    if not len(batches.validation_rows):
        return None
    text = "\n".join(str(names[row]) for row in batches.validation_rows) + "\nplaced" * batches.placed_only
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_validation_faces(path: Path, batches: Batches, best: float | None, former: str | None) -> None:
    """Raise ModelError if the NME of the best checkpoint of a run cannot be compared with those that are to come.

    path: the checkpoint that the run is resumed from, for the message.
    best, former: NME (%) of the best checkpoint, and fingerprint of the faces that it was measured on.
    """
    if best is None:
        return
    current = validation_fingerprint(batches)
    if current is None:
        raise ModelError(
            f"{path}: its best checkpoint was chosen on faces that recipe.json does not name (NME {best:.2f} %); "
            "resume with the pack that they are in: --choose-on PACK"
        )
    if former not in (None, current):  # None: written by version 0.1
        raise ModelError(
            f"{path}: its best checkpoint was chosen on other validation faces; resume with the packs that the run "
            "began with (PACK and --choose-on), or start a new run"
        )


def describe_validation(batches: Batches) -> str:
    """Return one line: on how many faces the checkpoint is chosen, and by which measure."""
    kinds = batches.validation_pack.kinds[batches.validation_rows]
    if not batches.placed_only:
        return f"validation: NME of {len(kinds)} faces"
    placed = is_placed(kinds)
    return (
        f"validation: {placed.sum()} points that people placed on {placed.any(-1).sum()} faces; held_out_nme is their "
        "mean error in % of the square root of the area of their box"
    )
