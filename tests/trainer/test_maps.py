"""The head, its loss and the networks, compared with formulas and published numbers."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from canthus.runtime import decode as reference
from canthus.runtime.errors import ModelError
from canthus.trainer.augmentation.augment import NO_FACE
from canthus.trainer.faces.schemes import WFLW
from canthus.trainer.loss import AdaptiveWing, LossWeight, SkpsLoss, draw_maps
from canthus.trainer.networks.head import SkpsHead, decode, split_maps
from canthus.trainer.networks.hrnet import HRNet, HRNetSkps
from canthus.trainer.networks.network import (
    PEAK,
    WINDOW_SIGMA,
    DecodingNetwork,
    FlipAveragedPoints,
    FlipTTANetwork,
    build,
    normalize,
    window_sigma,
    with_flip_tta,
)
from canthus.trainer.networks.padding import pad_channels
from canthus.trainer.networks.student import Student
from canthus.trainer.run import compile_network

STRIDE, SIGMA, CELLS = 4, 1.5, 16
SAME = 1e-5


def some_points(count: int = 3, points: int = 7, low: float = 0.0, high: float = 60.0) -> np.ndarray:
    return np.random.default_rng(7).uniform(low, high, (count, points, 2)).astype(np.float32)


def full_weight(faces: int, points: int = 7) -> LossWeight:
    return LossWeight(torch.ones(faces), torch.ones(faces, points))


def maps_of(points: np.ndarray) -> torch.Tensor:
    """Perfect maps (B, 3K, 16, 16)."""
    scores, offsets = reference.encode(points, CELLS, STRIDE, SIGMA)
    count, number = points.shape[:2]
    return torch.from_numpy(np.concatenate([scores, offsets.reshape(count, 2 * number, CELLS, CELLS)], axis=1))


def test_draw_maps_equals_encode_of_the_runtime():
    points = some_points(low=-30, high=90)
    scores, offsets = draw_maps(torch.from_numpy(points), CELLS, STRIDE, SIGMA)
    wanted_scores, wanted_offsets = reference.encode(points, CELLS, STRIDE, SIGMA)
    np.testing.assert_allclose(scores, wanted_scores, atol=SAME)
    np.testing.assert_allclose(offsets, wanted_offsets, atol=SAME)


@pytest.mark.parametrize("window_sigma", [reference.WINDOW_SIGMA, 0])
def test_decode_in_torch_equals_decode_of_the_runtime_also_for_ties(window_sigma):
    rng = np.random.default_rng(1)
    scores = rng.integers(-2, 4, (2, 5, 8, 12)).astype(np.float32) / 2  # many ties, some beyond [0, 1]
    offsets = rng.normal(size=(2, 2, 5, 8, 12)).astype(np.float32)
    maps = torch.from_numpy(np.concatenate([scores, offsets.reshape(2, 10, 8, 12)], axis=1))
    points, score = decode(maps, STRIDE, window_sigma)
    wanted_points, wanted_score = reference.decode(scores, offsets, STRIDE, window_sigma)
    np.testing.assert_allclose(points, wanted_points, atol=SAME)
    np.testing.assert_array_equal(score, wanted_score)


def test_decode_undoes_draw():
    points = some_points()
    scores, offsets = draw_maps(torch.from_numpy(points), CELLS, STRIDE, SIGMA)
    maps = torch.cat([scores, offsets.flatten(1, 2)], 1)
    found, score = decode(maps, STRIDE)
    np.testing.assert_allclose(found, points, atol=1e-4)
    assert (score > math.exp(-(0.5**2 + 0.5**2) / (2 * SIGMA**2)) - SAME).all()  # half a cell off at most


def test_head_output_is_scores_then_x_offsets_then_y_offsets():
    maps = torch.arange(2 * 9).view(2, 9, 1, 1).float()
    scores, offsets = split_maps(maps)
    assert scores[0, :, 0, 0].tolist() == [0, 1, 2]
    assert offsets[0, 0, :, 0, 0].tolist() == [3, 4, 5]
    assert offsets[0, 1, :, 0, 0].tolist() == [6, 7, 8]
    assert SkpsHead(10, 3)(torch.zeros(2, 10, 4, 4)).shape == (2, 9, 4, 4)


# Worked by hand with alpha 2.1, omega 14, epsilon 1, theta 0.5:
# 14 ln(1 + 0.25^2.1), 14 ln(1 + 0.25^1.1); A = 14 / (1 + 0.5^1.1) * 1.1 * 0.5^0.1 = 9.7983,
# C = 0.5 A - 14 ln(1 + 0.5^1.1) = -0.4611, A - C; and the same for y = 0: A = 5.5569, C = -0.1528, 2 A - C.
@pytest.mark.parametrize(
    ("error", "target", "loss"),
    [(0.25, 0.0, 0.7418), (0.25, 1.0, 2.7567), (1.0, 1.0, 10.2594), (2.0, 0.0, None)],
)
def test_adaptive_wing_equals_the_formula_of_the_paper(error, target, loss):
    power = 2.1 - target
    if error < 0.5:
        paper = 14 * math.log(1 + error**power)
    else:
        slope = 14 / (1 + 0.5**power) * power * 0.5 ** (power - 1)
        paper = slope * error - (0.5 * slope - 14 * math.log(1 + 0.5**power))
    got = float(AdaptiveWing()(torch.tensor(error), torch.tensor(target)))
    assert got == pytest.approx(paper, rel=1e-5)
    if loss is not None:
        assert got == pytest.approx(loss, abs=1e-3)


def test_adaptive_wing_is_smooth_at_theta():
    wing = AdaptiveWing()
    targets = torch.linspace(-4, 4, 33, dtype=torch.float64)
    values, slopes = [], []
    for side in (-1e-9, 1e-9):
        error = torch.full_like(targets, wing.theta + side, requires_grad=True)
        value = wing(error, targets)
        (slope,) = torch.autograd.grad(value.sum(), error)
        values.append(value.detach())
        slopes.append(slope)
    torch.testing.assert_close(*values, atol=1e-6, rtol=0)
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=0)


def test_adaptive_wing_falls_with_the_error_if_the_target_exceeds_alpha():
    costs = AdaptiveWing()(torch.linspace(0.1, 9, 50), torch.tensor(3.0))
    assert (costs.diff() < 0).all()
    assert costs[-1] < 0


def test_adaptive_wing_is_0_without_error_and_grows_with_it():
    targets = torch.linspace(0, 1, 5)[:, None]
    values = AdaptiveWing()(torch.linspace(0, 3, 200).expand(5, -1), targets)
    assert values[:, 0].max() < 1e-3
    assert (values.diff() >= 0).all()


def test_adaptive_wing_and_its_gradient_are_finite_for_targets_beyond_alpha():
    targets = torch.linspace(-70, 70, 141).repeat(50, 1)
    error = torch.logspace(-9, 2, 50)[:, None].repeat(1, 141).requires_grad_()
    value = AdaptiveWing()(error, targets)
    (slope,) = torch.autograd.grad(value.sum(), error)
    assert torch.isfinite(value).all()
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("offsets", ["adaptive-wing", "smooth-l1"])
@pytest.mark.parametrize("where", [(0.0, 63.0), (NO_FACE, NO_FACE + 1)])
def test_loss_has_finite_gradients_with_and_without_points_in_the_crop(offsets, where):
    points = torch.from_numpy(some_points(low=where[0], high=where[1]))
    maps = torch.randn(3, 21, CELLS, CELLS, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = SkpsLoss(STRIDE, SIGMA, offsets=offsets)(maps, points, full_weight(3))
    (slope,) = torch.autograd.grad(value, maps)
    assert torch.isfinite(value)
    assert torch.isfinite(slope).all()
    assert slope.abs().sum() > 0


def test_loss_of_perfect_maps_is_0_and_scales_with_the_weight_of_the_face():
    points = some_points()
    loss = SkpsLoss(STRIDE, SIGMA, offsets="smooth-l1")
    perfect, wrong = maps_of(points), torch.zeros(3, 21, CELLS, CELLS)
    assert loss(perfect, torch.from_numpy(points), full_weight(3)) < 1e-3
    one = loss(wrong, torch.from_numpy(points), LossWeight(torch.tensor([1.0, 0.0, 0.0]), torch.ones(3, 7)))
    half = loss(wrong, torch.from_numpy(points), LossWeight(torch.tensor([0.5, 0.0, 0.0]), torch.ones(3, 7)))
    assert one > 0.01
    torch.testing.assert_close(one, 2 * half)


def test_point_loss_is_the_mean_distance_in_cells_of_points_inside_the_crop():
    points = some_points(2, low=16, high=44)
    maps = maps_of(points)
    loss = SkpsLoss(STRIDE, SIGMA, offsets="smooth-l1", point_weight=1.0)
    true = torch.from_numpy(points)
    assert float(loss.point_loss(maps, true, full_weight(2))) < SAME
    shifted = true + torch.tensor([STRIDE / 2, -STRIDE])  # half a cell and a cell: 0.75 on average
    assert float(loss.point_loss(maps, shifted, full_weight(2))) == pytest.approx(0.75, abs=SAME)
    nowhere = torch.full_like(true, -1e4)
    assert float(loss.point_loss(maps, nowhere, full_weight(2))) == 0
    plain = SkpsLoss(STRIDE, SIGMA, offsets="smooth-l1")
    assert float(loss(maps, shifted, full_weight(2)) - plain(maps, shifted, full_weight(2))) == pytest.approx(
        0.75, abs=SAME
    )


def test_offset_loss_ignores_cells_far_from_the_point():
    points = np.full((1, 1, 2), 8.0, np.float32)  # at cell (2, 2)
    loss = SkpsLoss(STRIDE, SIGMA, offsets="smooth-l1")
    perfect = maps_of(points)
    costs = []
    for cell in (2, CELLS - 1):
        maps = perfect.clone()
        maps[0, 1:, cell, cell] += 3
        costs.append(float(loss(maps, torch.from_numpy(points), full_weight(1, 1))))
    base = float(loss(perfect, torch.from_numpy(points), full_weight(1, 1)))
    assert costs[0] > base + 1e-3
    assert costs[1] == pytest.approx(base, abs=1e-6)


def test_published_offset_loss_compares_the_offsets_times_the_score():
    """The formula of the paper on products with the target score, the mean of both axes, written out with numbers."""
    points = np.array([[[9.0, 6.0]]], np.float32)
    scores, offsets = draw_maps(torch.from_numpy(points), CELLS, STRIDE, SIGMA)
    found = offsets + torch.randn(offsets.shape, generator=torch.Generator().manual_seed(1))
    maps = torch.cat([scores, found.flatten(1, 2)], 1)
    loss = SkpsLoss(STRIDE, SIGMA, near=0.0, offsets="adaptive-wing")
    score = scores[0, 0].numpy().astype(np.float64)
    costs = []
    for axis in (0, 1):
        target = score * offsets[0, axis, 0].numpy()
        delta = np.abs(score * found[0, axis, 0].numpy() - target)
        power = 2.1 - target
        slope = 14 / (1 + 0.5**power) * power * 0.5 ** (power - 1)
        line = slope * delta - (0.5 * slope - 14 * np.log(1 + 0.5**power))
        costs.append(np.where(delta < 0.5, 14 * np.log(1 + delta**power), line).mean())
    assert float(loss(maps, torch.from_numpy(points), full_weight(1, 1))) == pytest.approx(np.mean(costs), rel=1e-3)


def test_published_offset_loss_grows_with_the_error_everywhere():
    points = torch.full((1, 1, 2), 9.0)
    _, offsets = draw_maps(points, CELLS, STRIDE, 2.0)
    perfect = torch.cat([draw_maps(points, CELLS, STRIDE, 2.0)[0], offsets.flatten(1, 2)], 1)
    loss = SkpsLoss(STRIDE, 2.0, near=0.0, offsets="adaptive-wing")
    errors = torch.linspace(0.5, 9, 12)
    costs = torch.stack([loss(perfect + error, points, full_weight(1, 1)) for error in errors])
    score_costs = torch.stack(
        [
            SkpsLoss(STRIDE, 2.0, near=0.0, offset_weight=0)(perfect + error, points, full_weight(1, 1))
            for error in errors
        ]
    )
    assert ((costs - score_costs).diff() > 0).all()


def test_skps_network_upsamples_bilinearly_and_keeps_the_names_of_weights():
    torch.manual_seed(0)
    published, ours = HRNetSkps(29), HRNet(29)
    assert published.state_dict().keys() == ours.state_dict().keys()
    assert {part.mode for part in published.modules() if isinstance(part, nn.Upsample)} == {"bilinear"}
    assert {part.mode for part in ours.modules() if isinstance(part, nn.Upsample)} == {"nearest"}
    for index in (0, 3):
        assert float(published.head[index].weight.detach().std()) == pytest.approx(0.01, rel=0.05)
        assert not published.head[index].bias.detach().any()
    ours.load_state_dict(published.state_dict())
    images = torch.randn(1, 3, 64, 64)
    padded = pad_channels(published, 29).network.eval()
    with torch.inference_mode():
        expected = published.eval()(images)
        assert not torch.allclose(ours.eval()(images), expected, atol=1e-4)
        torch.testing.assert_close(padded(images), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("target", "weight"), [(0.19, 1.0), (0.21, 11.0), (1.0, 11.0)])
def test_cells_with_a_target_score_above_0_2_have_the_weight_1_plus_near(target, weight):
    true = torch.full((1, 1, 4, 4), 0.05)
    true[0, 0, 1, 2] = target
    maps = torch.cat([true, torch.zeros(1, 2, 4, 4)], 1)
    maps[0, 0, 1, 2] += 0.1
    wing = AdaptiveWing()
    base = wing(torch.zeros(()), torch.tensor(0.05)) * 15  # of the cells without an error; the loss there is not 0
    expected = (wing(torch.tensor(0.1), torch.tensor(target)) * weight + base) / 16
    loss = SkpsLoss(near=10.0, offset_weight=0.0).against_maps(
        maps, true, torch.zeros(1, 2, 1, 4, 4), full_weight(1, 1)
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_offset_weight_multiplies_the_offset_loss_alone():
    points = torch.from_numpy(np.full((1, 1, 2), 8.0, np.float32))
    maps = maps_of(points.numpy()) + 0.3
    losses = [SkpsLoss(STRIDE, SIGMA, offset_weight=factor) for factor in (0.0, 1.0, 3.0)]
    none, one, three = (float(loss(maps, points, full_weight(1, 1))) for loss in losses)
    assert one - none > 0.01
    assert three - none == pytest.approx(3 * (one - none), rel=1e-3)


def hrnet_convolutions() -> list[tuple[int, int, int, int]]:
    """Every convolution of the paper's figure for w18 at 256 px: kernel, inputs, outputs, side of the result."""
    widths, sides = (18, 36, 72, 144), (64, 32, 16, 8)
    found = [(3, 3, 64, 128), (3, 64, 64, 64), (1, 64, 256, 64)]
    for inputs in (64, 256, 256, 256):
        found += [(1, inputs, 64, 64), (3, 64, 64, 64), (1, 64, 256, 64)]
    found += [(3, 256, 18, 64), (3, 256, 36, 32), (3, 36, 72, 16), (3, 72, 144, 8)]
    for branches, modules in ((2, 1), (3, 4), (4, 3)):
        module = []
        for here in range(branches):
            module += 8 * [(3, widths[here], widths[here], sides[here])]
            for coarse in range(here + 1, branches):
                module.append((1, widths[coarse], widths[here], sides[coarse]))
            for fine in range(here):
                steps = range(fine + 1, here)
                module += [(3, widths[fine], widths[fine], sides[step]) for step in steps]
                module.append((3, widths[fine], widths[here], sides[here]))
        found += modules * module
    return found


