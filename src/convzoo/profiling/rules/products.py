"""The rules of functions that multiply: convolutions, linear layers, matrix products, attention, recurrent layers.

Of recurrent layers torch counts the MACs as well, and takes the sums of every gate for maps of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tally import Tally
from .table import RULES, Rule, rule, spread


@rule(torch.conv1d, torch.conv2d, torch.conv3d)
def convolution(
    tally: Tally,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Any:
    """Every output element takes one MAC per weight of its filter: in_channels / groups x kernel."""
    shape, filters = tuple(input.shape), tuple(weight.shape)
    rank = len(filters) - 2
    if len(shape) != rank + 2 or shape[1] != filters[1] * groups or input.dtype != weight.dtype:
        return NotImplemented
    if isinstance(padding, str):
        return NotImplemented
    options = shape[2:], spread(padding, rank), spread(dilation, rank), filters[2:], spread(stride, rank)
    sides = [
        (side + 2 * pad - hole * (kernel - 1) - 1) // step + 1
        for side, pad, hole, kernel, step in zip(*options, strict=True)
    ]
    if min(sides) < 1:
        return NotImplemented
    elements = shape[0] * filters[0] * math.prod(sides)
    tally.count(elements * math.prod(filters[1:]), elements)
    return tally.map((shape[0], filters[0], *sides), input.dtype)


@rule(F.linear)
def linear(tally: Tally, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """in_features MACs per output element, for every token."""
    shape, filters = tuple(input.shape), tuple(weight.shape)
    if not shape or len(filters) != 2 or shape[-1] != filters[1] or input.dtype != weight.dtype:
        return NotImplemented
    shape = (*shape[:-1], filters[0])
    elements = math.prod(shape)
    tally.count(elements * filters[1], elements)
    return tally.map(shape, input.dtype)


@rule(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.mm, torch.Tensor.mm, torch.bmm,
      torch.Tensor.bmm, torch.mv, torch.Tensor.mv, torch.dot, torch.Tensor.dot)  # fmt: skip
def matrix_product(tally: Tally, input: Tensor, other: Tensor) -> Any:
    """One MAC per output element and per index summed over; vectors and batches as numpy's matmul has them."""
    left, right = tuple(input.shape), tuple(other.shape)
    if not left or not right or input.dtype != other.dtype or left[-1] != right[-2 if len(right) > 1 else 0]:
        return NotImplemented
    batch = left[:-2]
    if batch != right[:-2]:
        try:
            batch = tuple(torch.broadcast_shapes(batch, right[:-2]))
        except RuntimeError:
            return NotImplemented
    shape = (*batch, *left[-2:-1], *(right[-1:] if len(right) > 1 else ()))
    elements = math.prod(shape)
    tally.count(elements * left[-1], elements)
    return tally.map(shape, input.dtype)


@rule(F.scaled_dot_product_attention)
def attention(
    tally: Tally,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Its two products, whichever kernel would run: query by key, and their scores by value, masked or not."""
    q, k, v = query.shape, key.shape, value.shape
    if not len(q) == len(k) == len(v) >= 2 or q[-1] != k[-1] or k[-2] != v[-2] or query.dtype != value.dtype:
        return NotImplemented
    if not enable_gqa and not q[:-2] == k[:-2] == v[:-2]:
        return NotImplemented
    scores = math.prod(q[:-1]) * k[-2]
    shape = (*q[:-1], v[-1])
    tally.count(scores * (q[-1] + v[-1]), scores + math.prod(shape))
    return tally.map(shape, query.dtype)


GATES: dict[Any, int] = {torch.lstm: 4, torch.gru: 3, torch.rnn_tanh: 1, torch.rnn_relu: 1}
CELL_GATES: dict[Any, int] = {torch.lstm_cell: 4, torch.gru_cell: 3, torch.rnn_tanh_cell: 1, torch.rnn_relu_cell: 1}


def recurrent_rule(gates: int) -> Rule:
    """The rule of a recurrent layer with ``gates`` gates; :data:`GATES` and :data:`CELL_GATES` list them."""

    def recurrent(tally: Tally, input: Tensor, *arguments: Any) -> Any:
        """At every step each weight of each layer and direction is used once: all the matrices, times the steps."""
        if len(arguments) != 8 or not isinstance(arguments[1], (list, tuple)):
            return NotImplemented  # packed sequences: as many steps as the data say
        state, weights, _, layers, _, _, two_ways, _ = arguments
        hidden = state if gates < 4 else state[0]
        steps = math.prod(input.shape[:-1])
        directions = 2 if two_ways else 1
        matrices = [weight for weight in weights if weight.ndim == 2]
        lead = (input.shape[0], input.shape[1]) if input.ndim == 3 else None
        if lead is None:
            return NotImplemented
        width = hidden.shape[-1]
        tally.count(steps * sum(weight.numel() for weight in matrices), steps * layers * directions * width)
        output = tally.map((*lead, width * directions), input.dtype)
        states = state if gates == 4 else (state,)
        return (output, *(tally.map(tuple(each.shape), input.dtype) for each in states))

    return recurrent


def recurrent_cell_rule(gates: int) -> Rule:
    """The rule of one step of a recurrent layer."""

    def recurrent_cell(tally: Tally, input: Tensor, state: Any, *arguments: Any) -> Any:
        """Each weight is used once."""
        states = tuple(state) if gates == 4 else (state,)
        if input.ndim != 2 or len(arguments) < 2:
            return NotImplemented
        steps = input.shape[0]
        matrices = sum(weight.numel() for weight in arguments[:2])
        tally.count(steps * matrices, states[0].numel())
        maps = tuple(tally.map(tuple(each.shape), input.dtype) for each in states)
        return maps if gates == 4 else maps[0]

    return recurrent_cell


RULES.update({function: recurrent_rule(gates) for function, gates in GATES.items()})
RULES.update({function: recurrent_cell_rule(gates) for function, gates in CELL_GATES.items()})
