"""`canthus data turn`: choose the faces, poses and names of rotated faces. Profile faces are rare in data sets."""

import dataclasses
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from canthus.runtime.errors import InputError
from canthus.trainer.faces.kinds import are_mixed, is_labelled
from canthus.trainer.faces.labelled import LabelledFace, LabelledSet, is_held_out, yaw_estimate
from canthus.trainer.faces.schemes import WFLW
from canthus.trainer.labels.face_mesh import FaceMesher, MeshedFace
from canthus.trainer.labels.head_surface import Head, Pose, cut_upright, reconstruct
from canthus.trainer.labels.labelling import PseudoLabel
from canthus.trainer.labels.profile_synthesis import render
from canthus.trainer.labels.rendering import Floats, Image
from canthus.trainer.recipe import Recipe

HELD_OUT = Recipe().held_out

MAX_SPREAD, MAX_YAW_ESTIMATE, MAX_YAW = 0.012, 0.4, 25.0
"""Limits for the faces to rotate: spread of a pseudo-label, `yaw_estimate` of the points, yaw of the mesh (degrees)."""

MIN_MESH_SCORE, MAX_MEAN_DISTANCE, MAX_DISTANCE = 0.9, 0.025, 0.06
"""Limits for the mesh: its score, and its mean and largest distance from the labels, over the size of the face."""

MAX_PITCH, MAX_ROLL = 25.0, 20.0
"""Largest pitch and roll, degrees. The distribution is triangular with its peak at 0."""

DEPTH_SCALE = (0.8, 1.0)
"""Range of the factor on the depth of the mesh. The labels of real turned faces show about 10 % less depth than it."""

BODY, LIGHT = (0.1, 0.7), (0.0, 0.3)
"""Ranges of the fraction of the yaw by which the body is rotated, and of the strength of the additional light."""

OTHER_BACKGROUND, BACKGROUNDS = 0.4, 50
"""Probability of the background of another face, and the number of backgrounds that are kept for that."""

POSES = 3
"""Number of images made of a face each time it is reconstructed."""

TURNED_SPREAD = 0.008
"""Spread that a rotation by 90 degrees adds to a label, for the error of the depth."""


@dataclass(frozen=True)
class TurnOptions:
    """How faces are rotated."""

    yaw: tuple[float, float] = (25.0, 85.0)  # degrees, to either side
    seed: int = 0


class TurnableFace(NamedTuple):
    """A face that can be rotated."""

    face: LabelledFace
    meshed: MeshedFace
    head: Head


def generate_turned_faces(
    sets: Sequence[LabelledSet], options: TurnOptions, unreadable: list[str]
) -> Generator[tuple[str, Image, PseudoLabel]]:
    """Yield rotated faces without end, alternating between the sets: name, image and label.

    Each face is used again after all others of its set.

    Args:
        sets: Faces with 98 points.
        options: How to rotate them.
        unreadable: Gets one line for each image that cannot be read. It is skipped.

    Raises:
        InputError: A set has another number of points, or no face of any set can be rotated.
        ModelError: The networks of MediaPipe cannot be loaded.
    """
    for one in sets:
        if one.scheme != WFLW:
            raise InputError(
                f"{one.name}: its faces have {one.scheme.points} points (expected the {WFLW.points} of WFLW)"
            )
    rng = np.random.default_rng(options.seed)
    counts: dict[str, int] = {}
    backgrounds: list[Image] = []
    with FaceMesher() as mesher:
        sources = [_turnable_faces(one, mesher, rng, unreadable) for one in sets]
        while sources:
            for source in list(sources):
                found = next(source, None)
                if found is None:
                    sources.remove(source)
                    continue
                face, meshed, head = found
                backgrounds = [*backgrounds[-BACKGROUNDS:], head.background]
                for pose in _random_poses(meshed, options.yaw, rng):
                    use_other = rng.random() < OTHER_BACKGROUND
                    background = backgrounds[rng.integers(len(backgrounds))] if use_other else head.background
                    image, points = render(head, pose, rng.uniform(*BODY), background, _random_light(rng))
                    spread = face.spread + TURNED_SPREAD * abs(math.sin(pose.yaw))
                    kinds = face.kinds if are_mixed(face.kinds[None]) else None
                    yield _next_name(face.image, counts), image, PseudoLabel(points, spread, 1.0, kinds)
    names = ", ".join(one.name for one in sets)
    reason = f" ({unreadable[0]})" if unreadable else ""
    raise InputError(f"{names}: no frontal face can be rotated{reason}")


