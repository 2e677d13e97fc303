"""Weights fitted to the model that was asked for: other classes, other channels, another image size; or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import shorten
from ..models import Classifier, ModelConfig
from ..models._init import without_numbers
from ..registry import build
from .entries import WeightInfo, describe_head
from .errors import WeightsCorrupted, WeightsMismatch
from .layouts import State

SHOWN = 3  # keys named in an error
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ORDINARY = (Tensor, nn.Parameter)
CPU = torch.device("cpu")
LARGE_FILE, PART = 1 << 20, 1 << 11  # numbers


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
    """Refuse tensors that are not exactly those of the model called ``name``: other keys, shapes or kinds of numbers.

    Raises:
        WeightsMismatch: with the first few keys that differ.
    """
    missing, unexpected, other = differences(own, state)
    shapes = [f"{key} {_shape(state[key])} instead of {_shape(own[key])}" for key in other]
    kinds = [f"{key} ({wrong})" for key in own if key in state and (wrong := _wrong_kind(own[key], state[key]))]
    parts = []
    for word, keys in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of other shape", shapes),
        ("of another kind of numbers", kinds),
    ):
        if keys:
            more = ", ..." if len(keys) > SHOWN else ""
            parts.append(f"{len(keys)} {word}: {', '.join(keys[:SHOWN])}{more}")
    if parts:
        raise WeightsMismatch(
            f"{what} do not fit {name} as it was asked for: {'; '.join(parts)}; check the architecture and its "
            "options, classes and channels, or name the layout= of the keys"
        )


def _wrong_kind(own: Tensor, tensor: Tensor) -> str:
    """Why the numbers of ``tensor`` cannot be those of ``own``; nothing if they can."""
    if tensor.dtype == own.dtype and type(tensor) in ORDINARY and tensor.layout == torch.strided and not tensor.is_meta:
        return ""
    if type(tensor) not in ORDINARY or tensor.layout != torch.strided or tensor.is_quantized:
        return f"a {type(tensor).__name__} of {tensor.dtype}, {tensor.layout}"
    if tensor.is_meta:
        return "on the meta device, without numbers"
    if own.dtype.is_floating_point:
        fits = tensor.dtype in FLOATS or tensor.dtype == own.dtype
    else:
        fits = not tensor.dtype.is_floating_point and not tensor.dtype.is_complex and tensor.dtype != torch.bool
    return "" if fits else f"{tensor.dtype} instead of {own.dtype}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


class _counted(without_numbers):  # noqa: N801
    """Within it, modules are made without numbers, and no more tensors than ``limit``."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.left = limit

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.left -= 1
        if self.left < 0:
            raise WeightsCorrupted("more layers than the file has tensors for")
        return super().__torch_function__(func, types, args, kwargs)


def build_empty(config: ModelConfig, limit: int | None = None) -> Classifier:
    """The model without numbers, on the meta device: its shapes, in milliseconds.

    Raises:
        WeightsCorrupted: making it takes more than ``limit`` operations on tensors.
    """
    with without_numbers() if limit is None else _counted(limit):
        return build(config)


