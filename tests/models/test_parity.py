"""The same function as an independent implementation: keys, shapes, order, and float64 logits."""

import json
from pathlib import Path

import pytest
import torch
from helpers.fill import fill, picture

import convzoo

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "torchvision"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
OURS = {"googlenet": ("googlenet_bn", {"aux": True}), "inception_v3": ("inception_v3", {"aux": True})}


def test_all_twenty_three_are_here():
    assert len(NAMES) == 23


def family(name):
    """The nets of a family share their largest weights, so one process tests them all."""
    return pytest.param(
        name, marks=pytest.mark.xdist_group(f"parity-{convzoo.model_info(OURS.get(name, (name,))[0]).family}")
    )


@pytest.mark.parametrize("name", [family(name) for name in NAMES])
def test_same_keys_and_logits(name):
    ours, options = OURS.get(name, (name, {}))
    reference = json.loads((FOLDER / f"{name}.json").read_text())
    with torch.device("meta"):
        model = convzoo.create_model(ours, **options)

    lines = (FOLDER / f"{name}.keys.tsv").read_text().splitlines()
    keys = [tuple((line + "\t").split("\t")[:2]) for line in lines]
    assert [(key, "x".join(map(str, value.shape))) for key, value in model.state_dict().items()] == keys
    assert sum(parameter.numel() for parameter in model.parameters()) == reference["params"]

    with torch.no_grad():
        logits = fill(model)(picture(*reference["input"]))[0]
    largest = reference["logits_abs_max"]
    expected = torch.tensor(reference["logits_first_16"], dtype=torch.float64)
    assert (logits[:16] - expected).abs().max() <= 1e-9 * largest
    assert abs(logits.sum().item() - reference["logits_sum"]) <= 1e-9 * largest * len(logits)
    assert abs(logits.abs().max().item() - largest) <= 1e-9 * largest