def test_hrnet_has_the_published_number_of_parameters_and_operations():
    with torch.device("meta"):
        network = HRNet(98).eval()
        images = torch.zeros(1, 3, 256, 256)
    backbone = hrnet_convolutions()
    assert len(backbone) + 2 == 307
    head = [(1, 270, 270, 64), (1, 270, 294, 64)]
    parameters = sum(size**2 * inputs * outputs + 2 * outputs for size, inputs, outputs, _ in backbone)
    parameters += 270 * 270 + 270 + 2 * 270 + 270 * 294 + 294
    operations = sum(size**2 * i * o * side**2 for size, i, o, side in backbone + head)
    with FlopCounterMode(display=False) as counter:
        maps = network(images)
    assert maps.shape == (1, 3 * 98, 64, 64)
    assert sum(one.numel() for one in network.parameters()) == parameters
    assert counter.get_total_flops() == 2 * operations
    assert parameters / 1e6 == pytest.approx(9.7, abs=0.05)
    assert operations / 1e9 == pytest.approx(4.9, abs=0.05)


@pytest.mark.parametrize("mirrored", [False, True])
def test_each_kind_of_hrnet_module_is_compiled_once_and_keeps_the_names_of_its_weights(monkeypatch, mirrored):
    graphs = []

    def backend(graph, _):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    compile_part = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda part: compile_part(part, backend=backend))
    network = with_flip_tta(HRNet(98), {"flip_tta": mirrored, "points": 98}).eval()
    names, images = list(network.state_dict()), torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        wanted = network(images)
        assert torch.equal(compile_network(network)(images), wanted)
    assert len(graphs) == 3
    assert sum(graphs) > 500
    assert list(network.state_dict()) == names


