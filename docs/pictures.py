"""Draw the pictures of the documentation, from the models and the weights themselves, into docs/img.

python docs/pictures.py
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

import convzoo
from convzoo._table import short

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples"))
from params_vs_macs import count, draw, write_names  # noqa: E402 - found by the line above

IMG = ROOT / "docs" / "img"
HUB = ROOT / "weights" / "hub"
SPEED = ROOT / "docs" / "speed.md"
BUNDLED = ROOT / "src" / "convzoo" / "weights" / "bundled"
# one net of each family, from the smallest up
SHOWN = ("lenet5", "fcn_gap", "mnist_resnet", "alexnet", "vgg16", "googlenet", "inception_v3", "cnn_bn", "resnet18")
SHOWN += ("wide_resnet50_2", "resnext50_32x4d", "squeezenet1_1", "t2t_vit_14")


def stage_shapes(name: str) -> list[tuple[str, int, int]]:
    """(stage, channels, side of its maps) from the image on, of a model that is run on shapes alone."""
    with torch.device("meta"):
        model = convzoo.create_model(name).eval()
        image = torch.empty(1, model.in_chans, *model.img_size)
    shapes: dict[str, Tensor] = {}
    for stage, path in model.stages.items():
        model.get_submodule(path).register_forward_hook(lambda _m, _i, out, stage=stage: shapes.update({stage: out}))
    with torch.no_grad():
        model(image)
    rows = [("image", model.in_chans, model.img_size[0])]
    for stage, out in shapes.items():
        tokens = out.ndim == 3
        rows.append((stage, out.shape[2 if tokens else 1], math.isqrt(out.shape[1]) if tokens else out.shape[2]))
    return [row for index, row in enumerate(rows) if index < 2 or row[1:] != rows[index - 1][1:]]


def draw_stages() -> Figure:
    """A row a net: every stage as a box as high as its maps and as wide as their number, both in logarithm."""
    figure = Figure(figsize=(10, 0.95 * len(SHOWN)), dpi=110, layout="constrained")
    for axes, name in zip(figure.subplots(len(SHOWN), 1), SHOWN, strict=True):
        info, x = convzoo.model_info(name), 0.0
        for index, (_, chans, side) in enumerate(stage_shapes(name)):
            height, width = math.log2(side + 1) / 8.3, 0.12 + math.log2(chans + 1) / 12
            colour = "0.75" if not index else "C0"
            axes.add_patch(
                Rectangle((x, (1 - height) / 2), width, height, color=colour, alpha=0.4 + 0.08 * min(index, 7))
            )
            axes.text(x + width / 2, -0.28, f"{chans} x {side}²", ha="center", fontsize=8)
            x += width + 0.36  # room for the text below
        axes.add_patch(Rectangle((x, 0.35), 0.12, 0.3, color="C1"))
        axes.text(x + 0.2, 0.4, f"{info.num_classes} classes", fontsize=8)
        family = "" if info.family == name else f" ({info.family})"
        axes.text(-2.3, 0.55, name, fontsize=10, weight="bold")
        axes.text(-2.3, 0.1, f"{short(info.params)} parameters{family}", fontsize=8)
        axes.set(xlim=(-2.4, 9.2), ylim=(-0.4, 1.05))
        axes.axis("off")
    return figure


def draw_accuracy() -> Figure:
    """Errors on MNIST's test digits against size, without and with distorted training digits."""
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # measures text
    axes, points = figure.subplots(), []
    for tag, label in (("mnist", "trained on the digits as they are"), ("mnist_aug", "on distorted digits")):
        names = convzoo.list_weights(f"*.{tag}")
        params = [convzoo.model_info(name.partition(".")[0]).params for name in names]
        errors = [100 - convzoo.weight_info(name).metrics["top1"] for name in names]
        axes.scatter(params, errors, s=30, label=label)
        shown = [name.partition(".")[0] if tag == "mnist_aug" else "" for name in names]
        points += list(zip(shown, params, errors, strict=True))
    axes.set(xscale="log", xlabel="parameters", ylabel="% of the 10,000 test digits read wrong", ylim=(0, None))
    axes.set_title("MNIST: error against size")
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.draw_without_rendering()
    write_names(axes, points)
    return figure


def draw_curves() -> Figure:
    """Accuracy on the held-out digits after every epoch, of the runs that the bundled weights come from."""
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for path in sorted(BUNDLED.glob("*.mnist_aug.json")):
        right = json.loads(path.read_text())["held_out_accuracy"]
        runs = convzoo.weight_info(path.stem).recipe["command"].count("&&") + 1
        label = path.name.partition(".")[0] + (f" (the last of {runs} runs)" if runs > 1 else "")
        axes.plot(range(1, len(right) + 1), [100 - share for share in right], label=label)
    axes.set(xlabel="epoch", ylabel="% of the held-out digits read wrong", yscale="log")
    axes.set_title("Training on distorted digits: error after each epoch")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return figure


def draw_losses() -> Figure:
    """Training loss along the last run of the weights for Tiny-ImageNet, each with the accuracy at its end."""
    logs = sorted(HUB.glob("*.tiny_imagenet/log.json"))
    figure = Figure(figsize=(8, 3.2), dpi=110, layout="constrained")
    for axes, path in zip(figure.subplots(1, len(logs), squeeze=False)[0], logs, strict=True):
        log = json.loads(path.read_text())
        axes.plot([row["epoch"] for row in log], [row["loss"] for row in log])
        top1 = convzoo.weight_info(path.parent.name).metrics["top1"]
        name = path.parent.name.partition(".")[0]
        axes.set(title=f"{name}: {top1:.2f} % right at the end", xlabel="epoch of the run")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("training loss")
    return figure


def draw_speed() -> Figure:
    """The first table of docs/speed.md as bars; one image and sixteen beside each other."""
    first = SPEED.read_text().partition("\n## ")[0]
    table = [line.strip("| \n").split(" | ") for line in first.splitlines() if line.startswith("| ")]
    figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
    axes, names, white = figure.subplots(), [], {"facecolor": "white", "edgecolor": "none", "pad": 0.3}
    for y, (what, other, ratios) in enumerate(table[2:]):
        values = [float(ratio) for ratio in ratios.split(", ")]
        for index, value in enumerate(values):
            place = y + (index - (len(values) - 1) / 2) * 0.4
            label = ("one image", "sixteen")[index] if len(values) > 1 else None
            axes.barh(place, value, 0.36, color=f"C{index}" if label else "0.6", label=label)
            axes.text(value + 0.01, place, f"{value:.2f}", va="center", fontsize=7, bbox=white)
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", f"{what} / {other}").replace("`", "")
        names.append(plain.replace(", one image, sixteen", "").replace(", the same", ""))
    axes.axvline(1, color="0.4", linewidth=1)
    axes.set(xlabel="time in units of the other's; shorter is faster", xlim=(0, 1.15))
    axes.set_yticks(range(len(names)), names, fontsize=7.5)
    axes.invert_yaxis()
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
    return figure


def main() -> None:
    IMG.mkdir(exist_ok=True)
    pictures = {
        "stages": draw_stages(),
        "params_vs_macs": draw(count("*"), stacked=True),
        "accuracy": draw_accuracy(),
        "curves": draw_curves(),
        "losses": draw_losses(),
        "speed": draw_speed(),
        "filters": convzoo.show_filters(convzoo.create_model("lenet5", pretrained=True)),
    }
    for name, figure in pictures.items():
        path = IMG / f"{name}.png"
        figure.savefig(path)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
