"""Heat over an image: needs Pillow and numpy, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._checks import check_count, check_img_size, shorten
from .._images import Box, check_pixels, checked, from_array, from_pil, is_pil, lay_on, require_pillow, unit

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
        TypeError: values that are no numbers.
        ValueError: there is no such colour map, or the callable's answer is not (H, W, 3) or (H, W, 4).
    """
    try:
        values = np.asarray(values).astype(np.float64, casting="same_kind")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"values are an array (H, W) of numbers in 0..1, got {shorten(values)}; convert them"
        ) from error
    if values.ndim != 2:
        raise ValueError(f"values have shape (H, W), got {values.shape}; pass one map")
    if callable(colormap):
        colours = np.asarray(colormap(values), dtype=np.float32)
        if colours.ndim != 3 or colours.shape[:2] != values.shape or colours.shape[2] not in (3, 4):
            raise ValueError(f"the colour map gave {colours.shape} for {values.shape} values; it must add 3 channels")
        return colours[..., :3]
    anchors = _anchors(colormap)
    steps = np.linspace(0.0, 1.0, len(anchors))
    return np.stack([np.interp(values, steps, anchors[:, channel]) for channel in range(3)], axis=-1)


def _anchors(colormap: object) -> NDArray[Any]:
    """The colours (n, 3) in 0..1 that a named colour map joins."""
    if not isinstance(colormap, str) or colormap not in _COLORMAPS:
        raise ValueError(f"unknown colour map {shorten(colormap)}; pass one of {', '.join(_COLORMAPS)}, or a callable")
    return np.array([[int(code[i : i + 2], 16) for i in (0, 2, 4)] for code in _COLORMAPS[colormap].split()]) / 255


def to_picture(
    image: Any, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, *, ground: float = 1.0
) -> Image:
    """An RGB picture of one image.

    Args:
        image: a PIL picture, turned as its EXIF entry says; an array or tensor (H, W), (H, W, C) or (C, H, W), C 1 or
            3 (also 4: the last is opacity). Whole numbers are 0..255. Fractions are 0..1; values outside that range,
            which a normalised image has, are brought into it by ``mean`` and ``std``, or without them by their least
            and largest value.
        mean, std: the normalisation to undo, one value a channel, of images in 0..1; not for PIL pictures.
        ground: what transparent images are laid on, 0 black to 1 white.

    Raises:
        TypeError: not an image.
        ValueError: not of an image's shape, or numbers that are not finite.
    """
    pil = require_pillow()
    if is_pil(image):
        pixels = from_pil(image)
        if not (pixels.is_floating_point() or pixels.shape[1] in (2, 4)):
            return pil.fromarray(_three_channels(pixels[0].movedim(0, -1).numpy()))
        pixels = pixels[0].movedim(0, -1)
    else:
        pixels = torch.from_numpy(_in_unit(_channels_last(_as_array(image)), mean, std))
    pixels = unit(pixels)
    if pixels.shape[2] in (2, 4):
        pixels = lay_on(pixels[..., :-1], pixels[..., -1:], ground)
    return pil.fromarray(_three_channels(np.rint(pixels.numpy() * 255).astype(np.uint8)))


