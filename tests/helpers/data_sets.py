"""Where the data sets lie that some slow tests read: in the folders of CONVZOO_DATA, or of data/ in the checkout."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("CONVZOO_DATA", Path(__file__).resolve().parents[2] / "data"))
MNIST = FOLDER / "mnist"
TINY_IMAGENET = FOLDER / "tiny-imagenet"

needs_mnist = pytest.mark.skipif(not MNIST.is_dir(), reason=f"needs MNIST's parquet files in {MNIST}")
needs_tiny_imagenet = pytest.mark.skipif(
    not TINY_IMAGENET.is_dir(), reason=f"needs Tiny-ImageNet's parquet files in {TINY_IMAGENET}"
)
