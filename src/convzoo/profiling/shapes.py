"""The rules of functions that cost nothing by the convention: they only give a shape.

See :mod:`convzoo.profiling.rules` for what a rule is and for those that count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rules import RULES, rule, spread

if TYPE_CHECKING:
    from .meter import Meter

TensorT = torch.Tensor


@rule(F.relu, F.relu6, F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.leaky_relu, F.hardswish, F.hardsigmoid,
      F.hardtanh, F.softplus, F.logsigmoid, F.sigmoid, F.tanh, torch.relu, torch.sigmoid, torch.tanh, torch.exp,
      torch.sqrt, torch.rsqrt, torch.log, torch.neg, torch.abs, torch.square, TensorT.relu, TensorT.sigmoid,
      TensorT.tanh, TensorT.exp, TensorT.sqrt, TensorT.rsqrt, TensorT.log, TensorT.neg, TensorT.__neg__,
      TensorT.abs, TensorT.square)  # fmt: skip
def activation(meter: Meter, input: Tensor, *arguments: Any, inplace: bool = False, **options: Any) -> Any:
    """A map of the same shape; in place, the same map."""
    if not input.is_floating_point() or "out" in options or any(isinstance(each, bool) for each in arguments):
        return NotImplemented  # a bool among the positions may be `inplace`
    if inplace:
        return meter.twin(input)
    return meter.map(input.shape, input.dtype)


@rule(torch.relu_, F.relu_, TensorT.relu_, TensorT.sigmoid_, TensorT.tanh_, TensorT.exp_, TensorT.neg_,
      TensorT.clamp_, TensorT.zero_, TensorT.fill_)  # fmt: skip
def in_place(meter: Meter, input: Tensor, *arguments: Any, **options: Any) -> Any:
    """The same map."""
    return meter.twin(input)


@rule(torch.softmax, torch.log_softmax, TensorT.softmax, TensorT.log_softmax, F.softmax, F.log_softmax)
def softmax(meter: Meter, input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """A map of the same shape."""
    if not isinstance(dim, int) or dtype is not None or not -input.ndim <= dim < input.ndim:
        return NotImplemented
    return activation(meter, input)


@rule(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)
def dropout(meter: Meter, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """In inference, the same map."""
    if not 0 <= p <= 1:
        return NotImplemented
    return meter.map(input.shape, input.dtype) if training and not inplace else meter.twin(input)


@rule(F.batch_norm, F.instance_norm)
def batch_norm(
    meter: Meter, input: Tensor, mean: Any = None, var: Any = None, weight: Any = None, bias: Any = None, *_: Any,
    running_mean: Any = None, running_var: Any = None, **options: Any,
) -> Any:  # fmt: skip
    """A map of the same shape; folded into the convolution before it in inference, hence free."""
    shape = input.shape
    mean = running_mean if mean is None else mean
    for per_channel in (mean, weight):
        if per_channel is not None and (len(shape) < 2 or per_channel.shape[0] != shape[1]):
            return NotImplemented
    return activation(meter, input)


@rule(F.layer_norm, F.rms_norm)
def layer_norm(meter: Meter, input: Tensor, normalized_shape: Sequence[int], *_: Any, **options: Any) -> Any:
    """A map of the same shape."""
    normalized_shape = tuple(normalized_shape)
    if tuple(input.shape[input.ndim - len(normalized_shape) :]) != normalized_shape:
        return NotImplemented
    return activation(meter, input)


@rule(F.group_norm)
def group_norm(meter: Meter, input: Tensor, num_groups: int, *_: Any, **options: Any) -> Any:
    """A map of the same shape."""
    if input.ndim < 2 or input.shape[1] % num_groups:
        return NotImplemented
    return activation(meter, input)


@rule(F.local_response_norm)
def local_response_norm(meter: Meter, input: Tensor, size: int, *_: Any, **options: Any) -> Any:
    """A map of the same shape."""
    return activation(meter, input) if input.ndim >= 3 and input.numel() else NotImplemented


@rule(torch.add, torch.sub, torch.mul, torch.div, torch.true_divide, TensorT.add, TensorT.sub, TensorT.mul,
      TensorT.div, TensorT.__add__, TensorT.__radd__, TensorT.__sub__, TensorT.__mul__, TensorT.__rmul__,
      TensorT.__truediv__, TensorT.true_divide)  # fmt: skip
def arithmetic(meter: Meter, input: Any, other: Any, *, alpha: float = 1) -> Any:
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
    return meter.map(shape, dtype)


@rule(TensorT.add_, TensorT.sub_, TensorT.mul_, TensorT.div_, TensorT.__iadd__, TensorT.__isub__,
      TensorT.__imul__, TensorT.__itruediv__)  # fmt: skip
def arithmetic_in_place(meter: Meter, input: Tensor, other: Any, *, alpha: float = 1) -> Any:
    """The same map."""
    if isinstance(other, Tensor):
        if other.shape != input.shape or other.dtype != input.dtype:
            return NotImplemented
    elif not (isinstance(other, (int, float)) and input.is_floating_point()):
        return NotImplemented
    return meter.twin(input)


@rule(torch.cat, torch.concat, torch.concatenate)
def concatenate(meter: Meter, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """The sizes along one axis add up."""
    shapes, dtype = [tensor.shape for tensor in tensors], tensors[0].dtype
    rank = len(shapes[0])
    if not isinstance(dim, int) or not -rank <= dim < rank or any(tensor.dtype != dtype for tensor in tensors):
        return NotImplemented
    dim %= rank
    rest = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
    if len(rest) != 1 or any(len(shape) != rank for shape in shapes):
        return NotImplemented
    return meter.map((*shapes[0][:dim], sum(shape[dim] for shape in shapes), *shapes[0][dim + 1 :]), dtype)


@rule(torch.mean, torch.sum, TensorT.mean, TensorT.sum)
def reduction(meter: Meter, input: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
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
        return meter.map(tuple(1 if axis in gone else size for axis, size in sizes), input.dtype)
    return meter.map(tuple(size for axis, size in sizes if axis not in gone), input.dtype)


def pooled_side(side: int, kernel: int, step: int, pad: int, hole: int, ceil_mode: bool) -> int:
    """Cells along one axis; in ceil mode a last window may hang over the edge, if it starts inside."""
    reach = side + 2 * pad - hole * (kernel - 1) - 1
    cells = (-(-reach // step) if ceil_mode else reach // step) + 1
    return cells - 1 if ceil_mode and (cells - 1) * step >= side + pad else cells


def pooling(rank: int) -> None:
    """Enter the rules of pooling over ``rank`` axes."""
    functions: Any = F

    def pool(meter: Meter, input: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Any:
        shape = input.shape
        if len(shape) != rank + 2:
            return NotImplemented
        kernel = spread(kernel, rank)
        stride = spread(stride, rank) if stride not in (None, (), []) else kernel
        padding, dilation = spread(padding, rank), spread(dilation, rank)
        sides = tuple(
            pooled_side(*axis, ceil) for axis in zip(shape[2:], kernel, stride, padding, dilation, strict=True)
        )
        if min(sides) < 1 or any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
            return NotImplemented
        return meter.map((*shape[:2], *sides), input.dtype)

    @rule(getattr(functions, f"max_pool{rank}d"), getattr(torch, f"max_pool{rank}d"))
    def max_pool(
        meter: Meter, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Any:  # fmt: skip
        """One cell per window."""
        if return_indices:
            return NotImplemented
        return pool(meter, input, kernel_size, stride, padding, dilation, ceil_mode)

    @rule(getattr(functions, f"avg_pool{rank}d"))
    def avg_pool(
        meter: Meter, input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
        ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: Any = None,
    ) -> Any:  # fmt: skip
        """One cell per window."""
        return pool(meter, input, kernel_size, stride, padding, 1, ceil_mode)

    @rule(getattr(functions, f"adaptive_avg_pool{rank}d"), getattr(functions, f"adaptive_max_pool{rank}d"))
    def adaptive_pool(meter: Meter, input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        """As many cells as asked for."""
        shape = input.shape
        if len(shape) != rank + 2 or return_indices:
            return NotImplemented
        sides = spread(output_size, rank)
        sides = tuple(given if size is None else size for size, given in zip(sides, shape[2:], strict=True))
        return meter.map((*shape[:2], *sides), input.dtype)


for axes in (1, 2, 3):
    pooling(axes)


@rule(F.unfold)
def unfold(meter: Meter, input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Windows of (N, C, H, W) as columns: (N, C x kernel, windows)."""
    if input.ndim != 4:
        return NotImplemented
    kernel = spread(kernel_size, 2)
    windows = [
        pooled_side(*axis, False)
        for axis in zip(
            input.shape[2:], kernel, spread(stride, 2), spread(padding, 2), spread(dilation, 2), strict=True
        )
    ]
    if min(windows) < 1:
        return NotImplemented
    return meter.map((input.shape[0], input.shape[1] * math.prod(kernel), math.prod(windows)), input.dtype)


