"""Short calls of the public functions whose answers are always the same, whoever calls them, how often and wherever."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

import convzoo
from convzoo.__main__ import main

CLASSES = [f"chiffre {name}" for name in ("zéro", "un", "deux", "trois", "vier", "fünf", "шесть", "七", "eight", "٩")]


@functools.cache
def shared(name: str, *, pretrained: bool = True) -> Any:
    """A model that all callers share."""
    return convzoo.create_model(name, pretrained=pretrained).eval()


def images(count: int = 2, size: int = 28) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(images())


def load(place: Path) -> Any:
    return logits(convzoo.create_model("lenet5", pretrained=True))


def load_folder(place: Path) -> Any:
    """A folder with names that are not ASCII, written when it is first asked for."""
    folder = place / "weights"
    if not folder.exists():
        part = place / "weights.part"
        described = {"mean": 0.13, "std": 0.31, "classes": CLASSES, "dataset_terms": "frei für alle"}
        convzoo.save_pretrained(shared("lenet5"), part, tag="own", **described)
        part.rename(folder)
    loaded = convzoo.create_model("lenet5", pretrained=folder)
    return [loaded.weights.classes, loaded.weights.dataset_terms, logits(loaded)]


def load_into(place: Path) -> Any:
    return logits(convzoo.load_weights(convzoo.create_model("lenet5").eval(), shared("lenet5").state_dict()))


def draw_heat(place: Path) -> Any:
    result = convzoo.cam(shared("fcn_gap"), images(), 3)
    return [result.maps, result.logits]


def look_inside(place: Path) -> Any:
    return convzoo.feature_maps(shared("lenet5"), images())


def count(place: Path) -> Any:
    result = convzoo.profile(shared("mnist_resnet"), (1, 28, 28))
    return [result.macs, result.params]


def prepare(place: Path) -> Any:
    return shared("lenet5").preprocess(images(1, 40)[0])


def speed_up(place: Path) -> Any:
    return logits(convzoo.optimize_for_inference(shared("mnist_resnet")))


def list_all(place: Path) -> Any:
    names = [convzoo.list_models(), convzoo.list_weights()]
    return [*names, convzoo.weight_info("lenet5.mnist").classes, convzoo.model_info("resnet18").params]


def refuse(place: Path) -> Any:
    said = []
    for work in (
        lambda: convzoo.create_model("resnet81"),
        lambda: convzoo.create_model("lenet5", pretrained="no_such_tag"),
        lambda: convzoo.create_model("lenet5", num_classes=-1),
        lambda: convzoo.cam(shared("lenet5"), images().double()),
        lambda: convzoo.profile(shared("lenet5"), (3, 28, 28)),
    ):
        try:
            work()
        except (ValueError, TypeError, RuntimeError, convzoo.WeightsError) as error:
            said.append(f"{type(error).__name__}: {error}")
    assert_count = len(said)
    if assert_count != 5:  # not an assert: these go with -O
        raise RuntimeError(f"{said}: not all of it was refused")
    return said


QUICK = (load, load_folder, load_into, draw_heat, look_inside, count, prepare, speed_up, list_all, refuse)


def command(place: Path) -> Any:
    """What the command line says; it shares the process's standard output."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for words in ("info lenet5", "weights --info lenet5.mnist", "profile lenet5", "list lenet*"):
            main(words.split())
    return said.getvalue()


def digest(value: Any) -> str:
    """A fingerprint of nested answers, bit by bit."""
    if isinstance(value, Tensor):
        text = f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()}"
    elif isinstance(value, dict):
        text = "".join(f"{key}: {digest(part)}" for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        text = " ".join(map(digest, value))
    else:
        text = repr(value)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def answer(name: str, place: Path) -> str:
    """The fingerprint of one call's answer."""
    return digest(globals()[name](place))


def answers(place: Path, calls: Any = QUICK) -> dict[str, str]:
    """The fingerprints of all calls' answers; ``place`` is a folder to write to."""
    return {call.__name__: answer(call.__name__, place) for call in calls}


class Prepared(Dataset):
    """Pictures that workers of a data loader prepare with what a model's weights expect."""

    def __init__(self) -> None:
        self.transform = convzoo.weight_info("lenet5.mnist").transform

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        picture = torch.zeros(1, 30 + index, 30)
        picture[:, 6:24, 12:16] = 1
        return self.transform(picture)
