"""What a model is given while it is counted: tensors without memory, one image of the batch."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._checks import shorten
from .._wrappers import unwrap
from ..models import Classifier
from ..models._init import META
from .sparse import stand_in
from .tally import like, map_leaves, tensors_in

ADVICE = "pass (C, H, W), (N, C, H, W), a tensor, or a tuple or dict of what forward takes"
LARGEST = 2**40  # elements of an input


class Inputs(NamedTuple):
    """The arguments of ``forward``, by position and by name."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}


def input_dtype(parameters: Iterable[Tensor], dtype: torch.dtype | None) -> torch.dtype:
    """The type given, or that of the first floating-point parameter."""
    if dtype is not None:
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {shorten(dtype)}; pass e.g. torch.float16")
        try:
            torch.zeros((), dtype=dtype)
        except (NotImplementedError, RuntimeError):
            raise TypeError(f"dtype {dtype} is none of an ordinary tensor; pass e.g. torch.float16") from None
        return dtype
    floating = (tensor.dtype for tensor in parameters if tensor.dtype.is_floating_point)
    return next(floating, torch.get_default_dtype())


def make_inputs(model: nn.Module, given: Any, dtype: torch.dtype, batch_dim: int | None) -> Inputs:
    """The arguments of ``forward``, from what :func:`convzoo.profile` was given."""
    if isinstance(given, Inputs):
        return given
    if batch_dim is not None and (type(batch_dim) is not int or batch_dim < 0):
        raise ValueError(
            f"batch_dim is the dimension of the batch in the inputs, got {shorten(batch_dim)}; "
            "pass 0, 1 for sequence first, or None where there is no batch"
        )
    if isinstance(given, Mapping):
        given = dict(given)
    if next(tensors_in(given), None) is None:
        sizes = input_sizes(unwrap(model), given)
        return Inputs((torch.empty((1, *sizes), dtype=dtype, device=META),))
    if isinstance(given, dict):
        if not all(isinstance(name, str) for name in given):
            raise TypeError(
                f"a dict of inputs has the names of forward's arguments, got {shorten(list(given))}; {ADVICE}"
            )
        return Inputs(kwargs=one_image(given, batch_dim))
    return Inputs(one_image((given,) if isinstance(given, Tensor) else tuple(given), batch_dim))


def input_sizes(model: nn.Module, given: Any) -> tuple[int, ...]:
    """(C, H, W), or whatever follows the batch, from a size in any of the ways in which it may be written."""
    zoo = model if isinstance(model, Classifier) else None
    if given is None:
        if zoo is None:
            raise TypeError(
                f"input_size is missing, and only the zoo's models have one of their own, not {type(model).__name__}; "
                f"{ADVICE}"
            )
        return zoo.in_chans, *zoo.img_size
    if isinstance(given, str) and re.fullmatch(r"\s*\d{1,18}(\s*[x×,]\s*\d{1,18})*\s*", given):
        numbers = [int(size) for size in re.findall(r"\d+", given)]
        given = numbers if len(numbers) > 1 else numbers[0]
    sizes = whole_numbers(given)
    if zoo is not None and len(sizes) in (1, 2):
        sizes = (zoo.in_chans, *(sizes * 2)[:2])
    one_number = not isinstance(given, (tuple, list))
    if len(sizes) not in (1, 3, 4, 5) or min(sizes) < 1 or (one_number and zoo is None):
        sides = ", ".join(map(str, (sizes * 2)[:2])) if len(sizes) in (1, 2) and min(sizes) > 0 else "224, 224"
        raise ValueError(
            f"input_size must be (C, H, W) with sizes of at least 1, got {shorten(given)}; pass e.g. (3, {sides}), "
            "or a tensor, or a tuple or dict of what forward takes"
        )
    if math.prod(sizes) > LARGEST:
        raise ValueError(f"input_size {sizes} has more than {LARGEST:,} elements; pass a smaller one")
    return sizes[1:] if len(sizes) > 3 else sizes


def whole_numbers(given: Any) -> tuple[int, ...]:
    """A whole number or several, also those of numpy."""
    values = given if isinstance(given, (tuple, list)) else [given]
    if not isinstance(given, (str, Mapping)) and not any(isinstance(value, bool) for value in values):
        try:
            return tuple(operator.index(value) for value in values)
        except TypeError:
            pass
    raise TypeError(f"input_size is {type(given).__name__} {shorten(given)}, neither a size nor tensors; {ADVICE}")


def one_image(inputs: Any, batch_dim: int | None) -> Any:
    """The inputs with tensors without memory, and of the batch one image.

    The batch is as long as the tensors are in ``batch_dim``; those that are of length 1 there are for every image.
    """
    tensors = [each for each in tensors_in(inputs) if not is_sparse(each)]
    if batch_dim and tensors and all(each.ndim <= batch_dim for each in tensors):
        raise ValueError(f"batch_dim is {batch_dim}, and no input has so many dimensions; pass a smaller one, or None")
    lengths = {
        each.shape[batch_dim]
        for each in tensors
        if batch_dim is not None and each.ndim > batch_dim and each.shape[batch_dim] != 1
    }
    if len(lengths) > 1:
        raise ValueError(
            f"the inputs disagree on how many images they hold: {' and '.join(map(str, sorted(lengths)))} along "
            f"dimension {batch_dim}; pass batch_dim=1 if the batch comes second, or inputs of one image and "
            "batch_dim=None"
        )

    def empty(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.layout is not torch.strided:
            return stand_in(value)
        if batch_dim is None or value.ndim <= batch_dim:
            return like(value)
        if value.shape[batch_dim]:
            return like(value.narrow(batch_dim, 0, 1))
        return torch.empty((*value.shape[:batch_dim], 1, *value.shape[batch_dim + 1 :]), dtype=value.dtype, device=META)

    return map_leaves(empty, inputs)


def is_sparse(tensor: Tensor) -> bool:
    """Whether a tensor is sparse; a nested or quantized one is refused."""
    if tensor.is_nested or tensor.is_quantized:
        kind = "nested" if tensor.is_nested else "quantized"
        raise TypeError(f"an input is a {kind} tensor, which has no plain shape; pass an ordinary tensor")
    return tensor.layout is not torch.strided
