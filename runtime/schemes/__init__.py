"""Schemes: what the points of a face are, as data. Each is a TOML file, `NAME.toml` in this folder or a user's own.

A scheme names the points and says which swap when the image is mirrored, which lines join them, which points form the
eyes, and by what distance errors are divided. Left and right are those of the image, not of the person. A model's
manifest carries its scheme.
"""

import dataclasses
import functools
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.runtime.fields import FieldError, check, parse_fields, parse_toml, read_values

MAX_POINTS = 10_000
"""A scheme with more points is refused: arrays of as many numbers are made of it."""

Group = tuple[int, ...]
"""Points, by their indices."""

Color = tuple[int, int, int]
"""RGB."""

PART_COLORS: dict[tuple[str, ...], Color] = {
    ("contour",): (90, 200, 250),
    ("left_brow", "right_brow"): (255, 200, 90),
    ("nose", "nose_bridge", "nose_base"): (190, 150, 255),
    ("left_eye", "right_eye"): (120, 240, 140),
    ("lips", "outer_lips", "inner_lips"): (255, 120, 140),
    ("left_pupil", "right_pupil"): (255, 255, 255),
}
"""The color of each part of the face. A part has one or several regions."""

REGION_COLORS = {region: color for regions, color in PART_COLORS.items() for region in regions}
"""Color of each region that a scheme gives no color."""

OTHER_COLOR: Color = (220, 225, 230)
"""Color of the points outside all regions with a color."""


