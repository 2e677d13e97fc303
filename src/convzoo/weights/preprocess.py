"""Pictures to exactly the input that a set of weights expects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .entries import WeightInfo

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what picture libraries mean by grey


def preprocess(images: Any, info: WeightInfo) -> Tensor:
    """Images to (N, C, H, W), float32, as ``info`` says: channels, size, crop, scale, mean and std.

    Args:
        images: one picture or several: a PIL image; an array (H, W), (H, W, C) or (N, H, W, C); a tensor (H, W),
            (C, H, W) or (N, C, H, W); or a list of any of these. Bytes are 0..255, floating-point numbers 0..1.

    Raises:
        TypeError: something else.
        ValueError: other shapes, channels that cannot be converted, numbers out of range.
    """
    return normalise(torch.cat([resize(batch, info) for batch in _batches(images, info.in_chans)]), info)


def _batches(images: Any, chans: int) -> list[Tensor]:
    """Each picture, or batch of them, as a tensor (N, C, H, W) with the channels wanted."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("there is no image in the list; give at least one")
        return [batch for image in images for batch in _batches(image, chans)]
    return [to_chans(to_batch(images), chans)]


def to_batch(image: Any) -> Tensor:
    """A picture, an array or a tensor as a tensor (N, C, H, W), uint8 or float32."""
    import numpy as np

    if isinstance(image, Tensor):
        tensor = image.detach()
        where = "(H, W), (C, H, W) or (N, C, H, W)"
    else:
        if hasattr(image, "getbands"):  # a PIL image, without importing PIL
            if image.mode.startswith("I;16"):
                image = np.asarray(image, dtype=np.float32) / 65535
            elif image.mode in ("I", "F"):
                raise ValueError(
                    f"a PIL image of mode {image.mode!r} has no fixed range; scale it, and pass an array of 0..1"
                )
            else:
                image = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
        if not isinstance(image, np.ndarray):
            raise TypeError(
                f"an image is a PIL image, an array or a tensor, got {type(image).__name__}; open files with "
                "PIL.Image.open first"
            )
        array = torch.from_numpy(np.array(image))  # a copy: what PIL gives cannot be written to
        where = "(H, W), (H, W, C) or (N, H, W, C)"
        tensor = array.movedim(-1, -3) if array.ndim in (3, 4) else array
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim == 3:
        tensor = tensor[None]
    if tensor.ndim != 4 or 0 in tensor.shape:
        raise ValueError(f"an image has the shape {where}, got {tuple(image.shape)}; reshape it")
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise ValueError(f"image numbers are uint8 (0..255) or floating point (0..1), got {tensor.dtype}; convert them")
    if not (tensor.min() >= -1e-3 and tensor.max() <= 1 + 1e-3):  # nor if it is not a number
        raise ValueError(
            f"floating-point images lie in 0..1, got {tensor.min():.3g}..{tensor.max():.3g}; divide by 255, and "
            "leave mean and std to this function"
        )
    return tensor.float()


def to_chans(batch: Tensor, chans: int) -> Tensor:
    """Colour to grey by its luma, grey to any number of channels by repetition; else the channels must agree."""
    have = batch.shape[1]
    if have == chans:
        return batch
    if have == 1:
        return batch.expand(-1, chans, -1, -1)
    if have == 4 and chans in (1, 3):
        batch = batch[:, :3]  # transparency is not looked at
    if batch.shape[1] == chans:
        return batch
    if batch.shape[1] == 3 and chans == 1:
        grey = torch.einsum("nchw,c->nhw", batch.float(), batch.new_tensor(LUMA, dtype=torch.float32))[:, None]
        return grey.round().to(torch.uint8) if batch.dtype == torch.uint8 else grey
    raise ValueError(f"these weights take {chans} channels, got an image of {have}; pick or mix the channels first")


def resize(batch: Tensor, info: WeightInfo) -> Tensor:
    """To the weights' size: shorter side, then a centre crop, or squashed; bytes stay bytes, as PIL does it."""
    height, width = info.img_size
    if info.crop_mode == "squash":
        return _scaled(batch, (height, width), info.interpolation)
    scale_height, scale_width = math.floor(height / info.crop_pct), math.floor(width / info.crop_pct)
    have_height, have_width = batch.shape[-2:]
    if have_height * scale_width >= have_width * scale_height:  # as wide as wanted, and at least as high
        target = (max(scale_height, int(have_height * scale_width / have_width)), scale_width)
    else:
        target = (scale_height, max(scale_width, int(have_width * scale_height / have_height)))
    batch = _scaled(batch, target, info.interpolation)
    top, left = round((target[0] - height) / 2), round((target[1] - width) / 2)
    return batch[..., top : top + height, left : left + width]


def _scaled(batch: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if tuple(batch.shape[-2:]) == size:
        return batch
    if interpolation == "nearest":
        return F.interpolate(batch, size, mode="nearest-exact")
    mode = "bicubic" if interpolation == "bicubic" else "bilinear"
    scaled = F.interpolate(batch.contiguous(), size, mode=mode, antialias=True)
    return scaled if batch.dtype == torch.uint8 else scaled.clamp(0, 1)


def normalise(batch: Tensor, info: WeightInfo) -> Tensor:
    """Bytes to 0..1, then less the mean, by the std, of each channel: (N, C, H, W), float32."""
    scaled = batch.float() / 255 if batch.dtype == torch.uint8 else batch
    return (scaled - _column(info.mean, scaled)) / _column(info.std, scaled)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
