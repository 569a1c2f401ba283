"""Boxes, regions, affines and crops."""

import math

import cv2
import numpy as np
import pytest

from canthus.runtime.geometry import (
    MARGIN,
    crop,
    crop_all,
    extents,
    intersection_over_minimum,
    intersection_over_union,
    invert,
    overlaps,
    roi_from_box,
    roi_from_points,
    rois_from_points,
    sampling,
    suppress_overlapping,
    to_frame,
    to_square_pixels,
    transform,
)
from canthus.runtime.schemes import WFLW
from canthus.runtime.types import FaceBox, Roi
from support.shape import SHAPE

ROIS = [Roi(50, 40, 64), Roi(31.5, 70.25, 20, 0.6), Roi(-5, 12, 90, -2.5), Roi(60, 60, 300, 3.1)]


@pytest.mark.parametrize("roi", ROIS)
def test_invert_undoes_to_frame(roi):
    points = np.random.default_rng(0).uniform(-10, 200, (98, 2))
    there = to_frame(roi, 128)
    assert np.allclose(transform(invert(there), transform(there, points)), points, atol=1e-3)


@pytest.mark.parametrize("roi", ROIS)
def test_center_of_a_crop_is_the_center_of_its_region(roi):
    center = transform(to_frame(roi, 128), np.array([[63.5, 63.5]]))[0]
    assert center == pytest.approx((roi.x, roi.y), abs=1e-4)


def test_crop_at_the_same_scale_copies_pixels():
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3)).astype(np.uint8)
    # The center of pixels 10 to 41 is 25.5.
    assert np.array_equal(crop(image, Roi(25.5, 30.5, 32), 32), image[15:47, 10:42])


def test_crop_of_a_region_at_90_degrees_is_a_rotated_image():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    rotated = crop(image, Roi(15.5, 15.5, 32, math.pi / 2), 32)
    assert np.array_equal(rotated, np.rot90(image))


@pytest.mark.parametrize(
    "roi", [Roi(39_950.5, 40, 64, 0.6), Roi(39_990, 12, 90, -2.5), Roi(39_970, 40, 300), Roi(9e5, 0, 9)]
)
def test_image_that_is_wider_than_opencv_warps_is_cropped_as_a_part_of_it(roi):
    image = np.zeros((100, 40_000, 3), np.uint8)
    image[:, -200:] = np.random.default_rng(0).integers(0, 256, (100, 200, 3))
    part = crop(image[:, -1000:], Roi(roi.x - 39_000, roi.y, roi.side, roi.angle), 64)
    assert np.abs(crop(image, roi, 64).astype(int) - part).max() <= 1


def test_region_that_is_wider_than_opencv_warps_is_reduced():
    image = np.full((100, 70_000, 3), 90, np.uint8)
    cut = crop(image, Roi(35_000, 50, 70_000), 1000)
    assert (cut[:498] == 0).all()
    assert (cut[502:] == 0).all()
    assert cut[498:502].max() > 20


def test_smaller_crop_is_averaged_without_aliasing():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    small = crop(stripes, Roi(127.5, 127.5, 256), 64)
    assert np.abs(small[4:-4, 4:-4].astype(int) - 127).max() <= 2


def test_smaller_crop_includes_every_pixel():
    """Also single dots, which one bilinear sample per crop pixel would miss."""
    dots = np.zeros((256, 256, 3), np.uint8)
    dots[::4, ::4] = 160
    assert crop(dots, Roi(127.5, 127.5, 256), 64)[4:-4, 4:-4].mean() == pytest.approx(10, abs=1)


@pytest.mark.parametrize("angle", [0.0, 0.3])
@pytest.mark.parametrize("scale", [3.0, 4.4, 5.0, 8.0, 12.0, 20.0])
def test_noise_of_a_smaller_crop_is_that_of_the_mean_over_its_pixels(scale, angle):
    """A crop pixel covers scale x scale pixels, so its noise is that of a pixel over the scale."""
    noise = np.random.default_rng(0).normal(128, 30, (2000, 2000, 1)).clip(0, 255).astype(np.uint8).repeat(3, 2)
    cut = crop(noise, Roi(1000.2, 999.7, 64 * scale, angle), 64)
    assert cut.std() < 1.1 * noise.std() / scale + 0.3  # and rounding to whole gray levels
    assert cut.mean() == pytest.approx(noise.mean(), abs=0.7)