def cast(dtype: torch.dtype) -> Callable[..., Any]:
    """The rule of ``Tensor.half`` and its like."""

    def converted(meter: Meter, input: Tensor) -> Any:
        """The same map, or one of the other type."""
        return meter.twin(input) if input.dtype == dtype else meter.map(input.shape, dtype)

    return converted


RULES[TensorT.float], RULES[TensorT.half] = cast(torch.float32), cast(torch.float16)
RULES[TensorT.double], RULES[TensorT.bfloat16] = cast(torch.float64), cast(torch.bfloat16)


@rule(TensorT.to)
def moved(meter: Meter, input: Tensor, *arguments: Any, **options: Any) -> Any:
    """The same map, or one of the other type; where it lies is no matter here."""
    dtype = input.dtype
    for each in (*arguments, options.get("dtype"), options.get("other")):
        dtype = each if isinstance(each, torch.dtype) else each.dtype if isinstance(each, Tensor) else dtype
    return cast(dtype)(meter, input)


@rule(TensorT.cpu, TensorT.cuda)
def same_map(meter: Meter, input: Tensor, *_: Any, **options: Any) -> Any:
    """The same map; where it lies is no matter here."""
    return meter.twin(input)


# Views of a map, which torch works out on meta tensors faster than a rule could, errors and all.
VIEWS = frozenset({
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.chunk,
    torch.split, torch.unbind, torch.narrow, torch.select, torch.swapaxes, torch.movedim, torch.unflatten,
    TensorT.flatten, TensorT.view, TensorT.reshape, TensorT.permute, TensorT.transpose, TensorT.squeeze,
    TensorT.unsqueeze, TensorT.expand, TensorT.expand_as, TensorT.chunk, TensorT.split, TensorT.unbind,
    TensorT.narrow, TensorT.select, TensorT.swapaxes, TensorT.movedim, TensorT.unflatten, TensorT.view_as,
    TensorT.t, TensorT.detach, TensorT.contiguous,
})  # fmt: skip

# What is known of a tensor without looking at its values: asked of the tensor itself.
METADATA = frozenset({
    TensorT.size, TensorT.dim, TensorT.numel, TensorT.nelement, TensorT.ndimension, TensorT.stride,
    TensorT.storage_offset, TensorT.is_contiguous, TensorT.is_floating_point, TensorT.is_complex,
    TensorT.is_signed, TensorT.element_size, TensorT.__len__, TensorT.__repr__, TensorT.__format__,
    TensorT.__hash__, TensorT.get_device, TensorT.is_same_size, torch.is_floating_point, torch.is_complex,
    torch.numel, torch.is_tensor,
})  # fmt: skip

# What reads values: allowed on the model's own tensors, impossible on a map, which has none.
READS = frozenset({
    TensorT.item, TensorT.tolist, TensorT.numpy, TensorT.__bool__, TensorT.__int__, TensorT.__float__,
    TensorT.__index__, TensorT.__array__, TensorT.__contains__, torch.is_nonzero, torch.equal, TensorT.equal,
    torch.allclose, TensorT.allclose, TensorT.__complex__,
})  # fmt: skip
