"""Batches: which faces are trained on, which are validation faces, and how often each is drawn."""

import math
import subprocess
import sys

import numpy as np
import pytest

from canthus.runtime.errors import InputError
from canthus.trainer.faces.formats import open_set
from canthus.trainer.faces.labelled import fitting_held_out, is_held_out
from canthus.trainer.packs.batches import Batches
from canthus.trainer.packs.pack import Pack, write_pack
from canthus.trainer.packs.set_names import select_sets
from canthus.trainer.recipe import Recipe
from support.shards import write_shard


def test_one_face_in_n_is_held_out_by_its_name(tmp_path):
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


def test_no_face_is_held_out_with_a_validation_pack(tmp_path):
    write_shard(tmp_path / "shard", 12)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64).pack
    batches = Batches(pack, Recipe(held_out=3, batch=4, size=32), validation_pack=pack)
    assert len(batches.training_rows) == len(batches.validation_rows) == 12


def drawn_sources(pack: Pack, *weights: tuple[str, float]) -> np.ndarray:
    """Return the number of the set (900,) of each face of a large batch."""
    recipe = Recipe(held_out=0, batch=900, size=32, profile_weight=1, dataset_weights=weights)
    return pack.source[Batches(pack, recipe).sample_rows(0)]


def test_dataset_weight_matches_the_name_of_a_set_without_case_or_folder(tmp_path, caplog):
    for name in ("wflw/lfw", "wflw/WFLW-0"):
        write_shard(tmp_path / name, 6)
    sets = [open_set(tmp_path / name) for name in ("wflw/lfw", "wflw/WFLW-0")]
    pack = write_pack(sets, tmp_path / "pack", 64).pack
    assert drawn_sources(pack, ("wflw", 8)).mean() == pytest.approx(8 / 9, abs=0.05)
    assert drawn_sources(pack, ("Lfw", 0)).min() == 1
    assert caplog.messages == []
    drawn_sources(pack, ("turned", 3))
    assert caplog.messages == ["dataset_weights: no set of the pack has 'turned' in its name (lfw, WFLW-0)"]


SOURCES = ("data/WFLW", "wflw-train30x10.tar", "pseudo98-wflwimg-0.tar", "pseudo98-wflwimg-1.tar", "x/wflw_turned")


@pytest.mark.parametrize(
    ("entry", "sources", "named"),
    [
        ("wflw", SOURCES, [0]),  # the exact name
        ("wflw", SOURCES[1:], [0, 3]),  # a word
        ("wflw", SOURCES[2:4], [0, 1]),  # a part of the name, as in version 0.2
        ("pseudo98-WFLWimg-0", SOURCES, [2]),
        ("pseudo98-wflwimg-0.tar", SOURCES, [2]),
        ("pseudo98-wflwimg", SOURCES, [2, 3]),
        ("pseudo98-wflwimg-?", SOURCES, [2, 3]),
        ("*wflw*", SOURCES, [0, 1, 2, 3, 4]),
        ("wflw*", SOURCES, [0, 1, 4]),
        ("*.tar", SOURCES, [1, 2, 3]),
        ("turned", SOURCES, [4]),
        ("x", SOURCES, [1]),  # a folder does not count, a part of a word does
        ("lfw", SOURCES, []),
        ("", ("a", "b"), [0, 1]),
    ],
)
def test_entry_of_dataset_weights_names_the_sets_that_it_fits_best(entry, sources, named):
    assert np.flatnonzero(select_sets(entry, sources)).tolist() == named


def test_weights_of_several_entries_are_multiplied(tmp_path):
    for name in ("wflw", "pseudo98-wflwimg-0", "lfw"):
        write_shard(tmp_path / name, 3)
    sets = [open_set(tmp_path / name) for name in ("wflw", "pseudo98-wflwimg-0", "lfw")]
    pack = write_pack(sets, tmp_path / "pack", 64).pack
    recipe = Recipe(held_out=0, size=32, dataset_weights=(("wflw", 5), ("*wflw*", 2), ("pseudo98-wflwimg-0", 0.5)))
    assert list(Batches(pack, recipe).set_weights.values()) == [10, 1, 1]


@pytest.mark.parametrize("weights", [(("lfw", 0),), (("lfw", math.inf),)])
def test_dataset_weights_that_leave_nothing_to_draw_are_refused(tmp_path, weights):
    write_shard(tmp_path / "lfw", 2)
    pack = write_pack([open_set(tmp_path / "lfw")], tmp_path / "pack", 64).pack
    with pytest.raises(InputError, match="leave no face of the pack to draw"):
        drawn_sources(pack, *weights)


def test_batch_depends_only_on_its_step(tmp_path):
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
time.sleep(0.2)  # until its threads are idle
batches = Batches(open_pack(Path(sys.argv[1])), Recipe(held_out=3, size=32))
print(len(list(batches.stream(0, 2, workers=1))))
"""


def test_worker_processes_make_batches_after_opencv_started_threads(tmp_path):
    write_shard(tmp_path / "shard", 12)
    write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64)
    command = [sys.executable, "-c", FORKED, str(tmp_path / "pack")]  # a separate process, because it may hang
    assert subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout == "2\n"


def test_label_with_large_spread_has_less_weight(tmp_path):
    write_shard(tmp_path / "shard", 12)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64).pack
    batches = Batches(pack, Recipe(held_out=3, batch=64, size=32, spread_half_weight=0.03))
    weight = np.concatenate([batch.weight for batch in batches.validation()])
    np.testing.assert_allclose(weight, 1 / (1 + (pack.spread[batches.validation_rows] / 0.03) ** 2), rtol=1e-5)


def test_pack_that_is_too_small_is_refused_with_advice(tmp_path):
    write_shard(tmp_path / "shard", 2)
    pack = write_pack([open_set(tmp_path / "shard")], tmp_path / "pack", 64).pack
    with pytest.raises(InputError, match="lower held_out"):
        Batches(pack, Recipe(held_out=10_000, size=32))


@pytest.mark.parametrize("count", [4, 8, 30, 100])
def test_a_small_set_holds_out_some_faces_and_keeps_most(count):
    names = [f"{number:03d}.png" for number in range(count)]
    every = fitting_held_out(names, 32)
    held_out = sum(is_held_out(name, every) for name in names)
    assert 1 <= held_out <= count / 2
    assert held_out >= 3 or count < 10


def test_a_large_set_holds_out_as_the_recipe_says():
    assert fitting_held_out([f"{number}.png" for number in range(1000)], 32) == 32
    assert fitting_held_out(["one.png"], 32) == 32  # nothing fits
