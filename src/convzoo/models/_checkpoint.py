"""Training in less memory: a block computed a second time in the backward pass instead of keeping what is inside it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.checkpoint
from torch import nn

if TYPE_CHECKING:
    from ._base import Classifier


def check_has_blocks(model: Classifier) -> None:
    """Refuse a net that is not deep enough for this to be worth while."""
    if not model.can_checkpoint:
        raise ValueError(
            f"{model.config.name} has no blocks to compute again, its activations are few; train it as it is (nets "
            "with can_checkpoint=True can)"
        )


def run_checkpointed(block: nn.Module, inputs: tuple[Any, ...]) -> Any:
    """``block(*inputs)``, of which only the inputs are kept; running statistics take each batch in once."""
    if torch.compiler.is_compiling():  # the compiler writes buffers once, at the end of the forward graph
        return torch.utils.checkpoint.checkpoint(block, *inputs, use_reentrant=False)

    def around_both_passes() -> tuple[Any, Any]:
        return contextlib.nullcontext(), BuffersAsBefore(block)

    return torch.utils.checkpoint.checkpoint(block, *inputs, use_reentrant=False, context_fn=around_both_passes)


class BuffersAsBefore:
    """A context, to be entered any number of times, in which ``block`` has copies of the buffers that it has now.

    In it the block computes what it computes now, and whatever its layers count or average in training (the statistics
    of any batch norm, say) goes to the copies: the block's own buffers take each batch in once.
    """

    def __init__(self, block: nn.Module) -> None:
        self.before = [
            (module._buffers, name, buffer.clone())
            for module in block.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def __enter__(self) -> None:
        self.own = [buffers[name] for buffers, name, _ in self.before]
        for buffers, name, value in self.before:
            buffers[name] = value.clone()

    def __exit__(self, *exception: object) -> None:
        for (buffers, name, _), buffer in zip(self.before, self.own, strict=True):
            buffers[name] = buffer
