"""Batch norm folded into the convolution before it.

In evaluation mode batch norm is ``gain (x - mean) / sqrt(variance + eps) + shift``, an affine function of each map; so
is scaling a convolution's kernels and moving its bias. The factors are computed in float64.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def affine_of(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and offset of each map (C,), in float64."""
    mean, variance = norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
    factor = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    offset = -mean * factor
    return factor, offset if norm.bias is None else offset + norm.bias.double()


@torch.no_grad()
def fold(conv: nn.Conv2d, factor: Tensor, offset: Tensor) -> None:
    """Make ``conv`` compute ``factor * conv(x) + offset``, each (C',)."""
    weight = conv.weight
    if conv.bias is not None:
        offset = offset + factor * conv.bias.double()
    conv.weight = nn.Parameter((weight.double() * factor[:, None, None, None]).to(weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(offset.to(weight.dtype), requires_grad=False)


@torch.no_grad()
def side_by_side(convs: list[Any]) -> nn.Conv2d:
    """One convolution that gives the maps of ``convs``, which read the same input, one behind the other."""
    first = convs[0]
    together = nn.Conv2d(
        first.in_channels, sum(conv.out_channels for conv in convs), first.kernel_size, first.stride, first.padding,
        device="meta",
    )  # fmt: skip
    together.weight = nn.Parameter(torch.cat([conv.weight for conv in convs]), requires_grad=False)
    biases = [conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias for conv in convs]
    together.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return together
