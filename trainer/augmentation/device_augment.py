"""What augment does to one face with OpenCV, done to a batch with torch: on a GPU, or on the CPU.

The numbers are drawn by augment. So either makes the same pictures, but for rounding and the grain's pixels.
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
from canthus.trainer.augmentation.augment import Change, Hole, Paint
from canthus.trainer.augmentation.occluders import MIDDLE, Occluder

GREY = (0.299, 0.587, 0.114)
"""What red, green and blue add to grey."""

JPEG = (
    (
        "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
        "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"
    ),
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 " + "99 " * 38,
)
"""How coarse a JPEG of quality 50 is in each of 8 x 8 waves, in light and in colour (ITU-T T.81, annex K)."""


@dataclass(frozen=True, eq=False)
class Changes:
    """What happens to the faces of a batch, in one tensor that travels with their roomy crops."""

    size: int  # of the finished crops
    packed: Tensor  # (bytes,) uint8
    parts: tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]  # what is packed: step, kind and shape of each tensor

    def each(self, move: Callable[[Tensor], Tensor]) -> "Changes":
        """The same, with the tensor moved."""
        return replace(self, packed=move(self.packed))


def pack(size: int, steps: dict[str, tuple[Tensor, ...]]) -> Changes:
    """Lay the tensors one after the other, each from a multiple of 8 bytes on."""
    tensors = [(step, one) for step, several in steps.items() for one in several]
    flat = [one.contiguous().flatten().view(torch.uint8) for _, one in tensors]
    packed = torch.cat([F.pad(one, (0, -len(one) % 8)) for one in flat])
    return Changes(size, packed, tuple((step, one.dtype, tuple(one.shape)) for step, one in tensors))


def unpack(changes: Changes) -> dict[str, tuple[Tensor, ...]]:
    """The tensors of each step, in the memory where they are packed."""
    steps: dict[str, tuple[Tensor, ...]] = {}
    start = 0
    for step, kind, shape in changes.parts:
        stop = start + math.prod(shape) * kind.itemsize
        steps[step] = (*steps.get(step, ()), changes.packed[start:stop].view(kind).view(shape))
        start = stop + -stop % 8
    return steps


def gather(changes: Sequence[Change], size: int) -> Changes:
    """Bring the changes of single faces to finished crops of `size` pixels together.

    Of "place" are affines (B, 2, 3) from the finished crops to the roomy ones, and whether edge pixels lie beyond (B,);
    of a step that some faces take, which these are (N,), and their numbers.
    """
    back = np.stack([_back(change, size) for change in changes]).astype(np.float32)
    steps: dict[str, tuple[Tensor, ...]] = {
        "place": (torch.from_numpy(back), torch.tensor([change.edge for change in changes]))
    }
    for step in (field.name for field in fields(Paint)):
        drawn = [getattr(change.paint, step) for change in changes]
        which = [place for place, value in enumerate(drawn) if value is not None]
        if which:
            numbers = _numbers(step, [drawn[place] for place in which], size)
            steps[step] = tuple(torch.from_numpy(array) for array in (np.array(which), *numbers))
    return pack(size, steps)


def _back(change: Change, size: int) -> NDArray[np.float64]:
    """(2, 3) affine from the finished crop to the roomy one."""
    mirror = np.array([[-1.0, 0, size - 1], [0, 1, 0], [0, 0, 1]]) if change.flipped else np.eye(3)
    return invert(change.affine) @ mirror


def _numbers(step: str, drawn: list[Any], size: int) -> tuple[NDArray[Any], ...]:
    """A step's numbers for the N faces that take it."""
    match step:
        case "occluder":
            return _layers(drawn, size)  # (N, 4, SIDE, SIDE), (N,)
        case "blur":
            return (_kernels(drawn, size),)  # (N, W, W)
        case "brightness_contrast":
            return (np.stack(drawn)[:, None].repeat(3, 1),)  # (N, 3, 256)
        case "curves":
            return (np.stack(drawn).transpose(0, 2, 1).copy(),)  # (N, 3, 256)
        case "hsv":
            return (np.floor(drawn).astype(np.float32),)  # (N, 3); whole levels, as the table of augment has them
        case "dropout":
            patches, colours = zip(*(_patches(holes, size) for holes in drawn), strict=True)
            return _padded(patches), _padded(colours)  # (N, H, 7), (N, M, 3)
        case "jpeg":
            return (np.stack([_coarseness(quality) for quality in drawn]),)  # (N, 2, 8, 8)
        case _:  # (N,), of noise (N, 2)
            return (np.array(drawn, np.float32),)


