"""Calls of ``cam`` and ``feature_maps`` that a seeded generator makes up, sensible and senseless arguments mixed.

Each ends in a right answer, or in a ``TypeError`` or ``ValueError`` that this package raises in words; and leaves the
model as it was.
"""

from __future__ import annotations

import random
import traceback
import warnings

import numpy as np
import pytest
import torch
from helpers.cam_nets import UserNet
from torch import nn

import convzoo
from convzoo.explain import METHODS

INF, NAN = float("inf"), float("nan")


class Tokens(nn.Module):
    """A small transformer of the user's own: patches, a class token, one block."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.block(torch.cat([self.token.expand(len(x), -1, -1), x], 1)).mean(1))


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    small = {"depths": (1, 1, 1, 1), "stem": "small"}
    found = {
        "pooled": convzoo.create_model("resnet18", 5, **small),
        "normed": convzoo.create_model("fcn_gap", 10),
        "flat": convzoo.create_model("lenet5", 10),
        "attention": convzoo.create_model("t2t_vit_7", 5, img_size=32, depth=2, embed_dim=32),
        "one logit": convzoo.create_model("resnet18", 1, **small),
        "half": convzoo.create_model("lenet5", 10).to(torch.bfloat16),
        "double": convzoo.create_model("resnet18", 5, **small).double(),
        "no head": convzoo.create_model("resnet18", 0, **small),
        "own": UserNet(),
        "tokens": Tokens(),
        "not a number": UserNet(),
    }
    found["not a number"].head.bias.data.fill_(NAN)
    for name, model in found.items():
        model.train(name == "normed")
    return found


def good_images(model: nn.Module, count: int, generator: torch.Generator) -> torch.Tensor:
    chans = getattr(model, "in_chans", 3)
    side = 28 if chans == 1 else 32
    dtype = next(model.parameters()).dtype
    return torch.rand(count, chans, side, side, generator=generator).to(dtype)


def odd_images(images: torch.Tensor, pick: random.Random) -> object:
    broken = images.clone()
    broken.flatten()[pick.randrange(images.numel())] = pick.choice((NAN, INF, -INF))
    return pick.choice(
        (
            lambda: (255 * images).to(torch.uint8),
            images.half,
            images.bfloat16,
            images.double,
            images.float,
            images.long,
            lambda: images > 0.5,
            lambda: images.to(torch.complex64),
            lambda: torch.quantize_per_tensor(images.float(), 0.1, 0, torch.quint8),
            images.to_sparse,
            lambda: torch.nested.nested_tensor(list(images)),
            lambda: images.to("meta"),
            lambda: images[:0],
            lambda: images[:, :, :0],
            lambda: images[0],
            lambda: images[None],
            lambda: images[:, :1].repeat(1, 2, 1, 1),
            lambda: images.transpose(1, 3),
            lambda: images[..., :7],
            lambda: images[..., :1, :1],
            lambda: broken,
            lambda: images.float().numpy(),
            lambda: list(images),
            lambda: None,
            lambda: "images",
            lambda: torch.tensor(1.0),
            lambda: images.to_mkldnn() if images.dtype == torch.float32 else None,
        )
    )()


def a_target(count: int, classes: int, pick: random.Random) -> object:
    inside = [pick.randrange(classes) for _ in range(count)]
    return pick.choice(
        (
            None, None, 0, classes - 1, "all", ("top", 1), ("top", min(2, classes)), inside, [[c, 0] for c in inside],
            torch.tensor(inside), np.array(inside), np.int64(inside[0]), tuple(inside), ("top", np.int64(1)),
            lambda logits: logits[:, 0], lambda logits: logits.square().sum(1, keepdim=True),
        )
    )  # fmt: skip


def odd_target(count: int, classes: int, pick: random.Random) -> object:
    whole = torch.zeros(count, dtype=torch.int64)
    return pick.choice(
        (
            -1, classes, 10**30, 1.5, True, "every", "", b"all", object(), {}, {"a": 1}, {1, 2}, [], [[]], [None],
            [0.5] * count, ["a"] * count, [[0], [0, 1]], [0] * (count + 1), range(count + 2), NAN, 1j, nn.Identity,
            whole.float(), whole[:, None, None], whole.to("meta"), whole.to(torch.complex64), whole.bool(),
            whole.to_sparse(), np.zeros(count), np.array(["x"] * count), np.array([object()] * count),
            ("top", 0), ("top", -3), ("top", classes + 3), ("top", 1.0), ("top", True), ("top", None), ("top",),
            ("bottom", 2), lambda logits: 3, lambda logits: logits.detach(), lambda logits: logits[0],
            lambda logits: logits.argmax(1), lambda logits: logits[:0], lambda logits: torch.zeros(len(logits)),
            lambda logits: logits.sum(),
        )
    )  # fmt: skip


def a_layer(model: nn.Module, pick: random.Random) -> object:
    names = [name for name, _ in model.named_modules() if name]
    modules = list(model.modules())
    likely = [path for group in convzoo.cam_layers(model).values() for path in group]
    return pick.choice(
        (
            None, None, None, pick.choice(likely), pick.choice(likely), pick.choice(names), pick.choice(modules),
            likely[:2], pick.sample(names, 2), tuple(names[:1]),
        )
    )  # fmt: skip


def odd_layer(model: nn.Module, pick: random.Random) -> object:
    names = [name for name, _ in model.named_modules() if name]
    return pick.choice(
        (
            "", "nowhere", ".", "..", names[0] + ".", "." + names[0], "weight", 3, 0, b"fc", True, object(), nn.ReLU(),
            nn.ReLU, [], [[]], [None], [names[0], names[0]], {"a": 1}, lambda: None, "x" * 100_000, torch.zeros(2),
            np.array(["fc"]), next(model.parameters()), model,
        )
    )  # fmt: skip


GOOD_METHODS = (*METHODS, "auto", "auto", "hires_cam")
ODD_METHODS = (
    "", "score_cam", "CAM", 3, None, True, object(), ["cam"], ("cam",), {}, b"cam", np.array(["cam"]), torch.zeros(2),
    lambda activations, gradients: activations, lambda activations, gradients: None,
)  # fmt: skip
ODD_MODELS = (None, "resnet18", 3, torch.zeros(2), nn.Conv2d, object(), [nn.Conv2d(3, 4, 3)], convzoo)
ODD_SMOOTH = (-1, 1.5, True, "2", None, [1], NAN)
ODD_RESHAPE = (3, "flatten", torch.zeros(2), lambda y: None, lambda y: y.flatten(1), lambda y: y.sum(), lambda y: y[:0])


def make_call(name: str, model: nn.Module, pick: random.Random, generator: torch.Generator) -> tuple:
    """A call's model, images and arguments: most of them sensible, each odd now and then."""

    def odd(chance: float) -> bool:
        return pick.random() < chance

    count = pick.choice((1, 2, 3))
    images: object = good_images(model, count, generator)
    options: dict[str, object] = {}
    classes = {"own": 10, "not a number": 10, "tokens": 4, "one logit": 2}.get(name) or model.num_classes or 5
    if odd(0.2):
        images = odd_images(images, pick)
    target = odd_target(count, classes, pick) if odd(0.2) else a_target(count, classes, pick)
    if odd(0.6):
        options["method"] = pick.choice(ODD_METHODS if odd(0.2) else GOOD_METHODS)
    if odd(0.6) or name in ("own", "tokens"):
        options["layer"] = odd_layer(model, pick) if odd(0.2) else a_layer(model, pick)
    if odd(0.1):
        options["smooth"] = pick.choice(ODD_SMOOTH) if odd(0.5) else 2
    if odd(0.05):
        options["reshape"] = pick.choice(ODD_RESHAPE) if odd(0.6) else lambda y: y.reshape(len(y), -1, 1, 2)
    return (pick.choice(ODD_MODELS) if odd(0.02) else model), images, target, options


