"""The rules of functions that cost nothing by the convention: they only give a shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tally import Tally
from .table import rule, spread

TensorT = torch.Tensor


@rule(F.relu, F.relu6, F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.leaky_relu, F.hardswish, F.hardsigmoid,
      F.hardtanh, F.softplus, F.logsigmoid, F.sigmoid, F.tanh, torch.relu, torch.sigmoid, torch.tanh, torch.exp,
      torch.sqrt, torch.rsqrt, torch.log, torch.neg, torch.abs, torch.square, TensorT.relu, TensorT.sigmoid,
      TensorT.tanh, TensorT.exp, TensorT.sqrt, TensorT.rsqrt, TensorT.log, TensorT.neg, TensorT.__neg__,
      TensorT.abs, TensorT.square)  # fmt: skip
def activation(tally: Tally, input: Tensor, *arguments: Any, inplace: bool = False, **options: Any) -> Any:
    """A map of the same shape; in place, the same map."""
    if (
        not input.is_floating_point()
        or "out" in options
        or (arguments and any(isinstance(each, bool) for each in arguments))
    ):
        return NotImplemented  # a bool among the positions may be `inplace`
    if inplace:
        return tally.twin(input)
    return tally.map(input.shape, input.dtype)


@rule(torch.relu_, F.relu_, TensorT.relu_, TensorT.sigmoid_, TensorT.tanh_, TensorT.exp_, TensorT.neg_,
      TensorT.clamp_, TensorT.zero_, TensorT.fill_)  # fmt: skip
def in_place(tally: Tally, input: Tensor, *arguments: Any, **options: Any) -> Any:
    """The same map."""
    return tally.twin(input)


@rule(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)
def dropout(tally: Tally, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """In inference, the same map."""
    if not 0 <= p <= 1:
        return NotImplemented
    return tally.map(input.shape, input.dtype) if training and not inplace else tally.twin(input)


@rule(F.batch_norm, F.instance_norm)
def batch_norm(
    tally: Tally, input: Tensor, mean: Any = None, var: Any = None, weight: Any = None, bias: Any = None, *_: Any,
    running_mean: Any = None, running_var: Any = None, **options: Any,
) -> Any:  # fmt: skip
    """A map of the same shape; folded into the convolution before it in inference, hence free."""
    shape = input.shape
    mean = running_mean if mean is None else mean
    for per_channel in (mean, weight):
        if per_channel is not None and (len(shape) < 2 or per_channel.shape[0] != shape[1]):
            return NotImplemented
    return activation(tally, input)


@rule(F.layer_norm, F.rms_norm)
def layer_norm(tally: Tally, input: Tensor, normalized_shape: Sequence[int], *_: Any, **options: Any) -> Any:
    """A map of the same shape."""
    normalized_shape = tuple(normalized_shape)
    if tuple(input.shape[input.ndim - len(normalized_shape) :]) != normalized_shape:
        return NotImplemented
    return activation(tally, input)


@rule(F.local_response_norm)
def local_response_norm(tally: Tally, input: Tensor, size: int, *_: Any, **options: Any) -> Any:
    """A map of the same shape."""
    return activation(tally, input) if input.ndim >= 3 and input.numel() else NotImplemented


@rule(torch.add, torch.sub, torch.mul, torch.div, torch.true_divide, TensorT.add, TensorT.sub, TensorT.mul,
      TensorT.div, TensorT.__add__, TensorT.__radd__, TensorT.__sub__, TensorT.__mul__, TensorT.__rmul__,
      TensorT.__truediv__, TensorT.true_divide)  # fmt: skip
def arithmetic(tally: Tally, input: Any, other: Any, *, alpha: float = 1) -> Any:
    """Of two maps the shape they broadcast to; of a map and a number, the map's."""
    if not isinstance(input, Tensor):
        return NotImplemented
    shape, dtype = input.shape, input.dtype
    if not dtype.is_floating_point:
        return NotImplemented
    if isinstance(other, Tensor):
        if other.dtype != dtype:
            return NotImplemented
        if other.shape != shape:
            try:
                shape = torch.broadcast_shapes(shape, other.shape)
            except RuntimeError:
                return NotImplemented
    elif not isinstance(other, (int, float)):
        return NotImplemented
    return tally.map(shape, dtype)


@rule(TensorT.add_, TensorT.sub_, TensorT.mul_, TensorT.div_, TensorT.__iadd__, TensorT.__isub__,
      TensorT.__imul__, TensorT.__itruediv__)  # fmt: skip
def arithmetic_in_place(tally: Tally, input: Tensor, other: Any, *, alpha: float = 1) -> Any:
    """The same map."""
    if isinstance(other, Tensor):
        if other.shape != input.shape or other.dtype != input.dtype:
            return NotImplemented
    elif not (isinstance(other, (int, float)) and input.is_floating_point()):
        return NotImplemented
    return tally.twin(input)


