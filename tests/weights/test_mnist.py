"""The published accuracies, measured again on MNIST's test digits where they are at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import convzoo

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CONVZOO_DATA", ROOT.parent / "shared" / "data")) / "mnist"
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
@pytest.mark.skipif(not DATA.is_dir(), reason="needs MNIST's parquet files in the folder mnist of CONVZOO_DATA")
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_what_was_published(name):
    command = [sys.executable, ROOT / "examples" / "evaluate.py", "--weights", name, "--data", DATA]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = float(done.stdout.split(": ")[1].split(" %")[0])
    assert abs(measured - convzoo.weight_info(name).metrics["top1"]) <= 0.01
