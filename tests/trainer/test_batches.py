"""Batches drawn from a pack: which faces train, which choose the checkpoint, and how often each is drawn."""

import math
import subprocess
import sys

import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.labelled import is_held_out
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import Pack, write_pack
from canthus.trainer.recipe import Recipe
from support.shards import write_shard


def test_one_face_in_so_many_is_held_out_by_its_name(tmp_path):
    names = [f"{number:05d}.jpg" for number in range(3000)]
    share = np.mean([is_held_out(name, 32) for name in names])
    assert share == pytest.approx(1 / 32, rel=0.3)
    write_shard(tmp_path / "shard", 12)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64).pack
    batches = Batches(pack, Recipe(held_out=3, batch=4, size=32))
    assert {pack.names[row] for row in batches.validation_rows} == {n for n in pack.names if is_held_out(n, 3)}
    assert not set(batches.training_rows) & set(batches.validation_rows)
    left = open_set(tmp_path / "shard").held_out_subset(3).faces
    assert [face.image for face in left] == [pack.names[row] for row in batches.validation_rows]


def test_none_is_held_out_where_other_faces_choose(tmp_path):
    write_shard(tmp_path / "shard", 12)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64).pack
    batches = Batches(pack, Recipe(held_out=3, batch=4, size=32), validation_pack=pack)
    assert len(batches.training_rows) == len(batches.validation_rows) == 12


def boosted(pack: Pack, *boosts: tuple[str, float]) -> np.ndarray:
    """Which set each of many drawn faces is of."""
    return pack.source[
        Batches(pack, Recipe(held_out=0, batch=900, size=32, profile_weight=1, dataset_weights=boosts)).rows(0)
    ]


def test_a_boost_goes_by_the_name_of_a_set_whatever_its_letters_and_folder(tmp_path, capsys):
    for name in ("wflw/lfw", "wflw/WFLW-0"):
        write_shard(tmp_path / name, 6)
    sets = [open_set(tmp_path / name) for name in ("wflw/lfw", "wflw/WFLW-0")]
    pack = write_pack(sets, tmp_path / "pack", 64).pack
    capsys.readouterr()
    assert boosted(pack, ("wflw", 8)).mean() == pytest.approx(8 / 9, abs=0.05)
    assert boosted(pack, ("Lfw", 0)).min() == 1
    assert capsys.readouterr().err == ""
    boosted(pack, ("turned", 3))
    assert capsys.readouterr().err == "dataset_weights: 'turned' is in the name of no set of the pack: lfw, WFLW-0\n"


@pytest.mark.parametrize("boosts", [(("lfw", 0),), (("lfw", math.inf),)])
def test_boosts_that_leave_nothing_to_draw_are_refused(tmp_path, boosts):
    write_shard(tmp_path / "lfw", 2)
    pack = write_pack([open_set(tmp_path / "lfw")], tmp_path / "pack", 64).pack
    with pytest.raises(InputError, match="leave no face of the pack to draw"):
        boosted(pack, *boosts)


def test_a_batch_depends_on_its_number_alone(tmp_path):
    write_shard(tmp_path / "shard", 12)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64).pack
    recipe = Recipe(held_out=3, batch=4, size=32)
    first = [batch.crops.numpy() for batch in Batches(pack, recipe).stream(0, 6)]
    later = [batch.crops.numpy() for batch in Batches(pack, recipe).stream(4, 6)]
    np.testing.assert_array_equal(first[4:], later)
    assert not np.array_equal(first[0], first[1])


FORKED = """
import sys, time
from pathlib import Path
import cv2, numpy as np
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import open_pack
from canthus.trainer.recipe import Recipe

cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 5)
time.sleep(0.2)  # until its threads sleep too
batches = Batches(open_pack(Path(sys.argv[1])), Recipe(held_out=3, size=32))
print(len(list(batches.stream(0, 2, workers=1))))
"""


def test_processes_make_batches_where_opencv_has_used_its_threads(tmp_path):
    write_shard(tmp_path / "shard", 12)
    write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64)
    words = [sys.executable, "-c", FORKED, str(tmp_path / "pack")]  # a process of its own, which may hang
    assert subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout == "2\n"


def test_a_doubtful_label_counts_less(tmp_path):
    write_shard(tmp_path / "shard", 12)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64).pack
    batches = Batches(pack, Recipe(held_out=3, batch=64, size=32, spread_half_weight=0.03))
    weight = np.concatenate([batch.weight for batch in batches.validation()])
    np.testing.assert_allclose(weight, 1 / (1 + (pack.spread[batches.validation_rows] / 0.03) ** 2), rtol=1e-5)


def test_too_small_a_pack_says_what_to_change(tmp_path):
    write_shard(tmp_path / "shard", 2)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64).pack
    with pytest.raises(InputError, match="lower held_out"):
        Batches(pack, Recipe(held_out=10_000, size=32))
