"""OpenVINO without its telemetry: every file that uses OpenVINO imports it from here.

`import openvino` sends a message to Google Analytics through the package `openvino_telemetry`. If that package cannot
be imported, OpenVINO works without it.
"""

import functools
import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402 - must follow the line above

__all__ = ["core", "openvino"]


@functools.cache
def core() -> openvino.Core:
    """Return the OpenVINO core, one per process. It is never freed.

    OpenVINO's CPU plug-in installs an alternate signal stack in the thread that loads it. If two cores are freed in the
    order in which they were created, the freed stack of the first one is installed again, and the next Ctrl-C crashes
    the process.
    """
    return openvino.Core()
