"""Convert HDR video (PQ and HLG) to SDR, and colors of drawings to HDR.

The networks and the viewer get SDR frames of every video. PQ is that of SMPTE ST 2084, HLG that of Rec. ITU-R BT.2100
(table 5) on a display of 1,000 cd/m2. White of SDR is 203 cd/m2, the reference white of HDR in Report ITU-R BT.2408.
Brighter light is compressed by the curve of Report ITU-R BT.2390-11, section 5.4.1 (EETF), applied to the largest of R,
G and B, which keeps the hue. SDR is BT.709 with the display gamma 2.4 of BT.1886.

FFmpeg's own filters for this, zscale and tonemap, are not used: PyAV's wheels have no zscale.
"""

import functools
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

from canthus.runtime.media import to_wide_rgb

Transfer = Literal["pq", "hlg", ""]
"""How a video stores light; empty: as SDR."""

TRANSFERS: dict[int, Transfer] = {16: "pq", 18: "hlg"}
"""By FFmpeg's number of a transfer characteristic."""

SDR_WHITE = 203.0
"""cd/m2 (BT.2408)."""

PEAK = 1000.0
"""cd/m2 of the brightest light that is not clipped: most HDR is mastered for it. It is also the display of HLG."""

HLG_GAMMA = 1.2
"""Gamma of the OOTF of a display of 1,000 cd/m2."""

CUBE_SIDE = 33
"""Colors along each side of the table that FFmpeg interpolates."""

LUMINANCE = np.array([0.2627, 0.6780, 0.0593])
"""Weights of linear R, G, B of BT.2020."""

BT2020_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
"""Linear RGB (Rec. ITU-R BT.2087)."""

P3_TO_BT709 = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
"""Linear RGB of P3 with white D65."""

Array = NDArray[np.float64]


def pq_to_light(code: Array) -> Array:
    """Return cd/m2 of PQ values in [0, 1] (EOTF of ST 2084)."""
    root = np.power(np.clip(code, 0, 1), 32 / 2523)
    return np.asarray(1e4 * np.power(np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root), 8192 / 1305))


def light_to_pq(light: Array) -> Array:
    """Return PQ values in [0, 1] of cd/m2, the inverse of `pq_to_light`."""
    power = np.power(np.clip(light / 1e4, 0, 1), 1305 / 8192)
    return np.asarray(np.power((107 / 128 + 2413 / 128 * power) / (1 + 2392 / 128 * power), 2523 / 32))


def hlg_to_light(code: Array) -> Array:
    """Return cd/m2 (..., 3) of HLG R, G, B in [0, 1] (inverse OETF, then OOTF, of BT.2100)."""
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    luminance = np.maximum(scene @ LUMINANCE, 1e-9)[..., None]
    return np.asarray(PEAK * luminance ** (HLG_GAMMA - 1) * scene)


