"""What a profile is asked about: the inputs, as empty tensors, and the model, as long as it lives."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[tuple[Tensor, ...], dict[str, Tensor]]


class Source:
    """What a profile was taken of. The model is not kept alive; one of the zoo can be built again, empty."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model = weakref.ref(model)
        self._config = getattr(model, "config", None)
        self.inputs = inputs

    def model(self) -> nn.Module:
        """The model.

        Raises:
            ValueError: it is gone, and not one of the zoo.
        """
        from ..models import ModelConfig
        from ..registry import build

        model = self._model()
        if model is None and isinstance(self._config, ModelConfig):
            with torch.device("meta"):
                model = build(self._config)
        if model is None:
            raise ValueError(
                "the model of this profile is gone, and a check runs it once more; a profile does not keep its model "
                "alive; keep it in a variable, or call profile(model, input_size, counter='thop')"
            )
        return model


def default_dtype(parameters: Iterable[Tensor], dtype: torch.dtype | None) -> torch.dtype:
    """The type given, or that of the first floating-point parameter."""
    if dtype is not None:
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, got {dtype!r}; pass e.g. torch.float16")
        return dtype
    floating = (tensor.dtype for tensor in parameters if tensor.dtype.is_floating_point)
    return next(floating, torch.get_default_dtype())


def one_image(input_size: Any, dtype: torch.dtype) -> Inputs:
    """What the user gave, as positional and keyword arguments on meta, one image of the batch."""
    advice = "pass (C, H, W), (N, C, H, W), a tensor, or a tuple or dict of tensors"
    if isinstance(input_size, Tensor):
        return tuple(single([input_size])), {}
    if isinstance(input_size, Mapping):
        if not input_size or not all(isinstance(value, Tensor) for value in input_size.values()):
            raise TypeError(f"a dict of inputs holds tensors by their names, got {dict(input_size)!r:.80}; {advice}")
        return (), dict(zip(input_size, single(list(input_size.values())), strict=True))
    if not isinstance(input_size, (tuple, list)):
        raise TypeError(f"input_size is {type(input_size).__name__}, {input_size!r:.60}; {advice}")
    if input_size and all(isinstance(value, Tensor) for value in input_size):
        return tuple(single(list(input_size))), {}
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in input_size):
        raise TypeError(f"input_size holds whole numbers or tensors, got {input_size!r:.80}; {advice}")
    if len(input_size) not in (1, 3, 4, 5) or min(input_size) < 1:
        raise ValueError(f"input_size must be 3 or 4 sizes of at least 1, got {tuple(input_size)}; {advice}")
    sizes = tuple(input_size[1:] if len(input_size) > 3 else input_size)
    return (torch.empty((1, *sizes), dtype=dtype, device="meta"),), {}


def single(tensors: list[Tensor]) -> list[Tensor]:
    """Empty tensors like these; where all agree on the first dimension, with one image of the batch."""
    batches = {tensor.shape[0] if tensor.ndim else None for tensor in tensors}
    one = len(batches) == 1 and None not in batches and 0 not in batches
    return [
        torch.empty((1, *tensor.shape[1:]) if one else tensor.shape, dtype=tensor.dtype, device="meta")
        for tensor in tensors
    ]
