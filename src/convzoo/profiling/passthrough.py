"""Functions of torch that need no rule: asked of the tensor itself, or impossible for one without values."""

from __future__ import annotations

import torch

TensorT = torch.Tensor

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
    TensorT.is_signed, TensorT.element_size, TensorT.__len__, TensorT.__repr__,
    TensorT.__hash__, TensorT.get_device, TensorT.is_same_size, torch.is_floating_point, torch.is_complex,
    torch.numel, torch.is_tensor, torch.promote_types,
})  # fmt: skip

# What reads values: allowed on the model's own tensors, impossible on a map, which has none.
READS = frozenset({
    TensorT.item, TensorT.tolist, TensorT.numpy, TensorT.__bool__, TensorT.__int__, TensorT.__float__,
    TensorT.__index__, TensorT.__array__, TensorT.__contains__, torch.is_nonzero, torch.equal, TensorT.equal,
    torch.allclose, TensorT.allclose, TensorT.__complex__, TensorT.__format__,
})  # fmt: skip

# What takes an index, which may be a mask.
INDEXING = frozenset({TensorT.__getitem__, TensorT.__setitem__})


def vecdot(input: torch.Tensor, other: torch.Tensor, *, dim: int = -1, out: None = None) -> torch.Tensor:
    """``torch.linalg.vecdot`` as a matrix product; torch multiplies and sums."""
    left, right = input.movedim(dim, -1), other.movedim(dim, -1)
    return (left.conj().unsqueeze(-2) @ right.unsqueeze(-1)).squeeze(-1).squeeze(-1)


# Products that torch takes element by element, in a way that shows what they are.
SAME_AS = {torch.linalg.vecdot: vecdot}
