"""Measure an accuracy again: the figure that a set of weights is published with, on the pictures it was measured on.

python examples/evaluate.py --weights lenet5.mnist --data FOLDER    # a folder with test-*.parquet or valid-*.parquet
python examples/evaluate.py --weights runs/mnist_net.mnist --data FOLDER    # your own, as training wrote them
"""

import argparse
import io
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from pyarrow import parquet
from tqdm import tqdm

import convzoo


def load(source: str) -> convzoo.Classifier:
    """The net of the weights that ``source`` names: ``arch.tag``, or a folder that ``save_pretrained`` wrote."""
    folder = Path(source)
    if not folder.is_dir() or source in (*convzoo.list_weights(), *convzoo.list_models()):
        return convzoo.create_model(source, pretrained=True)
    architecture = dict(json.loads((folder / "config.json").read_text())).get("architecture")
    if architecture is None:
        raise ValueError("its config.json names no architecture; pass a folder that save_pretrained wrote")
    return convzoo.create_model(architecture, pretrained=folder)


@torch.no_grad()
def evaluate(model: convzoo.Classifier, folder: Path, batch: int = 500) -> float:
    """Percent of the test pictures in ``folder`` that ``model``, with pretrained weights, gets right."""
    files = sorted([*folder.glob("test-*.parquet"), *folder.glob("valid-*.parquet")])
    if not files:
        sys.exit(f"{folder} holds no test-*.parquet and no valid-*.parquet; pass --data a folder that does")
    hits = count = 0
    for file in files:
        table = parquet.read_table(file, columns=["image", "label"])
        for start in tqdm(range(0, len(table), batch), desc=file.name, leave=False):
            part = table.slice(start, batch)
            pictures = [Image.open(io.BytesIO(cell["bytes"])) for cell in part["image"].to_pylist()]
            guesses = model(model.preprocess(pictures)).argmax(1)
            hits += int((guesses == torch.tensor(part["label"].to_pylist())).sum())
            count += len(pictures)
    return 100 * hits / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="such as lenet5.mnist (list_weights() names all), or a folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of parquet files")
    args = parser.parse_args()
    try:
        model = load(args.weights)
    except (ValueError, OSError, TypeError, convzoo.WeightsError) as error:
        sys.exit(f"--weights {args.weights}: {error}")
    published = model.weights.metrics.get("top1")
    measured = f"{args.weights}: {evaluate(model, args.data):.2f} %"
    print(measured + (f", published {published} %" if published is not None else ""))


if __name__ == "__main__":
    main()
