"""The fixed preparation that a data set's pictures went through, done to any picture: MNIST's.

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", III.A: bright ink on
black; "size normalized to fit in a 20x20 pixel box while preserving their aspect ratio"; grey levels from the
anti-aliasing of that step; then the centre of mass of the pixels moved to the centre of the 28x28 field.

Their sources were scans without a background. Other pictures have one, so it is found first: a smooth surface (a
polynomial of second degree in x and y for each channel) fitted to what is not ink, which takes uneven light with it.
Ink is what differs from that surface along the direction in colour in which the strongest differences lie: dark on
light, light on dark, or coloured.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ._images import Box

WORK_SIDE = 160  # pixels; larger pictures are reduced to it before ink is looked for
FIELD, BOX = 28, 20  # sides of MNIST's pictures, and of the box in them that the ink fits into
LEAST_INK = 0.06  # of the range from black to white; a picture without a stronger difference is blank
NOISE = 0.25  # of full ink; weaker differences are noise
EDGE = 0.1  # ink from which on a pixel belongs to the box
SPECK = 0.03  # separate parts with less than this share of the ink of the largest are dust
# What ink in place is: the least and the largest longer side, over the box's, and pixels of 28 that the centre of mass
# may be off. Of MNIST's 70,000 digits none has less than 0.65 (by the ink that is brighter than half) or is off by more
# than 1. Digits of its test part that are moved by 3 are read right in 93 of 100 by the mean of the bundled weights,
# moved by 4 in 84; made 0.7 times as large in 93, 0.6 times in 80.
GOOD = (0.75, 1.2, 2.5)
BEARABLE = (0.65, 1.2, 3.0)
ALONG_EDGE = 0.6  # of an edge of the picture; what lies along it is not part of a digit
GRID = 64  # cells a side in which separate parts are told apart


class Prepared(NamedTuple):
    """A picture prepared as MNIST's were.

    Attributes:
        pixels: (1, height, width), 0 for no ink, 1 for full ink.
        box: the part of the source that they show; it may reach beyond its edges.
        dark_ink: the ink was darker than its ground.
    """

    pixels: Tensor
    box: Box
    dark_ink: bool


def prepare_digit(
    picture: Tensor, size: tuple[int, int] = (FIELD, FIELD), *, bright_ink: bool = False
) -> Prepared | None:
    """MNIST's preparation of one picture; None where it is blank.

    Args:
        picture: (C, H, W) in 0..1.
        size: (height, width) of the result; the box is 20/28 of its shorter side.
        bright_ink: take the ink to be brighter than its ground; else that is found out.
    """
    height, width = picture.shape[1:]
    reduction = max(1.0, max(height, width) / WORK_SIDE)
    small = (max(1, round(height / reduction)), max(1, round(width / reduction)))
    if small != (height, width):
        picture = functional.interpolate(picture[None], small, mode="bilinear", antialias=True)[0]
    found = find_ink(picture, bright_ink)
    if found is None:
        return None
    ink, dark = found
    ink = ink * without_dust(ink)
    rows, columns = (ink.amax(side) > EDGE for side in (1, 0))
    top, bottom = span(rows)
    left, right = span(columns)
    pixels, offset, scale = centred(ink[top:bottom, left:right], size)
    per_row, per_column = height / small[0], width / small[1]
    box = Box(
        (top - offset[0] / scale[0]) * per_row,
        (left - offset[1] / scale[1]) * per_column,
        size[0] / scale[0] * per_row,
        size[1] / scale[1] * per_column,
    )
    return Prepared(pixels[None], box, dark)


def is_prepared(grey: Tensor) -> bool:
    """Whether a picture (height, width) of the net's size looks as MNIST's do: black, with its ink in place."""
    return bool(grey.mean() <= 0.5) and bool((grey > 0.5).any()) and is_in_place(grey[None], *GOOD)


def is_in_place(grey: Tensor, smallest: float, largest: float, off_centre: float) -> bool:
    """Whether the bright ink of all pictures (N, height, width), bytes or 0..1, is as large and as central as ``GOOD``
    or ``BEARABLE`` say. Nothing is said of pictures without bright ink.

    In numpy, whose calls take a third of the time of torch's: it is asked of every picture that a data loader reads.
    """
    pixels = grey.detach().cpu()
    full = 255.0 if pixels.dtype == torch.uint8 else 1.0
    pictures: Any = pixels.numpy() if pixels.dtype == torch.uint8 else pixels.float().numpy()
    inked = pictures > full / 2
    side, longest, off = min(pictures.shape[1:]) / FIELD, 0.0, 0.0
    for axis in (2, 1):
        along = inked.any(axis)  # (N, length)
        length = along.shape[1]
        longest = np.maximum(longest, length - along.argmax(1) - along[:, ::-1].argmax(1))
        mass = pictures.sum(axis, dtype=np.float32)
        centre = mass @ (np.arange(length, dtype=np.float32) + 0.5) / np.maximum(mass.sum(1), 1e-9)
        off = np.maximum(off, abs(centre - length / 2))
    fits = (longest >= smallest * BOX * side) & (longest <= largest * BOX * side) & (off <= off_centre * side)
    return bool((fits | ~along.any(1)).all())


def find_ink(picture: Tensor, bright_ink: bool = False) -> tuple[Tensor, bool] | None:
    """How much ink each pixel of a picture (C, H, W) has, (H, W) in 0..1, and whether it is darker than its ground.

    None where nothing stands out of the ground.
    """
    chans, height, width = picture.shape
    flat = picture.reshape(chans, -1).T.double()  # (pixels, C)
    rest = flat - ground_of(flat, height, width)
    if bright_ink:
        rest = rest.clamp_min(0)
    strength = rest.norm(dim=1) / chans**0.5
    level = strength.topk(max(1, len(strength) // 500)).values.mean()
    if level < LEAST_INK:
        return None
    strong = rest[strength > level / 2]
    brighter = strong.sum(1) > 0
    dark = bool(brighter.double().mean() < 0.5)
    ink_colour = strong[~brighter if dark else brighter].mean(0)
    along = rest @ ink_colour / ink_colour.square().sum()  # 1 at full ink, 0 on the ground
    ink = ((along - NOISE) / (1 - 2 * NOISE)).clamp(0, 1)
    return ink.reshape(height, width).float(), dark


def ground_of(flat: Tensor, height: int, width: int) -> Tensor:
    """The background of pixels (H * W, C): a smooth surface fitted to those that lie near it."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    x, y = x.flatten().double(), y.flatten().double()
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
    ground = flat.median(0).values.expand_as(flat)
    for count in (3, 6, 6, 6):  # a plane, then the curved surface
        off = (flat - ground).norm(dim=1)
        near = (off < 3 * off.median().clamp_min(0.02)).double()[:, None]
        some = terms[:, :count]
        normal = some.T @ (near * some) + 1e-6 * len(flat) * torch.eye(count, dtype=torch.float64)
        ground = some @ torch.linalg.solve(normal, some.T @ (near * flat))
    return ground