def test_hrnet_has_the_names_of_published_weights():
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in HRNet(98).state_dict().items()}
    for name, shape in {
        "conv1.weight": (64, 3, 3, 3),
        "bn2.running_var": (64,),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.3.conv3.weight": (256, 64, 1, 1),
        "transition1.0.0.weight": (18, 256, 3, 3),
        "transition1.1.0.0.weight": (36, 256, 3, 3),
        "transition2.2.0.0.weight": (72, 36, 3, 3),
        "transition3.3.0.1.bias": (144,),
        "stage2.0.branches.1.3.conv2.weight": (36, 36, 3, 3),
        "stage3.3.fuse_layers.0.2.0.weight": (18, 72, 1, 1),
        "stage4.2.fuse_layers.3.0.0.0.weight": (18, 18, 3, 3),
        "stage4.2.fuse_layers.3.0.2.1.weight": (144,),
    }.items():
        assert shapes.get(name) == shape, name


@pytest.mark.parametrize("name", ["student", "hrnet_w18"])
def test_network_output_has_a_quarter_of_the_size_and_all_parameters_get_gradients(name):
    network = build(name, 5)
    maps = network(torch.randn(2, 3, 64, 96))
    assert maps.shape == (2, 15, 16, 24)
    maps.square().mean().backward()
    assert all(one.grad is not None for one in network.parameters())


