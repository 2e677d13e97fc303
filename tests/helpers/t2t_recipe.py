"""Weights and images that depend on names alone: two implementations can be filled alike without sharing a file.

Each tensor has a stream of its own: the SHA-256 of its name seeds splitmix64 (Steele, Lea, Flood 2014), and the upper
53 bits of every output make a number u in [-1, 1). A weight is float32(base + amplitude * u); which base and which
amplitude follows from its name and shape. The reference figures under ``fixtures/t2t_vit`` were computed by the
original authors' implementation of T2T-ViT filled like this.
"""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
import torch
from torch import Tensor, nn

CHUNK = 1 << 16  # values drawn at a time: they stay in the processor's cache


def uniform(name: str, count: int) -> np.ndarray:
    """``count`` numbers of the stream of ``name``, float64 in [-1, 1)."""
    seed = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    out = np.empty(count)
    for start in range(0, count, CHUNK):
        state = np.arange(start + 1, min(start + CHUNK, count) + 1, dtype=np.uint64)
        state *= np.uint64(0x9E3779B97F4A7C15)  # wraps around at 2^64, as it should
        state += seed
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            state ^= state >> np.uint64(shift)
            state *= np.uint64(factor)
        out[start : start + len(state)] = (state >> np.uint64(11)) * 2.0**-52 - 1.0
    return out


def draw(name: str, shape: tuple[int, ...], amplitude: float = 1.0, base: float = 0.0) -> Tensor:
    """The tensor of ``name``, float32."""
    values = base + amplitude * uniform(name, math.prod(shape))
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


@functools.cache  # nets of one width share most of theirs
def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """What the state-dict entry ``name`` is filled with; to be read only."""
    last = name.rpartition(".")[2]
    if name == "cls_token":
        return draw(name, shape)
    if last == "w":
        return draw(name, shape, math.sqrt(1.5))
    if len(shape) == 1:
        return draw(name, shape, 0.25, 1.0) if last == "weight" else draw(name, shape, 0.1)
    gain = 0.3 if name.endswith(".kqv.weight") else 2.0 if name.endswith(".attn.qkv.weight") else 1.0
    return draw(name, shape, gain * math.sqrt(3.0 / math.prod(shape[1:])))


@torch.no_grad()
def fill(module: nn.Module, prefix: str = "") -> nn.Module:
    """Fill ``module`` in place, except the position table; ``prefix`` goes before the names. In evaluation mode."""
    for name, value in module.state_dict().items():
        if name != "pos_embed":
            value.copy_(weight(prefix + name, tuple(value.shape)))
    return module.eval()


def images(size: int, batch: int = 2, chans: int = 3) -> Tensor:
    """A batch of noise of variance 1."""
    shape = (batch, chans, size, size)
    return draw(f"input:{'x'.join(map(str, shape))}", shape, math.sqrt(3.0))
