"""Weights fitted to the model that was asked for: other classes, other channels, another image size; or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..models import Classifier, ModelConfig
from ..models._init import without_numbers
from ..registry import build
from .entries import WeightInfo
from .errors import WeightsMismatch
from .layouts import State, convert

SHOWN = 3  # keys named in an error


@dataclass(frozen=True)
class Wanted:
    """What the caller asked for; None leaves the weights' own."""

    num_classes: int | None = None
    in_chans: int | None = None
    img_size: tuple[int, int] | None = None


def differences(own: State, state: State) -> tuple[list[str], list[str], list[str]]:
    """Keys of ``own`` missing from ``state``, keys of ``state`` that ``own`` lacks, and keys of another shape."""
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    other = [key for key in own if key in state and own[key].shape != state[key].shape]
    return missing, unexpected, other


def check_match(name: str, own: State, state: State, what: str) -> None:
    """Refuse tensors that are not exactly those of the model called ``name``.

    Raises:
        WeightsMismatch: with the first few keys that differ.
    """
    missing, unexpected, other = differences(own, state)
    if not (missing or unexpected or other):
        return
    shapes = [f"{key} {_shape(state[key])} instead of {_shape(own[key])}" for key in other]
    parts = []
    for word, keys in (("missing", missing), ("unexpected", unexpected), ("of other shape", shapes)):
        if keys:
            more = ", ..." if len(keys) > SHOWN else ""
            parts.append(f"{len(keys)} {word}: {', '.join(keys[:SHOWN])}{more}")
    raise WeightsMismatch(
        f"{what} do not fit {name} as it was asked for: {'; '.join(parts)}; check the architecture and its options, "
        "classes and channels, or name the layout= of the keys"
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def build_empty(config: ModelConfig) -> Classifier:
    """The model without numbers, on the meta device: its shapes, in milliseconds.

    Where a model holds numbers that are no part of its state dict, it is built with them, as they would be lost.
    """
    with without_numbers():
        model = build(config)
    if any(module._non_persistent_buffers_set for module in model.modules()):
        with torch.device("cpu"):
            return build(config)
    return model


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


def fit_chans(model: Classifier, state: State, info: WeightInfo) -> WeightInfo:
    """Fold or spread the first convolution to the model's channels, in place; what the weights then expect."""
    path = first_convolution(model)
    if path is None or f"{path}.weight" not in state:
        raise WeightsMismatch(
            f"the weights {info.name} are for {info.in_chans} channels, and {model.config.name} begins with no "
            f"convolution that could be folded to {model.in_chans}; convert the images to {info.in_chans} channels"
        )
    key = f"{path}.weight"
    state[key] = fold_chans(state[key].float(), model.in_chans)
    chans = model.in_chans
    return replace(
        info,
        in_chans=chans,
        mean=_spread(info.mean, chans),
        std=_spread(info.std, chans),
        adapted=(*info.adapted, f"{path} folded from {info.in_chans} to {chans} channels"),
    )


def _spread(values: tuple[float, ...], count: int) -> tuple[float, ...]:
    """Of each channel, for another count: the mean of those that were folded into one, or a repetition."""
    if count >= len(values):
        return tuple(values[channel % len(values)] for channel in range(count))
    groups = [values[channel::count] for channel in range(count)]
    return tuple(sum(group) / len(group) for group in groups)


def fit_size(model: Classifier, state: State, info: WeightInfo) -> WeightInfo:
    """Make tables for the model's image size, in place, or refuse a net whose layers depend on it."""
    height, width = model.img_size
    own = model.state_dict(keep_vars=True)
    other = [key for key in differences(own, state)[2] if key != f"{first_convolution(model)}.weight"]
    learned = [key for key in other if own[key].requires_grad]
    if learned:
        raise WeightsMismatch(
            f"the weights {info.name} are for {info.img_size[0]}x{info.img_size[1]} images: {model.config.name} "
            f"reads its flattened maps, and at {height}x{width} {learned[0]} would be {_shape(own[learned[0]])} "
            f"instead of {_shape(state[learned[0]])}; resize the images (model.preprocess does), or train anew"
        )
    pooling = getattr(model, "avgpool", None)
    if isinstance(pooling, nn.AdaptiveAvgPool2d) and pooling.output_size not in (1, (1, 1)):
        raise WeightsMismatch(
            f"the weights {info.name} are for {info.img_size[0]}x{info.img_size[1]} images: {model.config.name} has "
            f"weights for each cell of its last maps, and at {height}x{width} the cells show other parts of the image; "
            "resize the images (model.preprocess does), or train anew"
        )
    adapted = info.adapted
    if other:  # tables that are computed from the size, never trained
        with torch.device("cpu"):
            computed = build(model.config).state_dict()
        for key in other:
            state[key] = computed[key]
        adapted = (*adapted, f"{', '.join(other)} made for {height}x{width}")
    return replace(info, img_size=(height, width), adapted=adapted)


def put_in(model: Classifier, state: State, what: str) -> None:
    """Make the tensors the model's own; a model on the meta device takes them as they are, mapped or not.

    Raises:
        WeightsMismatch: they are not exactly the model's.
    """
    own = model.state_dict()
    check_match(model.config.name, own, state, what)
    empty = next(iter(own.values())).is_meta
    typed = {key: state[key].to(tensor.dtype) for key, tensor in own.items()}
    if empty:
        hand_over(model, typed)
    else:
        model.load_state_dict(typed, strict=True)


def hand_over(model: nn.Module, tensors: State) -> None:
    """What ``load_state_dict(tensors, assign=True)`` does to plain layers, in a fraction of its time."""
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(tensors[prefix + name], parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = tensors[prefix + name]


def load_fitted(native: ModelConfig, state: State, info: WeightInfo, wanted: Wanted) -> Classifier:
    """The model of ``native`` (the weights' own shape) with the weights, changed to what is wanted.

    Raises:
        WeightsMismatch: they cannot be made to fit.
    """
    config = replace(
        native,
        in_chans=native.in_chans if wanted.in_chans is None else wanted.in_chans,
        img_size=native.img_size if wanted.img_size is None else wanted.img_size,
    )
    model = build_empty(config)
    state = convert(state, model, info.layout)
    if model.in_chans != info.in_chans:
        info = fit_chans(model, state, info)
    if model.img_size != info.img_size:
        info = fit_size(model, state, info)
    put_in(model, state, f"the weights {info.name}")
    if wanted.num_classes is not None and wanted.num_classes != info.num_classes:
        model.reset_classifier(wanted.num_classes)
        info = info.with_other_head(wanted.num_classes)
    if info.adapted:
        info = replace(info, metrics={})
    model.weights = info
    return model.eval()
