"""Measure an accuracy again: the figure that a set of weights is published with, on the pictures it was measured on.

    python examples/evaluate.py --weights lenet5.mnist --data FOLDER    # with test-*.parquet or valid-*.parquet in it
    python examples/evaluate.py --weights runs/own --data PICTURES      # your own, on a folder of pictures per class

Weights are named as ``create_model`` takes them, or by the folder that a training left.
"""

import argparse
import io
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import convzoo

try:
    from PIL import Image
    from pyarrow import parquet
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'reading the pictures needs {error.name}; run: pip install ".[data]"')


def load(source: str) -> convzoo.Classifier:
    """The net of the weights that ``source`` names: ``arch.tag``, or a folder that ``save_pretrained`` wrote."""
    folder = Path(source)
    if not folder.is_dir() or source in (*convzoo.list_weights(), *convzoo.list_models()):
        return convzoo.create_model(source, pretrained=True)
    architecture = dict(json.loads((folder / "config.json").read_text())).get("architecture")
    if architecture is None:
        raise ValueError("its config.json names no architecture; pass a folder that save_pretrained wrote")
    return convzoo.create_model(architecture, pretrained=folder)


def find(folder: Path, classes: tuple[str, ...]) -> Iterator[tuple[str, bytes, int]]:
    """Each picture's name, content and label: from the parquet files in ``folder``, else from its folder per class."""
    files = sorted([*folder.glob("test-*.parquet"), *folder.glob("valid-*.parquet")])
    for file in files:
        try:
            table = parquet.read_table(file)
        except (ValueError, OSError) as error:
            raise ValueError(f"{file} is no parquet file that can be read: {error}") from error
        columns = {column.name: str(column.type) for column in table.schema}
        if not columns.get("image", "").startswith("struct<bytes: binary") or "int" not in columns.get("label", ""):
            raise ValueError(
                f"{file} has the columns {columns}; it needs image, a struct with bytes, and label, a number"
            )
        for index, (cell, label) in enumerate(zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)):
            yield f"picture {index} of {file}", cell["bytes"], label
    folders = [] if files else sorted(path for path in folder.glob("*/") if path.is_dir())
    if not files and not folders:
        raise ValueError(
            f"{folder} holds no test-*.parquet, no valid-*.parquet and no folder of pictures per class; "
            "pass --data a folder that does"
        )
    for place in folders:
        if place.name not in classes:
            known = f"the weights' classes, {', '.join(classes)}" if classes else "classes: the weights have no names"
            raise ValueError(f"{place} is called like none of {known}")
        for file in sorted(place.iterdir()):
            yield str(file), file.read_bytes(), classes.index(place.name)


@torch.no_grad()
def evaluate(model: convzoo.Classifier, folder: Path, batch: int = 500) -> float:
    """Percent of the pictures in ``folder`` that ``model``, with pretrained weights, gets right."""
    hits = count = 0
    found = iter(tqdm(find(folder, model.weights.classes or ()), unit=" pictures", leave=False))
    while part := list(itertools.islice(found, batch)):
        pictures = []
        for name, content, label in part:
            if not 0 <= label < model.num_classes:
                raise ValueError(f"{name} has the label {label}, but the weights know {model.num_classes} classes")
            try:
                pictures.append(Image.open(io.BytesIO(content)))
                pictures[-1].load()
            except OSError as error:
                raise ValueError(f"{name} is no picture that can be read: {error}") from error
        guesses = model(model.preprocess(pictures)).argmax(1)
        hits += int((guesses == torch.tensor([label for _, _, label in part])).sum())
        count += len(part)
    if not count:
        raise ValueError(f"there is not one picture in {folder}")
    return 100 * hits / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="such as lenet5.mnist (list_weights() names all), or a folder")
    parser.add_argument("--data", type=Path, required=True, help="folder of parquet files, or of a folder per class")
    args = parser.parse_args()
    try:
        model = load(args.weights)
    except (ValueError, OSError, TypeError, convzoo.WeightsError) as error:
        sys.exit(f"--weights {args.weights}: {error}")
    try:
        accuracy = evaluate(model, args.data)
    except (ValueError, OSError, TypeError) as error:
        sys.exit(str(error))
    published = model.weights.metrics.get("top1")
    print(f"{args.weights}: {accuracy:.2f} %" + (f", published {published} %" if published is not None else ""))


if __name__ == "__main__":
    main()