def _turnable_faces(
    one: LabelledSet, mesher: FaceMesher, rng: np.random.Generator, unreadable: list[str]
) -> Iterator[TurnableFace]:
    """Yield the faces of a set that can be rotated, repeatedly, each time in another order. Ends if there is none."""
    # Held-out faces are not used: rotated copies in the training set would bias the validation.
    faces = [face for face in one.faces if is_labelled(face.kinds).all() and not is_held_out(face.image, HELD_OUT)]
    faces = [
        face
        for face in faces
        if face.spread <= MAX_SPREAD and abs(yaw_estimate(face.points[None])[0]) <= MAX_YAW_ESTIMATE
    ]
    while faces:
        good = []
        for index in rng.permutation(len(faces)):
            face = faces[index]
            try:
                upright = cut_upright(one.read_image(face.image), face.points)
            except InputError as error:
                unreadable.append(str(error))
                continue
            meshed = mesher.predict(upright.image, upright.points)
            if not can_be_turned(meshed, upright.points):
                continue
            good.append(face)
            scaled = dataclasses.replace(meshed, mesh=meshed.mesh * [1, 1, rng.uniform(*DEPTH_SCALE)])
            yield TurnableFace(face, meshed, reconstruct(upright, scaled))
        faces = good


def can_be_turned(meshed: MeshedFace, points: NDArray[np.floating]) -> bool:
    """Return whether the mesh shows a nearly frontal face and agrees with the labels (98, 2)."""
    distances = meshed.distances(points)
    agrees = bool(distances.mean() < MAX_MEAN_DISTANCE and distances.max() < MAX_DISTANCE)
    return agrees and meshed.score > MIN_MESH_SCORE and abs(meshed.yaw) < math.radians(MAX_YAW)


def _random_poses(meshed: MeshedFace, yaw: tuple[float, float], rng: np.random.Generator) -> Iterator[Pose]:
    """Yield POSES random poses, one in each equal part of the range of yaw (degrees)."""
    for part in rng.permutation(POSES):
        angle = math.radians(yaw[0] + (part + rng.random()) / POSES * (yaw[1] - yaw[0]))
        # A face that already has some yaw is rotated further to that side: the photo shows that cheek better.
        side = math.copysign(1, meshed.yaw) if abs(meshed.yaw) > math.radians(5) else float(rng.choice([-1, 1]))
        pitch, roll = (math.radians(rng.triangular(-limit, 0, limit)) for limit in (MAX_PITCH, MAX_ROLL))
        yield Pose(side * angle, pitch, roll)


def _random_light(rng: np.random.Generator) -> Floats:
    """Return a random light (3,) in front of the face: direction times strength."""
    direction = rng.normal(size=3) * [1, 0.5, 0.5]
    direction[2] = -abs(direction[2])
    return rng.uniform(*LIGHT) * direction / np.linalg.norm(direction)


def _next_name(image: str, counts: dict[str, int]) -> str:
    """Return the next name of a rotated face that is not held out: validation uses real faces only."""
    while True:
        counts[image] = counts.get(image, 0) + 1
        name = f"turned/{Path(image).with_suffix('')}_{counts[image]}"
        if not is_held_out(f"{name}_0.jpg", HELD_OUT):
            return name
