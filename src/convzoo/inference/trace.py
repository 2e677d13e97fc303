"""What a model does with one example, call by call: which layer reads what which other layer made.

:func:`record` runs a model once and writes down every call of a layer or of a torch function, as the reads and
writes of numbered values. A tensor that is changed in place becomes another value. Hooks on the modules and a
``TorchFunctionMode`` see the calls; both belong to the thread and the copy of the model that runs, so nothing else
notices.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .._wrappers import has_hooks

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
TRANSPARENT = (nn.Identity, *DROPOUTS)  # they return, in evaluation mode, the very tensor that they are given


class Value(int):
    """The number of a value, which stands for a tensor in the arguments of a :class:`Call`."""


@dataclass
class Call:
    """One call of a layer, of a module with parts, or of a torch function.

    Attributes:
        path: where the module is; empty for a function.
        function: the name of the function; empty for a module.
        frames: paths of the modules whose ``forward`` was at work, outermost first.
        args, kwargs: the arguments, tensors replaced by their values.
        output: the value that was returned; None if it was not one tensor.
        start, end: the calls made by a module with parts, as a range of :attr:`Trace.calls`.
    """

    path: str
    function: str
    frames: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Value | None = None
    start: int = 0
    end: int = 0

    @property
    def source(self) -> Value | None:
        """The value read, if the only argument is a tensor."""
        return self.args[0] if len(self.args) == 1 and isinstance(self.args[0], Value) and not self.kwargs else None


@dataclass
class Trace:
    """All calls of one run, in order.

    Attributes:
        calls: of layers (modules of ``torch.nn`` without parts) and of functions.
        modules: of all other modules, in the order in which they returned.
        kept: values that are read by more than the calls: by hooks, by the caller, by whoever still holds them.
        shapes: of the values.
        tensors: values of the parameters and buffers, with the path of the module that holds them.
    """

    calls: list[Call] = field(default_factory=list)
    modules: list[Call] = field(default_factory=list)
    kept: set[Value] = field(default_factory=set)
    shapes: dict[Value, torch.Size] = field(default_factory=dict)
    tensors: dict[Value, str] = field(default_factory=dict)

    def direct_reads(self) -> list[tuple[str, Call]]:
        """Modules whose parameters or buffers a torch function reads, by path, with that call.

        A look at their attributes, such as type and device, does not count.
        """
        found = []
        for call in self.calls:
            if call.function == "__get__" and call.output is None:
                continue
            reads: list[Value] = []
            replace((call.args, call.kwargs), Value, reads.append)
            found += [(self.tensors[value], call) for value in reads if value in self.tensors]
        return found


def replace(arguments: Any, kind: type, by: Callable[[Any], Any]) -> Any:
    """``arguments`` with everything of ``kind`` in its lists, tuples and dicts replaced."""
    if isinstance(arguments, kind):
        return by(arguments)
    if isinstance(arguments, tuple):
        items = [replace(each, kind, by) for each in arguments]
        return type(arguments)(*items) if hasattr(arguments, "_fields") else tuple(items)
    if isinstance(arguments, list):
        return [replace(each, kind, by) for each in arguments]
    if isinstance(arguments, dict):
        return {key: replace(each, kind, by) for key, each in arguments.items()}
    return arguments


class Recorder(TorchFunctionMode):
    """Writes a :class:`Trace` while a model runs. ``on_value`` sees every value as it comes to be."""

    def __init__(self, model: nn.Module, on_value: Callable[[Value, Tensor], None] | None = None) -> None:
        super().__init__()
        self.trace = Trace()
        self._on_value = on_value
        self._values: dict[int, tuple[weakref.ref[Tensor], Value]] = {}
        self._count = 0
        self._running: list[tuple[Call, bool]] = []  # modules at work, and whether they are layers
        self._silent = False
        for path, module in model.named_modules():
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self.trace.tensors[self.value(tensor)] = path
            hooked = has_hooks(module)
            layer = not module._modules and type(module).__module__.startswith("torch.nn.modules.")
            enter, leave = self._enter(path, layer, hooked), self._leave(path, hooked)
            module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
            nn.Module.register_forward_hook(module, leave, with_kwargs=True)  # packed layers warn of others

    def value(self, tensor: Tensor) -> Value:
        """The number of what ``tensor`` holds now."""
        known = self._values.get(id(tensor))
        return known[1] if known is not None and known[0]() is tensor else self._new(tensor)

    def _new(self, tensor: Tensor) -> Value:
        value = Value(self._count)
        self._count += 1
        self._values[id(tensor)] = weakref.ref(tensor), value
        self._silent = True
        self.trace.shapes[value] = tensor.shape
        if self._on_value is not None:
            self._on_value(value, tensor)
        self._silent = False
        return value

    def _values_of(self, arguments: Any) -> Any:
        return replace(arguments, Tensor, self.value)

    def _keep(self, tensors: Any) -> None:
        replace(tensors, Tensor, lambda tensor: self.trace.kept.add(self.value(tensor)))

    def _enter(self, path: str, layer: bool, hooked: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self._silent:
                return
            frames = tuple(call.path for call, _ in self._running)
            call = Call(path, "", frames, self._values_of(args), self._values_of(kwargs))
            call.start = len(self.trace.calls)
            if hooked:
                self._keep((args, kwargs))
            self._running.append((call, layer))

        return hook

    def _leave(self, path: str, hooked: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self._silent:
                return
            while True:  # what is still on top raised an exception that the model's code caught
                call, layer = self._running.pop()
                if call.path == path:
                    break
            call.end = len(self.trace.calls)
            if not layer:
                call.output = self.value(output) if isinstance(output, Tensor) else None
                self.trace.modules.append(call)
            elif isinstance(module, TRANSPARENT) and args and output is args[0]:
                call.output = call.source
                self.trace.modules.append(call)
            else:
                self._finish(call, output)
            if hooked:
                self._keep(output)

        return hook

    def _finish(self, call: Call, output: Any) -> None:
        """Write down a call and what it made."""
        if isinstance(output, Tensor):
            call.output = self._new(output)
        else:
            replace(output, Tensor, self._new)
        self.trace.calls.append(call)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._silent or (self._running and self._running[-1][1]):  # what a layer does within is its own affair
            return function(*args, **kwargs)
        frames = tuple(call.path for call, _ in self._running)
        given = self._values_of(args), self._values_of(kwargs)
        output = function(*args, **kwargs)
        self._finish(Call("", getattr(function, "__name__", "?"), frames, *given), output)
        return output

    def keep_what_is_alive(self) -> None:
        """Whatever outlives the run may be read later."""
        self.trace.kept |= {value for tensor, value in self._values.values() if tensor() is not None}


def record(
    model: nn.Module, args: tuple[Any, ...], on_value: Callable[[Value, Tensor], None] | None = None
) -> tuple[Trace, Any]:
    """Run ``model``, which is hooked for good, on ``args``; the trace and what came out."""
    recorder = Recorder(model, on_value)
    args = replace(args, Tensor, torch.clone)  # the model may change them
    with recorder:
        output = model(*args)
    recorder.keep_what_is_alive()
    return recorder.trace, output
