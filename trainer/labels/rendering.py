"""Drawing for `relief`: sheets of small triangles, and pictures filled up where nothing is known."""

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Weights = NDArray[np.float32]
Image = NDArray[np.uint8]


def draw_sheet(vertices: Floats, texture: Image, alive: NDArray[np.bool_], size: int, behind: bool = False) -> Image:
    """Draw a sheet of vertices (G, G, 3) as a picture (size, size, 4) RGB and alpha.

    The texture (S, S, 4) lies flat behind them, S / G of its pixels from one vertex to the next. A square is drawn
    where one of its corners is alive, and only the side of the sheet that the texture shows; `behind` is the other.
    """
    number = np.arange(alive.size).reshape(alive.shape)
    corners = [number[:-1, :-1], number[:-1, 1:], number[1:, :-1], number[1:, 1:]]
    some = np.any([alive.ravel()[corner] for corner in corners], 0)
    first, second, third, fourth = (corner[some] for corner in corners)
    triangles = np.concatenate([np.stack([first, second, third], 1), np.stack([fourth, third, second], 1)])
    if behind:
        triangles = triangles[:, ::-1]
    step = texture.shape[0] / alive.shape[0]
    rows, columns = ((step * axis).astype(np.float32) for axis in np.divmod(triangles, alive.shape[1]))  # (T, 3)
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
    """Which triangle each pixel (size, size) shows, -1 = none, and the weights there of its second and third corner.

    Of triangles (T, 3) over vertices (V, 3) only those that run clockwise on the screen are seen. They should be small:
    where several cover a pixel, the one whose middle lies nearest is taken.
    """
    one, two, three = (vertices[triangles[:, corner]] for corner in range(3))  # (T, 3)
    low = np.ceil(np.minimum(np.minimum(one, two), three)[:, :2]).clip(0, size).astype(np.int32)
    high = np.floor(np.maximum(np.maximum(one, two), three)[:, :2]).clip(-1, size - 1).astype(np.int32)
    a, b = (two - one)[:, :2], (three - one)[:, :2]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    seen = np.flatnonzero((high >= low).all(1) & (area > 1e-9))
    seen = seen[np.argsort(-(one + two + three)[seen, 2], kind="stable")]  # from far to near
    low, span = low[seen], high[seen] - low[seen] + 1
    count = span.prod(1)
    step = np.arange(count.sum(), dtype=np.int32) - np.repeat(np.cumsum(count) - count, count).astype(np.int32)
    down, right = np.divmod(step, np.repeat(span[:, 0], count))
    pixel = down * size + right + np.repeat(low @ [1, size], count)
    # The weights of the second and the third corner grow by so much a pixel to the right and a pixel down.
    by_x = np.stack([b[seen, 1], -a[seen, 1]], 1) / area[seen, None]
    by_y = np.stack([-b[seen, 0], a[seen, 0]], 1) / area[seen, None]
    start = by_x * (low[:, :1] - one[seen, :1]) + by_y * (low[:, 1:] - one[seen, 1:2])
    second, third = (
        np.repeat(start[:, corner].astype(np.float32), count)
        + np.repeat(by_x[:, corner].astype(np.float32), count) * right
        + np.repeat(by_y[:, corner].astype(np.float32), count) * down
        for corner in (0, 1)
    )
    slack = np.float32(1e-4)
    within = (second >= -slack) & (third >= -slack) & (second + third <= 1 + slack)
    pixel, second, third = pixel[within], second[within], third[within]
    index = np.full(size * size, -1, np.int32)
    weights = np.zeros((2, size * size), np.float32)
    index[pixel] = np.repeat(seen.astype(np.int32), count)[within]  # of a pixel's triangles the last one holds
    weights[0, pixel], weights[1, pixel] = second, third
    return index.reshape(size, size), weights[0].reshape(size, size), weights[1].reshape(size, size)


def fill(picture: Image, known: NDArray[np.bool_]) -> Image:
    """The picture (H, W, 3) where it is known (H, W), and elsewhere what lies around, ever more blurred."""
    weight: NDArray = known.astype(np.float32)
    colour: NDArray = picture.astype(np.float32) * weight[..., None]
    levels: list[tuple[NDArray, NDArray]] = []
    while min(weight.shape) > 2:
        levels.append((colour, weight))
        colour, weight = cv2.pyrDown(colour), cv2.pyrDown(weight)
        more = np.minimum(1, 4 * weight) / np.maximum(weight, 1e-6)  # a little knowledge near by beats much far off
        colour, weight = colour * more[..., None], weight * more
    filled: NDArray = colour / np.maximum(weight, 1e-4)[..., None]
    for colour, weight in reversed(levels):
        filled = colour + cv2.pyrUp(filled, dstsize=weight.shape[::-1]) * (1 - weight[..., None])
    return to_bytes(filled)


def mirror_edge(picture: Image, inside: NDArray[np.bool_], deep: float) -> Image:
    """The outermost `deep` pixels of what lies inside, mirrored inwards again and again (H, W, 3)."""
    inner = inside.copy()
    inner[0], inner[:, [0, -1]] = False, False
    away, nearest = cv2.distanceTransformWithLabels(
        inner.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.mgrid[0 : inner.shape[0], 0 : inner.shape[1]].astype(np.float32)
    place = np.zeros((int(nearest.max()) + 1, 2), np.float32)
    place[nearest[~inner]] = np.stack([columns[~inner], rows[~inner]], 1)
    edge = place[nearest]
    folded = np.abs((away + deep) % (2 * deep) - deep) / np.maximum(away, 1)
    x, y = (edge[..., axis] + (own - edge[..., axis]) * folded for axis, own in enumerate((columns, rows)))
    mirrored = cv2.remap(picture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
    return cv2.GaussianBlur(mirrored, (0, 0), 0.8).astype(np.uint8, copy=False)


def to_bytes(values: NDArray[np.floating]) -> Image:
    """Rounded, and held between 0 and 255."""
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def disc(radius: int) -> Image:
    """A structuring element for `cv2.erode` and `cv2.dilate`."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.uint8)


def smoothstep(share: NDArray[np.floating]) -> Floats:
    """0 below 0, 1 above 1, and a smooth way between them."""
    clipped = np.clip(share, 0, 1).astype(np.float64)
    smooth: Floats = clipped * clipped * (3 - 2 * clipped)
    return smooth
