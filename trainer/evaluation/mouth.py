"""Accuracy of the mouth opening on faces whose labelled mouth is wide open.

Networks tend to place the inner edge of an open lip on the teeth or on the tongue: the mouth then looks less open than
it is. A mean over all points hardly shows this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canthus.trainer.evaluation.metrics import Summary, summarize
from canthus.trainer.faces.kinds import evaluated_points
from canthus.trainer.faces.labelled import LabelledFace
from canthus.trainer.faces.lengths import WIDE_OPEN, face_length, mouth_opening
from canthus.trainer.faces.schemes import Scheme, scheme_of


@dataclass(frozen=True)
class MouthAccuracy:
    """Errors of the mouth opening, in % of `face_length`: the inter-ocular distance, or what it would be frontally."""

    error: Summary  # `nme` is the mean absolute error
    bias: float  # mean of predicted minus labelled opening; below 0: mouths are predicted less open than they are
    opening: float  # mean labelled opening


def measure_mouth(
    faces: Sequence[LabelledFace], points: NDArray[np.floating], scheme: Scheme | None = None
) -> MouthAccuracy | None:
    """Compare the openings of predicted points (N, K, 2), NaN for a missed face, with those of the labels.

    Only the faces count whose labels at the inner lips are measured (`evaluated_points`) and wide open. Returns None
    without such faces.
    """
    labels = np.stack([face.points for face in faces])
    evaluated = evaluated_points(np.stack([face.kinds for face in faces]))
    scheme = scheme or scheme_of(labels.shape[1])
    lips = np.array(scheme.lip_pairs, np.intp).ravel()
    length = np.maximum(face_length(labels, evaluated, scheme), 1e-6)
    opening = 100 * mouth_opening(labels, scheme) / length
    chosen = evaluated[:, lips].all(-1) & (opening > 100 * WIDE_OPEN)
    if not chosen.any():
        return None
    difference = (100 * mouth_opening(points, scheme) / length - opening)[chosen]
    found = difference[np.isfinite(difference)]
    bias = float(found.mean()) if len(found) else float("nan")
    return MouthAccuracy(summarize(np.abs(difference)), bias, float(opening[chosen].mean()))
