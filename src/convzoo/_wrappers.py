"""What is put around a module: wrappers, such as :func:`torch.compile` makes, and hooks."""

from __future__ import annotations

from torch import nn

# The class of a wrapper, and under which name it keeps the module that it wraps. By the names of the classes, because
# importing them only to look for them is slow.
WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": "_fsdp_wrapped_module",
    "torch.optim.swa_utils.AveragedModel": "module",
}
NAMES_INSIDE = frozenset(WRAPPERS.values())
FORWARD_HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)  # fmt: skip
BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside what compilation, data parallelism and weight averaging put around it, in any order.

    Example:
        >>> import torch
        >>> layer = nn.Linear(3, 2)
        >>> unwrap(nn.DataParallel(torch.compile(layer))) is layer
        True
    """
    while any(name in model._modules for name in NAMES_INSIDE):
        names = (WRAPPERS.get(f"{kind.__module__}.{kind.__qualname__}") for kind in type(model).__mro__)
        inner = next((model._modules[name] for name in names if name), None)
        if inner is None:
            break
        model = inner
    return model


def unwrap_call(model: nn.Module, path: str = "", *, hooks: bool = True) -> nn.Module:
    """The module inside the wrappers, for those who run it instead of them.

    Args:
        model: a module, wrapped or not.
        path: where it stands in a larger model, for the message.
        hooks: mind the forward hooks of wrappers too.

    Raises:
        ValueError: calling a wrapper is not calling the module inside: it has hooks or a ``forward`` of its own, or it
            was compiled from another module than it holds now.
    """
    for wrapper in wrappers_of(model):
        if hooks and has_forward_hooks(wrapper):
            why = "with hooks"
        elif has_own_forward(wrapper):
            why = "with a forward of its own"
        elif runs_another(wrapper):
            why = "that still runs the module it was compiled from, while another was put inside"
        else:
            continue
        raise ValueError(
            f"{path or 'the model'} is a wrapper ({type(wrapper).__name__}) {why}, and wrappers are left out; pass the "
            "module inside, with hooks and changes on itself, or wrap it anew"
        )
    return unwrap(model)


def wrappers_of(model: nn.Module) -> list[nn.Module]:
    """The wrappers around the module inside ``model``, from the outermost in."""
    found: list[nn.Module] = []
    inner = unwrap(model)
    while model is not inner:
        found.append(model)
        model = next(each for name in NAMES_INSIDE if (each := model._modules.get(name)) is not None)
    return found


def answer_for(fresh: nn.Module, outside: nn.Module) -> None:
    """Let ``fresh``, the copy of what is inside the wrappers ``outside``, be found by the names that they have for it,
    as in ``model.module.fc``."""
    for wrapper in wrappers_of(outside):
        for name in NAMES_INSIDE & wrapper._modules.keys():
            if not hasattr(fresh, name):
                vars(fresh)[name] = fresh


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs forward hooks of its own."""
    return any(vars(module).get(kind) for kind in FORWARD_HOOKS)


def has_own_forward(wrapper: nn.Module) -> bool:
    """Whether somebody replaced what a wrapper does when it is called, in a subclass or on the instance."""
    for kind in type(wrapper).__mro__:
        if f"{kind.__module__}.{kind.__qualname__}" in WRAPPERS:
            break
        if "forward" in vars(kind) or "__call__" in vars(kind):
            return True
    if "_orig_mod" in wrapper._modules:  # its forward is the compiler's, and stands on the instance
        return not isinstance(compiled_module(wrapper), nn.Module)
    return "forward" in vars(wrapper)


def runs_another(wrapper: nn.Module) -> bool:
    """Whether a compiled ``wrapper`` calls a module that is not the one inside (any more)."""
    return "_orig_mod" in wrapper._modules and compiled_module(wrapper) is not wrapper._modules["_orig_mod"]


def compiled_module(wrapper: nn.Module) -> object:
    """The module that the ``forward`` of a compiled wrapper was made from; None if the compiler did not make it."""
    call = vars(wrapper).get("_forward") or vars(wrapper).get("forward")
    code = getattr(call, "__globals__", {}).get("__name__", "")  # which functools.wraps does not change
    compiled = getattr(call, "_torchdynamo_orig_callable", None)  # a method of the module, or a function around it
    if not code.startswith("torch._dynamo."):
        return None
    return getattr(compiled, "__self__", None) or getattr(compiled, "__wrapped__", None)


def has_hooks(module: nn.Module) -> bool:
    """Whether calling ``module`` runs hooks."""
    return any(vars(module).get(kind) for kind in (*FORWARD_HOOKS, *BACKWARD_HOOKS))


def has_global_hooks() -> bool:
    """Whether hooks are registered for all modules."""
    return any(getattr(nn.modules.module, f"_global{kind}", None) for kind in ("_forward_hooks", "_forward_pre_hooks"))
