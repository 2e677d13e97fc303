"""What families share beside the contract: poolings of maps, and what becomes of logits."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor


class AuxLogits(NamedTuple):
    """What a net with auxiliary heads returns in training mode: the logits, and each auxiliary head's."""

    logits: Tensor
    aux: tuple[Tensor, ...]


def class_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Logits (N, classes) to probabilities (N, classes), float32; a single logit to those of absent and present."""
    scaled = logits.float() / temperature
    if scaled.shape[-1] == 1:
        return torch.cat([-scaled, scaled], -1).sigmoid()
    return scaled.softmax(-1)


def global_average(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) to their means (N, C): global average pooling (Lin et al. 2013, arXiv:1312.4400)."""
    return torch.nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1)


def global_pool(maps: Tensor, kind: Literal["avg", "max"]) -> Tensor:
    """Maps (N, C, H, W) to the mean or the largest value of each, (N, C)."""
    return global_average(maps) if kind == "avg" else maps.amax((2, 3))


def note(maps: list[Tensor] | None, x: Tensor) -> Tensor:
    """``x``, which is appended to ``maps`` where somebody wants them."""
    if maps is not None:
        maps.append(x)
    return x


def check_pooled(config: Any, pools: bool, how: str) -> None:
    """Refuse another ``global_pool`` than the default where the net of ``config`` does not pool globally."""
    if not pools and config.global_pool != "avg":
        raise ValueError(
            f"global_pool of {config.name} is of its global pooling, and without {how} it has none, got "
            f"{config.global_pool!r}; pass {how} too, or leave it"
        )
