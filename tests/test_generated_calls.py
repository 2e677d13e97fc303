"""Calls of all the public functions that have no generator of their own, drawn at random, sensible and senseless.

Each ends in a result, or in an error that our own code raises in words: a TypeError, a ValueError or a WeightsError.
(``cam`` and ``feature_maps``, ``profile`` and ``summary``, pictures, and files of weights have their own generators.)
"""

import random
import shutil
import traceback
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.weight_folders import make_folder
from safetensors.torch import save_file
from torch import nn

import convzoo
from convzoo import WeightsError

NAN = float("nan")


class Rude:
    """Cannot be shown."""

    def __repr__(self):
        raise RuntimeError("no repr")


ODD = [
    None, True, False, 0, 1, -1, 10**30, 2.5, NAN, float("inf"), "", "x", "é\0", "x" * 5000, b"x", [], {}, (), [None],
    {"x": 1}, {1: 2}, object(), np.int64(2), np.float32(0.5), np.zeros((2, 2)), torch.zeros(()), torch.zeros(2, 3),
    torch.zeros(3, dtype=torch.int64), nn.ReLU(), nn.ReLU, torch.float32, range(3), Path("nowhere"), lambda: 3,
    2 + 3j, (1, 2), (28, 28), [[1]], "\ud800", Rude(),
]  # fmt: skip
IMAGES = [
    torch.zeros(2, 1, 28, 28), torch.zeros(1, 28, 28), torch.zeros(0, 1, 28, 28), torch.zeros(2, 3, 28, 28),
    torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.zeros(2, 1, 28, 28).half(), torch.zeros(2, 1, 28, 28).double(),
    torch.zeros(2, 1, 28, 28, dtype=torch.complex64), torch.zeros(2, 1, 28, 28, dtype=torch.bool),
    torch.zeros(2, 1, 28, 28, device="meta"), torch.zeros(2, 1, 28, 28).to_sparse(), torch.zeros(2, 1, 3, 3),
    torch.zeros(1, 1, 28, 28).to(torch.bfloat16), torch.full((1, 1, 28, 28), NAN), torch.zeros(1, 1, 0, 28),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("calls")
    folder = make_folder(place / "made")
    save_file(convzoo.create_model("lenet5").state_dict(), place / "bare.safetensors")
    torch.save(convzoo.create_model("lenet5").state_dict(), place / "pickle.pt")
    (place / "text.safetensors").write_text("no")
    assert folder.is_dir()
    return place


def networks():
    torch.manual_seed(0)
    wrapped = nn.DataParallel(convzoo.create_model("lenet5"))
    return {
        "lenet5": convzoo.create_model("lenet5", pretrained=True),
        "resnet": convzoo.create_model("resnet18", 4, 1, depths=(1, 1, 1, 1), stem="small", img_size=28).eval(),
        "attention": convzoo.create_model("t2t_vit_7", 5, 1, img_size=32, depth=1, embed_dim=32).eval(),
        "features": convzoo.create_model("lenet5", features_only=True),
        "wrapped": wrapped,
        "half": convzoo.create_model("lenet5").half(),
        "meta": convzoo.create_model("lenet5", device="meta"),
        "plain": nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(3)),
    }


