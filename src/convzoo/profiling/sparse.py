"""Sparse tensors: a product with one takes a multiply-accumulate for each stored number and column of the other.

Only products, and what leaves the stored numbers as they are, are known of sparse tensors here; with anything else
the number of stored numbers would have to be guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .passthrough import METADATA, READS
from .tally import Tally, like, tensors_in

TensorT = torch.Tensor
PRODUCTS = frozenset({
    torch.matmul, TensorT.matmul, TensorT.__matmul__, torch.mm, TensorT.mm, torch.bmm, TensorT.bmm, torch.mv,
    TensorT.mv, torch.sparse.mm, torch.smm, TensorT.smm, torch.hspmm,
})  # fmt: skip
ADDED_PRODUCTS = frozenset({
    torch.addmm, TensorT.addmm, torch.sparse.addmm, torch.addmv, TensorT.addmv, torch.sspaddmm, TensorT.sspaddmm,
})  # fmt: skip
SAME = frozenset({
    TensorT.t, torch.t, TensorT.transpose, torch.transpose, TensorT.coalesce, TensorT.to, TensorT.float, TensorT.half,
    TensorT.double, TensorT.bfloat16, TensorT.cpu, TensorT.cuda, TensorT.detach, TensorT.contiguous, TensorT.clone,
    TensorT.to_sparse_csr, TensorT.to_sparse_coo, TensorT.to_sparse_csc, torch.neg, TensorT.neg, TensorT.__neg__,
})  # fmt: skip


def stored_numbers(tensor: Tensor) -> int | None:
    """How many numbers a sparse tensor, or what stands for one, holds; None for a dense one."""
    known = getattr(tensor, "_stored_numbers", None)
    if known is not None or tensor.layout is torch.strided:
        return known
    values = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()
    return values.numel()


def stand_in(tensor: Tensor) -> Tensor:
    """A tensor without memory that stands for another, sparse or not."""
    empty = like(tensor)
    empty._stored_numbers = stored_numbers(tensor)  # type: ignore[attr-defined] # a note of our own
    return empty


def run_sparse(tally: Tally, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of ``func`` if a sparse tensor is among its arguments, else NotImplemented.

    Raises:
        ValueError: the function is none that is known of sparse tensors.
    """
    sparse = [each for each in tensors_in((args, kwargs)) if stored_numbers(each) is not None]
    name = getattr(func, "__name__", str(func))
    if not sparse or func in METADATA or func in READS or name == "__get__" or func == TensorT._nnz:
        return NotImplemented
    if func in SAME:
        empty = tally.twin(args[0])
        result: Any = func(empty, *args[1:], **kwargs) if name in ("t", "transpose") else empty.clone()
        result._stored_numbers = stored_numbers(args[0])
        return result
    if func == TensorT.to_dense:
        return tally.map(sparse[0].shape, sparse[0].dtype)
    if func is F.linear and len(args) > 1:
        return sparse_product(tally, args[1], args[0], tuple(args[0].shape[:-1]) + tuple(args[1].shape[:1]))
    operands = args[:2] if func in PRODUCTS else args[1:3] if func in ADDED_PRODUCTS else ()
    if len(operands) == 2 and len(sparse) == 1:
        left, right = operands
        shape = tuple(torch.matmul(like(left), like(right)).shape)
        first = stored_numbers(left) is not None
        return sparse_product(tally, *((left, right) if first else (right, left)), shape, first)
    raise tally.cannot_count(f"calls {name} on a sparse tensor, and how many numbers its result has depends on values")


def sparse_product(tally: Tally, sparse: Tensor, dense: Tensor, shape: tuple[int, ...], first: bool = False) -> Tensor:
    """Each stored number meets every column of the dense operand, or every row where the sparse one comes second."""
    others = math.prod(dense.shape) // (dense.shape[-2] if first and dense.ndim > 1 else dense.shape[-1])
    if sparse.ndim > 2:
        others //= math.prod(sparse.shape[:-2])
    tally.count((stored_numbers(sparse) or 0) * others, math.prod(shape))
    return tally.map(shape, dense.dtype)
