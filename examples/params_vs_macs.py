"""Draw the zoo: parameters against multiply-accumulates, a dot for each model.

    python examples/params_vs_macs.py                     # writes out/params_vs_macs.png
    python examples/params_vs_macs.py --pattern "resn*"

No model is built in memory and none is run; the counts come from shapes.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import convzoo

SMALL = 3e6  # parameters
PLACES = [(7, -3), (-7, -3), (7, 6), (-7, 6), (7, -12), (-7, -12)]  # points from the dot, nearest first
PLACES += [(x, y) for far in (16, 26, 38, 52, 68, 90, 120) for x in (9, -9, far, -far) for y in (far, -far - 8)]
SAME = 3  # pixels between dots that look like one


def count(pattern: str) -> dict[str, list[tuple[str, float, float]]]:
    """By family: name, parameters and MACs of every model at its own image size."""
    families: dict[str, list[tuple[str, float, float]]] = {}
    for name in convzoo.list_models(pattern):
        with torch.device("meta"):
            model = convzoo.create_model(name)
        profile = convzoo.profile(model, (model.in_chans, *model.img_size))
        families.setdefault(convzoo.model_info(name).family, []).append((name, profile.params, profile.macs))
    return families


def together(names: list[str]) -> str:
    """vgg16, _bn, _sparse_bn where all begin like the first, else a line each."""
    first, *others = sorted(names)
    if all(name.startswith(first) for name in others):
        return ", ".join([first, *(name.removeprefix(first) for name in others)])
    return "\n".join([first, *others])


def along(dot: tuple[float, float], box: Bbox) -> list[Bbox]:
    """Small boxes on the line from a dot to the nearest point of ``box``, but for those in the dot itself."""
    end = (min(max(dot[0], box.x0), box.x1), min(max(dot[1], box.y0), box.y1))
    length = math.dist(dot, end)
    steps = [step / length for step in range(9, int(length) - 2, 3)]
    points = [(dot[0] + share * (end[0] - dot[0]), dot[1] + share * (end[1] - dot[1])) for share in steps]
    return [Bbox.from_bounds(x - 1, y - 1, 2, 2) for x, y in points]


def write_names(axes: Axes, models: list[tuple[str, float, float]]) -> None:
    """Every dot's name, beside it or at the end of a line, where it meets neither a dot nor another name nor another
    line; nets whose dots lie on each other share a text."""
    renderer = axes.figure.canvas.get_renderer()
    room = axes.get_window_extent(renderer)
    dots = axes.transData.transform([(params, macs) for _, params, macs in models])
    names: dict[tuple[float, float], list[str]] = {}  # by the place of a dot, in pixels
    for (name, _, _), (x, y) in zip(models, dots, strict=True):
        same = next((dot for dot in names if math.dist(dot, (x, y)) < SAME), (x, y))
        names.setdefault(same, []).extend([name] if name else [])
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in dots]  # and a small box for each point of a line
    for dot, group in sorted(names.items(), key=lambda item: (-len(item[1]), item[1])):  # the longest first
        if not group:
            continue
        place = axes.transData.inverted().transform(dot)
        for number, (x, y) in enumerate([*PLACES, PLACES[0]]):  # where all is taken, over another name
            line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5} if abs(y) > 12 else None
            text = axes.annotate(
                together(group), place, (x, y), textcoords="offset points", fontsize=7.5,
                ha="left" if x > 0 else "right", arrowprops=line,
            )  # fmt: skip
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # without the line
            needed = [box, *along(dot, box)] if line else [box]
            inside = room.x0 < box.x0 and box.x1 < room.x1 and room.y0 < box.y0 and box.y1 < room.y1
            free = inside and not any(one.overlaps(other) for one in needed for other in taken)
            if free or number == len(PLACES):
                taken += needed
                break
            text.remove()


def draw(families: dict[str, list[tuple[str, float, float]]], stacked: bool = False) -> Figure:
    """Small nets on the left, large ones on the right (``stacked``: above and below, for a page): on one scale their
    names would not fit."""
    everything = [model for models in families.values() for model in models]
    groups = [[model for model in everything if (model[1] < SMALL) == small] for small in (True, False)]
    groups = [group for group in groups if group]
    size = (10, 1 + 6 * len(groups)) if stacked else (5 + 5 * len(groups), 7)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # measures text
    ratios = [2, 5][-len(groups) :]
    if stacked:
        panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=ratios)[:, 0]
    else:
        panels = figure.subplots(1, len(groups), squeeze=False, width_ratios=ratios)[0]
    handles = {}
    for axes, group in zip(panels, groups, strict=True):
        for index, (family, models) in enumerate(families.items()):
            points = [(params, macs) for _, params, macs in models if (_, params, macs) in group]
            if points:
                look = {"color": f"C{index % 10}", "marker": "osD"[index // 10], "alpha": 0.85}
                handles[family] = axes.scatter(*zip(*points, strict=True), s=36, label=family, **look)
        axes.set(xscale="log", yscale="log", xlabel="parameters")
        axes.margins(0.16, 0.12)
        axes.set_xlim(right=axes.get_xlim()[1] * 1.5)  # most names stand to the right of their dot
        axes.grid(alpha=0.3, linewidth=0.5)
    figure.supylabel("multiply-accumulates for one image", fontsize="medium")
    figure.suptitle("Size against cost, each net at its own image size")
    columns = -(-len(handles) // (2 if stacked else 1))
    figure.legend(handles.values(), handles.keys(), fontsize=8, loc="outside lower center", ncols=columns)
    figure.draw_without_rendering()
    for axes, group in zip(panels, groups, strict=True):
        write_names(axes, group)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pattern", default="*", help='shell wildcards over the names, such as "resnet*"')
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture (default out)")
    args = parser.parse_args()
    families = count(args.pattern)
    if not families:
        parser.error(f"no model is called {args.pattern}; convzoo.list_models() names all")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "params_vs_macs.png"
    draw(families).savefig(path)
    print(path)


if __name__ == "__main__":
    main()
