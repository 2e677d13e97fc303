"""Sheets of pictures: class maps, feature maps, filters. Needs Matplotlib (``pip install convzoo[pictures]``).

Every function returns a Matplotlib figure that no window or global list holds: ``figure.savefig("sheet.png")``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .maps import cam
from .pictures import colorize, overlay, to_picture
from .run import feature_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _figure(rows: int, columns: int, cell: float) -> tuple[Figure, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("sheets of pictures need Matplotlib: pip install 'convzoo[pictures]'") from error
    figure = Figure(figsize=(columns * cell, rows * cell), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def class_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the classes that the model's weights tell, in order; empty if they do not."""
    return tuple(getattr(getattr(model, "weights", None), "classes", ()))


def show_cam(
    model: nn.Module,
    image: Tensor,
    top: int = 3,
    *,
    names: Sequence[str] | None = None,
    normalize: str = "joint",
    alpha: float = 0.5,
    colormap: str = "turbo",
    **options: Any,
) -> Figure:
    """An image beside the maps of its most probable classes, with their names and probabilities; a row per image.

    Args:
        model: see :func:`convzoo.cam`.
        image: (C, H, W), or (N, C, H, W) for a sheet.
        top: how many classes.
        names: of all classes, in order; None: those of the model's weights, else numbers.
        normalize: ``"joint"``, one scale for the classes of an image, or ``"max"``, each its own.
        alpha, colormap: as in :func:`convzoo.overlay`.
        **options: ``method`` and ``layer`` of :func:`convzoo.cam`; ``mean`` and ``std`` of :func:`convzoo.overlay`.

    Raises:
        ImportError: Matplotlib is not installed.
        TypeError, ValueError: as :func:`convzoo.cam`.

    Example:
        >>> import convzoo, torch
        >>> model = convzoo.create_model("resnet18", num_classes=10)
        >>> figure = convzoo.show_cam(model, torch.rand(3, 64, 64))
        >>> len(figure.axes)
        4
    """
    images = image[None] if image.ndim == 3 else image
    look = {name: options.pop(name) for name in ("method", "layer") if name in options}
    result = cam(model, images, ("top", top), **look)
    names = class_names(model) if names is None else names
    chances = result.logits.float().softmax(1).gather(1, result.target)
    heat = result.heatmap(normalize=normalize)  # type: ignore[arg-type] # heatmap checks it
    mean, std = options.pop("mean", result.mean), options.pop("std", result.std)
    figure, axes = _figure(len(images), 1 + top, 2.2)
    for row, (picture, ax_row) in enumerate(zip(images, axes, strict=True)):
        ax_row[0].imshow(to_picture(picture, mean, std))
        for k, ax in enumerate(ax_row[1:]):
            ax.imshow(overlay(picture, heat[row, k], alpha=alpha, colormap=colormap, mean=mean, std=std, **options))
            number = int(result.target[row, k])
            name = names[number] if names else f"class {number}"
            ax.set_title(f"{name}\n{100 * float(chances[row, k]):.1f} %", fontsize=9)
    return figure


def show_feature_maps(
    model: nn.Module,
    image: Tensor,
    layers: Sequence[str] | str | None = None,
    *,
    max_maps: int = 32,
    columns: int = 16,
    colormap: str = "viridis",
) -> Figure:
    """The maps of one image, layer by layer, as grids; each map from its least value (dark) to its largest.

    Args:
        model, layers: see :func:`convzoo.feature_maps`.
        image: (C, H, W) or (1, C, H, W).
        max_maps: show the first so many of each layer.
        columns: maps in a row.
        colormap: see :func:`convzoo.explain.colorize`.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: no such layer, none with maps, or several images.

    Example:
        >>> import convzoo, torch
        >>> figure = convzoo.show_feature_maps(convzoo.create_model("lenet5"), torch.rand(1, 28, 28), "conv1")
        >>> len(figure.axes)
        1
    """
    images = image[None] if image.ndim == 3 else image
    if len(images) != 1:
        raise ValueError(f"show_feature_maps takes one image, got {len(images)}; pick one: images[0]")
    found = feature_maps(model, images, layers)
    grids = {name: _grid(maps[0, :max_maps], columns) for name, maps in found.items() if maps.ndim == 4}
    if not grids:
        raise ValueError(f"none of {', '.join(found)} gives maps (N, C, h, w); pass layers that do")
    counts = {name: found[name].shape[1] for name in grids}
    titles = {
        name: f"{name}: {min(max_maps, counts[name])} of {counts[name]} maps, {maps.shape[2]}x{maps.shape[3]}"
        for name, maps in found.items()
        if name in grids
    }
    white = {name: np.nan_to_num(colorize(grid, colormap), nan=1.0) for name, grid in grids.items()}
    return _stack({titles[name]: picture for name, picture in white.items()})


def show_filters(model: nn.Module, layer: str | None = None, *, max_filters: int = 64, columns: int = 16) -> Figure:
    """The kernels of a convolution: in colour where they read three channels, else the mean over their channels.

    All share one scale, on which mid-grey is zero.

    Args:
        model: any module.
        layer: path of the convolution; None: the first.
        max_filters: show the first so many.
        columns: kernels in a row.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: there is no such convolution.

    Example:
        >>> import convzoo
        >>> len(convzoo.show_filters(convzoo.create_model("lenet5")).axes)
        1
    """
    convs = {path: module for path, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    if layer is None and convs:
        layer = next(iter(convs))
    if layer not in convs:
        raise ValueError(f"no convolution {layer!r} in the model; pass one of {', '.join(list(convs)[:4]) or 'none'}")
    weight = convs[layer].weight.detach().float().cpu()
    count, chans, height, width = weight.shape
    kernels = weight[:max_filters] if chans == 3 else weight[:max_filters].mean(1, keepdim=True)
    scaled = 0.5 + kernels / (2 * kernels.abs().max().clamp_min(1e-12))
    planes = [_tile(plane, columns, 0.5) for plane in scaled.unbind(1)]
    picture = np.stack(planes * (3 // len(planes)), -1)
    return _stack({f"{layer}: {len(kernels)} of {count} kernels, {height}x{width}, {chans} channels": picture})


def _grid(maps: Tensor, columns: int) -> Any:
    """Maps (C, h, w), each scaled to 0..1, as one array; between them it is not a number."""
    maps = maps.float().cpu()
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return _tile((maps - low) / (high - low).clamp_min(1e-12), columns, math.nan)


def _tile(maps: Tensor, columns: int, border: float) -> Any:
    """Maps (C, h, w) side by side in one array, ``border`` between them."""
    count, height, width = maps.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    gap = max(1, height // 16)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), border, dtype=np.float32)
    for index, one in enumerate(maps.numpy()):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = one
    return sheet


def _stack(pictures: Mapping[str, Any]) -> Figure:
    """Pictures (H, W, 3) in 0..1 one below the other, as wide as a page, under their titles."""
    width = 8.0
    heights = [max(0.3, width * picture.shape[0] / picture.shape[1]) for picture in pictures.values()]
    figure, axes = _figure(len(pictures), 1, 1.0)
    figure.set_size_inches(width, sum(heights) + 0.35 * len(heights))
    for ax, (title, picture) in zip(axes[:, 0], pictures.items(), strict=True):
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(title, fontsize=9, loc="left")
    return figure
