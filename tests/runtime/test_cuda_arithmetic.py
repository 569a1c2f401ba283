"""The arithmetic of the kernels on the CPU equals NumPy and OpenCV, and the runner works on a fake GPU."""

import ctypes
import math

import numpy as np
import pytest

from canthus.runtime.cuda import runner
from canthus.runtime.cuda.runner import BUCKETS, PADDING, REGION, VIEW, Part, needed_part, to_region
from canthus.runtime.decode import CORE_THRESHOLD, MIN_WEIGHT, WINDOW_SIGMA, decode, encode
from canthus.runtime.errors import BackendError
from canthus.runtime.geometry import crop, crop_all, to_frame, transform
from canthus.runtime.types import Roi
from support.host_cuda import HostCuda, MarkedMaps, compile_shim, view_of

CROP_TOLERANCE = 1  # gray level
POINT_TOLERANCE = 1e-3  # crop pixels
FRAME_TOLERANCE = 2e-3  # frame pixels: float32 far from the origin

SIZE = 64
IDENTITY = (1, 0, 0, 0, 1, 0)


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return compile_shim(tmp_path_factory.mktemp("shim"))


def host_crop(shim, image, roi, size=SIZE):
    frame = np.zeros(image.size + PADDING, np.uint8)
    frame[: image.size] = image.reshape(-1)
    view = np.array([(frame.ctypes.data, image.shape[1], image.shape[0])], VIEW)
    regions = np.array([(*to_region(roi, size), 0)], REGION)
    crops = np.full((1, size, size, 3), 77, np.uint8)
    shim.crop_regions(*(pointer(array) for array in (view, regions, crops)), size, 1)
    return crops[0]


def host_decode(shim, scores, offsets, stride, kind=np.float32):
    count, points, height, width = scores.shape
    maps = np.ascontiguousarray(np.concatenate([scores[:, None], offsets], 1), kind)
    regions = np.zeros(count, REGION)
    regions["back"] = IDENTITY
    out = np.zeros((count, points, 3), np.float32)
    decode_function = shim.decode_half_maps if kind == np.float16 else shim.decode_maps
    decode_function(
        *(pointer(array) for array in (maps, regions, out)),
        *(points, height * width, width, ctypes.c_float(stride), 1, count),
    )
    return out[..., :2], out[..., 2]


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


@pytest.mark.parametrize(
    "roi",
    [
        Roi(160, 120, 64),  # whole pixels, no scaling
        Roi(160.3, 119.8, 50, 0.4),  # enlarged and rotated
        Roi(150, 110, 130, -1.1),  # 2 x 2 samples
        Roi(170, 120, 190, 2.9),  # 3 x 3
        Roi(160, 120, 270, 0.2),  # 4 x 4
        Roi(160, 120, 300, 0.2),  # 2 x 2 of the frame reduced by 2
        Roi(100.3, 90.8, 400, -0.6),  # 3 x 3
        Roi(160, 120, 700, 0.2),  # 3 x 3 of the frame reduced by 4, larger than the frame
        Roi(310, 235, 1300, 1.0),  # reduced by 8, beyond a corner
        Roi(3, 4, 90, 0.7),  # beyond a corner
        Roi(318.5, 100, 64, math.pi / 2),  # beyond the right edge
        Roi(-500, -500, 64),  # outside the frame
        Roi(160, 120, 96),  # between one and two samples: rounds half to even
        Roi(160, 120, 1e9, 0.3),  # too large for an int
    ],
    ids=str,
)
def test_crop_equals_opencvs_within_one_gray_level(shim, roi):
    image = np.random.default_rng(1).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    found, expected = host_crop(shim, image, roi), crop(image, roi, SIZE)
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= CROP_TOLERANCE
    assert difference.mean() < 0.05  # so a shift of half a level is found too


def test_crop_far_from_the_origin_is_not_shifted(shim):
    image = np.random.default_rng(2).integers(0, 256, (2160, 3840, 3), dtype=np.uint8)
    roi = Roi(3700, 2050, 300, 0.9)
    difference = host_crop(shim, image, roi, 128).astype(int) - crop(image, roi, 128).astype(int)
    assert np.abs(difference).max() <= CROP_TOLERANCE


