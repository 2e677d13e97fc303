"""The published accuracies, measured again on MNIST's test digits where they are at hand."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_sets import MNIST, needs_mnist
from PIL import Image

import convzoo
from convzoo.inference.packed import BFLOAT16

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name in convzoo.list_weights() if convzoo.weight_info(name).dataset.get("id") == "ylecun/mnist"]


def test_there_are_some():
    assert "lenet5.mnist_aug" in NAMES
    assert "fcn_gap.mnist" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_entry_says_all_there_is_to_say(name):
    info = convzoo.weight_info(name)
    assert info.classes == tuple("0123456789")
    assert (info.in_chans, info.img_size) == (1, (28, 28))
    assert info.metrics["n"] == 10_000
    assert info.recipe["command"].startswith("python examples/train_mnist.py --model")
    assert "LeCun, Cortes and Burges" in info.dataset_terms
    assert info.license == "mit"
    model = convzoo.create_model(name, pretrained=True)
    assert not model.training
    assert model.weights.sha256 == info.sha256


@pytest.mark.slow
@needs_mnist
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_what_was_published(name):
    command = [sys.executable, ROOT / "examples" / "evaluate.py", "--weights", name, "--data", MNIST]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = float(done.stdout.split(": ")[1].split(" %")[0])
    assert abs(measured - convzoo.weight_info(name).metrics["top1"]) <= 0.01


@pytest.fixture(scope="module")
def digits():
    """The test digits (10,000, 28, 28) and their labels (10,000)."""
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(next(MNIST.glob("test-*.parquet"))).to_pydict()
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"]])
    return torch.from_numpy(pictures), torch.tensor(table["label"])


@pytest.mark.slow
@needs_mnist
@pytest.mark.skipif(not BFLOAT16, reason="this processor has no instructions for bfloat16")
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_accuracy_stays_in_bfloat16(name, digits):
    model = convzoo.create_model(name, pretrained=True)
    right = []
    for net in (model, convzoo.optimize_for_inference(model, dtype=torch.bfloat16)):
        answers = [net(net.preprocess(part)).float().argmax(1) for part in digits[0].split(500)]
        right.append(int((torch.cat(answers) == digits[1]).sum()))
    print(f"{name}: {right[0] / 100:.2f} %, in bfloat16 {right[1] / 100:.2f} %")
    assert abs(right[1] - right[0]) <= 5  # of 10,000