@rule(torch.cat, torch.concat, torch.concatenate)
def concatenate(tally: Tally, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """The sizes along one axis add up."""
    if not tensors:
        return NotImplemented
    shapes, dtype = [tensor.shape for tensor in tensors], tensors[0].dtype
    rank = len(shapes[0])
    if not isinstance(dim, int) or not -rank <= dim < rank or any(tensor.dtype != dtype for tensor in tensors):
        return NotImplemented
    dim %= rank
    rest = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
    if len(rest) != 1 or any(len(shape) != rank for shape in shapes):
        return NotImplemented
    return tally.map((*shapes[0][:dim], sum(shape[dim] for shape in shapes), *shapes[0][dim + 1 :]), dtype)


@rule(torch.stack)
def stack(tally: Tally, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """One axis more, as long as there are tensors."""
    if not tensors:
        return NotImplemented
    shape, dtype = tuple(tensors[0].shape), tensors[0].dtype
    if not isinstance(dim, int) or not -len(shape) <= dim + 1 <= len(shape) + 1:
        return NotImplemented
    if any(tensor.shape != shape or tensor.dtype != dtype for tensor in tensors):
        return NotImplemented
    dim %= len(shape) + 1
    return tally.map((*shape[:dim], len(tensors), *shape[dim:]), dtype)


@rule(F.pad)
def pad(tally: Tally, input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """Zeros, or another number, around a map: two sizes an axis, the last axis first."""
    shape = list(input.shape)
    if mode != "constant" or len(pad) % 2 or len(pad) > 2 * len(shape) or not any(pad):
        return NotImplemented
    for place, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True), start=1):
        shape[-place] += before + after
    return tally.map(shape, input.dtype) if min(shape, default=0) > 0 and min(pad) >= 0 else NotImplemented


BASIC_INDEX = frozenset({int, slice, type(None), type(...)})


@rule(TensorT.__getitem__)
def basic_index(tally: Tally, input: Tensor, index: Any) -> Any:
    """A view of the same memory, where the index is made of numbers and slices alone."""
    if not BASIC_INDEX.issuperset(map(type, index if type(index) is tuple else (index,))):
        return NotImplemented
    source = tally.twin(input)
    try:
        return tally.keep(source[index], getattr(source, "_memory", None))
    except IndexError:
        return NotImplemented


@rule(torch.mean, torch.sum, TensorT.mean, TensorT.sum)
def reduction(tally: Tally, input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The axes summed over become one cell, or go."""
    if dtype is not None or not input.is_floating_point():
        return NotImplemented
    rank = input.ndim
    axes = range(rank) if dim is None or dim == () else spread(dim, 1)
    if not all(isinstance(axis, int) and -rank <= axis < rank for axis in axes):
        return NotImplemented
    gone = {axis % rank for axis in axes}
    sizes = enumerate(input.shape)
    if keepdim:
        return tally.map(tuple(1 if axis in gone else size for axis, size in sizes), input.dtype)
    return tally.map(tuple(size for axis, size in sizes if axis not in gone), input.dtype)


def pooled_side(side: int, kernel: int, step: int, pad: int, hole: int, ceil_mode: bool) -> int:
    """Cells along one axis; in ceil mode a last window may hang over the edge, if it starts inside."""
    reach = side + 2 * pad - hole * (kernel - 1) - 1
    cells = (-(-reach // step) if ceil_mode else reach // step) + 1
    return cells - 1 if ceil_mode and (cells - 1) * step >= side + pad else cells


def pool(tally: Tally, input: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Any:
    """One cell per window of maps (N, C, H, W)."""
    shape = input.shape
    if len(shape) != 4:
        return NotImplemented
    kernel = spread(kernel, 2)
    stride = spread(stride, 2) if stride not in (None, (), []) else kernel
    padding, dilation = spread(padding, 2), spread(dilation, 2)
    sides = tuple(pooled_side(*axis, ceil) for axis in zip(shape[2:], kernel, stride, padding, dilation, strict=True))
    if min(sides) < 1 or any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
        return NotImplemented
    return tally.map((*shape[:2], *sides), input.dtype)


@rule(F.max_pool2d, torch.max_pool2d)
def max_pool(
    tally: Tally, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """One cell per window."""
    if return_indices:
        return NotImplemented
    return pool(tally, input, kernel_size, stride, padding, dilation, ceil_mode)


@rule(F.avg_pool2d)
def avg_pool(
    tally: Tally, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    *_: Any, **options: Any,
) -> Any:  # fmt: skip
    """One cell per window."""
    return pool(tally, input, kernel_size, stride, padding, 1, ceil_mode)


@rule(F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
def adaptive_pool(tally: Tally, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """As many cells as asked for."""
    shape = input.shape
    if len(shape) != 4 or return_indices:
        return NotImplemented
    sides = zip(spread(output_size, 2), shape[2:], strict=True)
    return tally.map((*shape[:2], *(given if size is None else size for size, given in sides)), input.dtype)


@rule(TensorT.to)
def moved(tally: Tally, input: Tensor, *arguments: Any, **options: Any) -> Any:
    """The same tensor, or a map of the other type; where it lies is no matter here."""
    dtype = input.dtype
    for each in (*arguments, options.get("dtype"), options.get("other")):
        dtype = each if isinstance(each, torch.dtype) else each.dtype if isinstance(each, Tensor) else dtype
    return input if dtype == input.dtype else tally.map(input.shape, dtype)


@rule(TensorT.cpu, TensorT.cuda)
def same_map(tally: Tally, input: Tensor, *_: Any, **options: Any) -> Any:
    """The same tensor; where it lies is no matter here."""
    return input
