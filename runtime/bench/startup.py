"""How long commands take to start, in relation to the libraries that they need."""

import subprocess
import sys
import time
from dataclasses import dataclass

LIBRARIES = "import numpy, cv2, av, openvino, mediapipe"
FIRST_POINTS = """
import itertools
from canthus.runtime import follow, sample
for frame, faces in itertools.islice(follow(sample.CLIP), 1):
    assert len(faces)
"""


@dataclass(frozen=True)
class Startup:
    """Seconds of whole processes, the fastest of several. The first points are those of the sample clip."""

    python_seconds: float  # an empty program
    help_seconds: float  # canthus video --help
    libraries_seconds: float  # imports of the libraries alone
    first_points_seconds: float
    first_points_ratio: float  # to the libraries


def measure_startup(repeats: int = 3) -> Startup:
    """Start programs in turn, `repeats` times each."""
    programs = {
        "python": ["-c", ""],
        "help": ["-c", "from canthus.runtime.cli import main; main(['video', '--help'])"],
        "libraries": ["-c", LIBRARIES],
        "first_points": ["-c", FIRST_POINTS],
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, words in programs.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], capture_output=True, check=True)
            seconds[name].append(time.perf_counter() - began)
    best = {name: round(min(times), 3) for name, times in seconds.items()}
    return Startup(
        python_seconds=best["python"],
        help_seconds=best["help"],
        libraries_seconds=best["libraries"],
        first_points_seconds=best["first_points"],
        first_points_ratio=round(best["first_points"] / best["libraries"], 2),
    )
