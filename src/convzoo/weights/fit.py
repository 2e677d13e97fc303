"""Tensors put into a model: held against it by name, shape and kind of numbers, then made its own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._checks import shorten
from ..models import Classifier, ModelConfig
from ..models._init import on_meta
from ..registry import build
from .errors import WeightsCorrupted, WeightsMismatch
from .layouts import State

SHOWN = 3  # keys named in an error
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ORDINARY = (Tensor, nn.Parameter)
CPU = torch.device("cpu")
LARGE_FILE, PART = 1 << 20, 1 << 11  # numbers


def differences(own: State, state: State) -> tuple[list[str], list[str], list[str]]:
    """Keys of ``own`` missing from ``state``, keys of ``state`` that ``own`` lacks, and keys of another shape."""
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    other = [key for key in own if key in state and own[key].shape != state[key].shape]
    return missing, unexpected, other


class Reason(NamedTuple):
    """Why a model is what it is, and what to do where that is wrong; in the words of an error."""

    because: str = "as it was asked for"
    remedy: str = "check the architecture and its options, classes and channels, or name the layout= of the keys"


def check_match(name: str, own: State, state: State, what: str, reason: Callable[[], Reason] = Reason) -> None:
    """Refuse tensors that are not exactly those of the model called ``name``: other keys, shapes or kinds of numbers.

    Raises:
        WeightsMismatch: with the first few keys that differ.
    """
    missing, unexpected, other = differences(own, state)
    shapes = [f"{key} {shape_of(state[key])} instead of {shape_of(own[key])}" for key in other]
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
        because, remedy = reason()
        raise WeightsMismatch(f"{what} do not fit {name} {because}: {'; '.join(parts)}; {remedy}")


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


def shape_of(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


class _counted(on_meta):  # noqa: N801
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


def build_counted(config: ModelConfig, state: State) -> Classifier:
    """The empty model of a description, whose file holds the tensors ``state``.

    Raises:
        WeightsCorrupted: making it takes more operations on tensors than a model of so many tensors does.
    """
    with _counted(1000 + 20 * len(state)):
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


def put_in(
    model: Classifier,
    state: State,
    what: str,
    *,
    own: State | None = None,
    copy: bool = False,
    reason: Callable[[], Reason] = Reason,
) -> None:
    """Make the tensors the model's own; a model on the meta device takes them as they are, mapped or not.

    One warning says if some are not finite. ``own`` is the model's state dict, if it is at hand.

    Raises:
        WeightsMismatch: they are not exactly the model's.
    """
    own = model.state_dict() if own is None else own
    check_match(model.config.name, own, state, what, reason)
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
