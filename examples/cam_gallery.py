"""A sheet of class activation maps: the bundled nets for digits, on digits drawn here, one and two in a picture.

python examples/cam_gallery.py                        # writes out/cam_gallery.png
python examples/cam_gallery.py --weights lenet5.mnist fcn_gap.mnist --out out

Left the picture, then each net's maps of the digits that are in it. Nets built for one size get a picture of two
digits resized to it; nets that pool their maps take it as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from drawn_digits import draw, side_by_side
from PIL import Image, ImageDraw
from torch import Tensor

import convzoo

SIDE = 112  # pixels of a single digit in the sheet


def scenes(seed: int = 0) -> list[tuple[Tensor, list[int]]]:
    """Pictures (1, 28, 28 or 56) and the digits in them."""
    generator = torch.Generator().manual_seed(seed)
    singles = [(draw(digit, 28, generator), [digit]) for digit in (2, 3, 5, 8)]
    pairs = [(side_by_side(a, b, generator), [a, b]) for a, b in ((3, 8), (4, 7), (1, 6), (9, 0))]
    return singles + pairs


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
    chances = result.logits.softmax(1)[0]
    size = (SIDE, SIDE * picture.shape[2] // picture.shape[1])
    return [
        (convzoo.overlay(picture, one, size=size, alpha=0.75), f"{digit}: {100 * float(chances[digit]):.0f} %")
        for digit, one in zip(digits, heat, strict=True)
    ]


def sheet(rows: list[list[tuple[Image.Image, str]]], heads: list[str]) -> Image.Image:
    """Rows of pictures, each with its words below, on white; the columns of a row may differ in width."""
    gap, line = 10, 16
    width = max(sum(picture.width + gap for picture, _ in row) for row in rows) + gap
    paper = Image.new("RGB", (width, 2 * line + len(rows) * (SIDE + line + gap)), "white")
    pen = ImageDraw.Draw(paper)
    pen.text((gap, 4), "   ".join(heads), fill="black")
    for index, row in enumerate(rows):
        left, top = gap, 2 * line + index * (SIDE + line + gap)
        for picture, words in row:
            paper.paste(picture, (left, top))
            pen.text((left, top + SIDE + 2), words, fill="black")
            left += picture.width + gap
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
    rows = []
    for picture, digits in scenes():
        size = (SIDE, SIDE * picture.shape[2] // picture.shape[1])
        row = [(convzoo.overlay(picture, torch.zeros(2, 2), size=size), "picture")]
        for name, model in models.items():
            row += [(overlay, f"{name.split('.')[0]} {words}") for overlay, words in look(model, picture, digits)]
        rows.append(row)
    path = args.out / "cam_gallery.png"
    sheet(rows, ["each net's map of each digit, one scale a net:", *names]).save(path)
    print(path)


if __name__ == "__main__":
    main()
