"""Augmentation of whole batches, as tensor operations on whichever device the images are.

Every random number of a step is drawn on the host, for the whole batch of all processes, from a generator that the
step's number seeds (:meth:`Augment.draw`). So the augmented images depend neither on the device nor on the number of
processes, and a run that goes on after a stop sees what it would have seen.

Crop and flip: as He et al. 2015 (arXiv:1512.03385) for CIFAR, with reflected instead of black edges. Mixup: Zhang et
al. 2017, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. TrivialAugment: Müller, Hutter 2021,
arXiv:2103.10158, the 14 operations of its table and its wide ranges.

Departures: an image is mixed with its neighbour in the (shuffled) batch, so that a batch split over processes gives
the same images, and each pair draws its own share; geometric operations interpolate, and fill with grey.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, the values that most weights are made with
Draws = dict[str, np.ndarray]


def normalise(images: Tensor) -> Tensor:
    """Images (N, 3, H, W), uint8 or float in 0..1, to zero mean and unit deviation."""
    if images.dtype == torch.uint8:
        images = images.float() / 255
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def resize(images: Tensor, side: int | None) -> Tensor:
    """Images (N, C, H, W), floating point, at ``side`` x ``side`` pixels, smoothed first where that is smaller."""
    if side is None or side == images.shape[-1]:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def reflect(index: Tensor, size: int) -> Tensor:
    """Positions beyond the edges of 0..size-1, mirrored at the outermost pixels."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def crop_and_flip(images: Tensor, down: Tensor, right: Tensor, flip: Tensor) -> Tensor:
    """Images (N, C, H, W) moved by so many pixels (N,), the edges reflected, and mirrored where ``flip`` (N,)."""
    count, chans, height, width = images.shape
    rows = torch.arange(height, device=images.device) + down[:, None]  # (N, H)
    cols = torch.arange(width, device=images.device) + right[:, None]  # (N, W)
    cols = torch.where(flip[:, None], cols.flip(1), cols)
    rows, cols = reflect(rows, height), reflect(cols, width)
    image = torch.arange(count, device=images.device)[:, None, None, None]
    chan = torch.arange(chans, device=images.device)[None, :, None, None]
    return images[image, chan, rows[:, None, :, None], cols[:, None, None, :]]


# TrivialAugment's operations take images (N, 3, H, W) in 0..1 and strengths (N,) in -1..1.


def warp(images: Tensor, rows: list[list[Tensor | float]]) -> Tensor:
    """Each output pixel (x, y), in -1..1, taken from ``rows`` times (x, y, 1): two rows of three, numbers or (N,)."""
    like = images.new_zeros(len(images))
    matrix = torch.stack([torch.stack([like + value for value in row], 1) for row in rows], 1)  # (N, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images - 0.5, grid, align_corners=False) + 0.5


def blend(images: Tensor, base: Tensor | float, strength: Tensor) -> Tensor:
    """``base`` at strength -1, the image at 0, as far beyond it at 1; the wide range stops at 0.99."""
    factor = 1 + 0.99 * strength.view(-1, 1, 1, 1)
    return (base + factor * (images - base)).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Luminance (N, 1, H, W), by the weights of ITU-R 601."""
    weights = images.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def smooth(images: Tensor) -> Tensor:
    """A 3x3 mean that counts the centre five times; the outermost pixels stay as they are."""
    kernel = images.new_ones(3, 1, 3, 3)
    kernel[:, :, 1, 1] = 5
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = F.conv2d(images, kernel / 13, groups=3)
    return result


def rotate(images: Tensor, strength: Tensor) -> Tensor:
    angle = strength * (135 * torch.pi / 180)
    return warp(images, [[angle.cos(), -angle.sin(), 0.0], [angle.sin(), angle.cos(), 0.0]])


def posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Keep the upper 8 to 2 bits."""
    step = 2 ** (6 * strength.abs()).round().view(-1, 1, 1, 1)
    return ((images * 255).round() / step).floor() * step / 255


def solarize(images: Tensor, strength: Tensor) -> Tensor:
    """Invert what is at least as bright as the threshold, which falls from 256 to 0."""
    threshold = 256 * (1 - strength.abs()).view(-1, 1, 1, 1)
    return torch.where((images * 255).round() >= threshold, 1 - images, images)


