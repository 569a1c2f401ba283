"""Keep what OpenVINO compiles in the user's cache: `accurate` opens four times as fast as from its ONNX file.

A file has one line of JSON and OpenVINO's blob. OpenVINO does not check the weights in a blob, so the line has its
SHA-256. It also has what the blob depends on; a file for another version or CPU is replaced.
"""

import contextlib
import hashlib
import json
from pathlib import Path

from canthus.runtime.backends import instructions
from canthus.runtime.backends.openvino_decode import with_faster_decode
from canthus.runtime.backends.openvino_without_telemetry import core, openvino
from canthus.runtime.engine_files import write_cache
from canthus.runtime.errors import ModelError
from canthus.runtime.models import Manifest, Model, cache_folder, included_models
from canthus.runtime.threads import core_count, thread_limit

DECODE = 2
"""Version of what is compiled beside the model: the decode of openvino_decode.py."""

LATENCY = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": "NO"}
"""Pinned threads wait for their core while the decoding of a video or another program uses it."""

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}

SMALL_CROP, SMALL_THREADS = 128, 4
"""Side of the crops, in pixels, up to which a network does not get all cores for one crop, and the number of threads it
gets at most. With a second thread a frame takes 1.4 times the processor time, and the decoding of the next frame needs
that core."""


def latency_options(size: int, batch: int | None) -> dict[str, str]:
    """Return the options for the lowest latency with the threads that this process may have.

    size, batch: of the crops; a small network that gets one at a time leaves half of the cores free.
    """
    threads = thread_limit()
    if not threads and batch == 1 and size <= SMALL_CROP:
        threads = min(max(core_count() // 2, 1), SMALL_THREADS)
    return LATENCY | ({"INFERENCE_NUM_THREADS": str(threads)} if threads else {})


def compile_model(
    path: Path, options: dict[str, str], batch: int | None = None, manifest: Manifest | None = None
) -> openvino.CompiledModel:
    """Compile an ONNX file for the CPU, for `batch` crops at a time, or for any number of them (None).

    manifest: of the file, to decode the maps faster (see openvino_decode.py). None keeps the decode of the file.

    Raises ModelError if OpenVINO cannot load it.
    """
    if instructions.limit() in instructions.WITHOUT_BF16:
        options = options | EXACT
    try:
        network = core().read_model(path)
        if batch is not None:
            (crops,) = network.inputs
            network.reshape({crops: [batch, *list(crops.partial_shape)[1:]]})
        if manifest is not None and _fits(network, manifest):
            network = with_faster_decode(network, manifest)
        return core().compile_model(network, "CPU", options)
    except RuntimeError as refused:
        reason = str(refused).strip().splitlines()[-1]
        raise ModelError(f"{path}: OpenVINO cannot load it: {reason}") from refused


def _fits(network: openvino.Model, manifest: Manifest) -> bool:
    """Say whether a network has the inputs and outputs of its manifest. If not, the caller must see its own."""
    crops = openvino.PartialShape([-1, manifest.size, manifest.size, 3])
    return [port.partial_shape.compatible(crops) for port in network.inputs] == [True] and len(network.outputs) == 2


def open_compiled(model: Model, batch: int | None = None) -> openvino.CompiledModel:
    """Return `compile_model` of a model for the lowest latency; of an included one from the cache if it is there.

    Other models are not cached, so that the cache does not grow with each experiment. Nor is one if the instructions
    are limited: OpenVINO crashes with blobs that were made without bf16 on a processor that has it. A cache that cannot
    be read or written, is damaged or is of another OpenVINO or CPU only costs time.

    Raises ModelError if OpenVINO cannot load the model.
    """
    options = latency_options(model.manifest.size, batch)
    if instructions.limit() or model.path.parent not in {path.parent for path in included_models().values()}:
        return compile_model(model.path, options, batch, model.manifest)
    several = f"-{batch}" if batch and batch > 1 else ""
    file = cache_folder() / "openvino" / f"{model.manifest.sha256[:32]}{several}.blob"
    state = _state(model) | {"batch": batch}
    blob = _read(file, state)
    if blob is not None:
        try:
            return core().import_model(blob, "CPU", options)
        except RuntimeError:
            pass  # OpenVINO refuses its own blob; it is written again
    compiled = compile_model(model.path, options, batch, model.manifest)
    try:
        blob = compiled.export_model().getvalue()
    except RuntimeError:  # this network cannot be exported
        return compiled
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_cache(file, json.dumps(state | {"sha256": hashlib.sha256(blob).hexdigest()}).encode() + b"\n" + blob)
    return compiled


def _state(model: Model) -> dict[str, object]:
    """Return what a blob depends on."""
    return {
        "model": model.manifest.sha256,
        "decode": DECODE,
        "openvino": openvino.get_version(),
        "cpu": core().get_property("CPU", "FULL_DEVICE_NAME"),
        "capabilities": sorted(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
    }


def _read(file: Path, state: dict[str, object]) -> bytes | None:
    """Return the blob of a file if it is intact and has this state."""
    try:
        with file.open("rb") as opened:  # without copying the blob: that would hold the GIL
            line, blob = opened.readline(), opened.read()
        found = json.loads(line)
    except (OSError, ValueError):
        return None
    fits = found == state | {"sha256": hashlib.sha256(blob).hexdigest()}
    return blob if fits else None