def doors(place, found):
    """Each public function with the values that make sense for its arguments; the first ones cannot be left out."""
    models = [*found.values(), *list(found.values())[:2]]
    states = [convzoo.create_model("lenet5").state_dict(), {"model": found["lenet5"].state_dict()}, {"x": 3}]
    paths = [place / name for name in ("made", "bare.safetensors", "pickle.pt", "text.safetensors", "nothing")]
    sources = [*paths, *map(str, paths), "mnist", "hub:someone/net", "someone/net@v1", *states]
    names = ["lenet5", "mnist_net", "resnet18", "lenet5.mnist", "fcn_gap"]
    small = {"depths": [(1, 1, 1, 1), [1, 1, 1, 1]], "stem": ["small", "imagenet"], "width_per_group": [8]}
    making = {
        "num_classes": [0, 1, 7, np.int64(3)], "in_chans": [1, 3], "img_size": [28, (28, 32), [32, 32]],
        "features_only": [True], "out_indices": [(0,), [0, -1], (9,)], "device": ["cpu", "meta", torch.device("cpu")],
        "dtype": [torch.float16, torch.float64], "token": [False], "revision": ["main"], "cache_dir": [str(place)],
        "mmap": [False], "local_files_only": [True], "verify": [True],
    }  # fmt: skip
    saving = {
        "tag": ["mine"], "classes": [[f"c{number}" for number in range(10)], {"n1": "one"}], "mean": [0.5, [0.5]],
        "std": [0.5, (0.25,)], "interpolation": ["bicubic"], "crop_pct": [0.9], "crop_mode": ["squash"],
        "metrics": [{"top1": 99, "n": 100}, {"top1": 150}, {"n": -1}], "dataset": [{"id": "x/y"}],
        "recipe": [{"epochs": np.int64(3)}], "license": ["mit"], "dataset_terms": ["none"],
        "dtype": ["float16", "float32"], "repo_id": ["someone/net"],
    }  # fmt: skip
    return {
        "create_model": (convzoo.create_model, {"name": names}, making),
        "create_model with options": (convzoo.create_model, {"name": ["resnet18"]}, {**small, "num_classes": [2]}),
        "create_model with weights": (
            lambda **given: convzoo.create_model(**{"local_files_only": True, **given}),
            {"name": names, "pretrained": sources},
            making,
        ),
        "model_info": (convzoo.model_info, {"name": names}, {}),
        "list_models": (
            convzoo.list_models,
            {},
            {
                "pattern": ["*", "res*"],
                "family": ["ResNet"],
                "pretrained": [True],
                "max_params": [1e6],
                "max_macs": [1e9],
            },
        ),
        "list_weights": (convzoo.list_weights, {}, {"pattern": ["*", "*.mnist"]}),
        "weight_info": (convzoo.weight_info, {"name": ["lenet5.mnist"]}, {}),
        "transform": (
            convzoo.transform,
            {"img_size": [28, (28, 28)], "mean": [0.5, (0.5,)], "std": [0.5, [0.2]]},
            {key: saving[key] for key in ("interpolation", "crop_pct", "crop_mode")} | {"preparation": ["mnist"]},
        ),
        "compare": (
            convzoo.compare,
            {"models": ["lenet5", ["lenet5", "fcn_gap"]]},
            {"input_size": [28, (1, 28, 28)], "num_classes": [3], "options": [{}]},
        ),
        "freeze": (convzoo.freeze, {"model": models}, {"until": ["conv1", "layer2", "stage1"]}),
        "unfreeze": (convzoo.unfreeze, {"model": models}, {}),
        "parameter_groups": (
            convzoo.parameter_groups,
            {"model": models, "lr": [0.1, 1]},
            {"layer_decay": [0.5], "weight_decay": [0.01]},
        ),
        "cam_layers": (convzoo.cam_layers, {"model": models}, {}),
        "optimize_for_inference": (
            convzoo.optimize_for_inference,
            {"model": models},
            {"example": IMAGES, "memory_format": ["contiguous", "channels_last"], "dtype": [torch.bfloat16]},
        ),
        "load_weights": (
            convzoo.load_weights,
            {"model": [convzoo.create_model("lenet5"), *models[-3:]], "source": sources},
            {"layout": ["convzoo", "timm"], "head": [False], "mmap": [False]}
            | {"unsafe_format": [True], "verify": [True]},
        ),
        "save_pretrained": (convzoo.save_pretrained, {"model": models, "folder": [place / "saved"]}, saving),
        "forward": (found["lenet5"].__call__, {"x": IMAGES}, {}),
        "forward of a resnet": (found["resnet"].__call__, {"x": IMAGES}, {}),
        "forward of features": (found["features"].__call__, {"x": IMAGES}, {}),
        "probabilities": (found["lenet5"].probabilities, {"logits": [torch.zeros(2, 10)]}, {}),
        "reset_classifier": (
            lambda **given: convzoo.create_model("lenet5").reset_classifier(**given),
            {"num_classes": [0, 5]},
            {},
        ),
    }


def some_call(draw, found):
    name = draw.choice([*found])
    function, needed, more = found[name]
    given = {key: draw.choice(values) for key, values in needed.items()}
    given |= {key: draw.choice(values) for key, values in more.items() if draw.random() < 2 / (2 + len(more))}
    for key in [*needed, *more]:
        if draw.random() < 0.8 / (1 + len(given)):
            given[key] = draw.choice(ODD)
    return name, function, given


def is_in_words(error):
    """Whether our own code raised it, and not by accident."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = "convzoo" in last.filename and last.line.startswith("raise")
    return ours and isinstance(error, (TypeError, ValueError, OSError, WeightsError)) and 10 < len(str(error)) < 2000


def run(seed, calls, place):
    draw, found = random.Random(seed), networks()
    every, wrong, ended = doors(place, found), [], Counter()
    for number in range(calls):
        name, function, given = some_call(draw, every)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function(**given)
            ended["well"] += 1
        except Exception as error:
            ended["in words"] += 1
            if not is_in_words(error):
                shown = {
                    key: value if type(value) in (str, int, float, tuple) else type(value)
                    for key, value in given.items()
                }
                where = traceback.extract_tb(error.__traceback__)[-1]
                said = f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
                wrong.append(f"seed {seed}, call {number}: {name} {str(shown)[:300]}: {said}")
        if (place / "saved").exists():
            shutil.rmtree(place / "saved")
    assert wrong == [], f"{len(wrong)} of {calls}:\n" + "\n".join(wrong[:40])
    return ended


@pytest.fixture(autouse=True)
def _nobody_is_asked(hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_a_few_calls(place):
    ended = run(0, 500, place)
    assert min(ended["well"], ended["in words"]) > 100


@pytest.mark.slow
def test_many_calls(place):
    for seed in range(1, 21):
        run(seed, 1000, place)
