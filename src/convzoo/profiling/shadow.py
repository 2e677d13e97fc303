"""The shadow: a model's modules once more, sharing every tensor, so that running it leaves the model alone.

A module's shadow has the module's class and a copy of its attributes. It is always in evaluation mode, has no
hooks, and keeps a row of what it did. What ``forward`` assigns, appends or registers lands in the shadow; the
tensors themselves are never written to, because the meter puts empty twins in their place.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from . import rules, shapes
from .meter import Meter, Row
from .result import Layer

HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)

# Modules of exactly these types do nothing but call one function; its rule answers at once. To each the rule and
# the arguments after the input.
LEAVES: dict[type[nn.Module], Callable[[Any], tuple[rules.Rule, tuple[Any, ...]] | None]] = {
    nn.Linear: lambda m: (rules.linear, (m.weight,)),
    nn.BatchNorm2d: lambda m: (shapes.batch_norm, (m.running_mean, m.running_var, m.weight)),
    nn.LayerNorm: lambda m: (shapes.layer_norm, (m.normalized_shape,)),
    nn.ReLU: lambda m: (shapes.in_place if m.inplace else shapes.activation, ()),
    nn.GELU: lambda m: (shapes.activation, ()),
    nn.Sigmoid: lambda m: (shapes.activation, ()),
    nn.Tanh: lambda m: (shapes.activation, ()),
    nn.Dropout: lambda m: (shapes.in_place, ()),
    nn.Identity: lambda m: (shapes.in_place, ()),
    nn.Conv2d: lambda m: (
        (rules.convolution, (m.weight, None, m.stride, m.padding, m.dilation, m.groups))
        if m.padding_mode == "zeros"
        else None
    ),
}


ATOMS = frozenset({
    int, float, str, bool, bytes, complex, type(None), type, torch.dtype, torch.device, torch.Size, torch.layout,
    torch.memory_format, types.BuiltinFunctionType, types.ModuleType, range, slice,
})  # fmt: skip
STANDARD = frozenset(nn.Module().__dict__) | {"_compiled_call_impl"}


class Spec:
    """What a tensor was like; :meth:`Shadow.twin` puts an empty one in its place."""

    __slots__ = ("dtype", "is_parameter", "requires_grad", "shape")

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype, self.requires_grad = tensor.shape, tensor.dtype, tensor.requires_grad
        self.is_parameter = isinstance(tensor, nn.Parameter)


def first_shape(*values: Any) -> tuple[int, ...] | None:
    """The shape of the first tensor among ``values``, looking into tuples, lists and dicts."""
    for value in values:
        if isinstance(value, Tensor):
            return tuple(value.shape)
        if isinstance(value, dict):
            value = tuple(value.values())
        if isinstance(value, (tuple, list)):
            shape = first_shape(*value)
            if shape is not None:
                return shape
    return None


class Shadow:
    """The shadow of ``model``: ``shadow.root`` runs, ``shadow.rows`` tells what its modules did.

    Raises:
        TypeError: a module is scripted.
        ValueError: a module is lazy and has not seen its first batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self.rows: list[Row] = []
        self.parameters: dict[int, Tensor] = {}
        self.buffers: dict[int, Tensor] = {}
        self._memo: dict[int, Any] = {}
        self._alive: list[Any] = []  # what the memo's ids belong to
        self._shadows: list[nn.Module] = []
        self._loose: list[tuple[Any, Any]] = []  # container and key of tensors outside parameters and buffers
        self._patched: list[tuple[dict[str, Any], Any]] = []  # attributes of modules with a forward of their own
        self.meter = Meter(Row("", type(model).__name__))
        self._pending: list[tuple[nn.Module, nn.Module, Row]] = []
        self.root = self._shadow(model, "")
        self.meter.row = self.rows[0]
        while self._pending:  # attributes last: what they refer to then has its place in the tree
            self._finish(*self._pending.pop())

    def _shadow(self, module: nn.Module, path: str, registered: bool = True) -> nn.Module:
        while True:
            known = self._memo.get(id(module))
            if known is not None:
                return known
            inner = module._modules.get("_orig_mod")  # what torch.compile wraps
            if inner is None and isinstance(module, WRAPPERS):
                inner = module.module
            if inner is None:
                break
            module = inner
        kind = type(module)
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{path or 'the model'} is a scripted module ({kind.__name__}), whose code Python does not run; "
                "profile takes modules of Python code; pass the module it was made from"
            )
        shadow = object.__new__(kind)
        self._memo[id(module)] = shadow
        self._alive.append(module)
        self._shadows.append(shadow)
        row = Row(path, kind.__name__)
        self.rows.append(row)
        attributes = shadow.__dict__
        attributes.update(module.__dict__)
        attributes["training"] = False
        parameters = attributes["_parameters"] = module._parameters.copy()
        buffers = attributes["_buffers"] = module._buffers.copy()
        for tensors, seen in ((parameters, self.parameters), (buffers, self.buffers)):
            for name, tensor in tensors.items():
                if tensor is None or id(tensor) in seen:
                    continue
                if is_lazy(tensor):
                    raise ValueError(
                        f"{path or 'the model'} ({kind.__name__}) is lazy and its {name} has no shape yet; "
                        "profile takes initialised modules; run one batch through the model first"
                    )
                if tensor.is_meta:
                    self.meter.guarded.add(id(tensor))
                if registered:
                    seen[id(tensor)] = tensor
                    if seen is self.parameters:
                        row.own_params += tensor.numel()
        for hooks in HOOKS:
            attributes[hooks] = OrderedDict()
        children = attributes["_modules"] = module._modules.copy()
        for name, child in children.items():
            if child is not None:
                children[name] = self._shadow(child, f"{path}.{name}" if path else name, registered)
        self._pending.append((module, shadow, row))
        return shadow

    def _finish(self, module: nn.Module, shadow: nn.Module, row: Row) -> None:
        """Give a shadow the attributes of its module, and a ``forward`` that keeps count."""
        attributes, kind = shadow.__dict__, type(module)
        leaf = LEAVES.get(kind)
        if leaf is None or module._forward_pre_hooks or "forward" in attributes:  # pruning puts a plain tensor in
            for name, value in module.__dict__.items():
                if name not in STANDARD and type(value) not in ATOMS:
                    attributes[name] = self._remap(value, attributes, name)
        patched = attributes.get("forward")
        if patched is not None:
            self._patched.append((attributes, patched))
        forward = patched or types.MethodType(kind.forward, shadow)
        short = leaf(module) if leaf is not None and patched is None else None
        if short is not None:
            run = self._leaf(row, forward, *short)
        else:
            run = self._node(row, forward, counting=".parametrizations." not in f".{row.path}.")
        # what nn.Module.__call__ runs in place of its own code, hooks and all
        attributes["forward"] = attributes["_compiled_call_impl"] = run

    def _leaf(
        self, row: Row, forward: Callable[..., Any], law: rules.Rule, arguments: tuple[Any, ...]
    ) -> Callable[..., Any]:
        """The shadow's ``forward``: the rule of the one function that the module calls."""
        meter, quiet, node = self.meter, torch._C.DisableTorchFunction, self._node(row, forward)

        def run(input: Tensor, *more: Any, **options: Any) -> Any:
            if more or options or type(input) is not Tensor:
                return node(input, *more, **options)
            outer, before = meter.row, meter.macs
            meter.row = row
            with quiet():
                output = law(meter, input, *arguments)
                if output is not NotImplemented:
                    if not row.calls:
                        row.input_shape, row.output_shape = input.shape, output.shape
                    row.calls += 1
                    row.macs += meter.macs - before
            meter.row = outer
            return node(input) if output is NotImplemented else output

        return run

    def _node(self, row: Row, forward: Callable[..., Any], counting: bool = True) -> Callable[..., Any]:
        """The shadow's ``forward``: the module's own, its share of the counts noted."""
        meter, quiet = self.meter, torch._C.DisableTorchFunction

        def run(*args: Any, **kwargs: Any) -> Any:
            outer, before, outer_counting = meter.row, meter.macs, meter.counting
            meter.row = row
            meter.counting = counting and outer_counting
            row.inside += 1
            try:
                output = forward(*args, **kwargs)
            except BaseException:
                meter.failed = meter.failed or row
                raise
            finally:
                row.inside -= 1
                meter.row, meter.counting = outer, outer_counting
            if not row.inside:
                row.macs += meter.macs - before
            if not row.calls:
                with quiet():
                    row.input_shape, row.output_shape = first_shape(args, kwargs), first_shape(output)
            row.calls += 1
            return output

        return run

    def _remap(self, value: Any, holder: Any = None, key: Any = None) -> Any:
        """``value`` with its modules replaced by their shadows and its containers copied."""
        kind = type(value)
        if kind in ATOMS:
            return value
        if isinstance(value, Tensor):
            if holder is not None:
                self._loose.append((holder, key))
            return value
        if isinstance(value, nn.Module):
            if id(value) in self._memo:
                return self._memo[id(value)]
            return self._shadow(value, f"({kind.__name__} {len(self.rows)}, not registered)", registered=False)
        if id(value) in self._memo:
            return self._memo[id(value)]
        if kind in (list, deque):
            copy = self._remember(value, kind([None] * len(value)) if kind is list else deque([None] * len(value)))
            for index, each in enumerate(value):
                copy[index] = self._remap(each, copy, index)
            return copy
        if kind in (dict, OrderedDict, defaultdict):
            copy = self._remember(value, value.copy())
            for name, each in value.items():
                copy[name] = self._remap(each, copy, name)
            return copy
        if isinstance(value, tuple):
            items = [self._remap(each) for each in value]
            return kind(*items) if hasattr(value, "_fields") else tuple(items)
        if kind is set:
            return self._remember(value, {self._remap(each) for each in value})
        if kind is types.MethodType:
            return types.MethodType(value.__func__, self._remap(value.__self__))
        if kind is functools.partial:
            keywords = {name: self._remap(each) for name, each in value.keywords.items()}
            return functools.partial(self._remap(value.func), *(self._remap(each) for each in value.args), **keywords)
        if kind is types.FunctionType:
            return self._remap_function(value)
        if (
            kind.__new__ is object.__new__
            and not hasattr(kind, "__del__")
            and not kind.__module__.startswith("torch.")
            and isinstance(getattr(value, "__dict__", None), dict)
        ):
            copy = self._remember(value, object.__new__(kind))  # an object of the model's own, such as a cache
            for name, each in value.__dict__.items():
                copy.__dict__[name] = self._remap(each, copy.__dict__, name)
            return copy
        return value

    def _remember(self, value: Any, copy: Any) -> Any:
        self._memo[id(value)] = copy
        self._alive.append(value)
        return copy

    def _remap_function(self, function: types.FunctionType) -> Any:
        """A function that has modules in its closure, such as a patched ``forward``, with their shadows instead."""
        cells = function.__closure__ or ()
        try:
            contents = [cell.cell_contents for cell in cells]
        except ValueError:  # a cell not filled yet
            return function
        if not any(isinstance(getattr(each, "__self__", each), nn.Module) for each in contents):
            return function
        copy = types.FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            tuple(types.CellType(self._remap(each)) for each in contents),
        )
        copy.__kwdefaults__ = function.__kwdefaults__
        return self._remember(function, copy)

    def layers(self) -> list[Layer]:
        """The rows, with what is inside added up."""
        params = [row.own_params for row in self.rows]
        places = {row.path: index for index, row in enumerate(self.rows)}
        for index in range(len(self.rows) - 1, 0, -1):
            parent = places.get(self.rows[index].path.rpartition(".")[0])
            if parent is not None:
                params[parent] += params[index]
        total = self.meter.macs or 1
        return [
            Layer(
                row.path, row.module, row.input_shape and tuple(row.input_shape),
                row.output_shape and tuple(row.output_shape), inside, row.macs, row.macs / total, row.calls,
                row.own_params, row.own_macs,
            )
            for row, inside in zip(self.rows, params, strict=True)
        ]  # fmt: skip

    def release(self) -> None:
        """Let go of the model's tensors and code; what remains says what each tensor was like."""
        specs: dict[int, Spec] = {}
        for shadow in self._shadows:
            attributes = shadow.__dict__
            attributes.pop("forward", None)
            attributes["_compiled_call_impl"] = None
            for tensors in (attributes["_parameters"], attributes["_buffers"]):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        if id(tensor) not in specs:
                            specs[id(tensor)] = Spec(tensor)
                        tensors[name] = specs[id(tensor)]
        for attributes, forward in self._patched:
            attributes["forward"] = forward
        for holder, key in self._loose:
            tensor = holder[key] if not isinstance(holder, dict) or key in holder else None
            if isinstance(tensor, Tensor):
                holder[key] = specs.setdefault(id(tensor), Spec(tensor))
        for kept in (self.parameters, self.buffers, self._memo):
            kept.clear()
        self._alive.clear()
        self.meter.close()

    def twin(self) -> nn.Module:
        """After :meth:`release`: the model on meta, to be run by others; its parameters have shapes and no memory."""
        tensors: dict[int, Tensor] = {}

        def empty(spec: Any) -> Any:
            if not isinstance(spec, Spec):
                return spec
            if id(spec) not in tensors:
                tensor = torch.empty(spec.shape, dtype=spec.dtype, device="meta")
                tensors[id(spec)] = nn.Parameter(tensor, spec.requires_grad) if spec.is_parameter else tensor
            return tensors[id(spec)]

        for shadow in self._shadows:
            for kept in (shadow.__dict__["_parameters"], shadow.__dict__["_buffers"]):
                for name in kept:
                    kept[name] = empty(kept[name])
        for holder, key in self._loose:
            if isinstance(holder, dict) and key not in holder:
                continue
            holder[key] = empty(holder[key])
        return self.root
