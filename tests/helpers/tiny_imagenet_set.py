"""For the tests of the Tiny-ImageNet example: its modules, a small set of made-up images in its layout, short runs."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_tiny_imagenet.py"
sys.path.insert(0, str(SCRIPT.parent))
script = importlib.import_module("train_tiny_imagenet")
augment = importlib.import_module("tiny_imagenet.augment")
data = importlib.import_module("tiny_imagenet.data")
training = importlib.import_module("tiny_imagenet.trainer")

CLASSES, SIDE = 4, 32


def draw_image(rng: np.random.Generator, label: int, side: int = SIDE) -> Image.Image:
    """Stripes whose colour and direction tell the class, under noise; one in ten is grey, and told by direction."""
    across = np.arange(side)[None, :] if label % 2 else np.arange(side)[:, None]
    stripes = np.sin(across * rng.uniform(0.7, 0.9) + rng.uniform(0, 6))[..., None]
    colour = np.array([1.0, 0.3, 0.0] if label < 2 else [0.0, 0.3, 1.0])
    pixels = 128 + 80 * stripes * colour + 40 * (colour - 0.4) + rng.normal(0, 12, (side, side, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image.convert("L") if rng.random() < 0.1 else image


def write_parquet(path: Path, images: Sequence[Image.Image], labels: Sequence[int], names: Sequence[str] = ()) -> None:
    """A shard as the Hub's image data sets have them."""
    cells = []
    for index, image in enumerate(images):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        cells.append({"bytes": file.getvalue(), "path": f"{index}.JPEG"})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"label": pa.array(labels, pa.int64()), "image": pa.array(cells, kind)})
    if names:
        noted = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_set(folder: Path) -> Path:
    """640 images to train on in two shards, 160 to measure on."""
    rng = np.random.default_rng(0)
    for name, count in (("train-00000-of-00002", 400), ("train-00001-of-00002", 240), ("valid-00000-of-00001", 160)):
        labels = rng.integers(0, CLASSES, count).tolist()
        images = [draw_image(rng, label) for label in labels]
        write_parquet(folder / f"{name}.parquet", images, labels, [f"n{label}" for label in range(CLASSES)])
    return folder


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small nets gain nothing from more threads, and sums come out the same in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def arguments(folder: Path, out: Path, *more: object, arch: str = "mnist_net") -> list[str]:
    """A command line for a short run on the CPU; mnist_net has dropout, so its runs need their random state."""
    given = [arch, "--data", folder, "--out", out, "--hub", out / "hub", "--device", "cpu", "--batch", 32, "--float32"]
    return [str(value) for value in (*given, *more)]


def make_trainer(folder: Path, out: Path, *more: object, arch: str = "mnist_net") -> Any:
    args = script.parse(arguments(folder, out, *more, arch=arch))
    return training.Trainer(args, data.load_split(args.data, "train", limit=args.limit), training.join("cpu"))


def environment() -> dict[str, str]:
    places = os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests", SCRIPT.parent)))
    return {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}


def read_checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def assert_same_run(first: Path, second: Path) -> None:
    """Weights, average, momentum and log of two runs agree, bit for bit (but for the clock)."""
    one, two = read_checkpoint(first), read_checkpoint(second)
    for part in ("model", "average"):
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name]), f"{part} {name}"
    for index, state in one["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, two["optimizer"]["state"][index][name]), f"optimizer {index} {name}"
    without_clock = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in run["history"]] for run in (one, two)
    ]
    assert without_clock[0] == without_clock[1]
    assert without_clock[0]


def as_picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
