"""Weights and images that any implementation can make for itself, so that two of them can be compared as black boxes.

Every tensor is drawn from a generator seeded by its own key; so are the images, from a seed of their own. The figures
in ``fixtures/torchvision`` were computed with exactly these numbers.
"""

import functools
import zlib

import numpy as np
import torch
from torch import Tensor, nn

LARGE = 2**22  # numbers of a tensor that is drawn once a process


def drawn(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float64 values of the state-dict entry ``key``."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    if key.endswith("running_var"):
        return generator.uniform(0.5, 1.5, shape)
    if len(shape) >= 2:
        return generator.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))
    if key.endswith("weight"):
        return generator.uniform(0.5, 1.5, shape)
    return generator.standard_normal(shape) * 0.1


def entry(key: str, like: Tensor) -> Tensor:
    """What the state-dict entry ``key`` is filled with: float64, or zeros where ``like`` counts something."""
    if not like.is_floating_point():
        return torch.zeros(like.shape, dtype=like.dtype)
    return (kept_entry if like.numel() >= LARGE else new_entry)(key, tuple(like.shape))


def new_entry(key: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.asarray(drawn(key, shape)))


kept_entry = functools.cache(new_entry)  # the 103 million numbers of VGG's first wide layer are the same in all VGGs


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """``model``, which may be on the meta device, as a float64 model in evaluation mode with drawn values.

    The large tensors are shared between models: they are to be read only.
    """
    model = model.double().eval()
    model.load_state_dict({key: entry(key, value) for key, value in model.state_dict().items()}, assign=True)
    return model


def picture(*shape: int) -> Tensor:
    """A fixed float64 batch of images (N, C, H, W)."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(20260101)).standard_normal(shape))
