"""Make the 8-bit version of an exported model: post-training quantization with NNCF, on crops of a training pack.

The convolutions compute in 8 bits, with one scale per output channel for the weights and one range per tensor for the
activations. Two parts stay float. The first convolution, because its input has both signs: 8 bits there cost more
accuracy than in all other layers together, and on CPUs with AMX OpenVINO cannot combine them with bf16. And everything
from the last convolution on, because it makes the maps, and their decode needs the precision.

NNCF's bias correction is off: it raised the error. What each choice gave is in trainer/RESULTS.md.
"""

import contextlib
import dataclasses
import io
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from canthus.engines.progress import show_steps
from canthus.runtime.backends import Backend, open_backend
from canthus.runtime.errors import BackendError, InputError, ModelError, UsageError
from canthus.runtime.extras import install_command
from canthus.runtime.files import Draft
from canthus.runtime.models import (
    INT8_SUFFIX,
    Manifest,
    Model,
    Quantization,
    check_model_free,
    int8_path,
    read_model,
    sha256,
)

if TYPE_CHECKING:
    from types import ModuleType

    import onnx

    from canthus.trainer.packs.batches import AugmentedFace
    from canthus.trainer.packs.pack import Pack

CROPS = 300
"""Training crops that the ranges of the activations are measured on."""
HELD_OUT = 32
"""One face in this many is measured and not used for the ranges, if the model's recipe says nothing else."""
MEASURED_FACES = 1000
MAX_RISE = 0.005
"""Largest allowed rise of the NME on held-out faces, as a fraction of it."""

TIMED_CROPS, TIMED_ROUNDS = 10, 10


@dataclass(frozen=True)
class QuantizeOptions:
    """How to make an 8-bit model."""

    pack: Path  # training pack; its held-out faces are measured, the other ones calibrate
    crops: int = CROPS
    held_out: int | None = None  # one face in this many is held out; None = as in the model's recipe, else HELD_OUT
    force: bool = False  # write the model even if its NME rises by more than MAX_RISE


class Quantized(NamedTuple):
    """A new 8-bit model."""

    path: Path
    manifest: Manifest
    comparison: "Comparison"

    def __str__(self) -> str:
        made = self.manifest.quantization
        assert made is not None
        return (
            f"{self.path}: 8 bits, {self.path.stat().st_size / 1e6:.1f} MB, calibrated with NNCF {made.nncf} on "
            f"{made.crops} crops of {made.pack}\n{self.comparison}"
        )


@dataclass(frozen=True)
class Comparison:
    """The float model and its 8-bit version on the same held-out faces."""

    faces: int
    nme_float: float  # %
    nme_int8: float
    shift: float  # mean distance between the points of the two, crop pixels
    time_ratio: float  # time of the 8-bit model for one face, over that of the float model, on this CPU

    @property
    def rise(self) -> float:
        """How much the NME rises, as a fraction of it; negative if it falls."""
        return self.nme_int8 / self.nme_float - 1

    def __str__(self) -> str:
        return (
            f"NME on {self.faces} held-out faces: {self.nme_float:.3f} % in float, {self.nme_int8:.3f} % in 8 bits "
            f"({100 * self.rise:+.2f} % of itself)\n"
            f"points move by {self.shift:.2f} crop pixels on average; one face takes {self.time_ratio:.2f} of the time "
            "on this CPU"
        )


class _Rows(NamedTuple):
    calibration: NDArray[np.intp]
    measured: NDArray[np.intp]


