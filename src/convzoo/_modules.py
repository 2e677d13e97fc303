"""Private copies of models: run a model's code without changing anything of the model.

Looking into a model or counting it needs evaluation mode, hooks and a run of its ``forward``. Done on the user's model,
all of that would have to be undone, also after an exception, and every other thread that uses the model would see it.
Here a run gets a tree of modules of its own instead. It shares the parameters, so it costs microseconds a module.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import types
import weakref
from collections import OrderedDict, deque
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from ._introspection import is_empty, leads_to, slots_of, used_globals, without_end
from ._wrappers import BACKWARD_HOOKS, FORWARD_HOOKS, answer_for, unwrap, unwrap_call

STANDARD = frozenset(nn.Module().__dict__) | {"_compiled_call_impl"}
CONTAINERS = tuple(name for name, value in nn.Module().__dict__.items() if isinstance(value, (dict, set)))
HOOKS = (*FORWARD_HOOKS, *BACKWARD_HOOKS)
NO_HOOKS: OrderedDict[int, Any] = OrderedDict()
IMMUTABLE = frozenset({
    int, float, str, bool, bytes, complex, type(None), type, torch.dtype, torch.device, torch.Size, torch.layout,
    torch.memory_format, types.BuiltinFunctionType, types.ModuleType, range, slice,
})  # fmt: skip


def list_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of ``model``, each once and itself first; faster than its own ``modules``."""
    found, seen = [model], {id(model)}
    for module in found:  # which becomes longer meanwhile
        for child in module._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                found.append(child)
    return found


def is_autocast_on(device: torch.device) -> bool:
    """Whether autocast is on for a kind of device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def autocast_off(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Autocast off where it is on; elsewhere nothing, which leaves traced graphs clean."""
    if is_autocast_on(device):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def private_copy(model: nn.Module, *, device: str | torch.device | None = None, hooks: bool = True) -> Any:
    """A tree of modules like ``model``, in evaluation mode, to be run and thrown away; ``model`` is only read.

    The copy shares the memory of the parameters. Everything else that code can change while it runs is its own:
    buffers, flags, hooks, and the lists, dicts and objects among the attributes of the modules, also where a bound
    method or a closure refers to them. Modules and tensors that stand in several places of ``model`` do so in the copy.
    Wrappers are left out, of the model and of its parts (see :func:`unwrap_call`); what is inside answers to the names
    that they have for it. The one thing that reaches the model is code that overwrites a parameter in place.

    Args:
        model: any module whose code is Python.
        device: of the copy's tensors; ``"meta"`` gives them shapes and no memory. None: where they are.
        hooks: keep the forward hooks. Backward hooks are always left out.

    Returns:
        The copy. Its parameters require no gradient.

    Raises:
        TypeError: the model or a part of it is a scripted module.
        ValueError: calling a wrapper is not calling the module inside.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        >>> private = private_copy(model)
        >>> private.training, private[0].weight.data_ptr() == model[0].weight.data_ptr()
        (False, True)
        >>> private[1].running_mean.fill_(1), model[1].running_mean
        (tensor([1., 1.]), tensor([0., 0.]))
    """
    copier = ModuleCopier(device, hooks)
    private = copier.module(model)
    copier.finish()
    return private


