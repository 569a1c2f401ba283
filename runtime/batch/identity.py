"""What determines the results beside the sources: the model and the settings."""

from dataclasses import asdict

from canthus.runtime.backends.gpu_target import gpu_expected
from canthus.runtime.models import find_gpu_model, find_model, parse_manifest, sha256
from canthus.runtime.pipeline import Settings


def describe_settings(settings: Settings) -> dict[str, object]:
    """Return the settings, and the SHA-256 of the models that they name on this machine.

    Raises ModelError if there is no such model.
    """
    model = (find_gpu_model if settings.gpu and gpu_expected() else find_model)(settings.model)
    digest = parse_manifest(model).sha256 if model.suffix == ".onnx" else sha256(model)
    detector = "" if settings.detector_model is None else sha256(find_model(settings.detector_model))
    return {**asdict(settings), "gpu": None, "model": digest, "detector_model": detector}
