"""Calls of ``profile``, ``summary`` and what they return, made up by a seeded generator, sensible and senseless.

Each ends in a result, in a ``TypeError`` or ``ValueError`` in words, or in the very error that the module's own code
raises when it is run on such tensors for real.
"""

import functools
import random
import traceback
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.modules import Fn, weight
from torch import nn

import convzoo
from convzoo.profiling import operators, register_formula

NAN = float("nan")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecated
    QUANTIZED = torch.quantize_per_tensor(torch.zeros(1, 3, 8, 8), 0.1, 0, torch.quint8)


def models():
    torch.manual_seed(0)
    small = {"depths": (1, 1, 1, 1), "stem": "small"}
    replaced = convzoo.create_model("lenet5")
    replaced.fc3 = nn.Linear(84, 3)
    return {
        "lenet5": convzoo.create_model("lenet5"),
        "resnet": convzoo.create_model("resnet18", 5, **small).train(),
        "half": convzoo.create_model("resnet18", 5, **small).half(),
        "attention": convzoo.create_model("t2t_vit_7", 5, img_size=32, depth=2, embed_dim=32),
        "replaced head": replaced,
        "parallel": nn.DataParallel(convzoo.create_model("fcn_gap")),
        "convolution": nn.Conv2d(3, 4, 3),
        "layers": nn.Sequential(nn.Flatten(), nn.Linear(48, 5)),
        "two inputs": Fn(lambda self, x, y, flag=False: x @ self.w + y if flag else x, w=weight(8, 8)),
        "by value": Fn(lambda self, x: x[x > 0]),
        "wrong": Fn(lambda self, x: x.no_such_attribute),
        "returns nothing": Fn(lambda self, x: None),
        "no forward": nn.Module(),
        "lazy": nn.LazyLinear(3),
    }


FITTING = {
    "lenet5": (1, 28, 28), "resnet": 32, "half": "3x32x32", "attention": None, "replaced head": (4, 1, 28, 28),
    "parallel": None, "convolution": torch.zeros(2, 3, 9, 9), "layers": (3, 4, 4),
    "two inputs": {"x": torch.zeros(4, 8), "y": torch.zeros(4, 8), "flag": True},
}  # fmt: skip
NOT_MODELS = [None, "resnet18", 3, nn.Conv2d, torch.zeros(3), [nn.ReLU()], lambda x: x, {}]
SIZES = [
    None, 28, 32, 64, "28", "3x32x32", "3 x 32 x 32", "32x32", "1,28,28", (1, 28, 28), (3, 32, 32), (3, 4, 4),
    [3, 8, 8], (2, 3, 32, 32), (32, 32), (8,), torch.Size([3, 16, 16]), tuple(np.array([3, 16, 16])), np.int64(28),
    np.array([3, 16, 16]), (), [], {}, "", "x", "3x", "3x-4x4", "9" * 5000, b"28", 0, -3, (3, 0, 8), (3, -1, 8), 2.5,
    NAN, (3, 8.0, 8), (3, NAN, 8), (True, 8, 8), True, (None,), (3, None, 8), 10**30, (3, 10**20, 10**20),
    (2**62, 2, 2), (1, 2, 3, 4, 5, 6), {"x": 3}, {3: torch.zeros(1, 8)}, object(), nn.ReLU(), range(3),
    iter([3, 8, 8]), "3\u00d78\u00d78",
]  # fmt: skip
TENSORS = [
    QUANTIZED,
    torch.zeros(2, 3, 32, 32), torch.zeros(3, 32, 32), torch.zeros(()), torch.zeros(0, 3, 8, 8),
    torch.zeros(2, 1, 28, 28),
    torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 3, 8, 8, dtype=torch.float64),
    torch.zeros(2, 3, 8, 8, dtype=torch.complex64), torch.zeros(2, 3, 8, 8, dtype=torch.bool),
    torch.zeros(2, 3, 8, 8, device="meta"), torch.zeros(4, 8), torch.zeros(4, 8).to_sparse(),
    torch.zeros(1, 3, 8, 8).half(),
    torch.full((1, 3, 8, 8), NAN), torch.zeros(2, 3, 8, 8).expand(2, 3, 8, 8),
    torch.zeros(8, 8, 3, 2).permute(3, 2, 0, 1),
    nn.Parameter(torch.zeros(1, 3, 8, 8)),
]  # fmt: skip
ODD = [None, True, -1, 0, 1, 2, 10**30, 1.5, NAN, "x", b"", [], {}, object(), np.int64(2), torch.zeros(()), nn.ReLU]


