"""Which sets of a pack an entry of the recipe key `dataset_weights` names."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WILDCARDS = "*?["

SUFFIX = re.compile(r"(\.tar(\.\w+)?|\.json|\.mat)$")
"""Suffix of a set that is a file."""


def select_sets(entry: str, sources: Sequence[str]) -> NDArray[np.bool_]:
    """Return which of the sets (N,) an entry names, by their file or folder names without regard to case.

    An entry with one of the characters `*?[` is a pattern of the whole name, as in a shell. Any other entry names those
    sets that it fits best: the ones with exactly this name, or if there are none, the ones that contain it as a word
    ("wflw" in wflw-0.tar), or if there are none, the ones that contain it ("wflw" in wflwimg-0.tar). The suffix of a
    file may be left out.

    sources: the paths of the sets.
    """
    entry = entry.casefold()
    names = [Path(source).name.casefold() for source in sources]
    bare = [SUFFIX.sub("", name) for name in names]
    if any(character in entry for character in WILDCARDS):
        return np.array(
            [any(fnmatch.fnmatchcase(form, entry) for form in pair) for pair in zip(names, bare, strict=True)], np.bool_
        )
    word = re.compile(rf"(?<![^\W_]){re.escape(entry)}(?![^\W_])")
    tests = (
        [entry in pair for pair in zip(names, bare, strict=True)],
        [word.search(name) is not None for name in names],
        [entry in name for name in names],
    )
    return np.array(next((found for found in tests if any(found)), tests[-1]), np.bool_)
