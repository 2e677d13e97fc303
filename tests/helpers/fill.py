"""Weights and images that any implementation can make for itself, so that two of them can be compared as black boxes.

Every tensor is drawn from a generator seeded by its own key; so are the images, from a seed of their own. The figures
in ``fixtures/torchvision`` were computed with exactly these numbers.
"""

import zlib

import numpy as np
import torch
from torch import Tensor, nn


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


@torch.no_grad()
def fill(model: nn.Module) -> nn.Module:
    """``model``, which may be on the meta device, as a float64 model in evaluation mode with drawn values."""
    model = model.double().eval()
    if next(model.parameters()).is_meta:
        model = model.to_empty(device="cpu")
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(np.asarray(drawn(key, tuple(tensor.shape)))))
        else:
            tensor.zero_()
    return model


def picture(*shape: int) -> Tensor:
    """A fixed float64 batch of images (N, C, H, W)."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(20260101)).standard_normal(shape))