def light_to_hlg(light: Array) -> Array:
    """Return HLG R, G, B in [0, 1] of cd/m2 (..., 3), the inverse of `hlg_to_light`."""
    display = light / PEAK
    scene = display * np.maximum(display @ LUMINANCE, 1e-9)[..., None] ** (1 / HLG_GAMMA - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.asarray(np.clip(np.where(scene <= 1 / 12, np.sqrt(3 * np.maximum(scene, 0)), high), 0, 1))


def compress(light: Array) -> Array:
    """Return cd/m2 up to SDR_WHITE of cd/m2 up to PEAK, by the EETF of BT.2390 (its black is 0)."""
    peak = light_to_pq(np.array(PEAK))
    value, largest = light_to_pq(light) / peak, light_to_pq(np.array(SDR_WHITE)) / peak
    knee = 1.5 * largest - 0.5
    part = (np.clip(value, knee, 1) - knee) / (1 - knee)
    spline = (
        (2 * part**3 - 3 * part**2 + 1) * knee
        + (part**3 - 2 * part**2 + part) * (1 - knee)
        + (3 * part**2 - 2 * part**3) * largest
    )
    return pq_to_light(np.where(value < knee, value, spline) * peak)


def to_sdr(code: Array, transfer: Transfer, primaries: int = 9) -> Array:
    """Return R, G, B (..., 3) of BT.709 in [0, 1] of HDR values in [0, 1].

    primaries: FFmpeg's number: 1 BT.709, 11 or 12 P3, others are taken for BT.2020.
    """
    light = pq_to_light(code) if transfer == "pq" else hlg_to_light(code)
    largest = np.maximum(light.max(-1, keepdims=True), 1e-6)
    linear = light * (compress(largest) / largest) / SDR_WHITE
    if primaries != 1:
        linear = linear @ (P3_TO_BT709 if primaries in (11, 12) else BT2020_TO_BT709).T
    return np.asarray(np.clip(linear, 0, 1) ** (1 / 2.4))


def to_hdr(color: Array, transfer: Transfer, primaries: int = 9) -> Array:
    """Return HDR values (..., 3) in [0, 1] that show colors of SDR in [0, 1]; its white is SDR_WHITE."""
    linear = np.clip(color, 0, 1) ** 2.4
    if primaries != 1:
        linear = linear @ np.linalg.inv(P3_TO_BT709 if primaries in (11, 12) else BT2020_TO_BT709).T
    light = np.maximum(linear, 0) * SDR_WHITE
    return light_to_pq(light) if transfer == "pq" else light_to_hlg(light)


def place_drawing(
    frame: NDArray[np.uint16], drawing: NDArray[np.uint8], transfer: Transfer, primaries: int
) -> NDArray[np.uint16]:
    """Return an HDR frame (H, W, 3) of 16 bits with a drawing (H, W, 4) RGBA of SDR on it."""
    drawn = frame.copy()
    rows, columns = np.nonzero(drawing[..., 3])
    color, alpha = drawing[rows, columns, :3] / 255, drawing[rows, columns, 3:] / 255
    mixed = alpha * 65535 * to_hdr(color, transfer, primaries) + (1 - alpha) * frame[rows, columns]
    drawn[rows, columns] = np.rint(mixed)
    return drawn


@functools.lru_cache(maxsize=4)
def _cube(transfer: Transfer, primaries: int) -> str:
    """Return the text of a .cube file with the SDR color of each of CUBE_SIDE**3 HDR colors; red changes fastest."""
    axis = np.linspace(0, 1, CUBE_SIDE)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    colors = to_sdr(np.stack([red, green, blue], -1).reshape(-1, 3), transfer, primaries)
    lines = [" ".join(f"{value:.6f}" for value in color) for color in colors.tolist()]
    return "\n".join([f"LUT_3D_SIZE {CUBE_SIDE}", *lines, ""])


class ToneMapper:
    """Converts the frames of one HDR video to SDR. FFmpeg interpolates in a table of colors."""

    def __init__(self, transfer: Transfer, primaries: int) -> None:
        self._cube = _cube(transfer, primaries)
        self._graph: Graph | None = None
        self._size = (0, 0)

    def convert(self, stored: av.VideoFrame) -> NDArray[np.uint16]:
        """Return a decoded frame as SDR (H, W, 3) RGB of 16 bits."""
        frame = av.VideoFrame.from_ndarray(to_wide_rgb(stored), format="rgb48le")
        if self._graph is None or self._size != (frame.width, frame.height):
            self._graph, self._size = self._open(frame.width, frame.height), (frame.width, frame.height)
        self._graph.vpush(frame)
        return np.asarray(self._graph.vpull().to_ndarray(), np.uint16)

    def _open(self, width: int, height: int) -> Graph:
        graph = Graph()
        pixels = av.VideoFormat("rgb48le", width, height)
        source = graph.add_buffer(width=width, height=height, format=pixels, time_base=Fraction(1, 1000))
        with tempfile.TemporaryDirectory() as folder:  # FFmpeg reads the table at once
            path = Path(folder, "hdr.cube")
            path.write_text(self._cube, encoding="ascii")
            table = graph.add("lut3d", file=str(path), interp="tetrahedral")
            graph.link_nodes(source, table, graph.add("buffersink"))
            graph.configure()
        return graph


def to_eight_bits(wide: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) of 16 bits with 8 bits."""
    return np.asarray(cv2.convertScaleAbs(wide, alpha=255 / 65535), np.uint8)
