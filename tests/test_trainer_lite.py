"""The network on EfficientNet-Lite0: its size, its names, its quicker way back."""

import pytest
import torch

from canthus.trainer.lite import Depthwise, Lite
from canthus.trainer.pretrained import take

ROUNDING = 0.02
"""bf16 keeps eight bits."""


def multiplications(network: torch.nn.Module, size: int) -> int:
    """Of every convolution, for one image."""
    count = 0

    def note(layer: torch.nn.Conv2d, _: object, out: torch.Tensor) -> None:
        nonlocal count
        count += out[0].numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(note) for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return count


def test_it_is_small_enough_for_a_cpu():
    network = Lite(98)
    assert multiplications(network, 128) < 0.2e9
    assert multiplications(network, 160) < 0.35e9


def test_it_takes_imagenet_weights_under_their_usual_names(tmp_path):
    """Published are 4,652,008 parameters, of which 1,693,160 are the classifier's, which is left out here."""
    network = Lite(98)
    backbone = {
        name: torch.randn_like(value)
        for name, value in network.state_dict().items()
        if name.startswith("_") and value.is_floating_point()
    }
    assert {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_blocks.15._project_conv.weight"} <= set(backbone)
    assert sum(value.numel() for name, value in backbone.items() if "running" not in name) == 4_652_008 - 1_693_160
    torch.save(backbone | {"_fc.weight": torch.zeros(1000, 1280)}, tmp_path / "imagenet.pth")
    taken = take(tmp_path / "imagenet.pth", network)
    assert set(taken.fitted) == set(backbone)
    assert taken.unused == ("_fc.weight",)


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2), (5, 2)])
def test_the_quicker_way_back_gives_the_same_gradients(kernel, stride):
    layer = Depthwise(6, kernel, stride)
    image = torch.randn(2, 6, 12, 16)
    target = torch.randn(2, 6, 12 // stride, 16 // stride)

    def gradients(x: torch.Tensor) -> list[torch.Tensor]:
        layer.weight.grad = None
        x = x.clone().requires_grad_()
        (layer(x).float() * target).sum().backward()
        assert x.grad is not None
        assert layer.weight.grad is not None
        return [x.grad.float(), layer.weight.grad]

    plain = gradients(image)
    with torch.autocast("cpu", torch.bfloat16):
        quick = gradients(image.bfloat16())
    for one, other in zip(plain, quick, strict=True):
        assert (one - other).abs().max() < ROUNDING * one.abs().max() + ROUNDING
