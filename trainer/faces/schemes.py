"""The point schemes of the data sets whose own formats are read, and the scheme of a number of points."""

import dataclasses

from canthus.runtime.errors import InputError
from canthus.runtime.schemes import WFLW, Scheme, included_scheme, included_schemes

__all__ = [
    "AFLW",
    "COFW",
    "LAPA",
    "SCHEMES",
    "W300",
    "WFLW",
    "Scheme",
    "describe_difference",
    "same_order",
    "scheme_of",
]

COFW, W300, LAPA, AFLW = (included_scheme(name) for name in ("cofw", "300w", "lapa", "aflw"))
SCHEMES = included_schemes()


def scheme_of(points: int, source: str = "") -> Scheme:
    """Return the included scheme with this number of points per face.

    Raises:
        InputError: If there is none; the message starts with `source`, if given.
    """
    for scheme in SCHEMES:
        if scheme.points == points:
            return scheme
    known = ", ".join(f"{scheme.points} ({scheme.name})" for scheme in SCHEMES)
    prefix = f"{source}: " if source else ""
    raise InputError(f"{prefix}{points} points per face are not supported (expected one of {known})")


def same_order(one: Scheme, other: Scheme) -> bool:
    """Return whether two schemes have the same points in the same order. Lines, colors and so on may differ."""
    return one.point_names == other.point_names and one.mirror.tolist() == other.mirror.tolist()


def describe_difference(one: Scheme, other: Scheme) -> str:
    """Return which fields of two schemes differ, as text: "names, lines"; only "points" if their numbers do."""
    if one.points != other.points:
        return "points"
    fields = (field.name for field in dataclasses.fields(Scheme))
    return ", ".join(name for name in fields if getattr(one, name) != getattr(other, name))
