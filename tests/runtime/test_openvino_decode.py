"""The decode that OpenVINO runs gives the points of the NumPy decode, and only replaces the exported one."""

import numpy as np
import pytest

from canthus.runtime.backends.compiled_models import EXACT
from canthus.runtime.backends.openvino_decode import ops, with_faster_decode
from canthus.runtime.backends.openvino_without_telemetry import core, openvino
from canthus.runtime.decode import decode
from canthus.runtime.models import Manifest, find_model, find_precision, included_models, read_model
from canthus.runtime.schemes import guess_scheme

SIZE, STRIDE, CHANNELS = 64, 4, 8
SCHEME = guess_scheme(68)
POINTS = SCHEME.points
TOLERANCE = 1e-3  # crop pixels


def manifest(**training):
    return Manifest("", "test", SIZE, POINTS, STRIDE, training=training, scheme=SCHEME)


def network(flip_tta=False, bias=True, kernel=1):
    """A network of two convolutions with random weights, from crops to the value `maps`."""
    random = np.random.default_rng(3)
    crops = ops.parameter([-1, SIZE, SIZE, 3], np.uint8, "crops")
    both = ops.concat([crops, ops.slice(crops, [0], [SIZE], [1], [1])], 0) if flip_tta else crops
    images = ops.transpose(ops.divide(ops.convert(both, np.float32), np.float32(255)), [0, 3, 1, 2])
    first = random.normal(0, 0.3, (CHANNELS, 3, STRIDE, STRIDE)).astype(np.float32)
    features = ops.relu(ops.convolution(images, first, [STRIDE, STRIDE], [0, 0], [0, 0], [1, 1]))
    last = random.normal(0, 0.3, (3 * POINTS, CHANNELS, kernel, kernel)).astype(np.float16)
    pads = [kernel // 2, kernel // 2]
    maps = ops.convolution(features, ops.convert(ops.constant(last), np.float32), [1, 1], pads, pads, [1, 1])
    if bias:
        maps = ops.add(maps, random.normal(0, 0.3, (1, 3 * POINTS, 1, 1)).astype(np.float32))
    if flip_tta:
        order = np.concatenate([np.array(SCHEME.mirror) + kind * POINTS for kind in range(3)])
        signs = np.repeat(np.array([1, -1, 1], np.float32), POINTS).reshape(-1, 1, 1)
        halves = ops.split(maps, 0, 2)
        back = ops.gather(ops.gather(halves.output(1), order, 1), np.arange(SIZE // STRIDE)[::-1].copy(), 3)
        maps = ops.divide(ops.add(halves.output(0), ops.multiply(back, signs)), np.float32(2))
    maps.output(0).set_names({"maps"})
    return openvino.Model([maps.output(0)], [crops], "test")


def run(model, crops):
    compiled = core().compile_model(model, "CPU", EXACT)
    return [np.array(output) for output in compiled.create_infer_request().infer([crops]).values()]


@pytest.mark.parametrize("flip_tta", [False, True])
def test_points_and_scores_equal_those_of_numpy(flip_tta):
    crops = np.random.default_rng(4).integers(0, 256, (3, SIZE, SIZE, 3)).astype(np.uint8)
    (maps,) = run(network(flip_tta), crops)
    parts = maps.reshape(3, 3, POINTS, *maps.shape[2:])
    expected_points, expected_scores = decode(parts[:, 0], parts[:, 1:], STRIDE)
    points, scores = run(with_faster_decode(network(flip_tta), manifest(flip_tta=flip_tta)), crops)
    np.testing.assert_allclose(points, expected_points, atol=TOLERANCE)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "training"),
    [
        ({}, {"decode": "peak"}),
        ({"bias": False}, {}),
        ({"kernel": 3}, {}),
        ({"flip_tta": True}, {}),
    ],
)
def test_network_of_another_form_keeps_its_decode(form, training):
    given = network(**form)
    assert with_faster_decode(given, manifest(**training)) is given


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize("name", sorted(included_models()))
def test_included_models_have_the_form(name, precision):
    model = read_model(find_precision(find_model(name), precision))
    given = core().read_model(model.path)
    assert with_faster_decode(given, model.manifest) is not given