@pytest.mark.parametrize(("scale", "angle"), [(1, 0.0), (4, 1.1), (5, 0.0), (10, 0.4), (20, 1.1), (30, 0.0)])
def test_crop_of_any_scale_is_not_shifted(scale, angle):
    ramp = np.linspace(0, 255, 1500)[:, None]
    image = np.stack([np.tile(ramp.T, (1500, 1)), np.tile(ramp, (1, 1500)), np.zeros((1500, 1500))], 2)
    image = np.floor(image + np.random.default_rng(0).uniform(size=image.shape)).astype(np.uint8)  # dithered
    roi = Roi(753.3, 748.6, 40 * scale, angle)
    cells = np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2)
    expected = transform(to_frame(roi, 40), cells).reshape(40, 40, 2)
    # The mean of the image and its negative has no bias from rounding.
    found = (255.0 + crop(image, roi, 40) - crop(255 - image, roi, 40))[..., :2] / 2 * (1499 / 255)
    inside = ((expected > 2 * scale) & (expected < 1499 - 2 * scale)).all(-1)
    shift = (found - expected)[inside].mean(0)
    assert np.abs(shift).max() < 0.02 * scale + 0.3  # frame pixels


def textured(size=700):
    """A smooth random image with details of many sizes."""
    rng = np.random.default_rng(1)
    sizes = ((8, 20), (24, 16), (72, 12), (216, 8))  # cells along an edge, deviation of their levels
    layers = [rng.normal(0, deviation, (cells, cells, 3)).astype(np.float32) for cells, deviation in sizes]
    image = sum(cv2.resize(layer, (size, size), interpolation=cv2.INTER_CUBIC) for layer in layers)
    return (128 + image).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("roi", [Roi(350.3, 340.6, 90, 0.4), Roi(340, 355.5, 230, -1.0), Roi(20, 690, 250, 0.1)])
def test_crop_is_that_of_a_plain_warp_of_three_channels(roi):
    """The warp of four channels is faster; it may round a few values to the next level."""
    image = textured()
    taps = sampling(roi, 128)[1]
    plain = cv2.warpAffine(
        image, to_frame(roi, 128 * taps), (128 * taps,) * 2, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    )
    plain = cv2.resize(plain, (128, 128), interpolation=cv2.INTER_AREA)
    difference = np.abs(crop(image, roi, 128).astype(int) - plain)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("scale", [1.6, 2.4, 3.4, 3.6, 5.0, 9.0])
