"""A second body for a model: the same tensors, its own hooks and flags.

Looking into a model means putting it into evaluation mode and hooking its layers. Done on the user's model, both have
to be taken back afterwards, also after an exception, and both are seen by every other thread that uses the model
meanwhile. So we do neither: we make a copy of the tree of modules that shares every parameter and buffer, costs about
ten microseconds a module, and is thrown away. The user's model is only read.
"""

from __future__ import annotations

from collections import OrderedDict
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside what :func:`torch.compile` and the data-parallel wrappers make of it."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := model.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model


def replica(model: nn.Module, *, device: str | None = None) -> nn.Module:
    """``model`` in evaluation mode, as a new tree of modules over the same tensors.

    No parameter requires a gradient, backward hooks and compiled calls are left out, forward hooks stay. With
    ``device="meta"`` the tensors have shapes only, so that a forward pass costs nothing and tells the shapes.
    """
    return _copy(model, {}, device)


def _copy(module: nn.Module, done: dict[int, nn.Module], device: str | None) -> nn.Module:
    module = unwrap(module)
    if id(module) in done:  # a layer that is used in two places stays one layer
        return done[id(module)]
    fresh: nn.Module = object.__new__(type(module))
    done[id(module)] = fresh
    state: dict[str, Any] = {}
    for name, value in module.__dict__.items():
        if isinstance(value, dict):
            value = value.copy()  # hooks, and whatever a forward pass may remember
        elif isinstance(value, MethodType) and value.__self__ is module:
            value = MethodType(value.__func__, fresh)  # a method that was put on this one instance
        state[name] = value
    state["training"] = False
    state["_backward_hooks"], state["_backward_pre_hooks"] = OrderedDict(), OrderedDict()
    if "_compiled_call_impl" in state:
        state["_compiled_call_impl"] = None
    for kind in ("_parameters", "_buffers"):
        state[kind] = {name: _alias(tensor, device) for name, tensor in module.__dict__[kind].items()}
    fresh.__dict__ = state
    state["_modules"] = {
        name: None if child is None else _copy(child, done, device) for name, child in module._modules.items()
    }
    return fresh


def _alias(tensor: Tensor | None, device: str | None) -> Tensor | None:
    if tensor is None:
        return None
    if device is not None:
        return torch.empty_like(tensor, device=device, requires_grad=False)
    if tensor.is_inference():  # made in inference mode: autograd refuses it, but not a copy of it
        return tensor.detach().clone()
    return tensor.detach()
