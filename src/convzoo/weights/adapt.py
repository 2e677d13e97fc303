"""Weights changed to the model that was asked for: other classes, other channels, another image size; or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Classifier
from ..models._init import build_empty
from ..registry import build
from .entries import WeightInfo, describe_head
from .errors import WeightsMismatch
from .fit import Reason, check_match, differences, put_in, shape_of
from .layouts import State


@dataclass(frozen=True)
class Wanted:
    """What the caller asked for; None leaves the weights' own."""

    num_classes: int | None = None
    in_chans: int | None = None
    img_size: tuple[int, int] | None = None


def first_convolution(model: Classifier) -> str | None:
    """Path of the convolution that reads the image, if that is what the model begins with."""
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            reads = isinstance(module, nn.Conv2d) and module.groups == 1 and module.in_channels == model.in_chans
            return name if reads else None
    return None


def fold_chans(weight: Tensor, chans: int) -> Tensor:
    """A convolution weight (O, C, h, w) made to read ``chans`` channels.

    Channel j of the result takes from the channels that agree with it modulo the smaller count, so that the sum over
    channels stays: a grey image, in as many channels as each reads, gives the same maps.
    """
    have = weight.shape[1]
    if chans <= have:
        return torch.stack([weight[:, channel::chans].sum(1) for channel in range(chans)], 1)
    copies = [len(range(channel, chans, have)) for channel in range(have)]
    return torch.stack([weight[:, channel % have] / copies[channel % have] for channel in range(chans)], 1)