class ModuleCopier:
    """Copies modules, and whatever their attributes hold, each once.

    :meth:`module` copies the tree of modules; :meth:`finish` then gives the copies their attributes, which may refer
    to any module of the tree.
    """

    def __init__(self, device: str | torch.device | None = None, hooks: bool = True) -> None:
        self.device, self.hooks = device, hooks
        self._copies: dict[int, Any] = {}
        self._originals: list[Any] = []  # kept, so that no id in _copies is used anew
        self._unfinished: list[tuple[nn.Module, nn.Module]] = []

    def module(self, module: nn.Module, path: str = "", *, registered: bool = True) -> Any:
        """The copy of ``module`` and of the modules in it; ``registered`` is for those who count."""
        outside, module = module, unwrap_call(module, path, hooks=self.hooks)
        if id(module) in self._copies:
            return self._copies[id(module)]
        refuse_script(module, path)
        fresh = self.remember(module, self.bare(module))
        if module is not outside:
            answer_for(fresh, outside)
        children = fresh._modules
        for name, child in children.items():
            if child is not None:
                children[name] = self.module(child, f"{path}.{name}" if path else name, registered=registered)
        return fresh

    def bare(self, module: nn.Module) -> nn.Module:
        """The copy of one module, with the modules that are in the original."""
        fresh: nn.Module = object.__new__(type(module))
        state = fresh.__dict__
        state.update(module.__dict__)
        for name in CONTAINERS:
            state[name] = state[name].copy()
        for name in BACKWARD_HOOKS if self.hooks else (*BACKWARD_HOOKS, *FORWARD_HOOKS):
            state[name] = OrderedDict()
        state["training"], state["_compiled_call_impl"] = False, None
        for name in ("_parameters", "_buffers"):
            state[name] = {key: None if each is None else self.tensor(each) for key, each in state[name].items()}
        self._unfinished.append((module, fresh))
        return fresh

    def finish(self) -> None:
        """Complete all copies of modules."""
        while self._unfinished:
            self.complete(*self._unfinished.pop())

    def complete(self, module: nn.Module, fresh: nn.Module) -> None:
        """Give the copy of a module its attributes, and hooks that belong to it."""
        state, kind = fresh.__dict__, cast("Any", type(module))
        for name, value in module.__dict__.items():
            if name not in STANDARD and type(value) not in IMMUTABLE:
                state[name] = self.value(value)
        for name in slots_of(kind):
            if hasattr(module, name):
                object.__setattr__(fresh, name, self.value(getattr(module, name)))
        if self.hooks:
            for name in ("_forward_hooks", "_forward_pre_hooks"):
                for key, hook in state[name].items():
                    state[name][key] = self.value(hook)

    def tensor(self, tensor: Tensor) -> Tensor:
        """The copy of a tensor: of a parameter one that shares its memory, else one with memory of its own."""
        if id(tensor) in self._copies:
            return self._copies[id(tensor)]
        kind = type(tensor)  # asked first, because an isinstance of a parameter is slow
        if kind not in (nn.Parameter, Tensor) and is_lazy(tensor):
            return self.remember(tensor, copy.deepcopy(tensor))
        parameter = kind is nn.Parameter or (kind is not Tensor and isinstance(tensor, nn.Parameter))
        if kind is nn.Parameter and self.device is None and not tensor.is_inference():
            return self.remember(tensor, nn.Parameter(tensor, requires_grad=False))
        fresh = tensor.detach()
        if self.device is not None and torch.device(self.device) != tensor.device:
            meta = torch.device(self.device).type == "meta" and tensor.layout is torch.strided
            fresh = torch.empty_like(fresh, device=self.device) if meta else fresh.to(self.device)
        elif tensor.is_inference() or not parameter:
            fresh = fresh.clone()
        if parameter:
            fresh = nn.Parameter(fresh, requires_grad=False)
        return self.remember(tensor, fresh)

    def value(self, value: Any) -> Any:
        """The copy of any value: of containers and objects too, with the copies of modules and tensors in them."""
        kind: Any = type(value)
        if kind in IMMUTABLE or kind is object or (kind is tuple and IMMUTABLE.issuperset(map(type, value))):
            return value
        if id(value) in self._copies:
            return self._copies[id(value)]
        if issubclass(kind, (weakref.ref, *weakref.ProxyTypes)):
            return self.weak(value)
        if kind in (weakref.WeakKeyDictionary, weakref.WeakValueDictionary):
            return self.remember(value, kind({self.known(key): self.known(each) for key, each in value.items()}))
        if kind is weakref.WeakSet:
            return self.remember(value, kind(map(self.known, value)))
        if isinstance(value, nn.Module):
            return self.module(value, f"({kind.__name__} {len(self._copies)}, not registered)", registered=False)
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, tuple):
            items = [self.value(each) for each in value]
            if hasattr(kind, "n_sequence_fields"):  # as torch.max returns
                return kind(items)
            return kind(*items) if hasattr(value, "_fields") else tuple(items)
        if kind in (set, frozenset):
            return self.remember(value, kind(self.value(each) for each in value))
        if kind is types.MethodType:
            return types.MethodType(self.value(value.__func__), self.value(value.__self__))
        if kind is functools.partial:
            keywords = {name: self.value(each) for name, each in value.keywords.items()}
            return functools.partial(self.value(value.func), *(self.value(each) for each in value.args), **keywords)
        if kind is types.FunctionType:
            return self.function(value)
        if kind is torch.Generator:
            return self.remember(value, value.clone_state())
        if kind is RemovableHandle:
            return self.remember(value, self.handle(value))
        if kind is types.MappingProxyType:
            return kind(self.value(dict(value)))
        if kind is functools._lru_cache_wrapper:
            return self.remember(value, functools.lru_cache(**value.cache_parameters())(self.value(value.__wrapped__)))
        if kind.__module__.partition(".")[0] == "torch" or (hasattr(kind, "__del__") and without_end(kind) is None):
            return value  # torch's own machinery, and what acts when it is thrown away
        return self.object(value)

    def weak(self, value: Any) -> Any:
        """The same kind of weak reference to the copy of its module; to anything else it stays as it is."""
        try:
            target = value() if isinstance(value, weakref.ref) else value.named_modules.__self__
        except (AttributeError, ReferenceError):  # not of a module, or of nothing any more
            return value
        method = isinstance(value, weakref.WeakMethod)
        if type(value) not in (weakref.ref, weakref.WeakMethod, *weakref.ProxyTypes):
            return value  # of a dictionary, which is copied as a whole
        if id(target.__self__ if method and target else target) not in self._copies:
            return value
        if isinstance(value, weakref.ref):
            return type(value)(self.value(target))
        return weakref.proxy(self.value(target))

    def handle(self, handle: RemovableHandle) -> RemovableHandle:
        """What takes a hook off the copy of its module."""
        kept: dict[int, Any] = {}
        for module in self._originals:
            if isinstance(module, nn.Module):
                fresh = self._copies[id(module)]
                kept |= {id(vars(module)[name]): vars(fresh).get(name) for name in HOOKS if name in vars(module)}

        def of_copy(reference: Any) -> Any:
            hooks = kept.get(id(reference()))
            return weakref.ref(hooks) if hooks is not None else weakref.ref(NO_HOOKS)

        fresh_handle: Any = object.__new__(RemovableHandle)
        fresh_handle.id = handle.id
        fresh_handle.hooks_dict_ref = of_copy(handle.hooks_dict_ref)
        fresh_handle.extra_dict_ref = tuple(map(of_copy, handle.extra_dict_ref))
        return fresh_handle

    def object(self, value: Any) -> Any:
        """The copy of a list, a dict or an object such as a cache; what cannot be copied, such as a lock, is shared."""
        try:
            fresh = self.remember(value, copy.copy(value))
        except Exception:  # a class may raise anything here
            return value
        if fresh is value:
            return value
        kind: Any = type(value)
        if hasattr(kind, "__del__"):
            fresh.__class__ = without_end(kind)
        if isinstance(value, (list, deque)):
            for index, each in enumerate(fresh):  # the original may grow meanwhile, in another thread
                fresh[index] = self.value(each)
        elif isinstance(value, dict):
            items = list(dict.items(fresh))  # the original may change meanwhile, in another thread
            if any(isinstance(key, nn.Module) for key, _ in items):  # names of modules, say, by the modules
                plain = OrderedDict if isinstance(value, OrderedDict) else dict
                plain.clear(fresh)
                for key, each in items:
                    plain.__setitem__(fresh, self.value(key), self.value(each))
            elif not IMMUTABLE.issuperset(type(each) for _, each in items):
                for key, each in items:
                    dict.__setitem__(fresh, key, self.value(each))
            if type(value) is dict:
                return fresh
        for name, each in list(getattr(value, "__dict__", {}).items()):
            if type(each) not in IMMUTABLE:
                object.__setattr__(fresh, name, self.value(each))
        for name in slots_of(kind):
            if hasattr(value, name) and type(each := getattr(value, name)) not in IMMUTABLE:
                object.__setattr__(fresh, name, self.value(each))
        return fresh

    def function(self, function: types.FunctionType) -> Any:
        """A function that holds modules or mutable values, such as a patched ``forward`` or a hook: in its closure, in
        the defaults of its arguments, among its attributes; or that knows modules of the model by global names.
        """
        cells = function.__closure__ or ()
        contents = [cell.cell_contents for cell in cells if not is_empty(cell)]
        defaults, named = function.__defaults__ or (), function.__kwdefaults__ or {}
        held = (*contents, *defaults, *named.values(), *vars(function).values())
        names = used_globals(function) if leads_to(function, self.is_of_model) else {}
        if not names and all(type(each) in IMMUTABLE or isinstance(each, type) for each in held):
            return function
        own: dict[str, Any] = function.__globals__
        if names:
            own = {key: own[key] for key in ("__builtins__", "__name__") if key in own}
        closure = tuple(types.CellType() for _ in cells)
        fresh = types.FunctionType(function.__code__, own, function.__name__, closure=closure)
        self.remember(function, fresh)
        for cell, each in zip(closure, cells, strict=True):
            if not is_empty(each):
                cell.cell_contents = self.value(each.cell_contents)
        for name, each in names.items():
            own[name] = self.value(each) if leads_to(each, self.is_of_model) else each
        if defaults:
            fresh.__defaults__ = tuple(self.value(each) for each in defaults)
        if named:
            fresh.__kwdefaults__ = {name: self.value(each) for name, each in named.items()}
        fresh.__qualname__, fresh.__module__ = function.__qualname__, function.__module__
        vars(fresh).update({name: self.value(each) for name, each in vars(function).items()})
        return fresh

    def is_of_model(self, value: Any) -> bool:
        """Whether ``value`` is a module of the model, or takes a hook off one."""
        return id(unwrap(value)) in self._copies if isinstance(value, nn.Module) else isinstance(value, RemovableHandle)

    def known(self, value: Any) -> Any:
        """The copy of ``value`` if there is one already, else ``value``; what refers weakly keeps nothing alive."""
        return self._copies.get(id(value), value)

    def remember(self, value: Any, fresh: Any) -> Any:
        """Use ``fresh`` as the copy of ``value`` from now on."""
        self._copies[id(value)] = fresh
        self._originals.append(value)
        return fresh


def refuse_script(module: nn.Module, path: str) -> None:
    """TypeError for a scripted module, of which Python cannot make a copy."""
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            f"{path or 'the model'} is a scripted module ({type(module).__name__}), whose code is not Python's to run "
            "or copy; pass the module that it was made from"
        )