def _three_channels(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def _in_unit(pixels: NDArray[Any], mean: Sequence[float] | None, std: Sequence[float] | None) -> NDArray[Any]:
    """Numbers of an image (H, W, C) as float32 in 0..1."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / 255
    if not np.issubdtype(pixels.dtype, np.floating):
        return np.clip(pixels.astype(np.float32), 0, 255) / 255
    if not np.isfinite(pixels).all():
        raise ValueError("the image holds numbers that are not finite; mend it first: torch.nan_to_num(image)")
    pixels = pixels.astype(np.float32)
    if mean is not None and std is not None:
        for what, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, pixels.shape[2]):
                raise ValueError(f"{what} has {len(values)} values for {pixels.shape[2]} channels; pass one a channel")
        return np.clip(pixels * np.asarray(std, np.float32) + np.asarray(mean, np.float32), 0, 1)
    if pixels.min() < 0 or pixels.max() > 1:
        return (pixels - pixels.min()) / max(float(pixels.max() - pixels.min()), 1e-12)
    return pixels


def _as_array(image: Any) -> NDArray[Any]:
    if isinstance(image, Tensor):
        tensor = checked(image).cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if isinstance(image, np.ndarray):
        return np.asarray(checked(from_array(image)))
    raise TypeError(f"an image is a PIL picture, an array or a tensor, got {type(image).__name__}; convert it first")


def _channels_last(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W), (H, W, C) or (C, H, W) as (H, W, C), C 1, 3 or 4."""
    if 0 not in pixels.shape:
        if pixels.ndim == 2:
            return pixels[..., None]
        if pixels.ndim == 3:
            if pixels.shape[0] in (1, 3, 4) and not (pixels.shape[0] == 4 and pixels.shape[2] in (1, 3, 4)):
                pixels = pixels.transpose(1, 2, 0)  # where both could be: tensors are (C, H, W)
            if pixels.shape[2] in (1, 3, 4):
                return pixels
    raise ValueError(
        f"one image has shape (H, W), (H, W, C) or (C, H, W), C 1 or 3, got {pixels.shape}; pick one image"
    )


def overlay(
    image: Any,
    heatmap: Any,
    *,
    alpha: float = 0.75,
    colormap: Colormap = "turbo",
    size: int | tuple[int, int] | None = None,
    min_side: int | None = None,
    box: Sequence[float] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    ground: float = 1.0,
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
        min_side: enlarge small images until their shorter side has so many pixels; 224 suits a screen.
        box: where in the image the heat lies, (top, left, height, width) in its pixels, for an image of which the net
            saw a part, such as ``model.transform.box(height, width)``; None: all over it.
        mean: of the normalisation to undo, one value a channel.
        std: likewise.
        ground: what transparent images are laid on, 0 black to 1 white.

    Raises:
        TypeError: not an image.
        ValueError: a heat-map outside 0..1 or not (H, W), an ``alpha`` outside 0..1, an unknown colour map.

    Example:
        >>> import convzoo, torch
        >>> convzoo.overlay(torch.rand(3, 32, 32), torch.rand(8, 8), size=96).size
        (96, 96)
    """
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {shorten(alpha)}; 0 shows the image alone")
    if isinstance(colormap, str):
        _anchors(colormap)
    pil = require_pillow()
    heat = check_heat(heatmap)
    picture = to_picture(image, mean, std, ground=ground)
    place = Box(0, 0, picture.height, picture.width) if box is None else _check_box(box)
    height, width = _shown_size(picture, size, min_side)
    check_pixels(height, width)
    down, across = height / picture.height, width / picture.width
    if (height, width) != (picture.height, picture.width):
        enlarged = width >= 4 * picture.width  # so far, pixels are better seen as squares
        method = pil.Resampling.NEAREST if enlarged else pil.Resampling.BICUBIC
        picture = picture.resize((width, height), method)
    place = Box(place.top * down, place.left * across, place.height * down, place.width * across)
    values = _place_heat(heat, (height, width), place)
    share = alpha * values[..., None]
    mixed = (1 - share) * (np.asarray(picture, dtype=np.float32) / 255) + share * colorize(values, colormap)
    return pil.fromarray(np.rint(mixed * 255).astype(np.uint8))


def _shown_size(picture: Image, size: int | tuple[int, int] | None, min_side: int | None) -> tuple[int, int]:
    """(height, width) to show a picture at."""
    if size is not None:
        return check_img_size(size, "size")
    shorter = min(picture.height, picture.width)
    wanted = shorter if min_side is None else max(shorter, check_count("min_side", min_side))
    return round(picture.height * wanted / shorter), round(picture.width * wanted / shorter)


def _check_box(box: Sequence[float]) -> Box:
    try:
        place = Box(*(float(value) for value in box))
    except (TypeError, ValueError) as error:
        raise TypeError(f"box must be (top, left, height, width) in pixels, got {shorten(box)}; pass four") from error
    if not (all(map(math.isfinite, place)) and place.height > 0 and place.width > 0):
        raise ValueError(f"box must be (top, left, height, width) in pixels, got {shorten(box)}; height and width > 0")
    return place


def check_heat(heatmap: Any) -> Tensor:
    """A heat-map as a float32 tensor (H, W) in 0..1, or TypeError/ValueError in words."""
    try:
        heat = torch.as_tensor(heatmap)
        heat = checked(heat.to(torch.uint8) if heat.dtype == torch.bool else heat).cpu().float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"a heat-map is a tensor or array (H, W) of numbers, got {shorten(heatmap)}; pass r.heatmap()[0, 0]"
        ) from error
    if heat.ndim != 2 or heat.numel() == 0:
        raise ValueError(f"a heat-map has shape (H, W), got {tuple(heat.shape)}; pick one, as in r.heatmap()[0, 0]")
    least, most = float(heat.min()), float(heat.max())
    if not (least >= -1e-6 and most <= 1 + 1e-6):
        raise ValueError(f"a heat-map is in 0..1, got values from {least:.3g} to {most:.3g}; pass r.heatmap()[0, 0]")
    return heat.clamp(0, 1)


def _place_heat(heat: Tensor, shape: tuple[int, int], place: Box) -> NDArray[Any]:
    """Heat (h, w) over ``place`` of a picture of ``shape``, bilinearly, the centres of its cells where they belong."""
    if place == Box(0, 0, *shape) and tuple(heat.shape) == shape:
        return heat.numpy()
    y = (torch.arange(shape[0]) + 0.5 - place.top) / place.height  # 0..1 inside
    x = (torch.arange(shape[1]) + 0.5 - place.left) / place.width
    grid = torch.stack(torch.meshgrid(2 * x - 1, 2 * y - 1, indexing="xy"), -1)[None]
    values = torch.nn.functional.grid_sample(heat[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
    inside = ((y >= 0) & (y <= 1))[:, None] & ((x >= 0) & (x <= 1))
    return (values * inside).clamp(0, 1).numpy()


def cross_out(picture: Image) -> Image:
    """A picture with a thin grey line from corner to corner, which says that it has no heat to show."""
    from PIL import ImageDraw

    crossed = picture.copy()
    right, bottom = crossed.width - 1, crossed.height - 1
    width = max(1, min(crossed.size) // 100)
    ImageDraw.Draw(crossed).line((0, bottom, right, 0), fill=(128, 128, 128), width=width)
    return crossed
