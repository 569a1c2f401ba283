"""Record what the networks found in a video, and repeat everything that follows without video or network.

`Recorder` writes a trace, `replay` repeats it, and `complete_trace` recovers one whose recording was killed.
"""

from canthus.runtime.trace.complete import complete_trace
from canthus.runtime.trace.recorder import Recorder
from canthus.runtime.trace.replay import Replayed, replay

__all__ = ["Recorder", "Replayed", "complete_trace", "replay"]
