"""The whole promise in a minute: load weights, read digits, count, and see where the net looks. No network needed.

python examples/demo.py                       # writes out/cam.png
python examples/demo.py --data FOLDER         # also the accuracy on MNIST's test digits (test-*.parquet)
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import convzoo

HERE = Path(__file__).resolve().parent
NETS = ("lenet5", "fcn_gap")


def sheet(rows: list[list[Image.Image]], titles: list[list[str]], margin: int = 8, line: int = 22) -> Image.Image:
    """Pictures of one size, row by row, on white, each with its title over it."""
    width, height = rows[0][0].size
    across, down = width + margin, height + line + margin
    paper = Image.new("RGB", (len(rows[0]) * across + margin, len(rows) * down + margin), "white")
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(16)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            corner = (margin + x * across, margin + y * down)
            pen.text(corner, titles[y][x], fill="black", font=font)
            paper.paste(picture, (corner[0], corner[1] + line))
    return paper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with MNIST's test-*.parquet")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    args = parser.parse_args()

    paths = sorted((HERE / "digits").glob("*.png"))
    pictures = [Image.open(path) for path in paths]
    for name in NETS:
        model = convzoo.create_model(name, pretrained=True)
        counts = convzoo.profile(model, (1, 28, 28))
        print(f"{name}: {counts.params:,} parameters, {counts.macs:,} MACs = {counts.flops:,} FLOPs a digit")
        with torch.no_grad():
            chances, classes = model.probabilities(model(model.preprocess(pictures))).max(1)
        for path, digit, chance in zip(paths, classes.tolist(), chances.tolist(), strict=True):
            print(f"  {path.name}: {model.weights.classes[digit]} ({100 * chance:.1f} %)")

    model = convzoo.create_model("fcn_gap", pretrained=True)
    digits = model.preprocess(pictures)
    looks = convzoo.cam(model, digits)
    plain = [picture.convert("RGB").resize((112, 112), Image.Resampling.NEAREST) for picture in pictures]
    args.out.mkdir(parents=True, exist_ok=True)
    likeliest = zip(*(values.tolist() for values in looks.probabilities.max(1)), strict=True)
    answers = [f"{model.weights.classes[digit]}: {100 * chance:.1f} %" for chance, digit in likeliest]
    titles = [[path.name for path in paths], answers]
    sheet([plain, looks.overlay(pictures, size=112)], titles).save(args.out / "cam.png")
    print(f"where fcn_gap looks: {args.out / 'cam.png'}")

    if args.data is None:
        print("no MNIST here: pass --data a folder with test-*.parquet to measure the accuracy")
        return
    sys.path.insert(0, str(HERE))
    from evaluate import evaluate

    for name in NETS:
        model = convzoo.create_model(name, pretrained=True)
        try:
            accuracy = evaluate(model, args.data)
        except ValueError as error:  # not the pictures that it should hold
            sys.exit(str(error))
        print(f"{name} on MNIST's test digits: {accuracy:.2f} %, published {model.weights.metrics['top1']} %")


if __name__ == "__main__":
    main()