def fill_tables(model: Classifier) -> None:
    """Compute what a model that was built empty holds besides its state dict."""
    tables = [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if tables:
        with torch.device("cpu"):
            computed = dict(build(model.config).named_buffers())
        for name in tables:
            path, _, last = name.rpartition(".")
            model.get_submodule(path)._buffers[last] = computed[name]


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


def read_off(model: Classifier, state: State) -> Classifier:
    """An empty model like ``model`` for the numbers of classes and channels that the tensors are for.

    Which tensors they decide, and where in their shapes, is seen from two builds that differ in nothing else.
    """
    if not any(differences(model.state_dict(), state)):
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


def _spread(values: tuple[float, ...], count: int) -> tuple[float, ...]:
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
            f"reads its flattened maps, and at {height}x{width} {learned[0]} would be {_shape(own[learned[0]])} "
            f"instead of {_shape(state[learned[0]])}; resize the images (model.preprocess does), or train anew"
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


def put_in(model: Classifier, state: State, what: str, *, own: State | None = None, copy: bool = False) -> None:
    """Make the tensors the model's own; a model on the meta device takes them as they are, mapped or not.

    One warning says if some are not finite. ``own`` is the model's state dict, if it is at hand.

    Raises:
        WeightsMismatch: they are not exactly the model's.
    """
    own = model.state_dict() if own is None else own
    check_match(model.config.name, own, state, what)
    typed = {key: _cast(key, state[key], tensor.dtype, what) for key, tensor in own.items()}
    empty = next(iter(own.values())).is_meta
    _warn_of_nan(typed, what, mapped=empty)
    if empty:
        if hand_over(model, {key: tensor.clone() for key, tensor in typed.items()} if copy else typed):
            fill_tables(model)
    else:
        model.load_state_dict(typed, strict=True)


def _cast(key: str, tensor: Tensor, dtype: torch.dtype, what: str) -> Tensor:
    if tensor.dtype == dtype:
        return tensor
    cast = tensor.to(dtype)
    if dtype.is_floating_point and torch.finfo(tensor.dtype).max > torch.finfo(dtype).max:
        finite = tensor.isfinite()
        if not torch.equal(finite, cast.isfinite()):
            raise WeightsMismatch(
                f"{what} have numbers in {key} up to {tensor[finite].abs().max():.3g}, which {dtype} cannot hold; "
                f"make the model {tensor.dtype}, or get other weights"
            )
    return cast


@torch.no_grad()
def _warn_of_nan(state: State, what: str, *, mapped: bool) -> None:
    """One warning if tensors hold NaN or infinite numbers.

    In a large file that may be mapped only both ends of large tensors are looked at: reading all would take as long as
    loading.
    """
    floating = [tensor for tensor in state.values() if tensor.is_floating_point()]
    mapped = mapped and sum(tensor.numel() for tensor in floating) > LARGE_FILE
    small, large = [], []
    for tensor in floating:
        numbers = tensor if tensor.ndim == 1 else tensor.reshape(-1)
        if (count := tensor.numel()) <= 4 * PART:
            small.append(numbers)
        elif mapped:
            small += numbers[:PART], numbers[count - PART :]
        else:
            large.append(numbers)
    if {part.device for part in small} == {CPU} and not (torch.cat(small).sum(dtype=torch.float32) * 0).item():
        small = []
    sums = (part.sum(dtype=torch.float32).item() * 0 for part in [*small, *large])
    if all(zero == 0 for zero in sums):  # not so for NaN and infinity; a sum may also overflow where no number does
        return
    wrong = [key for key, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if wrong:
        more = f" and {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""
        warnings.warn(
            f"{what} have numbers in {wrong[0]}{more} that are NaN or infinite; the model will answer likewise, get "
            "weights of a training that did not diverge",
            stacklevel=2,
        )


def hand_over(model: nn.Module, tensors: State) -> bool:
    """What ``load_state_dict(tensors, assign=True)`` does to plain layers, in a fraction of its time; True if there are
    buffers that are no part of a state dict."""
    more = False
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(tensors[prefix + name], parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if name in module._non_persistent_buffers_set:
                more = True
            elif buffer is not None:
                module._buffers[name] = tensors[prefix + name]
    return more


def load_fitted(
    native: Classifier,
    state: State,
    wanted: Wanted,
    info: WeightInfo | None,
    what: str,
    native_state: State,
    *,
    copy: bool = False,
) -> Classifier:
    """``native``, an empty model of the weights' own shape, with the weights, changed to what is wanted.

    ``native_state`` is its state dict. ``info`` is what is known of the weights; without it, a warning says what was
    changed.

    Raises:
        WeightsMismatch: they cannot be made to fit.
    """
    own = native.config
    config = replace(
        own,
        in_chans=own.in_chans if wanted.in_chans is None else wanted.in_chans,
        img_size=own.img_size if wanted.img_size is None else wanted.img_size,
    )
    model, adapted = native, []
    if config != own:
        if info and any(differences(native_state, state)):
            check_match(own.name, native_state, state, what)
        model = build_empty(config)
    if config.in_chans != own.in_chans:
        adapted.append(fit_chans(model, state, own.in_chans, what))
    if info and model.img_size != info.img_size:
        check_size(model, state, info.img_size, what)
    if not info or model.img_size != info.img_size:
        adapted += fit_tables(model, state)
    put_in(model, state, what, own=native_state if model is native else None, copy=copy)
    if info:
        chans = model.in_chans
        info = replace(
            info,
            in_chans=chans,
            img_size=model.img_size,
            mean=_spread(info.mean, chans),
            std=_spread(info.std, chans),
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


def check_numbers(values: Iterable[Any], state: State) -> None:
    """Refuse whole numbers that no model with these tensors is made with: each is a width or counts layers.

    Raises:
        WeightsCorrupted: one is larger than every length of the tensors.
    """
    most = max([1000, len(state), *(max(tensor.shape, default=0) for tensor in state.values() if tensor.numel())])
    for value in values:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and number > most:
                raise WeightsCorrupted(f"{shorten(number)}, where no tensor of the file is longer than {most}")


def operations(state: State) -> int:
    """More operations on tensors than making a model of so many tensors takes."""
    return 1000 + 20 * len(state)
