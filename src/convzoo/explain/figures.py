"""Sheets of pictures: class maps, feature maps, filters. Needs Matplotlib (``pip install convzoo[pictures]``).

Every function returns a Matplotlib figure that no window or global list holds. It shows itself in a notebook, and
``figure.savefig("sheet.png")`` writes it.
"""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor, nn

from .._checks import check_count, plural, shorten
from .._images import is_pil
from ..models import Classifier
from .head import evaluated
from .layers import check_model, reader
from .maps import cam
from .pictures import Colormap, colorize
from .run import check_images, feature_maps, model_input

if TYPE_CHECKING:
    from .result import CAM

MIN_SIDE = 224  # pixels; smaller images are enlarged to it, so that heat over them is smooth
SHOWN_IMAGES, SHOWN_CLASSES, SHOWN_SIDE = 8, 4, 112  # of a result that shows itself, the last in pixels
NAME_WIDTH = 22  # characters of a title over a panel; longer names are cut


def _figure(rows: int, columns: int, cell: float) -> tuple[Any, Any]:
    try:
        from ._figure import ShownFigure
    except ImportError as error:
        raise ImportError("sheets of pictures need Matplotlib: pip install 'convzoo[pictures]'") from error
    figure = ShownFigure(figsize=(columns * cell, rows * cell), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def _colour_bar(figure: Any, axes: Any, colormap: Colormap, low: float, high: float, label: str) -> None:
    """A bar beside ``axes`` that tells which value which colour is."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap(colorize(np.linspace(0, 1, 256)[None], colormap)[0])
    bar = figure.colorbar(ScalarMappable(Normalize(low, high), colours), ax=axes, shrink=0.8, aspect=25, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=8)


def show_cam(
    model: nn.Module,
    image: Any,
    top: int = 3,
    *,
    names: Sequence[str] | None = None,
    normalize: str = "joint",
    alpha: float = 0.75,
    colormap: Colormap = "turbo",
    min_side: int = MIN_SIDE,
    prepare: bool | Literal["auto"] = False,
    **options: Any,
) -> Any:
    """An image beside the maps of its most probable classes, with their names and probabilities; a row per image.

    Args:
        model: see :func:`convzoo.cam`.
        image: (C, H, W), or (N, C, H, W) for a sheet, as the model takes them; or a picture or a list of pictures
            (PIL, arrays), of a model with a transform, then shown as they are, with heat where the net looked.
        top: how many classes; all, if the model has fewer.
        names: of all classes, in order; None: those of the model's weights, else numbers.
        normalize: ``"joint"``, one scale for the classes of an image, or ``"max"``, each its own.
        alpha: share of the colour at the peak, see :func:`convzoo.overlay`.
        colormap: see :func:`convzoo.explain.colorize`.
        min_side: enlarge small images until their shorter side has so many pixels; 224 by default.
        prepare: of pictures, as ``model.preprocess`` takes it.
        **options: ``method``, ``layer`` and the like of :func:`convzoo.cam`; ``mean`` and ``std`` of
            :func:`convzoo.overlay`.

    Returns:
        A Matplotlib figure.

    Raises:
        ImportError: Matplotlib is not installed.
        TypeError, ValueError: as :func:`convzoo.cam`; or ``names`` that are not one for each class.

    Example:
        >>> import convzoo, torch
        >>> model = convzoo.create_model("resnet18", num_classes=10)
        >>> figure = convzoo.show_cam(model, torch.rand(3, 64, 64))
        >>> [ax.get_title() != "" for ax in figure.axes]
        [True, True, True, True, False]
    """
    model = check_model(model)
    images = model_input(model, image, prepare)
    look: dict[str, Any] = {
        name: options.pop(name) for name in ("mean", "std", "size", "box", "ground") if name in options
    }
    result = cam(model, images, ("top", _at_most(model, check_count("top", top))), **options)
    titles = class_titles(result, names)
    pictures = [image] if is_pil(image) or isinstance(image, np.ndarray) else images
    pictures = list(image) if isinstance(image, (list, tuple)) else pictures
    look = {"alpha": alpha, "colormap": colormap, "min_side": check_count("min_side", min_side), **look}
    style = {"normalize": normalize, "prepare": prepare, **look}
    panels = [result.overlay(pictures, k, **style) for k in range(result.maps.shape[1])]
    plain = result.overlay(pictures, **{**style, "alpha": 0.0})
    figure, axes = _figure(len(images), 1 + len(panels), 2.3)
    for row, ax_row in enumerate(axes):
        ax_row[0].imshow(plain[row])
        ax_row[0].set_title("image", fontsize=9)
        for k, ax in enumerate(ax_row[1:]):
            ax.imshow(panels[k][row])
            ax.set_title(titles[row][k], fontsize=9)
    _colour_bar(
        figure, axes, colormap, 0, 1, "share of the image's peak" if normalize == "joint" else "share of the peak"
    )
    return figure


def _at_most(model: nn.Module, top: int) -> int:
    """``top``, or how many classes the model has: two where one logit tells them apart."""
    classes = model.num_classes if isinstance(model, Classifier) else 0
    return min(top, max(classes, 2)) if classes else top


def class_titles(result: CAM, names: Sequence[str] | None = None) -> list[list[str]]:
    """What to write over the map of each class of each image: its name and its probability.

    Raises:
        ValueError: ``names`` are not one for each class.
    """
    chances = result.probabilities
    names = result.classes if names is None else names
    if result.target is None:
        return [["what the target says"] * result.maps.shape[1]] * len(result.maps)
    if isinstance(names, str) or (len(names) and len(names) != chances.shape[1]):
        raise ValueError(f"names must be one for each of {chances.shape[1]} classes, got {shorten(names)}; pass all")
    titles = []
    for row, classes in enumerate(result.target.tolist()):
        words = []
        for k, number in enumerate(classes):
            name = str(names[number]) if len(names) else f"class {number}"
            name = name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 1]}…"
            empty = "\nnothing speaks for it" if result.empty[row, k] else ""
            words.append(f"{name}\n{100 * float(chances[row, number]):.1f} %{empty}")
        titles.append(words)
    return titles


def _panels(result: CAM) -> list[list[Any]]:
    """Of the first images, each as it is and with the heat of its first classes; empty if they are no pictures."""
    if result.images is None:
        return []
    part = replace(result, maps=result.maps[:SHOWN_IMAGES, :SHOWN_CLASSES], images=result.images[:SHOWN_IMAGES])
    try:
        plain = part.overlay(part.images, alpha=0.0, min_side=SHOWN_SIDE)
        count = part.maps.shape[1]
        heat = [part.overlay(part.images, k, normalize="joint", min_side=SHOWN_SIDE) for k in range(count)]
    except (ImportError, TypeError, ValueError):  # without Pillow, or images of five channels, say
        return []
    return [list(row) for row in zip(plain, *heat, strict=True)]


def png_sheet(result: CAM) -> bytes | None:
    """A row per image: the image, then its maps over it; None without pictures."""
    rows = _panels(result)
    if not rows:
        return None
    from PIL import Image

    width, height = (side + 4 for side in rows[0][0].size)
    sheet = Image.new("RGB", (width * len(rows[0]) - 4, height * len(rows) - 4), "white")
    for index, row in enumerate(rows):
        for column, panel in enumerate(row):
            sheet.paste(panel, (column * width, index * height))
    return _as_png(sheet)


def html_sheet(result: CAM) -> str | None:
    """The same as a table, with the classes' names and probabilities under the maps; None without pictures."""
    rows = _panels(result)
    if not rows:
        return None
    lines = []
    for row, titles in zip(rows, class_titles(result), strict=False):
        texts = ["image", *titles]
        cells = [
            f'<td style="text-align:center"><img src="data:image/png;base64,{b64encode(_as_png(panel)).decode()}"><br>'
            f"{escape(text).replace(chr(10), '<br>')}</td>"
            for panel, text in zip(row, texts, strict=False)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    more = len(result.maps) - len(rows)
    note = f", and {plural(more, 'image')} more" if more else ""
    return f"<table>{''.join(lines)}</table><p>{escape(repr(result))}{note}</p>"


def _as_png(picture: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="png")
    return file.getvalue()


def show_feature_maps(
    model: nn.Module,
    image: Any,
    layers: Sequence[str] | str | None = None,
    *,
    max_maps: int = 32,
    columns: int = 16,
    colormap: Colormap = "viridis",
) -> Any:
    """The maps of one image, layer by layer, as grids; each map from its least value (dark) to its largest.

    Args:
        model: as :func:`convzoo.feature_maps` takes it.
        layers: likewise.
        image: (C, H, W) or (1, C, H, W); or a picture, of a model with a transform.
        max_maps: show the first so many of each layer.
        columns: maps in a row.
        colormap: see :func:`convzoo.explain.colorize`.

    Returns:
        A Matplotlib figure.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: no such layer, none with maps, maps of which the axes cannot be told apart, or several images.

    Example:
        >>> import convzoo, torch
        >>> figure = convzoo.show_feature_maps(convzoo.create_model("lenet5"), torch.rand(1, 28, 28), "conv1")
        >>> len(figure.axes)
        1
    """
    model = check_model(model)
    columns, max_maps = check_count("columns", columns), check_count("max_maps", max_maps)
    images = check_images(model, model_input(model, image))
    if images.ndim == 4 and len(images) != 1:
        raise ValueError(f"show_feature_maps takes one image, got {len(images)}; pick one: images[0]")
    found = feature_maps(model, images, layers)
    stages = model.stages if isinstance(model, Classifier) else {}
    grids = {}
    for name, maps in found.items():
        if maps.ndim != 4:
            continue
        try:
            grids[name] = reader(model, stages.get(name, name), maps, images, None)(maps)[0]
        except ValueError:
            if layers is not None:
                raise
    if not grids:
        raise ValueError(f"none of {', '.join(found)} gives maps (N, C, h, w); pass layers that do")
    pictures = {}
    for name, maps in grids.items():
        count, height, width = maps.shape
        shown = maps[:max_maps].float().cpu()
        low, high = shown.amin((1, 2), keepdim=True), shown.amax((1, 2), keepdim=True)
        sheet = _tile((shown - low) / (high - low).clamp_min(1e-12), columns)
        title = f"{name}: {len(shown)} of {plural(count, 'map')}, {height}x{width}"
        pictures[title] = np.where(np.isnan(sheet)[..., None], 1.0, colorize(np.nan_to_num(sheet), colormap))
    return _stack(pictures)[0]


def show_filters(model: nn.Module, layer: str | None = None, *, max_filters: int = 64, columns: int = 16) -> Any:
    """The kernels of a convolution: in colour where they read three channels, else the mean over their channels.

    All share one scale, on which mid-grey is zero; between them it is white.

    Args:
        model: any module.
        layer: path of the convolution; None: the first.
        max_filters: show the first so many.
        columns: kernels in a row.

    Returns:
        A Matplotlib figure.

    Raises:
        ImportError: Matplotlib is not installed.
        TypeError: not a module.
        ValueError: there is no such convolution.

    Example:
        >>> import convzoo
        >>> figure = convzoo.show_filters(convzoo.create_model("lenet5"))
        >>> figure.axes[0].get_title(loc="left")
        'conv1: 6 of 6 kernels, 5x5, 1 channel'
    """
    model = check_model(model)
    columns, max_filters = check_count("columns", columns), check_count("max_filters", max_filters)
    convs = {path: module for path, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    if not convs:
        raise ValueError(f"{type(model).__name__} has no Conv2d, whose kernels could be shown; pass another net")
    layer = next(iter(convs)) if layer is None else layer
    if layer not in convs:
        raise ValueError(f"no convolution {shorten(layer)} in the model; pass one of {', '.join(list(convs)[:4])}")
    weight = evaluated(convs[layer]).weight.detach()
    if weight.is_meta:
        raise ValueError(f"the kernels of {layer} are on the meta device and have no numbers; load weights first")
    weight = weight.float().cpu()
    count, chans, height, width = weight.shape
    kernels = weight[:max_filters] if chans == 3 else weight[:max_filters].mean(1, keepdim=True)
    most = float(kernels.nan_to_num(0, 0, 0).abs().max().clamp_min(1e-12))
    planes = [_tile(plane, columns) for plane in (0.5 + kernels / (2 * most)).clamp(0, 1).unbind(1)]
    picture = np.nan_to_num(np.stack(planes * (3 // len(planes)), -1), nan=1.0)
    size = f"{height}x{width}, {plural(chans, 'channel')}"
    figure, axes = _stack({f"{layer}: {len(kernels)} of {plural(count, 'kernel')}, {size}": picture})
    label = "weight" if chans in (1, 3) else "mean weight of the channels"
    _colour_bar(figure, axes, "grey", -most, most, label + (", of each colour" if chans == 3 else ""))
    return figure


def _tile(maps: Tensor, columns: int) -> Any:
    """Maps (C, h, w) side by side in one array; between them it is not a number."""
    count, height, width = maps.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    gap = max(1, height // 12)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), math.nan, dtype=np.float32)
    for index, one in enumerate(maps.numpy()):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = one
    return sheet


def _stack(pictures: Mapping[str, Any]) -> tuple[Any, Any]:
    """Pictures (H, W, 3) in 0..1 one below the other, as wide as a page, under their titles."""
    width = 8.0
    heights = [max(0.3, width * picture.shape[0] / picture.shape[1]) for picture in pictures.values()]
    figure, axes = _figure(len(pictures), 1, 1.0)
    figure.set_size_inches(width, min(60.0, sum(heights) + 0.35 * len(heights)))
    for ax, (title, picture) in zip(axes[:, 0], pictures.items(), strict=True):
        ax.imshow(picture, interpolation="nearest")
        ax.set_title(title, fontsize=9, loc="left")
    return figure, axes
