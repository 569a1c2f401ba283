"""What the metadata of an output says about the run: the source, the model and the settings."""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from canthus.runtime.addresses import without_password
from canthus.runtime.errors import ModelError
from canthus.runtime.fields import FieldError
from canthus.runtime.models import find_int8, find_model, parse_manifest
from canthus.runtime.schemes import Scheme, guess_scheme, parse_scheme, scheme_values

if TYPE_CHECKING:
    from canthus.runtime.pipeline import Settings
    from canthus.runtime.video_file import VideoFile


def describe_video(file: "VideoFile", origin: str = "") -> dict[str, object]:
    """Return the source of a table of frames. `start` is the file's own time of the first frame, in seconds.

    origin: the address of the source, if the file is a copy of it.
    """
    return {
        "path": without_password(origin) if origin else str(file.path),
        "bytes": file.path.stat().st_size,
        "width": file.width,
        "height": file.height,
        "pixel_aspect": str(file.pixel_aspect),
        "frames_per_second": file.rate,
        "start": file.start,
    }


def describe_settings(settings: "Settings") -> dict[str, object]:
    """Return the settings by their names."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}


def describe_points(scheme: Scheme) -> dict[str, object]:
    """Return the name of the scheme, of each point, and the scheme itself, for `described_points`."""
    return {"name": scheme.name, "points": list(scheme.point_names), "definition": scheme_values(scheme)}


def described_points(metadata: Mapping[str, object], points: int) -> Scheme:
    """Return the scheme that the metadata of a table describes, or guess it by the number of points."""
    described = metadata.get("scheme")
    with contextlib.suppress(FieldError):
        scheme = parse_scheme(described.get("definition") if isinstance(described, dict) else None)
        if scheme.points == points:
            return scheme
    return guess_scheme(points)


def describe_model(settings: "Settings", backend: str) -> dict[str, object]:
    """Return the model that runs on the backend with a name such as "OpenVINO on the CPU, 8 bits"."""
    path = find_model(settings.model)
    try:
        if "8 bits" in backend:
            path = find_int8(path) or path
        manifest = parse_manifest(path)
    except ModelError:  # an engine, whose manifest is another one
        return {"file": path.name, "backend": backend}
    return {
        "file": path.name,
        "sha256": manifest.sha256,
        "network": manifest.network,
        "points": manifest.points,
        "backend": backend,
    }