def _padded(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """(n, C) arrays as one (N, most n, C), filled up with nothing."""
    most = max(map(len, rows))
    return np.stack([np.pad(one, ((0, most - len(one)), (0, 0))) for one in rows])


def _kernels(blurs: list[float | NDArray[np.float32]], size: int) -> NDArray[np.float32]:
    """The bells and movements, each in the middle of (W, W), W odd and wide enough for all.

    It is the same for every batch, as rounding differs with it, unless a recipe blurs by more than 0.02 of the crop.
    """
    kernels = []
    for blur in blurs:
        if isinstance(blur, float):
            bell = cv2.getGaussianKernel(round(6 * blur + 1) | 1, blur)
            blur = (bell @ bell.T).astype(np.float32)
        kernels.append(blur)
    wide = max(size // 16 * 2, *map(len, kernels)) | 1
    before = [wide // 2 - len(kernel) // 2 for kernel in kernels]
    return np.stack(
        [np.pad(kernel, (first, wide - first - len(kernel))) for first, kernel in zip(before, kernels, strict=True)]
    )


def _layers(covers: list[Occluder], size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Colour and opacity of each cover, and which pixel, counted row by row, has its skin's colour; -1 = none has."""
    skins = [-1 if cover.skin is None else cover.skin[1] * size + cover.skin[0] for cover in covers]
    return np.stack([cover.picture.transpose(2, 0, 1) for cover in covers]), np.array(skins)


def _patches(holes: tuple[Hole, ...], size: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """The holes (H, 7), and the colours (M, 3) that fill some of them.

    Of each hole x, y, width, height, and what fills it: the first pixel, and how far on are the next row's and the next
    column's; pixels are counted row by row and on into the colours.
    """
    patches, colours, count = np.zeros((len(holes), 7), np.int32), [np.zeros((0, 3), np.uint8)], size * size
    for place, hole in enumerate(holes):
        if isinstance(hole.fill, tuple):
            x, y = hole.fill
            filled = (y * size + x, size, 1)
        else:
            filled = (count, hole.width, 1) if hole.fill.ndim == 3 else (count, 0, 0)
            colours.append(hole.fill.reshape(-1, 3).astype(np.uint8))
            count += len(colours[-1])
        patches[place] = hole.x, hole.y, hole.width, hole.height, *filled
    return patches, np.concatenate(colours)


def _coarseness(quality: int) -> NDArray[np.float32]:
    """Steps of the 8 x 8 waves in light and in colour (2, 8, 8), by libjpeg's scale of quality."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = np.array([table.split() for table in JPEG], np.int64).reshape(2, 8, 8)
    return np.clip((steps * percent + 50) // 100, 1, 255).astype(np.float32)


def finish(crops: Tensor, changes: Changes) -> Tensor:
    """Change roomy crops (B, P, P, 3) uint8 into finished ones (B, S, S, 3) uint8, on the device that holds both."""
    steps = unpack(changes)
    images = _levels(_warp(crops, changes.size, *steps.pop("place")))
    for step, (which, *numbers) in steps.items():
        images[which] = _levels(_painted(step, images[which].float(), *numbers))
    return images.permute(0, 2, 3, 1)


def _levels(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def _warp(crops: Tensor, size: int, affine: Tensor, edge: Tensor) -> Tensor:
    """(B, P, P, 3) -> (B, 3, S, S) float, bilinear."""
    room = crops.shape[1]
    place = torch.arange(size, device=crops.device, dtype=torch.float32)
    # Not by affine_grid: its matrix product may be made of TF32, whose places are a quarter of a pixel off.
    across, down, start = affine[..., None, None].unbind(2)
    at = across * place + down * place[:, None] + start  # (B, 2, S, S)
    grid = ((2 * at + 1) / room - 1).permute(0, 2, 3, 1)
    images = F.grid_sample(crops.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)
    inside = ((at + 1).clamp(0, 1) * (room - at).clamp(0, 1)).prod(1)  # fades to black within a pixel, as OpenCV's
    return images * torch.where(edge[:, None, None], 1, inside)[:, None]


def _painted(step: str, images: Tensor, *numbers: Tensor) -> Tensor:
    """Take one step with images (N, 3, S, S), in levels as float."""
    match step:
        case "occluder":
            return _cover(images, *numbers)
        case "downscale":
            return _shrink(images, *numbers)
        case "blur":
            return _blur(images, *numbers)
        case "brightness_contrast" | "curves":
            return numbers[0].gather(2, images.flatten(2).long()).view_as(images).float()
        case "hsv":
            return _shift_hue(images, *numbers)
        case "color" | "gray":
            grey = _grey(*images.unbind(1))[:, None].round()
            return grey + numbers[0].view(-1, 1, 1, 1) * (images - grey)
        case "dropout":
            return _punch(images, *numbers)
        case "noise":
            deviation, seed = numbers[0].unbind(1)
            return images + deviation.view(-1, 1, 1, 1) * _grain(seed, images[0].numel()).view_as(images)
        case "jpeg":
            return _compress(images, *numbers)
    raise AssertionError(step)


def _cover(images: Tensor, pictures: Tensor, skin: Tensor) -> Tensor:
    """Lay pictures (N, 4, SIDE, SIDE) over the images, some in the colour of the pixel `skin` (N,)."""
    laid = F.interpolate(pictures.float(), images.shape[-2:], mode="bilinear")
    own = images.flatten(2).gather(2, skin.clamp(min=0).view(-1, 1, 1).expand(-1, 3, 1))[..., None] / MIDDLE
    tint = torch.where(skin.view(-1, 1, 1, 1) < 0, 1, own)
    colours, opacity = (laid[:, :3].round() * tint).clamp(max=255), laid[:, 3:].round() / 255
    return images + opacity * (colours - images)


def _shrink(images: Tensor, side: Tensor) -> Tensor:
    """Shrink to `side` (N,) pixels by their areas and enlarge again: along each axis, one product of matrices."""
    place = torch.arange(images.shape[-1], device=images.device)
    step = (images.shape[-1] / side)[:, None, None]  # pixels that become one
    start = place[:, None] * step
    small = (torch.minimum(start + step, place + 1) - torch.maximum(start, place)).clamp(min=0) / step  # (N, small, S)
    back = torch.minimum(((place[:, None] + 0.5) / step - 0.5).clamp(min=0), side[:, None, None] - 1)
    large = (1 - (back - place).abs()).clamp(min=0)  # (N, S, small)
    both = (large @ small)[:, None]
    return both @ images @ both.mT


def _blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Each image by its own kernel (N, W, W), by way of their spectra: a sum of 17 x 17 pixels and more is long."""
    size, reach = images.shape[-1], kernels.shape[-1] // 2
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    around = padded.shape[-2:]
    spectrum = fft.rfft2(padded) * fft.rfft2(kernels, around).conj()[:, None]
    blurred: Tensor = fft.irfft2(spectrum, around)
    return blurred[..., :size, :size]


def _shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Add to hue, saturation and value (N, 3)."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    some = chroma.clamp(min=1)
    hue = torch.where(value == green, (blue - red) / some + 2, (red - green) / some + 4)  # 6 make a whole turn
    hue = torch.where(value == red, (green - blue) / some, hue)
    saturation = 255 * chroma / value.clamp(min=1)
    turn, purer, brighter = shift[..., None, None].unbind(1)
    value, purity = (value + brighter).clamp(0, 255), (saturation + purer).clamp(0, 255) / 255
    begin = torch.arange(5, 0, -2, device=images.device)[:, None, None]  # of red, green and blue
    lies = (begin + (hue + turn / 30)[:, None]) % 6
    return value[:, None] * (1 - purity[:, None] * torch.minimum(lies, 4 - lies).clamp(0, 1))


def _grey(red: Tensor, green: Tensor, blue: Tensor) -> Tensor:
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def _punch(images: Tensor, patches: Tensor, colours: Tensor) -> Tensor:
    """Fill the holes (N, H, 7), one after the other, with what `_patches` tells."""
    size = images.shape[-1]
    place = torch.arange(size, device=images.device)
    own = place[:, None] * size + place
    for patch in patches.unbind(1):
        x, y, width, height, first, down, right = patch[..., None, None].unbind(1)
        column, row = place - x, place[:, None] - y
        hidden = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        source = torch.where(hidden, first + row * down + column * right, own)  # (N, S, S)
        known = torch.cat([images.flatten(2), colours.mT], 2)
        images = known.gather(2, source.flatten(1)[:, None].expand(-1, 3, -1)).view_as(images)
    return images


def _grain(seeds: Tensor, count: int) -> Tensor:
    """Normally distributed numbers (N, count) of each seed, the same on every device: a hash, then Box and Muller."""
    mixed = seeds[:, None].long() * 0x9E3779B1 + torch.arange(count, device=seeds.device) & 0xFFFFFFFF
    for factor in (0x21F0AAAD, 0x735A2D97):
        mixed = (mixed ^ mixed >> 15) * factor & 0xFFFFFFFF
    mixed = mixed ^ mixed >> 15
    far, turn = ((mixed >> 16) + 0.5) / 65536, (mixed & 0xFFFF) / 65536
    return (-2 * far.log()).sqrt() * (2 * math.pi * turn).cos()


def _compress(images: Tensor, coarseness: Tensor) -> Tensor:
    """Make as coarse as a JPEG with half as many pixels of colour."""
    blue, green, red = images.unbind(1)  # augment hands RGB to OpenCV, which takes it for BGR
    light = _grey(red, green, blue)
    of_light, of_colour = coarseness[:, :, None, None].unbind(1)
    colours = [F.avg_pool2d(plane - light, 2) / part for plane, part in ((blue, 1.772), (red, 1.402))]
    coarse = torch.stack([_coarse(one.round(), of_colour) for one in colours], 1)
    blue_off, red_off = F.interpolate(coarse, scale_factor=2, mode="bilinear").unbind(1)
    light = _coarse(light.round() - 128, of_light) + 128
    blue, red = light + 1.772 * blue_off, light + 1.402 * red_off
    return torch.stack([blue, (light - GREY[0] * red - GREY[2] * blue) / GREY[1], red], 1)


def _coarse(plane: Tensor, steps: Tensor) -> Tensor:
    """Round the waves of every 8 x 8 pixels of planes (N, H, W) to whole steps (N, 1, 1, 8, 8)."""
    count, size = len(plane), plane.shape[-1]
    place = torch.arange(8, device=plane.device)
    waves = torch.cos(math.pi / 8 * place[:, None] * (place + 0.5)) / 2
    waves[0] *= math.sqrt(0.5)
    blocks = plane.view(count, size // 8, 8, size // 8, 8).transpose(2, 3)
    rounded = (waves @ blocks @ waves.T / steps).round() * steps
    return (waves.T @ rounded @ waves).transpose(2, 3).reshape(count, size, size)
