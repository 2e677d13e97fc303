"""The config of a model: its own fields are checked and protected, a trainer's are welcome."""

import copy
import dataclasses
import json
import pickle
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
from torch import nn

import convzoo
from convzoo import registry
from convzoo.models import ModelConfig
from convzoo.models._config import Rate


def build(name="resnet18", **options):
    with torch.device("meta"):
        return convzoo.create_model(name, **options)


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "t2t_vit_7", "lenet5", "googlenet", "cnn_bn"])
def test_a_trainer_may_write(name):
    """What transformers' Trainer and its loggers do to ``model.config``."""
    model = build(name, num_classes=2)
    model.config.use_cache = False
    assert json.loads(model.config.to_json_string())["use_cache"] is False
    told = model.config.to_dict()
    assert told == {"num_classes": 2, "name": name, "use_cache": False} | told
    assert set(told) == {field.name for field in dataclasses.fields(model.config)} | {"use_cache"}
    told["name"] = "changed"
    assert model.config.name == name
    assert not hasattr(model.config, "is_encoder_decoder")
    del model.config.use_cache
    assert "use_cache" not in model.config.to_dict()


def test_it_stays_with_this_model():
    model, config = build(), registry.find_entry("resnet18").config
    model.config.use_cache = True
    assert not hasattr(config, "use_cache")
    assert not hasattr(build().config, "use_cache")
    assert not hasattr(registry.build(config).config, "use_cache")
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same.config.use_cache
    model.fc = nn.Linear(512, 3)
    assert (model.config.num_classes, model.config.use_cache) == (3, True)


def test_the_architecture_is_protected():
    config = build().config
    for name in ("num_classes", "name", "depths", "img_size"):
        with pytest.raises(dataclasses.FrozenInstanceError, match=f"{name} of resnet18 is part of the architecture"):
            setattr(config, name, 3)
        with pytest.raises(dataclasses.FrozenInstanceError, match="create_model"):
            delattr(config, name)


def test_what_json_has_no_word_for():
    config = build().config
    config.dtype = torch.float16
    assert json.loads(config.to_json_string())["dtype"] == "torch.float16"


def check_even(what, value):
    if value % 2:
        raise ValueError(f"{what} must be even, got {value}; pass an even number")
    return value


@dataclass(kw_only=True)
class AnyConfig(ModelConfig):
    name: str = "any"
    width: float = 1.5
    rate: Rate = 0.0
    depth: int = 1
    deep: bool = False
    word: str = ""
    kind: Literal["a", 2] = "a"
    sizes: tuple[int, ...] = (1,)
    even: Annotated[int, check_even] = 2


def test_numbers_become_python_numbers():
    config = AnyConfig(
        num_classes=np.int64(3), in_chans=np.uint8(1), img_size=np.array([28, 30]).tolist(), width=np.float32(0.5),
        rate=np.float64(0.25), depth=np.int32(2), deep=np.bool_(True), word=np.str_("x"), kind="a",
        sizes=[np.int64(1), 2],
    )  # fmt: skip
    assert config.to_dict() == {
        "name": "any", "num_classes": 3, "in_chans": 1, "img_size": (28, 30), "width": 0.5, "rate": 0.25, "depth": 2,
        "deep": True, "word": "x", "kind": "a", "sizes": (1, 2), "even": 2,
    }  # fmt: skip
    assert {type(value) for value in config.to_dict().values()} == {str, int, tuple, float, bool}
    json.dumps(config.to_dict())


@pytest.mark.parametrize(("field", "value", "error"), [
    ("num_classes", 10.0, TypeError), ("num_classes", -1, ValueError), ("width", "1", TypeError),
    ("width", float("nan"), ValueError), ("rate", 1.0, ValueError), ("rate", True, TypeError), ("depth", 0, ValueError),
    ("deep", 1, TypeError), ("word", b"x", TypeError), ("kind", "b", ValueError), ("kind", np.zeros(2), ValueError),
    ("sizes", 3, TypeError), ("sizes", (1, 2.0), TypeError), ("even", 3, ValueError),
])  # fmt: skip
def test_what_it_refuses(field, value, error):
    with pytest.raises(error, match=f"{field}.* must "):
        AnyConfig(**{field: value})
    with pytest.raises(error, match=f"{field}.* must "):
        AnyConfig().changed(**{field: value})


def test_a_float_is_not_a_rate():
    assert AnyConfig(width=-3).width == -3.0
