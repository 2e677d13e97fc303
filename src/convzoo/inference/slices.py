"""A large batch, a few images at a time.

What a layer writes is read at once by the next: while both maps fit into the cache, nobody waits for memory. And blocks
of more than 32 MB are, by the C library of Linux, asked from the kernel anew in every call, which clears their pages
one by one: at 16 images of 224x224 that alone was a sixth of ResNet-50's time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._modules import list_modules
from .._wrappers import has_global_hooks
from .layers import is_plain
from .packed import PackedConv2d, PackedLinear, StandIn, can_use_kernels
from .trace import TRANSPARENT, Trace
from .winograd import divisor

BYTES_AT_ONCE = 8 * 2**20  # of the largest map, for each thread
IMAGE_BY_IMAGE = frozenset({  # layers that do the same to every image, whatever the others are
    *(PackedConv2d, PackedLinear, StandIn, nn.Conv2d, nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.Module, nn.Sequential, nn.ModuleList),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, *TRANSPARENT),
})  # fmt: skip
NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # they do too, once their statistics stand


@dataclass(frozen=True)
class Slices:
    """How a net goes through a batch. ``numbers``: of its largest map, for each pixel of an image."""

    numbers: float

    @classmethod
    def of(cls, trace: Trace, images: Tensor) -> Slices:
        """For the net that ``trace`` is of, which was run on ``images`` (N, C, H, W)."""
        written = [trace.shapes[call.output].numel() for call in trace.calls if call.output is not None]
        return cls(max(written) / (len(images) * images.shape[2:].numel()))

    def __call__(self, model: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """``function``, a method of ``model``, of images (N, C, H, W): in slices of the batch where that is faster and
        nobody sees it."""
        if model.training or not can_use_kernels(x, next(model.parameters())) or x.ndim != 4:
            return function(x)
        most = int(BYTES_AT_ONCE * torch.get_num_threads() / (self.numbers * x.shape[2:].numel() * x.element_size()))
        if len(x) <= most:
            return function(x)
        images = divisor(len(x), most)  # all slices alike, for the kernels are laid out for one shape
        if 2 * images < most or not is_image_by_image(model):
            return function(x)
        return torch.cat([function(part) for part in x.split(images)])


def is_image_by_image(model: nn.Module) -> bool:
    """Whether what ``model`` makes of an image does not depend on the others, and no hook sees how many there are."""
    if has_global_hooks():
        return False
    for module in list_modules(model):
        kind = type(module)
        if not is_plain(module):
            return False
        if isinstance(module, NORMS) and (module.training or module.running_mean is None):
            return False
        if not (kind in IMAGE_BY_IMAGE or kind in NORMS or kind.__module__.startswith("convzoo.")):
            return False
    return True
