"""`canthus data turn`: which faces are turned, how far, and what becomes of their names."""

import dataclasses
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet, is_held_out, yaw_estimate
from canthus.trainer.faces.schemes import WFLW
from canthus.trainer.labels.face_mesh import Looker, Seen
from canthus.trainer.labels.head_surface import Pose, Source, prepare, turn, upright
from canthus.trainer.labels.labelling import PseudoLabel
from canthus.trainer.labels.rendering import Floats, Image
from canthus.trainer.recipe import Recipe

HELD_OUT = Recipe().held_out

MOST_SPREAD, MOST_ASIDE, MOST_YAW = 0.012, 0.4, 25.0
"""Of faces that are turned: the largest spread of a pseudo-label, `yaw` of its points, yaw of its mesh in degrees."""

LEAST_SCORE, MEAN_APART, MOST_APART = 0.9, 0.025, 0.06
"""Of the mesh: its face score, and its mean and largest distance from the labels, over the size of the face."""

MOST_PITCH, MOST_ROLL = 25.0, 20.0
"""Degrees; small angles are likelier."""

DEEPER = (0.8, 1.0)
"""Faces differ in depth; the mesh's is some tenth more than the labels of real turned faces tell."""

BODY, LIGHT = (0.1, 0.7), (0.0, 0.3)
"""The share of the yaw that a body follows; how much a light from the side brightens and darkens."""

ELSEWHERE, GROUNDS = 0.4, 50
"""How often a face is put into the place of another, and of how many others."""

TURNS = 3
"""Pictures of a face, each time it is made ready."""

TURNED_SPREAD = 0.008
"""What a turn by 90 degrees adds to the spread of the labels: what the depth does not know."""


@dataclass(frozen=True)
class TurnOptions:
    """How faces are to be turned."""

    yaw: tuple[float, float] = (25.0, 85.0)  # degrees, to either side
    seed: int = 0


def generate_turned_faces(
    sets: Sequence[LabelledSet], wish: TurnOptions, unreadable: list[str]
) -> Generator[tuple[str, Image, PseudoLabel]]:
    """Turned faces of the sets in equal parts, without end: name, picture and label.

    Each face comes again when all had their turn. A picture that cannot be read is told in `unreadable`. InputError
    where no face can be used.
    """
    for one in sets:
        if one.scheme is not WFLW:
            raise InputError(f"{one.name}: faces with {one.scheme.points} points cannot be turned, only those with 98")
    rng = np.random.default_rng(wish.seed)
    made: dict[str, int] = {}
    grounds: list[Image] = []
    with Looker() as looker:
        flows = [_sources(one, looker, rng, unreadable) for one in sets]
        while flows:
            for flow in list(flows):
                found = next(flow, None)
                if found is None:
                    flows.remove(flow)
                    continue
                face, seen, source = found
                grounds = [*grounds[-GROUNDS:], source.ground]
                for pose in _poses(seen, wish.yaw, rng):
                    ground = grounds[rng.integers(len(grounds))] if rng.random() < ELSEWHERE else source.ground
                    picture, points = turn(source, pose, rng.uniform(*BODY), ground, _light(rng))
                    spread = face.spread + TURNED_SPREAD * abs(math.sin(pose.yaw))
                    yield _named(face.image, made), picture, PseudoLabel(points, spread, 1.0)
    told = ", ".join(one.name for one in sets)
    why = f" ({unreadable[0]})" if unreadable else ""
    raise InputError(f"{told}: no frontal face that could be turned{why}")


def _sources(
    one: LabelledSet, looker: Looker, rng: np.random.Generator, unreadable: list[str]
) -> Iterator[tuple[LabelledFace, Seen, Source]]:
    """The faces of a set that can be turned, again and again in another order; an end where there is none."""
    # Training never sees the faces that it holds out; turned, they would show it what it is judged on.
    faces = [face for face in one.faces if not is_held_out(face.image, HELD_OUT)]
    faces = [
        face for face in faces if face.spread <= MOST_SPREAD and abs(yaw_estimate(face.points[None])[0]) <= MOST_ASIDE
    ]
    while faces:
        good = []
        for number in rng.permutation(len(faces)):
            face = faces[number]
            try:
                square = upright(one.read_image(face.image), face.points)
            except InputError as error:
                unreadable.append(str(error))
                continue
            seen = looker.look(square.picture, square.points)
            if not fits(seen, square.points):
                continue
            good.append(face)
            deeper = dataclasses.replace(seen, mesh=seen.mesh * [1, 1, rng.uniform(*DEEPER)])
            yield face, seen, prepare(square, deeper)
        faces = good


def fits(seen: Seen, points: NDArray[np.floating]) -> bool:
    """Is there a face, near enough to frontal, where the mesh and the labels (98, 2) agree?"""
    apart = seen.disagreement(points)
    near = bool(apart.mean() < MEAN_APART and apart.max() < MOST_APART)
    return near and seen.score > LEAST_SCORE and abs(seen.yaw) < math.radians(MOST_YAW)


def _poses(seen: Seen, span: tuple[float, float], rng: np.random.Generator) -> Iterator[Pose]:
    """Poses by chance, spread over the span of yaws (degrees)."""
    for part in rng.permutation(TURNS):
        aside = math.radians(span[0] + (part + rng.random()) / TURNS * (span[1] - span[0]))
        # Who looks aside already turns on to that side, whose cheek the photo shows better.
        side = math.copysign(1, seen.yaw) if abs(seen.yaw) > math.radians(5) else float(rng.choice([-1, 1]))
        pitch, roll = (math.radians(rng.triangular(-most, 0, most)) for most in (MOST_PITCH, MOST_ROLL))
        yield Pose(side * aside, pitch, roll)


def _light(rng: np.random.Generator) -> Floats:
    """A light from somewhere in front."""
    direction = rng.normal(size=3) * [1, 0.5, 0.5]
    direction[2] = -abs(direction[2])
    return rng.uniform(*LIGHT) * direction / np.linalg.norm(direction)


def _named(image: str, made: dict[str, int]) -> str:
    """The next name of a turned face that training does not hold out: its checkpoints are chosen on real faces."""
    while True:
        made[image] = made.get(image, 0) + 1
        told = f"turned/{Path(image).with_suffix('')}_{made[image]}"
        if not is_held_out(f"{told}_0.jpg", HELD_OUT):
            return told
