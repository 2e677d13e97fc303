"""The wheel, installed where nothing else of ours is, loads what it carries; and what every entry must hold."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.weight_folders import make_folder

import convzoo
from convzoo.weights import package
from convzoo.weights.entries import BUNDLED, read_table
from convzoo.weights.files import read_metadata, read_tensors
from convzoo.weights.hashes import sha256_of
from convzoo.weights.package import bundled_names

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import sys, torch, convzoo
assert "site" in convzoo.__file__, convzoo.__file__
torch.manual_seed(0)
for name in convzoo.list_weights():
    if convzoo.weight_info(name).bundled:
        model = convzoo.create_model(name, pretrained=True)
        picture = torch.zeros(1, *model.img_size)
        picture[:, 4:24, 13:16] = 1  # a stroke: one
        probabilities = model(model.preprocess(picture)).softmax(-1)[0]
        print(name, model.weights.classes[probabilities.argmax()])
assert "huggingface_hub" not in sys.modules
"""


def test_the_wheel_carries_its_weights(tmp_path):
    """Built, installed without its dependencies, and run with the Hub out of reach."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")  # what installing a pure wheel does
    carried = sorted(Path(name).name for name in names if name.endswith(".safetensors"))
    assert carried == [f"{name}.safetensors" for name in bundled_names()] != []
    assert "convzoo/weights/entries.json" in names
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    run = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    answers = dict(line.split() for line in run.stdout.splitlines())
    assert answers.keys() == set(bundled_names())
    assert answers["lenet5.mnist"] == answers["lenet5.mnist_aug"] == "1"


def test_a_checkout_finds_its_larger_weights(tmp_path, monkeypatch):
    link = ROOT / "src" / "convzoo" / "weights" / "large"
    assert link.resolve() == ROOT / "weights" / "hub"
    make_folder(tmp_path / "weights" / "hub" / "lenet5.large", tag="large")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "large").symlink_to("../weights/hub")
    monkeypatch.setattr(package, "LARGE", tmp_path / "package" / "large")
    assert "lenet5.large" in convzoo.list_weights("lenet5.*")
    found = convzoo.create_model("lenet5.large", pretrained=True)
    assert found.weights.source == str(tmp_path / "package" / "large" / "lenet5.large")


def test_every_file_has_an_entry_and_every_entry_is_complete():
    entries, defaults = read_table()
    assert set(bundled_names()) <= set(entries)
    assert {f"{architecture}.{tag}" for architecture, tag in defaults.items()} <= set(entries)
    for name, info in entries.items():
        assert name == f"{info.architecture}.{info.tag}"
        assert info.repo_id == f"convzoo/{name}"
        assert len(info.sha256) == 64
        assert len(info.classes) == info.num_classes
        assert len(info.mean) == len(info.std) == info.in_chans
        assert info.metrics["n"] > 0
        assert 0 < info.metrics["top1"] <= 100
        assert info.license
        assert info.dataset_terms
        assert info.recipe
    assert sum(path.stat().st_size for path in BUNDLED.glob("*.safetensors")) < 16_000_000


@pytest.mark.parametrize("name", bundled_names())
def test_every_file_in_the_package_is_what_its_entry_says(name):
    info = convzoo.weight_info(name)
    path = BUNDLED / f"{name}.safetensors"
    assert (sha256_of(path), path.stat().st_size) == (info.sha256, info.size)
    assert "convzoo" in read_metadata(path)
    assert path.with_suffix(".json").is_file()
    tensors = read_tensors(path)
    assert {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()} == {getattr(torch, info.dtype)}
    model = convzoo.create_model(name, pretrained=True)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert sum(parameter.numel() for parameter in model.parameters()) == info.num_params
