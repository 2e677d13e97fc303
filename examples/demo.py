"""The whole promise in a minute: load weights, read digits, count, and see where the net looks. No network needed.

python examples/demo.py                       # writes out/cam.png
python examples/demo.py --data FOLDER         # also the accuracy on MNIST's test digits (test-*.parquet)
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image

import convzoo

HERE = Path(__file__).resolve().parent
NETS = ("lenet5", "fcn_gap")


def find_data(given: Path | None) -> Path | None:
    """The folder of MNIST's parquet files: the one given, or one beside the checkout."""
    beside = HERE.parent.parent / "shared" / "data" / "mnist"
    return given or (beside if beside.is_dir() else None)


def sheet(rows: list[list[Image.Image]], margin: int = 8) -> Image.Image:
    """Pictures of one size, row by row, on white."""
    width, height = rows[0][0].size
    size = (len(rows[0]) * (width + margin) + margin, len(rows) * (height + margin) + margin)
    paper = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            paper.paste(picture, (margin + x * (width + margin), margin + y * (height + margin)))
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
    sheet([plain, looks.overlay(pictures, size=112)]).save(args.out / "cam.png")
    print(f"where fcn_gap looks: {args.out / 'cam.png'}")

    data = find_data(args.data)
    if data is None:
        print("no MNIST here: pass --data a folder with test-*.parquet to measure the accuracy")
        return
    sys.path.insert(0, str(HERE))
    from evaluate import evaluate

    for name in NETS:
        model = convzoo.create_model(name, pretrained=True)
        print(
            f"{name} on MNIST's test digits: {evaluate(model, data):.2f} %, published {model.weights.metrics['top1']} %"
        )


if __name__ == "__main__":
    main()
