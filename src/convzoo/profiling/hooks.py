"""The forward hooks of the model that is counted: which there are, and a call with them."""

from __future__ import annotations

import types
from typing import Any

from torch import nn

from .tally import ModuleRecord


def find_hooks(module: nn.Module) -> list[Any]:
    """The forward hooks of ``module`` that are not torch's own, such as those that put a pruned weight together."""
    return [hook for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()) if is_foreign(hook)]


def is_foreign(hook: Any) -> bool:
    """Whether ``hook`` is not one of torch's."""
    code = hook if isinstance(hook, (types.FunctionType, types.MethodType)) else type(hook)
    return not str(getattr(code, "__module__", "")).startswith("torch.")


def call_with_hooks(module: nn.Module, record: ModuleRecord, *args: Any, **kwargs: Any) -> Any:
    """What a call of ``module`` does with its forward hooks, those of torch and those for all modules left out."""
    for key, hook in module._forward_pre_hooks.items():
        if not is_foreign(hook):
            continue
        if key in module._forward_pre_hooks_with_kwargs:
            args, kwargs = hook(module, args, kwargs) or (args, kwargs)
        elif (given := hook(module, args)) is not None:
            args = given if isinstance(given, tuple) else (given,)
    output = record(*args, **kwargs)
    for key, hook in module._forward_hooks.items():
        if not is_foreign(hook):
            continue
        takes_kwargs = key in module._forward_hooks_with_kwargs
        given = hook(module, args, kwargs, output) if takes_kwargs else hook(module, args, output)
        output = output if given is None else given
    return output