def check_result(r: convzoo.CAM, images: torch.Tensor, classes: int) -> None:
    assert r.maps.ndim == 4
    assert len(r.maps) == len(images)
    assert r.maps.isfinite().all()
    assert r.maps.dtype in (torch.float32, torch.float64)
    assert r.logits.isfinite().all()
    assert not r.maps.requires_grad
    assert not r.logits.requires_grad
    if r.target is not None:
        assert r.target.shape == r.maps.shape[:2]
        assert r.target.min() >= 0
        assert r.target.max() < classes
    if r.bias is not None:  # complete: the maps' mean and the bias are the scores
        scores = r.logits if r.logits.shape[1] > 1 else torch.cat([-r.logits, r.logits], 1)
        chosen = scores.gather(1, r.target).to(r.maps.dtype)
        assert torch.allclose(r.maps.mean((2, 3)) + r.bias, chosen, atol=1e-3 * float(scores.abs().max() + 1))
    heat = r.heatmap()
    assert heat.shape == (*r.maps.shape[:2], *images.shape[2:])
    assert heat.min() >= 0
    assert heat.max() <= 1


def fingerprint(model: nn.Module) -> list[object]:
    """Flags, hooks and values of a model."""
    flags = [(module.training, len(module._forward_hooks)) for module in model.modules()]
    return [*flags, *(float(value.double().nansum()) for value in model.state_dict().values())]


def in_words(error: Exception) -> bool:
    """Whether the package raised ``error`` itself, with a message that says what is wrong and what to do."""
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, (TypeError, ValueError)) and "/convzoo/" in place and len(str(error)) > 30


def run_calls(count: int, seed: int) -> dict[str, int]:
    pick, generator, zoo = random.Random(seed), torch.Generator().manual_seed(seed), models()
    before = {name: fingerprint(model) for name, model in zoo.items()}
    ends: dict[str, int] = {}
    wrong: list[str] = []
    for number in range(count):
        name = pick.choice(list(zoo))
        model, images, target, options = make_call(name, zoo[name], pick, generator)
        maps_only = pick.random() < 0.2
        try:
            if maps_only:
                layers = options.get("layer")
                found = convzoo.feature_maps(model, images, layers)
                assert all(value.shape[:1] and not value.requires_grad for value in found.values())
            else:
                r = convzoo.cam(model, images, target, **options)
                check_result(r, images, 2 if r.logits.shape[1] == 1 else r.logits.shape[1])
            end = "answered"
        except Exception as error:
            end = type(error).__name__
            if not in_words(error):
                wrong.append(f"{number}: {name} {options} {str(target)[:60]}: {end} {str(error)[:200]}")
        ends[end] = ends.get(end, 0) + 1
    assert wrong == [], f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:20])
    assert {name: fingerprint(model) for name, model in zoo.items()} == before
    return ends


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_calls():
    ends = run_calls(300, 0)
    assert ends["answered"] >= 60
    assert ends["ValueError"] >= 40
    assert ends["TypeError"] >= 40


@pytest.mark.slow
def test_many_calls():
    run_calls(5_000, 1)
