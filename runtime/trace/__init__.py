"""Record what the networks found in a video, and repeat everything that follows without video or network.

`Recorder` writes a trace; `replay` repeats it.
"""

from canthus.runtime.trace.recorder import Recorder
from canthus.runtime.trace.replay import Replayed, replay

__all__ = ["Recorder", "Replayed", "replay"]