def test_crop_of_a_region_with_nan_is_black(shim):
    image = np.full((40, 40, 3), 255, np.uint8)
    assert not host_crop(shim, image, Roi(float("nan"), 3, 64)).any()


def test_decode_equals_numpys_on_encoded_and_on_random_maps(shim):
    random = np.random.default_rng(3)
    points = random.uniform(-6, 134, (4, 98, 2)).astype(np.float32)  # some outside the crop
    drawn = encode(points, 32, 4, 2.0)
    noise = random.normal(0, 1, (4, 98, 32, 32)).astype(np.float32), random.normal(0, 2, (4, 2, 98, 32, 32))
    for scores, offsets in (drawn, (noise[0], noise[1].astype(np.float32))):
        expected, expected_scores = decode(scores, offsets, 4)
        got, got_scores = host_decode(shim, scores, offsets, 4)
        np.testing.assert_allclose(got, expected, atol=POINT_TOLERANCE)
        np.testing.assert_array_equal(got_scores, expected_scores)


def test_constants_of_the_kernels_equal_those_of_decode_py(shim):
    constants = np.zeros(4, np.float32)
    shim.decode_constants(pointer(constants))
    assert constants.tolist() == np.array([CORE_THRESHOLD, WINDOW_SIGMA, MIN_WEIGHT, PADDING], np.float32).tolist()


def test_every_half_float_is_converted_as_in_numpy(shim):
    shim.half_to_float.restype = ctypes.c_float
    shim.half_to_float.argtypes = [ctypes.c_uint16]
    bits = np.concatenate([np.arange(0, 65536, 37), [0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0xFC00, 0x7C01]])
    found = np.array([shim.half_to_float(int(one)) for one in bits], np.float32)
    np.testing.assert_array_equal(found, bits.astype(np.uint16).view(np.float16).astype(np.float32))


def test_half_maps_are_decoded_as_numpy_decodes_their_values(shim):
    random = np.random.default_rng(9)
    scores, offsets = encode(random.uniform(0, 60, (2, 98, 2)).astype(np.float32), 16, 4, 2.0)
    half = scores.astype(np.float16), offsets.astype(np.float16)
    expected, expected_scores = decode(*(one.astype(np.float32) for one in half), 4)
    got, got_scores = host_decode(shim, *half, 4, np.float16)
    np.testing.assert_allclose(got, expected, atol=POINT_TOLERANCE)
    np.testing.assert_array_equal(got_scores, expected_scores)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (24, 20), (8, 4), (128, 128)])
def test_maps_of_any_width_that_groups_fit_into_are_decoded(shim, height, width):
    random = np.random.default_rng(10)
    scores = random.normal(0, 1, (1, 5, height, width)).astype(np.float32)
    offsets = random.normal(0, 2, (1, 2, 5, height, width)).astype(np.float32)
    expected, _ = decode(scores, offsets, 4)
    np.testing.assert_allclose(host_decode(shim, scores, offsets, 4)[0], expected, atol=POINT_TOLERANCE)


def test_maps_that_groups_do_not_fit_into_are_refused(shim):
    with pytest.raises(BackendError, match="15 cells"):
        MarkedMaps(HostCuda(shim), 60, 5, 4, max_batch=1)


def test_ties_empty_maps_and_nan_are_decoded_as_in_numpy(shim):
    random = np.random.default_rng(4)
    scores = random.integers(0, 3, (2, 98, 64, 64)).astype(np.float32)  # hundreds of ties
    scores[0, :40][random.random((40, 64, 64)) < 0.001] = np.nan
    scores[1, 0] = np.nan
    scores[1, 1] = -np.inf
    scores[1, 2] = 0.0
    scores[1, 3, 1:] = -1.0
    offsets = random.normal(0, 1, (2, 2, 98, 64, 64)).astype(np.float32)
    expected, expected_scores = decode(scores, offsets, 4)
    assert np.isfinite(expected[1, 1:]).all()
    got, got_scores = host_decode(shim, scores, offsets, 4)
    np.testing.assert_allclose(got, expected, atol=POINT_TOLERANCE)
    np.testing.assert_array_equal(got_scores, expected_scores)


@pytest.fixture
def network(shim):
    return MarkedMaps(HostCuda(shim), SIZE, 98, 4, max_batch=16)


