"""Heat over an image: needs Pillow and numpy, nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._checks import check_img_size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Colormap = str | Callable[["NDArray[Any]"], "NDArray[Any]"]

# anchor colours, evenly spaced from 0 to 1, joined by straight lines; the first three after the maps of that name
_COLORMAPS = {
    "turbo": "30123b 4458cb 3e9bfe 18d6cb 46f884 a2fc3c e1dd37 fea632 f05b12 c42503 7a0403",
    "viridis": "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725",
    "inferno": "000004 1f0c48 550f6d 88226a ba3655 e35933 f98c0a f9c932 fcffa4",
    "jet": "000080 0000ff 0080ff 00ffff 80ff80 ffff00 ff8000 ff0000 800000",
    "grey": "000000 ffffff",
    "signed": "2166ac 67a9cf d1e5f0 f7f7f7 fddbc7 ef8a62 b2182b",
}


def colorize(values: NDArray[Any], colormap: Colormap = "turbo") -> NDArray[Any]:
    """Values (H, W) in 0..1 to colours (H, W, 3) in 0..1.

    Args:
        values: what to colour.
        colormap: ``"turbo"``, ``"viridis"``, ``"inferno"``, ``"jet"``, ``"grey"``, ``"signed"`` (blue, white at one
            half, red), or a callable from values to colours (Matplotlib's maps are such).

    Raises:
        ValueError: there is no such colour map, or the callable's answer is not (H, W, 3) or (H, W, 4).
    """
    if callable(colormap):
        colours = np.asarray(colormap(values), dtype=np.float32)
        if colours.ndim != 3 or colours.shape[:2] != values.shape or colours.shape[2] not in (3, 4):
            raise ValueError(f"the colour map gave {colours.shape} for {values.shape} values; it must add 3 channels")
        return colours[..., :3]
    if colormap not in _COLORMAPS:
        raise ValueError(f"unknown colour map {colormap!r}; pass one of {', '.join(_COLORMAPS)}, or a callable")
    anchors = np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _COLORMAPS[colormap].split()]) / 255
    steps = np.linspace(0.0, 1.0, len(anchors))
    return np.stack([np.interp(values, steps, anchors[:, channel]) for channel in range(3)], axis=-1)


def to_picture(image: Any, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Image:
    """An RGB picture of one image.

    Args:
        image: a PIL picture; an array or tensor (H, W), (H, W, C) or (C, H, W), C 1 or 3 (also 4: the last is
            ignored). Whole numbers are 0..255. Fractions are 0..1; values outside that range, which a normalised
            image has, are brought into it by ``mean`` and ``std``, or without them by their least and largest value.
        mean, std: the normalisation to undo, one value a channel, of images in 0..1; not for PIL pictures.

    Raises:
        TypeError: not an image.
        ValueError: not of an image's shape.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return image.convert("RGB")
    pixels = _channels_last(_as_array(image))
    if pixels.dtype == np.uint8:
        pixels = pixels.astype(np.float32) / 255
    elif not np.issubdtype(pixels.dtype, np.floating):
        pixels = np.clip(pixels.astype(np.float32), 0, 255) / 255
    elif mean is not None and std is not None:
        for what, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, pixels.shape[2]):
                raise ValueError(f"{what} has {len(values)} values for {pixels.shape[2]} channels; pass one a channel")
        pixels = np.clip(pixels * np.asarray(std) + np.asarray(mean), 0, 1)
    elif pixels.size and (pixels.min() < 0 or pixels.max() > 1):
        spread = max(float(pixels.max() - pixels.min()), 1e-12)
        pixels = (pixels - pixels.min()) / spread
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return Image.fromarray(np.rint(pixels * 255).astype(np.uint8), "RGB")


def _as_array(image: Any) -> NDArray[Any]:
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        return (image.float() if image.is_floating_point() else image).numpy()
    if isinstance(image, np.ndarray):
        return image.astype(np.uint8) * 255 if image.dtype == bool else image
    raise TypeError(f"an image is a PIL picture, an array or a tensor, got {type(image).__name__}; convert it first")


def _channels_last(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W), (H, W, C) or (C, H, W) as (H, W, C), C 1 or 3."""
    if pixels.ndim == 2:
        return pixels[..., None]
    if pixels.ndim == 3:
        if pixels.shape[0] in (1, 3, 4) and pixels.shape[2] not in (1, 3, 4):
            pixels = pixels.transpose(1, 2, 0)
        elif pixels.shape[0] in (1, 3, 4) and pixels.shape[2] in (1, 3, 4):  # both could be: tensors are (C, H, W)
            pixels = pixels.transpose(1, 2, 0) if pixels.shape[0] != 4 else pixels
        if pixels.shape[2] in (1, 3):
            return pixels
        if pixels.shape[2] == 4:
            return pixels[..., :3]
    raise ValueError(
        f"one image has shape (H, W), (H, W, C) or (C, H, W), C 1 or 3, got {pixels.shape}; pick one image"
    )


def overlay(
    image: Any,
    heatmap: Any,
    *,
    alpha: float = 0.5,
    colormap: Colormap = "turbo",
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Image:
    """An image with heat over it, as an RGB picture.

    The heat is mixed in by its own strength: where there is none the image shows unchanged, at the peak the colour has
    the share ``alpha``.

    Args:
        image: PIL picture, array or tensor, grey or colour; see :func:`convzoo.explain.to_picture`.
        heatmap: (H, W) in 0..1, tensor or array, such as ``cam(...).heatmap()[0, 0]``; enlarged to the picture.
        alpha: share of the colour at the peak, 0 to 1.
        colormap: see :func:`convzoo.explain.colorize`.
        size: of the picture in pixels, one number or (height, width); None: the image's.
        mean, std: the normalisation to undo, one value a channel.

    Raises:
        TypeError: not an image.
        ValueError: a heat-map outside 0..1 or not (H, W), an ``alpha`` outside 0..1, an unknown colour map.

    Example:
        >>> import convzoo, torch
        >>> convzoo.overlay(torch.rand(3, 32, 32), torch.rand(8, 8), size=96).size
        (96, 96)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha!r}; 0 shows the image alone")
    from PIL import Image

    picture = to_picture(image, mean, std)
    if size is not None:
        height, width = check_img_size(size)
        enlarged = width >= 4 * picture.width  # so far, pixels are better seen as squares
        picture = picture.resize((width, height), Image.Resampling.NEAREST if enlarged else Image.Resampling.BICUBIC)
    heat = _fit(heatmap, (picture.height, picture.width))
    share = alpha * heat[..., None]
    mixed = (1 - share) * (np.asarray(picture, dtype=np.float32) / 255) + share * colorize(heat, colormap)
    return Image.fromarray(np.rint(mixed * 255).astype(np.uint8), "RGB")


def _fit(heatmap: Any, shape: tuple[int, int]) -> NDArray[Any]:
    """A heat-map (h, w) as a float array of ``shape``, checked."""
    heat = torch.as_tensor(heatmap).detach().float().cpu()
    if heat.ndim != 2:
        raise ValueError(f"a heat-map has shape (H, W), got {tuple(heat.shape)}; pick one, as in r.heatmap()[0, 0]")
    least, most = float(heat.min()), float(heat.max())
    if not (least >= -1e-6 and most <= 1 + 1e-6):
        raise ValueError(f"a heat-map is in 0..1, got values from {least:.3g} to {most:.3g}; pass r.heatmap()[0, 0]")
    if tuple(heat.shape) != shape:
        heat = torch.nn.functional.interpolate(heat[None, None], shape, mode="bilinear", align_corners=False)[0, 0]
    return heat.clamp(0, 1).numpy()
