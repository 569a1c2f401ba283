"""Apply sampled augmentation to a whole batch with torch, on a GPU or on the CPU.

The transforms are sampled by `augment`, which applies them to single faces with OpenCV. Both give the same crops, up to
rounding; their noise has the same standard deviation, but consists of other random numbers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fft
from torch.nn import functional as F

from canthus.runtime.geometry import invert
from canthus.trainer.augmentation.appearance import Appearance, DropoutHole
from canthus.trainer.augmentation.augment import Transform
from canthus.trainer.augmentation.occluders import NEUTRAL_LEVEL, Occluder

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma (ITU-R BT.601), as in OpenCV's grayscale and in JPEG."""

JPEG_TABLES = (
    (
        "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
        "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
    ),
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 " + "99 " * 38,
)
"""Quantization tables (8 x 8) of luma and chroma at JPEG quality 50 (ITU-T T.81, annex K)."""


@dataclass(frozen=True, eq=False)
class BatchTransforms:
    """The transforms of a batch, packed into one tensor that is copied to the GPU together with the crops."""

    size: int  # side of the augmented crops, pixels
    packed: Tensor  # (bytes,) uint8
    layout: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]  # step, dtype and shape of each packed tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> "BatchTransforms":
        """Return a copy whose packed tensor is `function` of this one."""
        return replace(self, packed=function(self.packed))


def pack(size: int, steps: dict[str, tuple[Tensor, ...]]) -> BatchTransforms:
    """Concatenate the bytes of all tensors; each starts at a multiple of 8 bytes."""
    tensors = [(step, tensor) for step, several in steps.items() for tensor in several]
    flat = [tensor.contiguous().flatten().view(torch.uint8) for _, tensor in tensors]
    packed = torch.cat([F.pad(part, (0, -len(part) % 8)) for part in flat])
    return BatchTransforms(size, packed, tuple((step, tensor.dtype, tuple(tensor.shape)) for step, tensor in tensors))


def unpack(transforms: BatchTransforms) -> dict[str, tuple[Tensor, ...]]:
    """Return the tensors of each step, as views of the packed one."""
    steps: dict[str, tuple[Tensor, ...]] = {}
    start = 0
    for step, dtype, shape in transforms.layout:
        stop = start + math.prod(shape) * dtype.itemsize
        steps[step] = (*steps.get(step, ()), transforms.packed[start:stop].view(dtype).view(shape))
        start = stop + -stop % 8
    return steps


def collate_transforms(transforms: Sequence[Transform], size: int) -> BatchTransforms:
    """Combine the transforms of B faces, to crops of `size` pixels.

    The step "affine" has the maps (B, 2, 3) from augmented crops to packed crops, and whether to replicate the border
    (B,). Each other step has the indices of the N faces that take it (N,), and its parameters for these.
    """
    affine = np.stack([_inverse_affine(one, size) for one in transforms]).astype(np.float32)
    steps: dict[str, tuple[Tensor, ...]] = {
        "affine": (torch.from_numpy(affine), torch.tensor([one.replicate_border for one in transforms]))
    }
    for step in (field.name for field in fields(Appearance)):
        sampled = [getattr(one.appearance, step) for one in transforms]
        rows = [row for row, value in enumerate(sampled) if value is not None]
        if rows:
            parameters = _parameters(step, [sampled[row] for row in rows], size)
            steps[step] = tuple(torch.from_numpy(array) for array in (np.array(rows), *parameters))
    return pack(size, steps)


def _inverse_affine(sampled: Transform, size: int) -> NDArray[np.float64]:
    """Return the map (2, 3) from the augmented crop, mirrored or not, to the packed crop."""
    mirror = np.array([[-1.0, 0, size - 1], [0, 1, 0], [0, 0, 1]]) if sampled.flipped else np.eye(3)
    return invert(sampled.affine) @ mirror


