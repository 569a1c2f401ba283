"""The state of a landmarker as bytes, so that a run that was stopped can go on as if it had not been.

Bytes are read back as objects of a few known classes only: a file beside an output must not run code.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from typing import ClassVar

from canthus.runtime.errors import InputError

_MODULES = ("canthus.runtime.tracks", "canthus.runtime.smooth", "canthus.runtime.types", "canthus.runtime.measures")
"""Modules and packages whose classes hold values only."""

_NUMPY = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("collections", "deque"),
}


class Stateful:
    """An object whose next result depends on what it has seen: on its attributes, except those named in `FIXED`."""

    FIXED: ClassVar[tuple[str, ...]] = ()
    """Attributes that the constructor sets and that are not saved."""

    def state(self) -> dict[str, object]:
        """Return what the next result depends on, for `restore`."""
        return {name: value for name, value in vars(self).items() if name not in self.FIXED}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a state of an object that was made with the same arguments."""
        vars(self).update(state)


def save_state(state: Mapping[str, object]) -> bytes:
    """Return the bytes of values by name."""
    return pickle.dumps(dict(state), pickle.HIGHEST_PROTOCOL)


def load_state(content: bytes) -> dict[str, dict[str, object]]:
    """Return the values that `save_state` has saved, by the name of each part.

    Raises:
        InputError: If the content is damaged, or has other objects than the state of a landmarker.
    """
    try:
        _check_sizes(content)
        state = _Reader(io.BytesIO(content)).load()
    except Exception as error:  # pickle raises many types for damaged content, also MemoryError
        reason = str(error) or type(error).__name__
        raise InputError(f"the state of the stopped run is damaged ({reason})") from error
    if not isinstance(state, dict) or not all(isinstance(part, dict) for part in state.values()):
        raise InputError("the state of the stopped run is damaged (not the values of its parts)")
    return state


def _check_sizes(content: bytes) -> None:
    """Raise ValueError if a value is longer than the content, before pickle takes memory for it."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument and argument > len(content):
            raise ValueError(f"{opcode.name} {argument}")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _NUMPY:
            return super().find_class(module, name)
        if any(module == known or module.startswith(f"{known}.") for known in _MODULES) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not a part of it")
