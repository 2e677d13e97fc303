"""The table of rules, and what writing one takes.

A rule has the signature of the function it stands for, with the tally put in front. It reads shapes and types alone,
tells the tally the multiply-accumulates (MACs), and returns a new map of the right shape. A call that it is not sure
of - an odd argument, operands that do not fit, mixed types - it leaves alone by returning ``NotImplemented``; torch
itself then works out the shape on meta tensors, and the error if there is one, while
:mod:`convzoo.profiling.operators` counts. So a rule makes a profile faster, never different: the tests hold each
against the function it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Rule = Callable[..., Any]
RULES: dict[Callable[..., Any], Rule] = {}


def rule(*functions: Callable[..., Any]) -> Callable[[Rule], Rule]:
    """Make what is decorated the rule of ``functions``."""

    def enter(decorated: Rule) -> Rule:
        for function in functions:
            RULES[function] = decorated
        return decorated

    return enter


def spread(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """A size given once for all axes, or once for each."""
    if type(value) is tuple and len(value) == rank:  # as the layers give it
        return value
    sizes = (value,) if isinstance(value, int) else tuple(value)
    return sizes * rank if len(sizes) == 1 else sizes
