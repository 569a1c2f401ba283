"""OpenVINO, but silent: importing it as it comes sends a message to Google Analytics.

It does so through the package `openvino_telemetry`, and does without where that cannot be imported. Everything here
that uses OpenVINO takes it from this file.
"""

import functools
import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402 - only after the line above

__all__ = ["core", "openvino"]


@functools.cache
def core() -> openvino.Core:
    """OpenVINO's core, one for the whole process and never freed.

    Its CPU plug-in gives the thread that loads it a stack for signals. With two cores, freed in the order in which they
    were made, the first one's stack, which is gone, comes back: the next Ctrl-C ends the process with a fault.
    """
    return openvino.Core()
