"""Paints faces over the video, at the window's resolution."""

from canthus.gui.overlay.faces import paint_faces
from canthus.gui.overlay.place import frame_to_window
from canthus.gui.overlay.style import STYLE_NAMES, OverlayStyle
from canthus.gui.overlay.trails import Trails

__all__ = ["STYLE_NAMES", "OverlayStyle", "Trails", "frame_to_window", "paint_faces"]
