"""Start training from an exported model (.onnx), such as an included one.

An exported model has no batch normalization: each is part of the convolution before it. Here they become layers again,
with the mean and the variance of what they get on real crops, and such a scale and bias that the network computes the
same. With any other mean and variance, the first step of training, which normalizes by those of its batch, would change
the network beyond repair.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from canthus.runtime.errors import BackendError, ModelError
from canthus.runtime.extras import install_command
from canthus.runtime.models import included_models, read_manifest
from canthus.runtime.schemes import WFLW, Scheme
from canthus.trainer.networks.network import normalize
from canthus.trainer.networks.student import LAYOUTS

BATCH = 32
"""Crops that are measured at once."""

MIN_VARIANCE = 1e-8

Arrays = dict[str, NDArray[np.float32]]


class Target(NamedTuple):
    """The network that gets the weights."""

    architecture: str  # as `build` takes it
    network: nn.Module
    scheme: Scheme


def exported_model(name: Path) -> Path | None:
    """Return the file of an exported model, by path or by the name of an included one; None for any other file."""
    if not name.is_file() and str(name) in included_models():
        return included_models()[str(name)]
    return name if name.suffix == ".onnx" else None


def load_exported(model: Path, target: Target, crops: NDArray[np.uint8]) -> str:
    """Load the weights of an exported model into a network, and return a summary of one line.

    The points may be others. The last layer keeps the maps of the points that both schemes have: all if the schemes are
    equal, else those that are close to the same point of WFLW (`Scheme.wflw` and `Scheme.ibug_68`). The maps of other
    points get random weights.

    One student can start from another: layers that the model lacks, or has in another shape, keep their random weights.

    crops: (N, S, S, 3) faces as the network will see them.

    Raises:
        ModelError: The model is missing or damaged, computes in 8 bits, or is of another architecture.
        BackendError: The package onnx is not installed.
    """
    manifest = read_manifest(model)
    if manifest.precision != "float":
        raise ModelError(f"{model}: computes in 8 bits (expected a float model); name the model that it was made from")
    other_student = manifest.network != target.architecture
    if other_student and not {manifest.network, target.architecture} <= LAYOUTS.keys():
        raise ModelError(
            f"{model}: is a {manifest.network}, the recipe trains a {target.architecture}; choose a recipe for it, "
            f"such as --network {manifest.network}"
        )
    weights, network = _read(model), target.network
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    (*_, last) = convolutions
    shared = _shared_points(manifest.scheme, target.scheme)
    new = [name for name, layer in convolutions.items() if other_student and not _fits(layer, weights, name, last)]
    for name, convolution in convolutions.items():
        if name in new:
            continue
        if name == last and manifest.scheme != target.scheme:
            _load_maps(convolution, weights, name, shared)
        else:
            _load_convolution(model, network, name, weights)
    _measure_norms(network, crops)
    loaded, theirs = len(convolutions) - len(new), sum(name.endswith(".weight") for name in weights)
    parts = [f"{model}: loaded {loaded} of its {theirs} layers; batch normalization measured on {len(crops)} faces"]
    if other_student:
        parts.append(f"it is a {manifest.network}, so a {target.architecture} needs more training than it would")
    if new:
        parts.append(f"{len(new)} layers of a {target.architecture} are new ({', '.join(new)})")
    if manifest.scheme != target.scheme:
        parts.append(_describe_points(manifest.scheme, target.scheme, 0 if last in new else len(shared)))
    if manifest.size != crops.shape[1]:
        parts.append(
            f"it was trained with crops of {manifest.size} px, not {crops.shape[1]} (--set size={manifest.size})"
        )
    return "; ".join(parts)


def _describe_points(theirs: Scheme, ours: Scheme, shared: int) -> str:
    """Return how many of our points start from maps of the model, and how many are new."""
    new = ours.points - shared
    text = f"of the {ours.points} points of {ours.name}, {shared} start from maps of {theirs.name} and {new} are new"
    if not shared and not ours.wflw:
        text += " (the field wflw of a scheme names the points of WFLW that are close)"
    return text


def _shared_points(theirs: Scheme, ours: Scheme) -> list[tuple[int, int]]:
    """Return the points that two schemes share, as (theirs, ours)."""
    if theirs == ours:
        return [(point, point) for point in range(ours.points)]
    place = {known: point for point, known in reversed([*enumerate(_points_of_wflw(theirs))])}
    return [(place[known], point) for point, known in enumerate(_points_of_wflw(ours)) if known >= 0 and known in place]


def _points_of_wflw(scheme: Scheme) -> tuple[int, ...]:
    """Return for each point of a scheme the one of WFLW that is the same or close to it, or -1."""
    if scheme == WFLW:
        return tuple(range(scheme.points))
    of_68 = dict(zip(scheme.ibug_68, WFLW.ibug_68, strict=False))
    return scheme.wflw or tuple(of_68.get(point, -1) for point in range(scheme.points))


def _read(model: Path) -> Arrays:
    """Return the weights of the network by name."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as missing:
        raise BackendError(f"{model}: reading it needs onnx: {install_command('train')}") from missing
    arrays = {one.name: numpy_helper.to_array(one) for one in onnx.load(model).graph.initializer}
    prefix = "network.network." if any(name.startswith("network.network.") for name in arrays) else "network."
    return {
        name.removeprefix(prefix).removesuffix(".half"): array.astype(np.float32)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _fits(layer: nn.Conv2d, weights: Arrays, name: str, last: str) -> bool:
    """Return whether the weights have a layer, in its shape. The last layer may be for another number of points."""
    weight = weights.get(f"{name}.weight")
    compared = slice(1 if name == last else 0, None)  # without the maps that the last layer makes
    return weight is not None and weight.shape[compared] == tuple(layer.weight.shape)[compared]


def _load_convolution(model: Path, network: nn.Module, name: str, weights: Arrays) -> None:
    """Load a convolution. Its bias goes to the batch normalization that follows it, if there is one."""
    convolution, norm = network.get_submodule(name), _norm_after(network, name)
    assert isinstance(convolution, nn.Conv2d)
    weight, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.weight_bias", weights.get(f"{name}.bias"))
    if weight is None or bias is None or weight.shape != tuple(convolution.weight.shape):
        raise ModelError(f"{model}: its layer {name} is not that of the network; export the model again")
    with torch.no_grad():
        convolution.weight.copy_(torch.from_numpy(weight))
        if norm is None:
            assert convolution.bias is not None
            convolution.bias.copy_(torch.from_numpy(bias))
            return
        if convolution.bias is not None:
            convolution.bias.zero_()
        _set_norm(norm, torch.zeros(len(bias)), torch.full((len(bias),), 1 - norm.eps), torch.from_numpy(bias))


def _norm_after(network: nn.Module, name: str) -> nn.BatchNorm2d | None:
    """Return the batch normalization after a convolution: the next of its Sequential, or bn1 for conv1."""
    parent, _, leaf = name.rpartition(".")
    following = str(int(leaf) + 1) if leaf.isdigit() else leaf.replace("conv", "bn")
    found = dict(network.get_submodule(parent).named_children()).get(following)
    return found if isinstance(found, nn.BatchNorm2d) else None


def _set_norm(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, bias: Tensor) -> None:
    """Set a batch normalization to add a bias, if it gets this mean and variance: x + bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.copy_(bias + mean)


def _load_maps(convolution: nn.Conv2d, weights: Arrays, name: str, shared: list[tuple[int, int]]) -> None:
    """Load the maps of the shared points into the last layer, whose outputs are 3K maps."""
    weight, bias = torch.from_numpy(weights[f"{name}.weight"]), torch.from_numpy(weights[f"{name}.bias"])
    theirs, ours = len(bias) // 3, len(convolution.weight) // 3
    assert convolution.bias is not None
    with torch.no_grad():
        for kind in range(3):
            for source, own in shared:
                convolution.weight[kind * ours + own] = weight[kind * theirs + source]
                convolution.bias[kind * ours + own] = bias[kind * theirs + source]


@torch.inference_mode()
def _measure_norms(network: nn.Module, crops: NDArray[np.uint8]) -> None:
    """Set each batch normalization to the mean and variance of what it gets, without a change of what it computes."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    sums: dict[nn.Module, list[Tensor]] = {}

    def count(norm: nn.Module) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0].double()
            new = [x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), torch.tensor(x[:, 0].numel())]
            sums[norm] = [one + other for one, other in zip(sums[norm], new, strict=True)] if norm in sums else new

        return add

    hooks = [norm.register_forward_pre_hook(count(norm)) for norm in norms]
    was_training = network.training
    network.eval()
    for start in range(0, len(crops), BATCH):
        network(normalize(torch.from_numpy(crops[start : start + BATCH])))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    for norm, (total, squares, number) in sums.items():
        assert isinstance(norm, nn.BatchNorm2d)
        mean = total / number
        variance = (squares / number - mean.square()).clamp(min=MIN_VARIANCE)
        _set_norm(norm, mean.float(), variance.float(), norm.bias.clone())