def _parameters(step: str, sampled: list[Any], size: int) -> tuple[NDArray[Any], ...]:
    """Return the parameters of a step for the N faces that take it, as arrays."""
    match step:
        case "occluder":
            return _occluder_images(sampled, size)  # (N, 4, IMAGE_SIDE, IMAGE_SIDE), (N,)
        case "blur":
            return (_blur_kernels(sampled, size),)  # (N, W, W)
        case "brightness_contrast":
            return (np.stack(sampled)[:, None].repeat(3, 1),)  # (N, 3, 256)
        case "curves":
            return (np.stack(sampled).transpose(0, 2, 1).copy(),)  # (N, 3, 256)
        case "hsv":
            return (np.floor(sampled).astype(np.float32),)  # (N, 3); integers, as in the lookup table of augment
        case "dropout":
            holes, colors = zip(*(_hole_arrays(one, size) for one in sampled), strict=True)
            return _pad_rows(holes), _pad_rows(colors)  # (N, H, 7), (N, M, 3)
        case "jpeg":
            return (np.stack([_quantization_steps(quality) for quality in sampled]),)  # (N, 2, 8, 8)
        case _:  # (N,); of noise (N, 2)
            return (np.array(sampled, np.float32),)


def _pad_rows(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Stack arrays (n, C) to (N, max n, C), padded with zeros."""
    most = max(map(len, arrays))
    return np.stack([np.pad(one, ((0, most - len(one)), (0, 0))) for one in arrays])


def _blur_kernels(blurs: list[float | NDArray[np.float32]], size: int) -> NDArray[np.float32]:
    """Return Gaussian and motion kernels, each centered in (W, W), W odd.

    Rounding errors depend on W. So W depends on `size` alone, unless a recipe blurs by more than 0.02 of the crop:
    a face then looks the same whatever else is in its batch.
    """
    kernels = []
    for blur in blurs:
        if isinstance(blur, float):
            gaussian = cv2.getGaussianKernel(round(6 * blur + 1) | 1, blur)
            blur = (gaussian @ gaussian.T).astype(np.float32)
        kernels.append(blur)
    width = max(size // 16 * 2, *map(len, kernels)) | 1
    before = [width // 2 - len(kernel) // 2 for kernel in kernels]
    return np.stack(
        [np.pad(kernel, (first, width - first - len(kernel))) for first, kernel in zip(before, kernels, strict=True)]
    )


def _occluder_images(occluders: list[Occluder], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the RGBA images (N, 4, IMAGE_SIDE, IMAGE_SIDE), and the index (N,) of the crop's pixel that tints each.

    Pixels are counted row by row; -1 = no tint.
    """
    tints = [-1 if one.skin is None else one.skin[1] * size + one.skin[0] for one in occluders]
    return np.stack([one.image.transpose(2, 0, 1) for one in occluders]), np.array(tints)


def _hole_arrays(holes: tuple[DropoutHole, ...], size: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the H rectangles (H, 7) of one face, and the M colors (M, 3) that fill some of them.

    A row has x, y, width, height, and where the fill is read from: the index of its first pixel, the step to the next
    row and the step to the next column. Indices count the pixels of the crop row by row, then the colors.
    """
    rows, colors, count = np.zeros((len(holes), 7), np.int32), [np.zeros((0, 3), np.uint8)], size * size
    for place, hole in enumerate(holes):
        if isinstance(hole.fill, tuple):
            x, y = hole.fill
            source = (y * size + x, size, 1)
        else:
            source = (count, hole.width, 1) if hole.fill.ndim == 3 else (count, 0, 0)
            colors.append(hole.fill.reshape(-1, 3).astype(np.uint8))
            count += len(colors[-1])
        rows[place] = hole.x, hole.y, hole.width, hole.height, *source
    return rows, np.concatenate(colors)


def _quantization_steps(quality: int) -> NDArray[np.float32]:
    """Return the quantization steps (2, 8, 8) of luma and chroma, scaled by quality as in libjpeg."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = np.array([table.split() for table in JPEG_TABLES], np.int64).reshape(2, 8, 8)
    return np.clip((steps * percent + 50) // 100, 1, 255).astype(np.float32)


def apply_transforms(crops: Tensor, transforms: BatchTransforms) -> Tensor:
    """Augment packed crops (B, P, P, 3) uint8 to crops (B, S, S, 3) uint8, on the device that holds both arguments."""
    steps = unpack(transforms)
    images = _to_uint8(_warp(crops, transforms.size, *steps.pop("affine")))
    for step, (rows, *parameters) in steps.items():
        images[rows] = _to_uint8(_apply_step(step, images[rows].float(), *parameters))
    return images.permute(0, 2, 3, 1)


def _to_uint8(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def _warp(crops: Tensor, size: int, affine: Tensor, replicate_border: Tensor) -> Tensor:
    """Resample crops (B, P, P, 3) bilinearly; returns (B, 3, S, S) float. `affine` (B, 2, 3) maps result to source."""
    side = crops.shape[1]
    place = torch.arange(size, device=crops.device, dtype=torch.float32)
    # Not affine_grid: its matrix product may use TF32, whose coordinates are up to a quarter of a pixel off.
    x_axis, y_axis, origin = affine[..., None, None].unbind(2)
    source = x_axis * place + y_axis * place[:, None] + origin  # (B, 2, S, S) pixels of the packed crop
    grid = ((2 * source + 1) / side - 1).permute(0, 2, 3, 1)
    images = F.grid_sample(crops.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
    inside = ((source + 1).clamp(0, 1) * (side - source).clamp(0, 1)).prod(1)  # to black within a pixel, as in OpenCV
    return images * torch.where(replicate_border[:, None, None], 1, inside)[:, None]


def _apply_step(step: str, images: Tensor, *parameters: Tensor) -> Tensor:
    """Apply one step to images (N, 3, S, S) of levels 0 to 255, float."""
    match step:
        case "occluder":
            return _apply_occluders(images, *parameters)
        case "downscale":
            return _downscale(images, *parameters)
        case "blur":
            return _blur(images, *parameters)
        case "brightness_contrast" | "curves":
            return parameters[0].gather(2, images.flatten(2).long()).view_as(images).float()
        case "hsv":
            return _shift_hsv(images, *parameters)
        case "color" | "gray":
            gray = _luma(images)[:, None].round()
            return gray + parameters[0].view(-1, 1, 1, 1) * (images - gray)
        case "dropout":
            return _cover_holes(images, *parameters)
        case "noise":
            deviation, seed = parameters[0].unbind(1)
            return images + deviation.view(-1, 1, 1, 1) * _normal_noise(seed, images[0].numel()).view_as(images)
        case "jpeg":
            return _compress(images, *parameters)
    raise AssertionError(step)


def _apply_occluders(images: Tensor, occluders: Tensor, tint: Tensor) -> Tensor:
    """Blend RGBA images (N, 4, IMAGE_SIDE, IMAGE_SIDE) over the crops; `tint` (N,) is the index of a pixel, or -1."""
    enlarged = F.interpolate(occluders.float(), images.shape[-2:], mode="bilinear")
    pixel = images.flatten(2).gather(2, tint.clamp(min=0).view(-1, 1, 1).expand(-1, 3, 1))[..., None]
    factor = torch.where(tint.view(-1, 1, 1, 1) < 0, 1, pixel / NEUTRAL_LEVEL)
    colors, opacity = (enlarged[:, :3].round() * factor).clamp(max=255), enlarged[:, 3:].round() / 255
    return images + opacity * (colors - images)


def _downscale(images: Tensor, side: Tensor) -> Tensor:
    """Shrink to `side` (N,) pixels by area averaging and enlarge bilinearly, as one matrix product along each axis."""
    place = torch.arange(images.shape[-1], device=images.device)
    ratio = (images.shape[-1] / side)[:, None, None]  # pixels of the crop per pixel of the shrunk one
    start = place[:, None] * ratio
    overlap = torch.minimum(start + ratio, place + 1) - torch.maximum(start, place)
    shrink = overlap.clamp(min=0) / ratio  # (N, small, S)
    source = torch.minimum(((place[:, None] + 0.5) / ratio - 0.5).clamp(min=0), side[:, None, None] - 1)
    enlarge = (1 - (source - place).abs()).clamp(min=0)  # (N, S, small)
    both = (enlarge @ shrink)[:, None]
    return both @ images @ both.mT


def _blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Blur each image by its own kernel (N, W, W), with FFTs: direct sums over 17 x 17 pixels and more are slow."""
    size, reach = images.shape[-1], kernels.shape[-1] // 2
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    shape = padded.shape[-2:]
    spectrum = fft.rfft2(padded) * fft.rfft2(kernels, shape).conj()[:, None]
    blurred: Tensor = fft.irfft2(spectrum, shape)
    return blurred[..., :size, :size]


def _shift_hsv(images: Tensor, shift: Tensor) -> Tensor:
    """Add `shift` (N, 3) to hue (of 180 levels), saturation and value (of 255)."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    divisor = chroma.clamp(min=1)
    hue = torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)  # 6 = a full turn
    hue = torch.where(value == red, (green - blue) / divisor, hue)
    saturation = 255 * chroma / value.clamp(min=1)
    hue_shift, saturation_shift, value_shift = shift[..., None, None].unbind(1)
    value, saturation = (value + value_shift).clamp(0, 255), (saturation + saturation_shift).clamp(0, 255) / 255
    offset = torch.arange(5, 0, -2, device=images.device)[:, None, None]  # of red, green and blue
    position = (offset + (hue + hue_shift / 30)[:, None]) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(position, 4 - position).clamp(0, 1))


def _luma(images: Tensor) -> Tensor:
    """Return the luma (N, H, W) of RGB images (N, 3, H, W)."""
    red, green, blue = images.unbind(1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _cover_holes(images: Tensor, holes: Tensor, colors: Tensor) -> Tensor:
    """Fill the rectangles (N, H, 7) of `_hole_arrays` one after the other, from the image or `colors` (N, M, 3)."""
    size = images.shape[-1]
    place = torch.arange(size, device=images.device)
    unchanged = place[:, None] * size + place
    for hole in holes.unbind(1):
        x, y, width, height, first, row_step, column_step = hole[..., None, None].unbind(1)
        column, row = place - x, place[:, None] - y
        covered = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        source = torch.where(covered, first + row * row_step + column * column_step, unchanged)  # (N, S, S)
        pixels = torch.cat([images.flatten(2), colors.mT], 2)
        images = pixels.gather(2, source.flatten(1)[:, None].expand(-1, 3, -1)).view_as(images)
    return images


def _normal_noise(seeds: Tensor, count: int) -> Tensor:
    """Return normally distributed numbers (N, count), the same on each device: hashed counters, then Box-Muller."""
    mixed = seeds[:, None].long() * 0x9E3779B1 + torch.arange(count, device=seeds.device) & 0xFFFFFFFF
    for factor in (0x21F0AAAD, 0x735A2D97):
        mixed = (mixed ^ mixed >> 15) * factor & 0xFFFFFFFF
    mixed = mixed ^ mixed >> 15
    radius, angle = ((mixed >> 16) + 0.5) / 65536, (mixed & 0xFFFF) / 65536
    return (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()


def _compress(images: Tensor, steps: Tensor) -> Tensor:
    """Lose what a JPEG with 4:2:0 chroma loses, for RGB images (N, 3, S, S) and quantization steps (N, 2, 8, 8)."""
    red, _, blue = images.unbind(1)
    luma = _luma(images)
    luma_steps, chroma_steps = steps[:, :, None, None].unbind(1)
    halved = [F.avg_pool2d(plane - luma, 2) / scale for plane, scale in ((blue, 1.772), (red, 1.402))]  # Cb, Cr
    quantized = torch.stack([_quantize(plane.round(), chroma_steps) for plane in halved], 1)
    cb, cr = F.interpolate(quantized, scale_factor=2, mode="bilinear").unbind(1)
    luma = _quantize(luma.round() - 128, luma_steps) + 128
    blue, red = luma + 1.772 * cb, luma + 1.402 * cr
    return torch.stack([red, (luma - LUMA[0] * red - LUMA[2] * blue) / LUMA[1], blue], 1)


def _quantize(plane: Tensor, steps: Tensor) -> Tensor:
    """Round the DCT of every 8 x 8 pixels of planes (N, H, W) to multiples of `steps` (N, 1, 1, 8, 8)."""
    count, size = len(plane), plane.shape[-1]
    place = torch.arange(8, device=plane.device)
    dct = torch.cos(math.pi / 8 * place[:, None] * (place + 0.5)) / 2
    dct[0] *= math.sqrt(0.5)
    blocks = plane.view(count, size // 8, 8, size // 8, 8).transpose(2, 3)
    rounded = (dct @ blocks @ dct.T / steps).round() * steps
    return (dct.T @ rounded @ dct).transpose(2, 3).reshape(count, size, size)