@functools.cache
def tensors():
    """Those above and a nested one, whose code torch takes half a second to import."""
    return [*TENSORS, torch.nested.nested_tensor([torch.zeros(3, 8, 8)] * 2, layout=torch.jagged)]


def some_input(draw):
    kind = draw.random()
    if kind < 0.5:
        return draw.choice(SIZES)
    if kind < 0.75:
        return draw.choice(tensors())
    parts = [draw.choice([*tensors(), *ODD]) for _ in range(draw.randint(0, 3))]
    return draw.choice([
        tuple(parts), parts, {"x": parts}, dict(zip(("x", "y", "flag"), parts, strict=False)), (parts, {"y": parts}),
    ])  # fmt: skip


def some_options(draw):
    options = {}
    if draw.random() < 0.2:
        options["dtype"] = draw.choice([torch.float16, torch.int8, torch.quint8, torch.bool, "half", *ODD])
    if draw.random() < 0.3:
        options["batch_dim"] = draw.choice([0, 1, 2, *ODD])
    if draw.random() < 0.2:
        options["counter"] = draw.choice(["convzoo", "thop", "fvcore", *ODD])
    return options


def some_call(draw, found):
    """The model of a call, and the call."""
    name = draw.choice([*found])
    model = found[name] if draw.random() < 0.95 else draw.choice(NOT_MODELS)
    given = FITTING.get(name) if draw.random() < 0.6 else some_input(draw)
    options = some_options(draw) if draw.random() < 0.5 else {}
    what = draw.choice(["profile", "profile", "profile", "summary", "result", "formula"])
    odd, option = draw.choice(ODD), draw.choice(["depth", "col_names", "col_width", "row_settings", "verbose"])
    value = draw.choice([1, 3, ("num_params",), ("depth",), ["nope"], (3,), odd])
    look = draw.choice([
        lambda result: result.check("thop" if odd is None else odd),
        lambda result: result.tree(odd),
        lambda result: result.to_markdown(odd),
        lambda result: result.to_csv(odd),
        lambda result: result.table(odd).to_dict(),
        lambda result: result._repr_html_(),
        lambda result: result.to_dict(),
    ])  # fmt: skip

    def call():
        if what == "formula":
            register_formula(odd if draw.random() < 0.5 else "aten::mm")
        elif what == "summary":
            options.pop("counter", None)
            str(convzoo.summary(model, given, **{option: value}, **options))
        else:
            result = convzoo.profile(model, given, **options)
            assert result.macs == sum(layer.own_macs for layer in result.layers)
            if what == "result":
                look(result)

    return model, call


def is_in_words(error):
    """Whether our own code raised it, and not by accident."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, (TypeError, ValueError)) and "convzoo" in last.filename and last.line.startswith("raise")


def raised_by_the_model(error):
    """Whether the code of the module, or of a layer of torch in it, raised it: then a note says which."""
    return any("raised in" in note for note in getattr(error, "__notes__", []))


def versions(found):
    """Of every tensor of every model, how often it was written to."""
    return {
        (name, key): tensor._version
        for name, model in found.items() if name != "lazy"
        for key, tensor in model.state_dict(keep_vars=True).items()
    }  # fmt: skip


def run(seed, calls):
    draw, found = random.Random(seed), models()
    before, ended = versions(found), Counter()
    for number in range(calls):
        model, call = some_call(draw, found)
        zoo = isinstance(model, convzoo.Classifier)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call()
            ended["well"] += 1
        except Exception as error:
            if is_in_words(error):
                ended["in words"] += 1
            elif raised_by_the_model(error) and not zoo:
                ended["in the model"] += 1
            else:
                pytest.fail(f"seed {seed}, call {number}: {type(error).__name__}: {error}")
    operators.CUSTOM.clear()
    assert versions(found) == before
    return ended


def test_a_few_calls():
    ended = run(0, 400)
    assert set(ended) == {"well", "in words", "in the model"}
    assert min(ended.values()) > 10


@pytest.mark.slow
def test_many_calls():
    for seed in range(1, 21):
        run(seed, 1000)
