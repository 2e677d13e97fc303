"""A sheet of class activation maps: the bundled nets for digits, on digits drawn here, one and two in a picture.

python examples/cam_gallery.py                        # writes out/cam_gallery.png
python examples/cam_gallery.py --weights lenet5.mnist fcn_gap.mnist --out out

A row a net, a column for each digit that is looked for, with the net's probability below. Nets built for one size get
a picture of two digits resized to it; nets that pool their maps take it as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from drawn_digits import draw, side_by_side
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import convzoo

SIDE = 84  # pixels of a single digit in the sheet


def scenes(seed: int = 0) -> list[tuple[Tensor, list[int]]]:
    """Pictures (1, 28, 28 or 56) and the digits in them."""
    generator = torch.Generator().manual_seed(seed)
    singles = [(draw(digit, 28, generator), [digit]) for digit in (2, 3, 8)]
    pairs = [(side_by_side(a, b, generator), [a, b]) for a, b in ((3, 8), (4, 7))]
    return singles + pairs


def wide(picture: Tensor) -> tuple[int, int]:
    """(height, width) of ``picture`` in the sheet."""
    return SIDE, SIDE * picture.shape[2] // picture.shape[1]


def look(model: convzoo.Classifier, picture: Tensor, digits: list[int]) -> list[tuple[Image.Image, str]]:
    """Overlays of the maps of ``digits``, and what to write under each."""
    info = model.weights
    if info is None:
        raise ValueError(f"{model.config.name} has no weights; create it with pretrained=True")
    shown = picture[None]
    if model.fixed_size and tuple(shown.shape[2:]) != model.img_size:
        shown = torch.nn.functional.interpolate(shown, model.img_size, mode="bilinear", antialias=True)
    images = (shown - info.mean[0]) / info.std[0]
    result = convzoo.cam(model, images, [digits])
    heat = result.heatmap(normalize="joint")[0]
    chances = result.probabilities[0]
    return [
        (convzoo.overlay(picture, one, size=wide(picture), alpha=0.75), f"{100 * float(chances[digit]):.0f} %")
        for digit, one in zip(digits, heat, strict=True)
    ]


def sheet(columns: list[str], rows: dict[str, list[tuple[Image.Image, str]]]) -> Image.Image:
    """A row of pictures per name, each with its words below, on white; the name stands on the left."""
    gap, line, left = 6, 23, 150
    font = ImageFont.load_default(18)
    widths = [picture.width for picture, _ in next(iter(rows.values()))]
    paper = Image.new("RGB", (left + sum(widths) + gap * len(widths), line + len(rows) * (SIDE + line + gap)), "white")
    pen = ImageDraw.Draw(paper)
    for index, (name, row) in enumerate(rows.items()):
        x, y = left, line + index * (SIDE + line + gap)
        pen.text((gap, y + SIDE // 2), name, "black", font)
        for title, (picture, words) in zip(columns, row, strict=True):
            if not index:
                pen.text((x, 0), title, "black", font)
            paper.paste(picture, (x, y))
            pen.text((x, y + SIDE), words, "black", font)
            x += picture.width + gap
    return paper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="*", help="names such as fcn_gap.mnist; all that end in .mnist by default")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the sheet")
    args = parser.parse_args()
    names = args.weights or convzoo.list_weights("*.mnist")
    if not names:
        parser.error("there are no weights that end in .mnist; name some with --weights")
    models = {name: convzoo.create_model(name, pretrained=True) for name in names}
    args.out.mkdir(parents=True, exist_ok=True)
    shown = scenes()
    columns = [f"the {digit}" for _, digits in shown for digit in digits]
    plain = [(convzoo.overlay(picture, torch.zeros(2, 2), size=wide(picture)), "") for picture, _ in shown]
    rows = {"picture": [cell for cell, (_, digits) in zip(plain, shown, strict=True) for _ in digits]}
    for name, model in models.items():
        rows[name.split(".")[0]] = [cell for picture, digits in shown for cell in look(model, picture, digits)]
    path = args.out / "cam_gallery.png"
    sheet(columns, rows).save(path)
    print(path)


if __name__ == "__main__":
    main()
