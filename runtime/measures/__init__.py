"""What the points mean: head pose, gaze, eyes, mouth and expressions of each face.

`Measurer` measures the faces of successive frames; `Measures` holds the result.
"""

from canthus.runtime.measures.blendshapes import BLENDSHAPES
from canthus.runtime.measures.known import KnownPerson
from canthus.runtime.measures.measurer import Measurer
from canthus.runtime.measures.values import MEASURE_COLUMNS, MEASURES_VERSION, VALUES, Measures

__all__ = ["BLENDSHAPES", "MEASURES_VERSION", "MEASURE_COLUMNS", "VALUES", "KnownPerson", "Measurer", "Measures"]