@dataclass(frozen=True)
class Scheme:
    """The points of a face as one data set defines them.

    The fields are those of the TOML file; only `name` and `points` are required. Training needs `normalizer`, `eyes`
    and `mirror_pairs` too. Without `eyes`, faces are tracked in upright regions.

    Raises FieldError if a point or a color does not exist, or the fields do not fit together.
    """

    name: str
    points: int = field(metadata=check(at_least=1, at_most=MAX_POINTS))  # how many
    names: tuple[str, ...] = ()  # of the points; empty = from the regions, see `point_names`
    mirror_pairs: tuple[tuple[int, int], ...] = ()  # points that swap when the image is mirrored; all others stay
    normalizer: tuple[Group, Group] = ((), ())  # errors are divided by the distance between the centers of these two
    eyes: tuple[Group, Group] = ((), ())  # left and right: the line between their centers gives the roll
    nose_tip: int | None = None  # for the estimate of the yaw
    lines: tuple[Group, ...] = ()  # to draw: chains of points
    lip_pairs: tuple[tuple[int, int], ...] = ()  # points of the upper and the lower inner lip, across from each other
    regions: dict[str, Group] = field(default_factory=dict)  # parts of the face, each drawn in its color
    colors: dict[str, Color] = field(default_factory=dict)  # of regions, instead of REGION_COLORS
    ibug_68: Group = ()  # the points that are the 68 of iBUG 300-W and dlib, in their order
    # For each point the one of WFLW that is the same or close to it, -1 = none: training may start from a model of WFLW
    wflw: Group = ()
    subsets: tuple[str, ...] = ()  # of the test set, whose errors are reported separately
    published_counts: tuple[int, int] = (0, 0)  # number of faces in the official train and test lists
    source: str = ""  # who defined the points

    def __post_init__(self) -> None:
        used: dict[str, tuple[Group, ...]] = {
            "mirror_pairs": self.mirror_pairs,
            "normalizer": self.normalizer,
            "eyes": self.eyes,
            "nose_tip": () if self.nose_tip is None else ((self.nose_tip,),),
            "lines": self.lines,
            "lip_pairs": self.lip_pairs,
            "ibug_68": (self.ibug_68,),
            "regions": tuple(self.regions.values()),
        }
        for name, groups in used.items():
            for point in (point for group in groups for point in group):
                if not 0 <= point < self.points:
                    raise FieldError(f"{name}: there is no point {point} (expected 0 to {self.points - 1})")
        if not self.name.strip() or not self.name.isprintable():
            raise FieldError(f"name: expected a name, got {self.name!r}")
        if short := [list(line) for line in self.lines if len(line) < 2]:
            raise FieldError(f"lines: expected at least two points in each, got {short[0]}")
        for region, color in self.colors.items():
            if not all(0 <= part <= 255 for part in color):
                raise FieldError(f"colors.{region}: expected red, green and blue from 0 to 255, got {list(color)}")
        paired = [point for pair in self.mirror_pairs for point in pair]
        if twice := sorted({point for point in paired if paired.count(point) > 1}):
            raise FieldError(f"mirror_pairs: point {twice[0]} occurs twice (expected each point in one pair at most)")
        if self.names and not len(self.names) == len(set(self.names)) == self.points:
            found = f"{len(set(self.names))} in a list of {len(self.names)}"
            raise FieldError(f"names: expected {self.points} different names, got {found}")
        for name, (left, right) in (("normalizer", self.normalizer), ("eyes", self.eyes)):
            if bool(left) != bool(right):
                raise FieldError(f"{name}: expected points in both groups, or in none")
            if left and set(left) == set(right):
                raise FieldError(f"{name}: expected two different groups of points, got {list(left)} twice")
        if len(self.ibug_68) not in (0, 68):
            raise FieldError(f"ibug_68: expected 68 points, got {len(self.ibug_68)}")
        if len(self.wflw) not in (0, self.points):
            raise FieldError(f"wflw: expected {self.points} points, got {len(self.wflw)}")

    @cached_property
    def point_names(self) -> tuple[str, ...]:
        """The name of each point (K,): `names`, or "REGION_NUMBER" from the regions, or "point_NUMBER"."""
        if self.names:
            return self.names
        names = [f"point_{point}" for point in range(self.points)]
        for region, points in self.regions.items():
            for number, point in enumerate(points):
                names[point] = f"{region}_{number}" if len(points) > 1 else region
        return tuple(names)

    @cached_property
    def point_colors(self) -> tuple[Color, ...]:
        """The color of each point (K,): that of its region."""
        colors = [OTHER_COLOR] * self.points
        for region, points in self.regions.items():
            for point in points:
                colors[point] = self.colors.get(region, REGION_COLORS.get(region, OTHER_COLOR))
        return tuple(colors)

    def line_color(self, line: Group) -> Color:
        """Return the color of one of the lines: that of its first point."""
        return self.point_colors[line[0]]

    @cached_property
    def mirror(self) -> NDArray[np.intp]:
        """The index (K,) of each point's mirror point: `points[mirror]` reorders the points of a mirrored image."""
        mirror = np.arange(self.points)
        for one, other in self.mirror_pairs:
            mirror[one], mirror[other] = other, one
        mirror.setflags(write=False)
        return mirror

    @cached_property
    def _eye_to_eye(self) -> NDArray[np.float64]:
        """(K,) weights of the points whose sum is the vector from the center of the left eye to that of the right."""
        weights = np.zeros(self.points)
        for sign, eye in zip((-1, 1), self.eyes, strict=True):
            weights[list(eye)] = sign / max(len(eye), 1)
        return weights

    def normalizer_vector(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the vectors (N, 2) whose lengths errors are divided by, left to right; points (N, K, 2)."""
        left, right = (points[:, list(group)].mean(1) for group in self.normalizer)
        vector: NDArray[np.floating] = right - left
        return vector

    def roll(self, points: NDArray[np.floating]) -> float:
        """Return the roll of a face in radians: the angle of the line between its eye centers; points (K, 2)."""
        return float(self.rolls(points[None])[0])

    def rolls(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the rolls (N,) of faces in radians; points (N, K, 2). They are 0 if the scheme has no eyes."""
        x, y = np.ascontiguousarray(points.transpose(2, 0, 1), np.float64) @ self._eye_to_eye
        return np.asarray(np.arctan2(y, x))


def read_scheme(path: Path) -> Scheme:
    """Read a scheme from a .toml or .json file. Raises InputError if it cannot be read or is not a scheme."""
    try:
        return parse_scheme(read_values(path))
    except OSError as unreadable:
        raise InputError(f"{path}: cannot be read ({unreadable.strerror or unreadable})") from unreadable
    except FieldError as wrong:
        raise InputError(f"{path}: not a scheme of points: {wrong}") from wrong


def parse_scheme(values: Any) -> Scheme:
    """Return the scheme with these fields, or the included one of this name. Raises FieldError if it is none."""
    if not isinstance(values, str):
        scheme: Scheme = parse_fields(Scheme, values)
        for text in (scheme.name, *scheme.names, *scheme.regions):
            if any("\ud800" <= one <= "\udfff" for one in text):  # half of a character, which cannot be written
                raise FieldError(f"name: expected characters of Unicode, got {text!r}")
        if scheme.wflw:
            last = included_scheme("wflw").points - 1
            if not -1 <= min(scheme.wflw) <= max(scheme.wflw) <= last:
                raise FieldError(f"wflw: expected points of WFLW, 0 to {last}, or -1 for none")
        return scheme
    for scheme in included_schemes():
        if scheme.name == values:
            return scheme
    raise FieldError(f"there is no scheme {values!r} (expected {', '.join(one.name for one in included_schemes())})")


def scheme_values(scheme: Scheme) -> str | dict[str, Any]:
    """Return what `parse_scheme` reads: the name of an included scheme, or the fields of another one."""
    if scheme in included_schemes():
        return scheme.name
    return {
        name: value for name, value in dataclasses.asdict(scheme).items() if value not in ((), {}, "", None, (0, 0))
    }


def manifest_values(manifest: Any) -> dict[str, Any]:
    """Return the values of a manifest, a dataclass with a field `scheme`, to be written as JSON."""
    return {**dataclasses.asdict(manifest), "scheme": scheme_values(manifest.scheme)}


def with_scheme(values: Any) -> Any:
    """Return the values of a manifest, with a scheme for its number of points if it has none, as up to version 0.2."""
    if not isinstance(values, dict) or "scheme" in values or type(values.get("points")) is not int:
        return values
    return {**values, "scheme": scheme_values(guess_scheme(max(values["points"], 1)))}


@functools.cache
def included_scheme(name: str) -> Scheme:
    """Return the scheme of a file in this folder: "wflw", "300w", "cofw", "lapa" or "aflw"."""
    return parse_scheme(parse_toml((resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")))


def included_schemes() -> tuple[Scheme, ...]:
    """Return all schemes that come with canthus."""
    return tuple(included_scheme(name) for name in ("wflw", "cofw", "300w", "lapa", "aflw"))


def guess_scheme(points: int) -> Scheme:
    """Return the included scheme with this number of points; if there is none, one that only counts them."""
    known = next((scheme for scheme in included_schemes() if scheme.points == points), None)
    return known or Scheme(f"{points} points", points)


WFLW = included_scheme("wflw")
"""The scheme of the included models."""
