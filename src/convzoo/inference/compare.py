"""Whether two outputs are the same but for rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .trace import replace

# How far outputs may be apart, as a share of the largest: what rounding does on the way through a deep net.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
ON_ACCELERATORS = 2e-2  # which may round the factors of float32 products to ten bits


def is_close(actual: Any, expected: Any) -> bool:
    """Whether outputs, tensors or nested, are the same up to rounding."""
    pairs: list[list[Tensor]] = [[], []]
    replace(actual, Tensor, pairs[0].append)
    replace(expected, Tensor, pairs[1].append)
    return len(pairs[0]) == len(pairs[1]) > 0 and all(is_close_tensor(*pair) for pair in zip(*pairs, strict=True))


def is_close_tensor(actual: Tensor, expected: Tensor, tolerance: float | None = None) -> bool:
    """Whether two tensors are the same up to a share of the largest number; what is not finite must be the same."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype or actual.device != expected.device:
        return False
    if not expected.is_floating_point() or expected.numel() == 0:
        return torch.equal(actual, expected)
    if tolerance is None:
        tolerance = max(TOLERANCES.get(expected.dtype, 1e-1), ON_ACCELERATORS * (expected.device.type != "cpu"))
    if expected.dtype.itemsize < 4:
        actual, expected = actual.float(), expected.float()
    largest = expected.abs().max()
    if largest.isfinite():
        return bool((actual - expected).abs().max() <= tolerance * largest)
    largest = torch.where(expected.isfinite(), expected, 0.0).abs().max()
    return torch.allclose(actual, expected, rtol=0.0, atol=tolerance * largest.item(), equal_nan=True)