def test_unknown_network_is_refused():
    with pytest.raises(ModelError, match="expected hrnet_w18 or hrnet_w18_skps or student"):
        build("resnet", 98)


def test_decoding_network_turns_crops_into_points():
    torch.manual_seed(0)
    network = build("student", 5)
    crops = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    deployed = DecodingNetwork(network, 4).eval()
    points, scores = deployed(crops)
    wanted, _ = decode(network.eval()(normalize(crops)), 4)
    torch.testing.assert_close(points, wanted)
    assert points.shape == (2, 5, 2)
    assert scores.shape == (2, 5)


class BrightestPixel(nn.Module):
    """Puts every point at the brightest pixel of the image, `error` cells to its right."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = images.shape[-1]
        place = images[:, 0].flatten(1).argmax(1)
        points = torch.stack([place % size, place // size], 1)[:, None].expand(-1, 98, 2).float()
        scores, offsets = draw_maps(points, size // 4, 4, 1.5)
        offsets[:, 0] += self.error
        return torch.cat([scores, *offsets.unbind(1)], 1)


def test_decoding_with_a_flip_averages_the_points_of_crop_and_mirror_image():
    crops = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    crops[0, 20, 13] = crops[1, 41, 50] = 255
    wanted = torch.tensor([[13.0, 20], [50, 41]])[:, None].expand(-1, 98, 2)
    exact = FlipAveragedPoints(DecodingNetwork(BrightestPixel(), 4, PEAK), WFLW)
    torch.testing.assert_close(exact(crops)[0], wanted, atol=1e-3, rtol=0)
    wrong = FlipAveragedPoints(DecodingNetwork(BrightestPixel(0.5), 4, PEAK), WFLW)  # both errors to the right
    torch.testing.assert_close(wrong(crops)[0], wanted, atol=1e-3, rtol=0)
    assert (wrong.decoding(crops)[0] - wanted).abs().max() > 1


def test_decode_of_a_checkpoint_is_that_of_its_recipe():
    assert window_sigma({"decode": "peak"}) == PEAK == 0
    assert window_sigma({"decode": "window"}) == window_sigma({}) == WINDOW_SIGMA
    maps = torch.randn(2, 15, 16, 16, generator=torch.Generator().manual_seed(2))
    network = nn.Identity()
    network.forward = lambda images: maps
    crops = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    torch.testing.assert_close(DecodingNetwork(network, 4, PEAK)(crops)[0], decode(maps, 4, 0)[0])
    assert not torch.allclose(DecodingNetwork(network, 4)(crops)[0], decode(maps, 4, 0)[0])


def test_crops_are_normalized_with_the_statistics_of_imagenet():
    crop = torch.tensor([124, 116, 104], dtype=torch.uint8).expand(1, 2, 2, 3)  # its mean color
    assert normalize(crop).abs().max() < 0.01
    assert normalize(torch.zeros(1, 2, 2, 3, dtype=torch.uint8))[0, 0, 0, 0] == pytest.approx(-0.485 / 0.229)


class SpotFinder(nn.Module):
    """Puts left points at the left red spot, right points at the right red spot, and the others at the blue spot."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        size = images.shape[-1]
        points = np.zeros((len(images), WFLW.points, 2), np.float32)
        for face, (red, _, blue) in enumerate(images.numpy()):
            spots = sorted((x, y) for y, x in np.argwhere(red > red.max() / 2))
            middle = np.unravel_index(blue.argmax(), blue.shape)[::-1]
            left = np.arange(WFLW.points) < WFLW.mirror
            right = np.arange(WFLW.points) > WFLW.mirror
            points[face] = np.where(left[:, None], spots[0], np.where(right[:, None], spots[-1], middle))
        scores, offsets = draw_maps(torch.from_numpy(points), size // 4, 4, 1.5)
        return torch.cat([scores, *offsets.unbind(1)], 1)


def test_flip_tta_returns_the_same_points_and_averages_errors():
    images = torch.zeros(2, 3, 64, 64)
    images[:, 0, 21, 13] = images[:, 0, 30, 47] = images[:, 2, 40, 28] = 1
    network = SpotFinder()
    plain, with_flip = network(images), FlipTTANetwork(network, WFLW, 4)(images)
    np.testing.assert_allclose(with_flip, plain, atol=1e-5)

    class Biased(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            maps: torch.Tensor = network(images)
            maps[:, WFLW.points : 2 * WFLW.points] += 0.5  # half a cell too far to the right
            return maps

    wrong, averaged = Biased()(images), FlipTTANetwork(Biased(), WFLW, 4)(images)
    assert (decode(wrong, 4)[0] - decode(plain, 4)[0]).abs().max() > 1
    np.testing.assert_allclose(decode(averaged, 4)[0], decode(plain, 4)[0], atol=1e-3)


def test_flip_tta_is_applied_if_the_metadata_has_flip_tta():
    network = Student(98)
    assert with_flip_tta(network, {"points": 98}) is network
    assert with_flip_tta(network, {"points": 98, "flip_tta": False}) is network
    both = with_flip_tta(network, {"points": 98, "flip_tta": True})
    assert isinstance(both, FlipTTANetwork)
    assert both.network is network
