"""OpenVINO, but silent: importing it as it comes sends a message to Google Analytics.

It does so through the package `openvino_telemetry`, and does without where that cannot be imported. Everything here
that uses OpenVINO takes it from this file.
"""

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402 - only after the line above

__all__ = ["openvino"]
