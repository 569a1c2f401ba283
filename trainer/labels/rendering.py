"""Render textured surfaces of small triangles, and fill the unknown parts of images."""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]
Image = NDArray[np.uint8]


def render_surface(vertices: Floats, texture: Image, used: NDArray[np.bool_], size: int, back: bool = False) -> Image:
    """Render a surface as an image (size, size, 4) RGBA.

    Args:
        vertices: (G, G, 3) x and y in pixels of the result, z away from the camera.
        texture: (S, S, 4) RGBA. The vertex (row, column) has the texture at S / G times (row, column).
        used: (G, G). A cell of the grid is drawn if one of its four vertices is used.
        size: Side of the result, pixels.
        back: Draw only the back of the surface, instead of only its front, which the texture shows.
    """
    indices = np.arange(used.size).reshape(used.shape)
    corners = [indices[:-1, :-1], indices[:-1, 1:], indices[1:, :-1], indices[1:, 1:]]
    drawn_cells = np.any([used.ravel()[corner] for corner in corners], 0)
    first, second, third, fourth = (corner[drawn_cells] for corner in corners)
    triangles = np.concatenate([np.stack([first, second, third], 1), np.stack([fourth, third, second], 1)])
    if back:
        triangles = triangles[:, ::-1]
    step = texture.shape[0] / used.shape[0]
    rows, columns = ((step * axis).astype(np.float32) for axis in np.divmod(triangles, used.shape[1]))  # (T, 3)
    index, two, three = rasterise(vertices.reshape(-1, 3), triangles, size)
    if not len(triangles):
        return np.zeros((size, size, 4), np.uint8)
    x, y = (
        axis[index, 0] + two * (axis[:, 1] - axis[:, 0])[index] + three * (axis[:, 2] - axis[:, 0])[index]
        for axis in (columns, rows)
    )
    drawn = cv2.remap(texture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    drawn[index < 0] = 0
    return drawn.astype(np.uint8, copy=False)


def rasterise(vertices: Floats, triangles: NDArray[np.intp], size: int) -> tuple[NDArray[np.int32], Weights, Weights]:
    """Find the triangle of each pixel.

    Only triangles whose corners run clockwise on the screen are visible. If several cover a pixel, the one with the
    nearest center is used, which is right for small triangles.

    Args:
        vertices: (V, 3) x and y in pixels, z away from the camera.
        triangles: (T, 3) indices of vertices.
        size: Side of the result, pixels.

    Returns:
        The index of the triangle (size, size), -1 for none, and the barycentric weights (size, size) of its second and
        third corner.
    """
    one, two, three = (vertices[triangles[:, corner]] for corner in range(3))  # (T, 3)
    low = np.ceil(np.minimum(np.minimum(one, two), three)[:, :2]).clip(0, size).astype(np.int32)
    high = np.floor(np.maximum(np.maximum(one, two), three)[:, :2]).clip(-1, size - 1).astype(np.int32)
    a, b = (two - one)[:, :2], (three - one)[:, :2]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    visible = np.flatnonzero((high >= low).all(1) & (area > 1e-9))
    visible = visible[np.argsort(-(one + two + three)[visible, 2], kind="stable")]  # from far to near
    low, span = low[visible], high[visible] - low[visible] + 1
    count = span.prod(1)
    step = np.arange(count.sum(), dtype=np.int32) - np.repeat(np.cumsum(count) - count, count).astype(np.int32)
    down, right = np.divmod(step, np.repeat(span[:, 0], count))
    pixel = down * size + right + np.repeat(low @ [1, size], count)
    # Increase of the weights of the second and third corner per pixel to the right and per pixel down.
    by_x = np.stack([b[visible, 1], -a[visible, 1]], 1) / area[visible, None]
    by_y = np.stack([-b[visible, 0], a[visible, 0]], 1) / area[visible, None]
    start = by_x * (low[:, :1] - one[visible, :1]) + by_y * (low[:, 1:] - one[visible, 1:2])
    second, third = (
        np.repeat(start[:, corner].astype(np.float32), count)
        + np.repeat(by_x[:, corner].astype(np.float32), count) * right
        + np.repeat(by_y[:, corner].astype(np.float32), count) * down
        for corner in (0, 1)
    )
    tolerance = np.float32(1e-4)
    within = (second >= -tolerance) & (third >= -tolerance) & (second + third <= 1 + tolerance)
    pixel, second, third = pixel[within], second[within], third[within]
    index = np.full(size * size, -1, np.int32)
    weights = np.zeros((2, size * size), np.float32)
    index[pixel] = np.repeat(visible.astype(np.int32), count)[within]  # the last triangle of a pixel is kept
    weights[0, pixel], weights[1, pixel] = second, third
    return index.reshape(size, size), weights[0].reshape(size, size), weights[1].reshape(size, size)


def fill_unknown(image: Image, known: NDArray[np.bool_]) -> Image:
    """Fill an image (H, W, 3) where it is not `known` (H, W) from its surroundings, with more blur farther away."""
    weight: NDArray = known.astype(np.float32)
    color: NDArray = image.astype(np.float32) * weight[..., None]
    levels: list[tuple[NDArray, NDArray]] = []
    while min(weight.shape) > 2:
        levels.append((color, weight))
        color, weight = cv2.pyrDown(color), cv2.pyrDown(weight)
        gain = np.minimum(1, 4 * weight) / np.maximum(weight, 1e-6)  # prefer few known pixels nearby to many far away
        color, weight = color * gain[..., None], weight * gain
    filled: NDArray = color / np.maximum(weight, 1e-4)[..., None]
    for color, weight in reversed(levels):
        filled = color + cv2.pyrUp(filled, dstsize=weight.shape[::-1]) * (1 - weight[..., None])
    return to_uint8(filled)


def mirror_border(image: Image, inside: NDArray[np.bool_], width: float) -> Image:
    """Replace the inside of a region by its border of `width` pixels, mirrored inwards repeatedly; (H, W, 3)."""
    inner = inside.copy()
    inner[0], inner[:, [0, -1]] = False, False
    distance, nearest = cv2.distanceTransformWithLabels(
        inner.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.mgrid[0 : inner.shape[0], 0 : inner.shape[1]].astype(np.float32)
    positions = np.zeros((int(nearest.max()) + 1, 2), np.float32)
    positions[nearest[~inner]] = np.stack([columns[~inner], rows[~inner]], 1)
    edge = positions[nearest]  # (H, W, 2) nearest pixel outside
    folded = np.abs((distance + width) % (2 * width) - width) / np.maximum(distance, 1)
    x, y = (edge[..., axis] + (own - edge[..., axis]) * folded for axis, own in enumerate((columns, rows)))
    mirrored = cv2.remap(image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
    return cv2.GaussianBlur(mirrored, (0, 0), 0.8).astype(np.uint8, copy=False)


def to_uint8(values: NDArray[np.floating]) -> Image:
    """Round values and clip them to 0 ... 255."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def disc(radius: int) -> Image:
    """Return a disc as structuring element for `cv2.erode` and `cv2.dilate`."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.uint8)


def smoothstep(values: NDArray[np.floating]) -> Floats:
    """Return 0 below 0, 1 above 1, and 3 x^2 - 2 x^3 between."""
    clipped = np.clip(values, 0, 1).astype(np.float64)
    smooth: Floats = clipped * clipped * (3 - 2 * clipped)
    return smooth