def test_crop_is_close_to_the_mean_over_the_area_of_its_pixels(scale):
    image, roi = textured(), Roi(350.3, 340.6, 64 * scale, 0.3)
    fine = cv2.warpAffine(image, to_frame(roi, 64 * 8), (64 * 8,) * 2, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    means = fine.reshape(64, 8, 64, 8, 3).mean((1, 3))
    assert np.abs(crop(image, roi, 64) - means).mean() < 0.4 + 0.08 * scale  # one sample: up to 4.8


def test_crops_of_several_regions_are_those_of_each():
    image = textured()
    crops = crop_all(image, ROIS, 64)
    for place, roi in enumerate(ROIS):
        assert np.array_equal(crops.images[place], crop(image, roi, 64))
        assert np.array_equal(crops.to_frame[place], to_frame(roi, 64))


def test_crop_outside_the_image_is_black():
    assert not crop(np.full((20, 20, 3), 255, np.uint8), Roi(-100, -100, 30), 16).any()


@pytest.mark.parametrize("angle", [0.0, 0.4, -1.2])
def test_region_contains_its_points_with_the_margin(angle):
    points = SHAPE * [80, 120] + [200, 100]
    roi = roi_from_points(points, angle)
    inside = transform(invert(to_frame(roi, 100)), points)
    assert (inside.max(0) - inside.min(0)).max() == pytest.approx(100 / MARGIN, rel=0.01)
    assert (inside.max(0) + inside.min(0)) / 2 == pytest.approx((49.5, 49.5), abs=0.1)


def test_region_of_rotated_points_has_the_same_side():
    points = SHAPE * 100 + 50
    cos, sin = math.cos(0.7), math.sin(0.7)
    rotated = points @ np.array([[cos, sin], [-sin, cos]])
    one, other = roi_from_points(points), roi_from_points(rotated, 0.7)
    assert other.side == pytest.approx(one.side, rel=1e-5)
    assert WFLW.roll(rotated) - WFLW.roll(points) == pytest.approx(0.7, abs=1e-5)


def test_regions_and_rolls_of_several_faces_are_those_of_each():
    faces = np.stack([SHAPE * size + size for size in (20, 50, 90)]).astype(np.float32)
    rolls = WFLW.rolls(faces)
    rois = rois_from_points(faces, rolls + 0.2)
    for points, roll, roi in zip(faces, rolls, rois, strict=True):
        assert roll == WFLW.roll(points)
        assert roi == roi_from_points(points, roll + 0.2)


def test_extents_are_the_boxes_of_the_points():
    faces = np.random.default_rng(0).normal(size=(3, 7, 2)).astype(np.float32)
    expected = [(*face.min(0).tolist(), *face.max(0).tolist()) for face in faces]
    assert extents(faces) == expected
    assert extents(faces[:0]) == []


def test_rotated_box_is_shifted_along_its_own_axis():
    upright = roi_from_box(FaceBox(0, 0, 100, 100, 1.0))
    lying = roi_from_box(FaceBox(0, 0, 100, 100, 1.0, roll=math.pi / 2))
    assert (upright.side, upright.x, upright.y) == pytest.approx((115, 50, 60))
    assert lying.side == upright.side
    assert (lying.x - 50, lying.y) == pytest.approx((-(upright.y - 50), 50), abs=1e-6)


def test_no_regions_give_empty_crops():
    crops = crop_all(np.zeros((10, 10, 3), np.uint8), [], 32)
    assert crops.images.shape == (0, 32, 32, 3)
    assert transform(crops.to_frame, np.zeros((0, 98, 2), np.float32)).shape == (0, 98, 2)


def test_crop_does_not_depend_on_the_number_of_threads():
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3)).astype(np.uint8)
    one = crop(image, Roi(140, 150, 222, 0.3), 128)
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        assert np.array_equal(one, crop(image, Roi(140, 150, 222, 0.3), 128))
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize(
    ("aspect", "size"), [(16 / 11, (140, 60)), (0.5, (96, 120)), (1.0, (96, 60)), (1e9, (384, 60))]
)
def test_edges_of_an_image_with_square_pixels_map_to_its_edges(aspect, size):
    image, back = to_square_pixels(np.zeros((60, 96, 3), np.uint8), aspect)
    assert image.shape == (size[1], size[0], 3)
    edges = transform(back, np.array([[-0.5, -0.5], np.array(size) - 0.5]))
    assert edges == pytest.approx(np.array([[-0.5, -0.5], [95.5, 59.5]]), abs=1e-4)


def test_intersection_over_union_of_squares():
    one = Roi(10, 10, 4, 0.7)
    assert intersection_over_union(one, one) == pytest.approx(1)
    cos, sin = math.cos(0.7), math.sin(0.7)
    assert intersection_over_union(one, Roi(10 + 2 * cos, 10 + 2 * sin, 4, 0.7)) == pytest.approx(1 / 3)
    assert intersection_over_union(one, Roi(10, 10, 2, 0.7)) == pytest.approx(1 / 4)
    assert intersection_over_union(one, Roi(30, 10, 4, 0.7)) == 0


def test_intersection_over_minimum_of_boxes():
    one = FaceBox(0, 0, 10, 20, 1.0)
    assert intersection_over_minimum(one, FaceBox(2, 2, 4, 4, 1.0)) == 1
    assert intersection_over_minimum(one, FaceBox(5, 0, 15, 20, 1.0)) == pytest.approx(0.5)
    assert intersection_over_minimum(one, FaceBox(11, 0, 15, 20, 1.0)) == 0
    assert intersection_over_minimum(one, FaceBox(5, 5, 5, 5, 1.0)) == 0  # an empty box


def test_overlaps_of_several_boxes_are_those_of_each_pair():
    boxes = [FaceBox(0, 0, 10, 20, 1.0), FaceBox(5, 0, 15, 20, 1.0), FaceBox(5, 5, 5, 5, 1.0), FaceBox(30, 0, 40, 9, 1)]
    expected = [[intersection_over_minimum(one, other) for other in boxes] for one in boxes]
    assert overlaps(boxes) == pytest.approx(np.array(expected))
    assert overlaps([]).shape == (0, 0)


def test_best_of_overlapping_boxes_is_kept():
    best, overlapping, apart = FaceBox(0, 0, 10, 10, 0.9), FaceBox(4, 0, 14, 10, 0.8), FaceBox(20, 0, 30, 10, 0.7)
    assert suppress_overlapping([apart, overlapping, best], 0.5) == [best, apart]
    assert suppress_overlapping([apart, overlapping, best], 0.7) == [best, overlapping, apart]