def quantize(model: Path, options: QuantizeOptions, overwrite: bool = False) -> Quantized:
    """Write the 8-bit version of a float model beside it, with its manifest: fast.onnx -> fast.int8.onnx.

    overwrite: replace the two files if they exist.

    Raises InputError if a file exists or the pack does not fit, BackendError if NNCF is not installed, and ModelError
    if the model cannot be quantized or its NME rises by more than MAX_RISE. No file is changed in these cases.
    """
    output = int8_path(model)
    if model.suffix != ".onnx" or model.name.endswith(INT8_SUFFIX):
        raise UsageError(f"{model}: expected a float model, whose file name ends in .onnx")
    check_model_free(output, overwrite)
    nncf = _import_nncf()
    checked = read_model(model)
    if checked.manifest.precision != "float":
        raise InputError(f"{model}: is an 8-bit model already; name its float model")
    pack = _open_pack(options.pack, checked)
    rows = _choose_rows(pack, options, checked.manifest)
    crops = [face.crop for face in _cut(pack, rows.calibration, checked.manifest.size)]
    with Draft(output.with_suffix(".json")) as manifest_draft, Draft(output) as draft:
        draft.file.write_bytes(_quantized_graph(nncf, model, crops))
        manifest = dataclasses.replace(
            checked.manifest,
            sha256=sha256(draft.file),
            figures={},
            precision="int8",
            quantization=Quantization(
                checked.manifest.sha256, "post-training", "mixed", str(nncf.__version__), len(crops), options.pack.name
            ),
        )
        comparison = _compare(checked, Model(draft.file, manifest), pack, rows.measured)
        if not (comparison.rise <= MAX_RISE or options.force):  # also true for NaN
            raise ModelError(
                f"{output}: not written: in 8 bits the NME of {comparison.faces} held-out faces is "
                f"{comparison.nme_int8:.3f} %, in float {comparison.nme_float:.3f} % ({100 * comparison.rise:+.2f} % "
                f"of itself, allowed: {100 * MAX_RISE:+.2g} %); calibrate on more crops, or use --force"
            )
        figures = {name: round(value, 4) for name, value in dataclasses.asdict(comparison).items()}
        del figures["time_ratio"]  # belongs to this CPU
        manifest = dataclasses.replace(manifest, figures={"quantization, held-out faces": figures})
        manifest.write(manifest_draft.file)
    return Quantized(output, manifest, comparison)


def _import_nncf() -> "ModuleType":
    """Import NNCF without its telemetry and log lines. Raises BackendError if a library is missing."""
    from canthus.runtime.backends import openvino_without_telemetry  # noqa: F401 - before NNCF

    logger_class = logging.getLoggerClass()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401 - NNCF runs the model with it
    except ImportError as missing:
        raise BackendError(
            f"quantizing needs {missing.name}, which is not installed: {install_command('quantize')}"
        ) from missing
    finally:
        logging.setLoggerClass(logger_class)  # importing NNCF changes it
    logging.getLogger("nncf").setLevel(logging.ERROR)  # `nncf.set_log_level` changes handlers of other loggers too
    module: ModuleType = nncf
    return module


def _open_pack(folder: Path, model: Model) -> "Pack":
    try:
        from canthus.trainer.packs.pack import open_pack
    except ImportError as missing:
        raise BackendError(
            f"reading a pack needs {missing.name}, which is not installed: {install_command('train')}"
        ) from missing
    pack = open_pack(folder)
    if pack.points.shape[1] != model.manifest.points:
        raise InputError(
            f"{folder}: its faces have {pack.points.shape[1]} points (expected {model.manifest.points}, as "
            f"{model.path.name}); name a pack of the same kind"
        )
    return pack


def _choose_rows(pack: "Pack", options: QuantizeOptions, manifest: Manifest) -> _Rows:
    """Return the rows of a pack to calibrate and to measure on. The same in every call."""
    from canthus.trainer.faces.kinds import has_normalizer
    from canthus.trainer.faces.labelled import is_held_out

    recipe = manifest.training.get("recipe")
    every = recipe.get("held_out") if isinstance(recipe, dict) else None
    every = options.held_out or (every if isinstance(every, int) and every > 1 else HELD_OUT)
    held_out = np.array([is_held_out(name, every) for name in pack.names], np.bool_)
    training, measured = np.flatnonzero(~held_out), np.flatnonzero(held_out & has_normalizer(pack.kinds, pack.scheme))
    if not len(training) or not len(measured):
        raise InputError(
            f"{options.pack}: too few faces: {len(training)} to calibrate on and {len(measured)} held out, one in "
            f"{every}; use a larger pack, or another --held-out"
        )
    random = np.random.default_rng(98)
    return _Rows(
        np.sort(random.permutation(training)[: options.crops]), np.sort(random.permutation(measured)[:MEASURED_FACES])
    )