def autocontrast(images: Tensor, strength: Tensor) -> Tensor:
    """Stretch every channel to 0..1; one of a single value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp(min=1e-6), images)


def equalize(images: Tensor, strength: Tensor) -> Tensor:
    """Spread the values of every channel evenly, by the cumulated histogram."""
    levels = (images * 255).round().long().flatten(2)  # (N, 3, H W)
    histogram = torch.zeros(*levels.shape[:2], 256, dtype=torch.long, device=images.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels))
    values = torch.arange(256, device=images.device)
    brightest = torch.where(histogram > 0, values, 0).amax(2, keepdim=True)
    step = (levels.shape[2] - histogram.gather(2, brightest)) // 255  # pixels per level, the brightest left out
    below = histogram.cumsum(2) - histogram
    table = torch.where(step > 0, (below + step // 2) // step.clamp(min=1), values).clamp(max=255)
    return (table.gather(2, levels) / 255).to(images.dtype).view_as(images)


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, s: x,
    lambda x, s: warp(x, [[1.0, 0.99 * s, 0.0], [0.0, 1.0, 0.0]]),  # shear along x
    lambda x, s: warp(x, [[1.0, 0.0, 0.0], [0.99 * s, 1.0, 0.0]]),  # shear along y
    lambda x, s: warp(x, [[1.0, 0.0, s], [0.0, 1.0, 0.0]]),  # move by up to half a side
    lambda x, s: warp(x, [[1.0, 0.0, 0.0], [0.0, 1.0, s]]),
    rotate,
    lambda x, s: blend(x, 0.0, s),  # brightness
    lambda x, s: blend(x, grey(x), s),  # colour
    lambda x, s: blend(x, grey(x).mean((2, 3), keepdim=True), s),  # contrast
    lambda x, s: blend(x, smooth(x), s),  # sharpness
    posterize,
    solarize,
    autocontrast,
    equalize,
)


def trivial_augment(images: Tensor, operation: np.ndarray, strength: Tensor) -> Tensor:
    """One operation an image: its number in :data:`OPERATIONS` (N,), and its strength (N,) in -1..1."""
    result = images.clone()
    counts = np.bincount(operation, minlength=len(OPERATIONS)).tolist()
    order = torch.from_numpy(np.argsort(operation, kind="stable")).to(images.device)
    for apply, rows in zip(OPERATIONS, order.split(counts), strict=True):
        if len(rows):
            result[rows] = apply(images[rows], strength[rows])
    return result


def neighbours(values: Tensor) -> Tensor:
    """The batch with its first and second entries changed over, its third and fourth, and so on."""
    return values.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What is done to a batch.

    Attributes:
        pad: largest move of a crop, in pixels.
        cutmix, mixup: share of the images that get a box of their neighbour, or are blended with it.
        mixup_alpha: of the Beta distribution of mixup's share; CutMix's is uniform.
        trivial: one of TrivialAugment's operations on every image.
    """

    pad: int = 6
    cutmix: float = 0.0
    mixup: float = 0.0
    mixup_alpha: float = 0.8
    trivial: bool = False

    def draw(self, rng: np.random.Generator, count: int) -> Draws:
        """The random numbers for ``count`` images, one entry an image."""
        kind = rng.random(count)
        cut = kind < self.cutmix
        blended = ~cut & (kind < self.cutmix + self.mixup)
        beta = rng.beta(self.mixup_alpha, self.mixup_alpha, count)
        share = np.where(cut, rng.random(count), np.where(blended, beta, 1.0))
        return {
            "down": rng.integers(-self.pad, self.pad + 1, count),
            "right": rng.integers(-self.pad, self.pad + 1, count),
            "flip": rng.random(count) < 0.5,
            "operation": rng.integers(0, len(OPERATIONS), count),
            "strength": rng.uniform(-1, 1, count).astype(np.float32),
            "cut": cut,
            "share": share.astype(np.float32),
            "centre_down": rng.random(count, np.float32),
            "centre_right": rng.random(count, np.float32),
        }

    def __call__(self, images: Tensor, draws: Draws, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W) uint8 to normalised ones, of ``side`` pixels if given, and the share (N,) of each
        that is still itself; the rest is its neighbour's (see :func:`neighbours`)."""
        on = {name: torch.from_numpy(value).to(images.device, non_blocking=True) for name, value in draws.items()}
        x = crop_and_flip(images, on["down"], on["right"], on["flip"]).float() / 255
        if self.trivial:
            x = trivial_augment(x, draws["operation"], on["strength"])
        x = resize(normalise(x), side)
        if not self.cutmix and not self.mixup:
            return x, x.new_ones(len(x))
        height, width = x.shape[2:]
        reach = (1 - on["share"]).sqrt()[:, None] / 2  # half the box's side, as a share of the image's
        rows = (torch.arange(height, device=x.device) + 0.5) / height
        cols = (torch.arange(width, device=x.device) + 0.5) / width
        in_rows = (rows - on["centre_down"][:, None]).abs() < reach  # (N, H)
        in_cols = (cols - on["centre_right"][:, None]).abs() < reach  # (N, W)
        outside = ~(in_rows[:, None, :, None] & in_cols[:, None, None, :])
        kept = torch.where(on["cut"].view(-1, 1, 1, 1), outside.float(), on["share"].view(-1, 1, 1, 1))
        return kept * x + (1 - kept) * neighbours(x), kept.mean((1, 2, 3))
