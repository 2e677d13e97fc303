"""MNIST's digits as tensors, from parquet files in a folder or on the Hub."""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .distort import shrink

MEAN, STD = 0.1307, 0.3081  # of the training digits, in 0..1


def read_split(source: str, split: str) -> tuple[Tensor, Tensor]:
    """The digits (N, 1, 28, 28) as bytes and their labels (N,) of ``train`` or ``test``."""
    try:
        from PIL import Image
        from pyarrow import parquet
    except ImportError as error:
        sys.exit(f'reading MNIST needs {error.name}; run: pip install ".[data]"')

    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        if source.count("/") != 1 or source.startswith((".", "/")):
            sys.exit(f"there is no folder {source}; pass --data a folder of parquet files, or a data set of the Hub")
        try:
            folder = Path(snapshot_download(source, repo_type="dataset", allow_patterns="*.parquet"))
        except Exception as error:  # which, depends on the client's version
            sys.exit(f"{source} cannot be fetched from the Hub ({type(error).__name__}); --data takes a folder too")
    files = sorted(folder.rglob(f"{split}-*.parquet"))
    if not files:
        sys.exit(f"{folder} holds no {split}-*.parquet; pass --data a folder that does, or ylecun/mnist")
    images, labels = [], []
    for file in files:
        table = parquet.read_table(file, columns=["image", "label"])
        for cell in table["image"].to_pylist():
            images.append(np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("L")))
        labels += table["label"].to_pylist()
    return torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels)


def normalise(images: Tensor) -> Tensor:
    """Bytes to floats with the training digits' mean 0 and standard deviation 1."""
    return (images.float() / 255 - MEAN) / STD


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, side: int = 28, batch: int = 100) -> float:
    """Percent of the digits, shown ``side`` pixels large, that the model gets right."""
    model.eval()
    hits = 0
    for i in range(0, len(images), batch):
        logits = model(shrink(normalise(images[i : i + batch]), side))
        hits += int((logits.argmax(1) == labels[i : i + batch]).sum())
    return 100 * hits / len(images)
