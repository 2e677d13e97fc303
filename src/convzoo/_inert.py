"""Models that a run leaves as they are: how they are known, and copies of them that share almost everything."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Set
from typing import Any

from torch import nn

from ._wrappers import BACKWARD_HOOKS, FORWARD_HOOKS

ACTING = (*FORWARD_HOOKS, *BACKWARD_HOOKS, "_compiled_call_impl")  # what a call runs beside or instead of the code
# code, where an instance has it
PATCHES = frozenset({
    "forward", "forward_features", "forward_head", "check_input", "_run", "_run_blocks", "_conv_forward",
})  # fmt: skip


def is_inert(model: nn.Module) -> bool:
    """Whether running ``model`` changes nothing of it: all its code is the zoo's and torch's own, it is in evaluation
    mode, has no hooks, no module in two places, and tensors that autograd takes."""
    modules, seen = [model], {id(model)}
    for module in modules:  # which becomes longer meanwhile
        state = module.__dict__
        if (
            state.get("training", True)  # what wraps compiled code has none of its own
            or not state.keys().isdisjoint(PATCHES)
            or any(map(state.get, ACTING))
            or not is_known_code(module)
        ):
            return False
        for parameter in state["_parameters"].values():
            if parameter is not None and (type(parameter) is not nn.Parameter or parameter.is_inference()):
                return False
        for buffer in state["_buffers"].values():
            if buffer is not None and buffer.is_inference():
                return False
        for child in state["_modules"].values():
            if child is not None:
                if id(child) in seen:
                    return False
                seen.add(id(child))
                modules.append(child)
    return True


def is_known_code(module: nn.Module) -> bool:
    """Whether all code of the class of ``module`` is the zoo's or torch's, also if somebody put another ``forward``
    into it; of a transformer's layer the activation may be anybody's."""
    kind: Any = type(module)
    return _is_known_code(kind, kind.forward)


@functools.lru_cache(maxsize=256)
def _is_known_code(kind: Any, forward: Any) -> bool:
    places = kind.__module__, str(getattr(forward, "__module__", ""))
    return places[0] != "torch.nn.modules.transformer" and all(
        place.startswith(("convzoo.models.", "torch.nn.modules.")) for place in places
    )


def copy_inert(module: nn.Module, hooked: Set[int]) -> nn.Module:
    """A copy of a model that :func:`is_inert`, with parameters that require no gradient and with room for hooks.

    It shares whatever a run leaves as it is, and so costs a fraction of :func:`private_copy`.

    Args:
        module: the model.
        hooked: ids of the modules in it that hooks will be registered on.
    """
    state = module.__dict__
    parameters, children = state["_parameters"], state["_modules"]
    if not parameters and not children and id(module) not in hooked:
        return module
    fresh: nn.Module = object.__new__(type(module))
    own = fresh.__dict__
    own.update(state)
    if parameters:
        own["_parameters"] = {
            name: None if each is None else nn.Parameter(each, requires_grad=False) for name, each in parameters.items()
        }
    if children:
        own["_modules"] = {
            name: None if child is None else copy_inert(child, hooked) for name, child in children.items()
        }
    if id(module) in hooked:
        own.update((name, OrderedDict()) for name in FORWARD_HOOKS)
    return fresh