def read_off(model: Classifier, state: State, own: State) -> Classifier:
    """An empty model like ``model``, which has the state dict ``own``, for the classes and channels of the tensors.

    Which tensors they decide, and where in their shapes, is seen from two builds that differ in nothing else.
    """
    if not any(differences(own, state)):
        return model
    config = model.config
    for field in ("num_classes", "in_chans"):
        have = max(1, getattr(config, field))
        base, more = (build_empty(replace(config, **{field: count})).state_dict() for count in (have, have + 1))
        changed = list(_changed(base, more))
        for key, place in changed:
            shape = state[key].shape if key in state else ()
            each = more[key].shape[place] - base[key].shape[place]  # numbers per class or channel
            if len(shape) == base[key].ndim and shape[place] and shape[place] % each == 0:
                config = replace(config, **{field: shape[place] // each})
                break
        else:
            if field == "num_classes" and not any(key in state for key, _ in changed):
                config = replace(config, num_classes=0)
    return build_empty(config)


def _changed(own: State, other: State) -> Iterator[tuple[str, int]]:
    """The keys whose shapes differ in one place, and the place."""
    for key, tensor in own.items():
        places = [at for at, (a, b) in enumerate(zip(tensor.shape, other[key].shape, strict=True)) if a != b]
        if len(places) == 1:
            yield key, places[0]


def head_keys(model: Classifier) -> set[str]:
    """The tensors whose shapes depend on the number of classes, and all others of the last layer."""
    have = max(1, model.num_classes)
    one, other = (build_empty(replace(model.config, num_classes=count)).state_dict() for count in (have, have + 1))
    last = f"{model.classifier_name}."
    return {key for key, _ in _changed(one, other)} | {key for key in model.state_dict() if key.startswith(last)}


def fit_chans(model: Classifier, state: State, chans: int, what: str) -> str:
    """Fold or spread the first convolution, for ``chans`` channels, to the model's, in place; says so."""
    path = first_convolution(model)
    if path is None or f"{path}.weight" not in state:
        raise WeightsMismatch(
            f"{what} are for {chans} channels, and {model.config.name} begins with no "
            f"convolution that could be folded to {model.in_chans}; convert the images to {chans} channels"
        )
    key = f"{path}.weight"
    state[key] = fold_chans(state[key].float(), model.in_chans)
    return f"{path} folded from {chans} to {model.in_chans} channels"


def _spread_channels(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    """Of each channel, for another count: the mean of those that were folded into one, or a repetition."""
    if count >= len(values):
        return tuple(values[channel % len(values)] for channel in range(count))
    groups = [values[channel::count] for channel in range(count)]
    return tuple(sum(group) / len(group) for group in groups)


def check_size(model: Classifier, state: State, size: tuple[int, int], what: str) -> None:
    """Refuse a net whose layers depend on the image size, and whose weights are for another ``size``."""
    (height, width), own = model.img_size, model.state_dict(keep_vars=True)
    first = f"{first_convolution(model)}.weight"
    learned = [key for key in differences(own, state)[2] if own[key].requires_grad and key != first]
    if learned:
        raise WeightsMismatch(
            f"{what} are for {size[0]}x{size[1]} images: {model.config.name} "
            f"reads its flattened maps, and at {height}x{width} {learned[0]} would be {shape_of(own[learned[0]])} "
            f"instead of {shape_of(state[learned[0]])}; resize the images (model.preprocess does), or train anew"
        )
    pooling = getattr(model, "avgpool", None)
    if isinstance(pooling, nn.AdaptiveAvgPool2d) and pooling.output_size not in (1, (1, 1)):
        raise WeightsMismatch(
            f"{what} are for {size[0]}x{size[1]} images: {model.config.name} has "
            f"weights for each cell of its last maps, and at {height}x{width} the cells show other parts of the image; "
            "resize the images (model.preprocess does), or train anew"
        )


def fit_tables(model: Classifier, state: State) -> list[str]:
    """Compute the tables that depend on the image size and are never trained, in place; says so."""
    own = model.state_dict(keep_vars=True)
    other = [key for key in differences(own, state)[2] if not own[key].requires_grad]
    if not other:
        return []
    with torch.device("cpu"):
        computed = build(model.config).state_dict()
    state.update({key: computed[key] for key in other})
    return [f"{', '.join(other)} made for {model.img_size[0]}x{model.img_size[1]}"]


def load_fitted(
    native: Classifier,
    state: State,
    wanted: Wanted,
    info: WeightInfo | None,
    what: str,
    native_state: State,
    *,
    copy: bool = False,
    reason: Callable[[], Reason] = Reason,
) -> Classifier:
    """``native``, an empty model of the weights' own shape, with the weights, changed to what is wanted.

    ``native_state`` is its state dict. ``info`` is what is known of the weights; without it, a warning says what was
    changed. ``reason()`` says why ``native`` is what it is.

    Raises:
        WeightsMismatch: they cannot be made to fit.
    """
    own = native.config
    asked: dict[str, Any] = {"in_chans": wanted.in_chans, "img_size": wanted.img_size}
    changes = {field: value for field, value in asked.items() if value is not None}
    config = replace(own, **changes) if changes else own
    model, adapted = native, []
    if config != own:
        if info and any(differences(native_state, state)):
            check_match(own.name, native_state, state, what, reason)
        model = build_empty(config)
    if config.in_chans != own.in_chans:
        adapted.append(fit_chans(model, state, own.in_chans, what))
    if info and model.img_size != info.img_size:
        check_size(model, state, info.img_size, what)
        (height, width), trained = model.img_size, "x".join(map(str, info.img_size))
        adapted.append(f"images of {height}x{width}, trained on {trained}")
    own_state = native_state if model is native else model.state_dict()
    if (not info or model.img_size != info.img_size) and differences(own_state, state)[2]:
        adapted += fit_tables(model, state)
    put_in(model, state, what, own=own_state, copy=copy, reason=reason)
    if info:
        chans = model.in_chans
        info = replace(
            info,
            in_chans=chans,
            img_size=model.img_size,
            mean=_spread_channels(info.mean, chans),
            std=_spread_channels(info.std, chans),
            adapted=(*info.adapted, *adapted),
            metrics={} if adapted else info.metrics,
        )
    if wanted.num_classes is not None and wanted.num_classes != own.num_classes:
        model.reset_classifier(wanted.num_classes)
        adapted.append(describe_head(wanted.num_classes, own.num_classes))
        info = info and info.with_other_head(wanted.num_classes)
    if adapted and not info:
        warnings.warn(f"{what} were changed to fit: {'; '.join(adapted)}", stacklevel=2)
    model.weights = info
    return model.eval()
