"""Which modules are known exactly, and how one takes the place of another."""

from __future__ import annotations

import inspect
import weakref

import torch
from torch import Tensor, nn

from .._wrappers import has_hooks
from .packed import PackedConv2d, PackedLinear


def is_plain(module: nn.Module) -> bool:
    """Whether calling ``module`` runs what its class defines and nothing else: no hooks, no methods of its own."""
    methods = (inspect.isroutine(getattr(type(module), name, None)) for name in vars(module))
    return not has_hooks(module) and not any(methods)


def is_replaceable(module: nn.Module) -> bool:
    """Whether another module that does the same can stand in the place of ``module``.

    None can where another module refers to it weakly: that one may call it, and would lose it.
    """
    return is_plain(module) and not weakref.getweakrefcount(module)


def is_layer(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether ``module`` is of one of these very classes, with ordinary dense tensors held as the class holds them.

    That leaves out subclasses, and layers that are pruned, parametrised or quantised.
    """
    if type(module) not in kinds or module._modules or not is_replaceable(module):
        return False
    tensors = {**module._parameters, **module._buffers}
    return not any(isinstance(value, Tensor) for value in vars(module).values()) and all(
        type(tensor) in (nn.Parameter, Tensor)
        and tensor.layout is torch.strided
        and (tensor.is_floating_point() or name == "num_batches_tracked")
        for name, tensor in tensors.items()
        if tensor is not None
    )


def place(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Put ``module`` where ``path`` says; returns the model, which is ``module`` where the path is empty."""
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module
    return model


def pack(model: nn.Module, channels_last: bool) -> nn.Module:
    """Make the convolutions and linear layers of ``model`` packed ones; returns the model, which may be one itself."""
    packed: dict[nn.Module, nn.Module] = {}  # a layer that stands in several places stays one layer
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if module not in packed and is_layer(module, nn.Conv2d):
            packed[module] = PackedConv2d.of(module, channels_last=channels_last)
        elif module not in packed and is_layer(module, nn.Linear):
            packed[module] = PackedLinear.of(module)
        if module in packed:
            model = place(model, path, packed[module])
    return model