def test_runner_equals_numpy_for_any_number_of_faces(network):
    random = np.random.default_rng(5)
    for count in (0, 1, 2, 3, 5, 16, 17, 40):
        crops = random.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        points, scores = network.runner.predict(crops)
        maps = network.maps_of(crops)
        expected, expected_scores = decode(maps[:, 0], maps[:, 1:], 4)
        assert points.shape == (count, 98, 2)
        np.testing.assert_allclose(points, expected, atol=POINT_TOLERANCE)
        np.testing.assert_allclose(scores, expected_scores, atol=1e-6)
    assert set(network.batches) <= set(BUCKETS)


def test_runner_crops_the_frame_as_opencv_does(network):
    random = np.random.default_rng(6)
    for height, width in ((240, 320), (120, 160), (480, 640)):  # smaller and larger than the memory of the frame before
        image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image.setflags(write=False)
        rois = [Roi(*random.uniform(20, 200, 2), random.uniform(30, 200), random.uniform(-3, 3)) for _ in range(19)]
        for count in (0, 1, 3, 19):
            crops = crop_all(image, rois[:count], SIZE)
            maps = network.maps_of(crops.images)
            points, _ = decode(maps[:, 0], maps[:, 1:], 4)
            found, _ = network.runner.predict_regions(image, rois[:count])
            expected = transform(crops.to_frame, points)
            # On these random maps one gray level can move a point by more than the tolerance.
            far = np.abs(found - expected).max((1, 2)) > FRAME_TOLERANCE
            assert far.sum() <= count // 10


def test_later_runs_replay_a_graph_and_allocate_nothing(network):
    image = np.zeros((100, 100, 3), np.uint8)
    rois = [Roi(50, 50, 64), Roi(40, 50, 64)]
    cuda = network.cuda
    network.runner.predict_regions(image, rois)
    allocations, replays, started = cuda.allocations, cuda.replays, len(network.batches)
    for _ in range(20):
        network.runner.predict_regions(image, rois)
    assert cuda.allocations == allocations
    assert cuda.replays == replays + 20
    assert len(network.batches) == started  # the network was not called again


def test_network_that_cannot_be_captured_runs_without_a_graph(shim):
    network = MarkedMaps(HostCuda(shim), SIZE, 98, 4, max_batch=6)
    network.graphs = False
    crops = np.random.default_rng(7).integers(0, 256, (13, SIZE, SIZE, 3), dtype=np.uint8)
    points, _ = network.runner.predict(crops)
    maps = network.maps_of(crops)
    np.testing.assert_allclose(points, decode(maps[:, 0], maps[:, 1:], 4)[0], atol=POINT_TOLERANCE)
    assert network.runner.buckets == (1, 2, 4, 6)
    assert not network.cuda.replays


def test_network_that_fails_during_capture_runs_without_a_graph_and_says_so(shim, caplog):
    class FailsInCapture(MarkedMaps):
        def __call__(self, faces):
            if self.cuda.recorded is not None:
                raise BackendError("did not run: a stream that is captured")
            return super().__call__(faces)

    network = FailsInCapture(HostCuda(shim), SIZE, 98, 4, max_batch=2)
    crops = np.random.default_rng(7).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    maps = network.maps_of(crops)
    for _ in range(3):
        points, _ = network.runner.predict(crops)
        np.testing.assert_allclose(points, decode(maps[:, 0], maps[:, 1:], 4)[0], atol=POINT_TOLERANCE)
    assert not network.cuda.replays
    assert caplog.text.count("no CUDA graph for 2 faces (did not run: a stream that is captured)") == 1


def test_runner_decodes_half_maps(shim):
    network = MarkedMaps(HostCuda(shim), SIZE, 98, 4, max_batch=2, half=True)
    crops = np.random.default_rng(8).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    maps = network.maps_of(crops).astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(network.runner.predict(crops)[0], decode(maps[:, 0], maps[:, 1:], 4)[0], atol=1e-3)


