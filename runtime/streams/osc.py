"""OSC: every measure and blend shape of every face under its own address, such as /canthus/0/jawOpen."""

import numpy as np

from canthus.runtime.measures import MEASURE_COLUMNS
from canthus.runtime.streams.address import Address, UdpStream
from canthus.runtime.streams.osc_template import FLOAT, OscTemplate
from canthus.runtime.types import Faces, Frame


class OscStream(UdpStream):
    """Sends /canthus/faces with the number of faces, then for each face /canthus/PLACE/NAME with one number.

    The place is 0 for the face with the smallest id, and so on; `id` is among the names. The others are those of the
    columns of tables (MEASURE_COLUMNS), with ARKit's names of the blend shapes.
    """

    def __init__(self, address: Address) -> None:
        super().__init__("OSC", address)
        self._count = OscTemplate([("/canthus/seconds", [FLOAT]), ("/canthus/faces", [FLOAT])])
        self._faces: list[OscTemplate] = []
        self._seconds = 0.0  # of the last frame

    def send(self, frame: Frame, faces: Faces) -> None:
        """Send a frame."""
        self._seconds = frame.seconds
        self._sender.send(self._count.pack([frame.seconds, len(faces)]))
        if faces.measures is None:
            return
        for place in range(len(faces)):
            if place == len(self._faces):
                names = ("id", *MEASURE_COLUMNS)
                self._faces.append(OscTemplate([(f"/canthus/{place}/{name}", [FLOAT]) for name in names]))
            values = [faces.ids[place : place + 1], faces.measures.values[place], faces.measures.blendshapes[place]]
            self._sender.send(self._faces[place].pack(np.concatenate(values)))

    def close(self) -> None:
        """Say that there are no faces any more, and stop sending."""
        self._sender.send(self._count.pack([self._seconds, 0]))
        super().close()