def _cut(pack: "Pack", rows: NDArray[np.intp], size: int) -> "Iterator[AugmentedFace]":
    """Yield the faces of some rows as the network sees them, not augmented."""
    from canthus.trainer.augmentation.settings import NO_AUGMENTATION
    from canthus.trainer.packs.batches import augment_face

    random = np.random.default_rng(0)  # without augmentation nothing depends on it
    for row in rows:
        yield augment_face(pack, int(row), size, NO_AUGMENTATION, random)


def _quantized_graph(nncf: "ModuleType", model: Path, crops: Sequence[NDArray[np.uint8]]) -> bytes:
    """Return the serialized ONNX graph with QuantizeLinear and DequantizeLinear before each 8-bit convolution."""
    import onnx
    import onnx_ir as ir

    from canthus.engines.graph import restore_float32_weights

    graph = ir.from_proto(onnx.load(model))
    restore_float32_weights(graph)
    proto = ir.to_proto(graph)
    with _silenced(), tqdm(total=len(crops), desc="calibrating", unit="crop", leave=False, disable=None) as bar:

        def next_crop(crop: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
            bar.update()
            return {"crops": crop[None]}

        try:
            quantized: Any = nncf.quantize(
                proto,
                nncf.Dataset(crops, next_crop),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(crops),
                ignored_scope=nncf.IgnoredScope(names=float_nodes(proto.graph)),
                advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
            )
        except (RuntimeError, ValueError) as error:  # of NNCF or ONNX Runtime
            raise ModelError(f"{model}: NNCF cannot quantize it: {str(error).strip().splitlines()[-1]}") from error
    del quantized.metadata_props[:]
    onnx.checker.check_model(quantized)
    return bytes(quantized.SerializeToString())


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Hide NNCF's own progress bars, which it prints on stdout, and its warnings."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def float_nodes(graph: "onnx.GraphProto") -> list[str]:
    """Return the names of the nodes that stay float: up to the first convolution, and from the last one on.

    The nodes of a graph are sorted: each one comes after those whose outputs it uses.
    """
    after: set[str] = set()  # values that a convolution was applied to
    for node in graph.node:
        if node.op_type == "Conv" or after.intersection(node.input):
            after.update(node.output)
    before: set[str] = set()  # values that a convolution will be applied to
    for node in reversed(graph.node):
        if node.op_type == "Conv" or before.intersection(node.output):
            before.update(node.input)
    return [
        node.name for node in graph.node if not after.intersection(node.input) or not before.intersection(node.output)
    ]


def _compare(float_model: Model, int8_model: Model, pack: "Pack", rows: NDArray[np.intp]) -> Comparison:
    """Run both models on held-out faces, on this CPU as the other commands do."""
    from canthus.trainer.evaluation.metrics import nme
    from canthus.trainer.faces.kinds import evaluated_points

    with open_backend(float_model) as one, open_backend(int8_model) as other:
        labels, kinds, found = [], [], []
        timed: list[NDArray[np.uint8]] = []  # (1, S, S, 3) each
        for face in tqdm(_cut(pack, rows, one.size), "comparing", len(rows), unit="face", leave=False, disable=None):
            labels.append(face.points)
            kinds.append(face.kinds)
            found.append([backend.predict(face.crop[None])[0][0] for backend in (one, other)])
            if len(timed) < TIMED_CROPS:
                timed.append(face.crop[None])
        with show_steps("comparing", 1) as step:
            step("time")
            ratio = _time_ratio(one, other, timed)
    points = np.stack(found, 1)  # (2, N, K, 2)
    evaluated = evaluated_points(np.stack(kinds))
    errors = [float(nme(predicted, np.stack(labels), evaluated, pack.scheme).mean()) for predicted in points]
    shift = float(np.linalg.norm(points[1] - points[0], axis=-1).mean())
    return Comparison(len(labels), errors[0], errors[1], shift, ratio)


def _time_ratio(one: Backend, other: Backend, crops: Sequence[NDArray[np.uint8]]) -> float:
    """Return the time of `other` over that of `one`: the median over rounds in which they take turns."""
    ratios = []
    for _ in range(TIMED_ROUNDS):
        times = []
        for backend in (one, other):
            started = time.perf_counter()
            for crop in crops:
                backend.predict(crop)
            times.append(time.perf_counter() - started)
        ratios.append(times[1] / times[0])
    return float(np.median(ratios))