def without_dust(ink: Tensor) -> Tensor:
    """A mask (H, W), 0 on separate parts of the ink (H, W) that are no digit, 1 elsewhere.

    Those are parts much smaller than the largest, and the edge of a table or a shadow along an edge of the picture.
    """
    cell = max(1, -(-max(ink.shape) // GRID))
    cells = functional.max_pool2d(ink[None, None], cell, ceil_mode=True)
    inked = cells > 0.5
    labels = torch.arange(1.0, cells.numel() + 1).reshape(cells.shape) * inked
    while True:  # every cell takes the largest label around it, until each part has one
        spread = functional.max_pool2d(labels, 3, 1, 1) * inked
        if torch.equal(spread, labels):
            break
        labels = spread
    parts = labels[0, 0].long()
    mass = _sums(functional.avg_pool2d(ink[None, None], cell, ceil_mode=True), parts)
    mass[0] = 0
    inside = mass.clone()
    along = torch.zeros_like(mass, dtype=torch.bool)
    for edge in (parts[0], parts[-1], parts[:, 0], parts[:, -1]):
        inside[edge] = 0
        along |= _sums(torch.ones(len(edge)), edge, len(mass)) >= ALONG_EDGE * len(edge)
    if inside.max() >= 0.1 * mass.max():  # only where something else could be the digit
        mass[along] = 0
    kept = (mass >= SPECK * mass.max())[parts].float() * inked[0, 0]
    kept = functional.max_pool2d(kept[None, None], 3, 1, 1)  # with the faint rim of what is kept
    return functional.interpolate(kept, scale_factor=cell)[0, 0, : ink.shape[0], : ink.shape[1]]


def _sums(values: Tensor, parts: Tensor, count: int = 0) -> Tensor:
    """The sum of ``values`` over each part."""
    return torch.zeros(count or parts.numel() + 1).index_add_(0, parts.flatten(), values.flatten())


def span(inked: Tensor) -> tuple[int, int]:
    """First and one past last of the True in ``inked``."""
    places = inked.nonzero().flatten()
    return int(places[0]), int(places[-1]) + 1


def centred(ink: Tensor, size: tuple[int, int]) -> tuple[Tensor, tuple[int, int], tuple[float, float]]:
    """Ink cut to its box, scaled to MNIST's and put with its centre of mass in the middle of a field of ``size``.

    Returns:
        The field, the (row, column) at which the box begins, and by how much the box was scaled in each direction.
    """
    side = max(1, round(min(size) * BOX / FIELD))
    height, width = ink.shape
    longer = max(height, width)
    fitted = (max(1, round(height * side / longer)), max(1, round(width * side / longer)))
    scaled = functional.interpolate(ink[None, None], fitted, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
    full = scaled.flatten().topk(max(1, scaled.numel() // 10)).values.mean()  # thin strokes turn grey in the reduction
    scaled = (scaled / full).clamp(0, 1)
    field, offset = torch.zeros(size), []
    for axis, (length, room) in enumerate(zip(fitted, size, strict=True)):
        mass = scaled.sum(1 - axis)
        centre = float((mass * (torch.arange(length) + 0.5)).sum() / mass.sum())
        offset.append(min(max(math.ceil(room / 2 - centre), 0), room - length))  # MNIST's centres lie in 14..15
    top, left = offset
    field[top : top + fitted[0], left : left + fitted[1]] = scaled
    return field, (top, left), (fitted[0] / height, fitted[1] / width)
