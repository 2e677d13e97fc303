"""The forward hooks of the model that is counted: which there are, what they can change, and a call with them."""

from __future__ import annotations

import dis
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


def returns_nothing(hook: Any) -> bool:
    """Whether ``hook`` is seen to return None wherever it ends: then it changes no map.

    A statement ``return`` and the end of a function are two instructions, or one from Python 3.12 on. What looks
    otherwise, such as an expression that is returned, is taken for a change.
    """
    function = getattr(hook, "__func__", hook)
    if not isinstance(function, types.FunctionType):
        return False
    loaded: Any = function
    for each in dis.get_instructions(function):
        constant = each.opname == "RETURN_CONST"
        if constant or each.opname == "RETURN_VALUE":
            value = each.argval if constant else loaded
            if value is not None or (each.is_jump_target and not constant):
                return False
        loaded = each.argval if each.opname == "LOAD_CONST" else function
    return True


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