def test_prepared_runner_replays_graphs_from_the_first_frame_on(network):
    with network.cuda.active():
        network.runner.prepare()
    started = len(network.batches)
    assert set(network.batches) == {1, 2, 4, 6, 8, 12, 16} == set(BUCKETS)
    assert network.cuda.replays == len(BUCKETS)  # each graph was launched before the first frame
    image = np.zeros((100, 100, 3), np.uint8)
    for faces in range(1, 17):
        network.runner.predict_regions(image, [Roi(50, 50, 64)] * faces)
    assert len(network.batches) == started
    assert network.cuda.replays == len(BUCKETS) + 16


def test_a_face_that_comes_closer_needs_no_new_memory(network, monkeypatch):
    image = np.zeros((500, 600, 3), np.uint8)
    sides = range(50, 500, 10)
    for most, allowed in ((10**6, 1), (30_000, 6)):  # the frame has 900,000 bytes
        monkeypatch.setattr(runner, "FRAME_BYTES", most)
        network.runner._frame_pinned = None
        network.runner.predict_regions(image[:32, :32], [Roi(16, 16, 20)])
        before = network.cuda.allocations
        for side in sides:
            network.runner.predict_regions(image, [Roi(300, 250, side)])
        assert 2 <= network.cuda.allocations - before <= 2 * allowed  # on the device and on the host


def test_nine_faces_run_as_twelve(network):
    network.runner.predict_regions(np.zeros((100, 100, 3), np.uint8), [Roi(50, 50, 64)] * 9)
    assert set(network.batches) == {12}


def test_only_the_part_of_a_frame_that_regions_need_is_uploaded(network):
    random = np.random.default_rng(11)
    image = random.integers(0, 256, (700, 1003, 3), dtype=np.uint8)
    for roi in (
        Roi(500.3, 400.1, 60, 0.5), Roi(990, 690, 90, 1.0), Roi(5, 3, 70), Roi(500, 350, 500, -0.4),
        Roi(31.7, 660, 700, 0.1), Roi(1200, 100, 64), Roi(-80, 800, 300, 0.3),
    ):  # fmt: skip
        before = network.cuda.uploaded
        found, _ = network.runner.predict_regions(image, [roi])
        part = needed_part([roi], 1003, 700)
        assert network.cuda.uploaded - before < part.width * part.height * 3 + 2000
        (cut,) = view_of(network.runner.crops, (1, SIZE, SIZE, 3), np.uint8)
        difference = cut.astype(int) - crop(image, roi, SIZE)
        assert np.abs(difference).max() <= CROP_TOLERANCE
        assert np.isfinite(found).all()
    assert needed_part([Roi(500, 400, 60)], 1003, 700).width < 200
    assert needed_part([Roi(50, 60, 60), Roi(960, 650, 60)], 1003, 700) == Part(0, 0, 1003, 700)
    assert needed_part([Roi(float("nan"), 3, 64)], 100, 50) == Part(0, 0, 100, 50)


@pytest.mark.parametrize("kind", ["device", "pinned"])
def test_failed_allocation_leaves_no_freed_memory_in_use(network, kind):
    small, large = np.zeros((64, 64, 3), np.uint8), np.full((300, 300, 3), 9, np.uint8)
    rois = [Roi(31.5, 31.5, 64)]
    network.runner.predict_regions(small, rois)
    network.cuda.refused = {kind}
    with pytest.raises(BackendError, match="OUT_OF_MEMORY"):
        network.runner.predict_regions(large, [Roi(150, 150, 280)])
    held = set(network.cuda.held)
    view = int(network.runner._view["pixels"][0])
    assert view == 0 or view in held
    network.cuda.refused = set()
    found, _ = network.runner.predict_regions(small, rois)
    maps = network.maps_of(crop_all(small, rois, SIZE).images)
    np.testing.assert_allclose(found, decode(maps[:, 0], maps[:, 1:], 4)[0], atol=FRAME_TOLERANCE)


def test_region_maps_crop_pixels_as_geometry_does():
    roi = Roi(31.5, 17.25, 150, 0.6)
    cut, back, taps, shrink = to_region(roi, SIZE)
    assert (taps, shrink) == (2, 1)
    np.testing.assert_allclose(back.reshape(2, 3), to_frame(roi, SIZE), rtol=1e-6)
    np.testing.assert_allclose(cut.reshape(2, 3), to_frame(roi, SIZE * taps), rtol=1e-6)
