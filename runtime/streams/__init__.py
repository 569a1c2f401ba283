"""Send faces to other programs: OSC, VMC, OpenSeeFace, WebSocket and a virtual camera.

    with open_stream("vmc") as stream:
        for frame, faces in follow(0, Settings(measures=True)):
            stream.send(frame, faces)

README.md in this folder describes what each stream sends.
"""

from canthus.runtime.streams.address import Address, is_loopback
from canthus.runtime.streams.kinds import DEFAULTS, KINDS, Kind, Stream, StreamOptions, open_stream

__all__ = ["DEFAULTS", "KINDS", "Address", "Kind", "Stream", "StreamOptions", "is_loopback", "open_stream"]
