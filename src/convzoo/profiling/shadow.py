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
from .meter import Leaf, Meter, Node
from .result import Layer

HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)

Law = tuple[rules.Rule, tuple[Any, ...]]
Spec = tuple[torch.Size, torch.dtype, bool, str]  # the last: the dict that it was kept in

# Modules of exactly these types do nothing but call one function, whose rule then answers at once. To each its rule
# and the arguments after the input.
LEAVES: dict[type[nn.Module], Callable[[Any], Law | None]] = {
    nn.Linear: lambda m: (rules.linear, (m._parameters["weight"],)),
    nn.BatchNorm2d: lambda m: (shapes.batch_norm, (m._buffers["running_mean"], None, m._parameters["weight"])),
    nn.LayerNorm: lambda m: (shapes.layer_norm, (m.normalized_shape,)),
    nn.ReLU: lambda m: (shapes.in_place if m.inplace else shapes.activation, ()),
    nn.GELU: lambda m: (shapes.activation, ()),
    nn.Sigmoid: lambda m: (shapes.activation, ()),
    nn.Tanh: lambda m: (shapes.activation, ()),
    nn.Dropout: lambda m: (shapes.in_place, ()),
    nn.Identity: lambda m: (shapes.in_place, ()),
    nn.Conv2d: lambda m: (
        (rules.convolution, (m._parameters["weight"], None, m.stride, m.padding, m.dilation, m.groups))
        if m.padding_mode == "zeros"
        else None
    ),
}
PLAIN = (nn.Parameter, Tensor)
ATOMS = frozenset({
    int, float, str, bool, bytes, complex, type(None), type, torch.dtype, torch.device, torch.Size, torch.layout,
    torch.memory_format, types.BuiltinFunctionType, types.ModuleType, range, slice,
})  # fmt: skip
STANDARD = frozenset(nn.Module().__dict__) | {"_compiled_call_impl"}


class Shadow:
    """The shadow of ``model``: ``shadow.root`` runs, ``shadow.rows`` tells what its modules did.

    Raises:
        TypeError: a module is scripted.
        ValueError: a module is lazy and has not seen its first batch.
    """

    def __init__(self, model: nn.Module) -> None:
        self.meter = Meter()
        self.nodes: list[Node] = []
        self.parameters: dict[int, Tensor] = {}
        self.buffers: dict[int, Tensor] = {}
        self._memo: dict[int, Any] = {}
        self._alive: list[Any] = []  # what the memo's ids belong to
        self._shadows: list[nn.Module] = []
        self._pending: list[tuple[nn.Module, nn.Module, Node]] = []
        self._loose: list[tuple[Any, Any]] = []  # container and key of tensors outside parameters and buffers
        self._patched: list[tuple[dict[str, Any], Any]] = []  # attributes of modules with a forward of their own
        # no shadow calls its hooks: one set does for all
        self._attributes = {name: OrderedDict() for name in HOOKS} | {"training": False, "_compiled_call_impl": None}
        self.root = self._shadow(model, "")
        self.meter.node = self.nodes[0]
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
        node = (Leaf if kind in LEAVES else Node)(self.meter, path, kind.__name__)
        self.nodes.append(node)
        attributes = shadow.__dict__
        attributes.update(module.__dict__)
        attributes.update(self._attributes)
        parameters = attributes["_parameters"] = module._parameters.copy()
        buffers = attributes["_buffers"] = module._buffers.copy()
        for tensors, seen in ((parameters, self.parameters), (buffers, self.buffers)):
            for name, tensor in tensors.items():
                if tensor is None or id(tensor) in seen:
                    continue
                if type(tensor) not in PLAIN and is_lazy(tensor):
                    raise ValueError(
                        f"{path or 'the model'} ({kind.__name__}) is lazy and its {name} has no shape yet; "
                        "profile takes initialised modules; run one batch through the model first"
                    )
                if tensor.is_meta:
                    self.meter.guarded.add(id(tensor))
                if registered:
                    seen[id(tensor)] = tensor
                    if seen is self.parameters:
                        node.own_params += tensor.numel()
        children = attributes["_modules"] = module._modules.copy()
        for name, child in children.items():
            if child is not None:
                children[name] = self._shadow(child, f"{path}.{name}" if path else name, registered)
        self._pending.append((module, shadow, node))
        return shadow

    def _finish(self, module: nn.Module, shadow: nn.Module, node: Node) -> None:
        """Give a shadow the attributes of its module, and its node for a ``forward``."""
        attributes, kind = shadow.__dict__, type(module)
        if isinstance(node, Leaf):
            law = None if module._forward_pre_hooks or "forward" in attributes else LEAVES[kind](module)
            if law is None:  # pruned, for one: its weight is a plain tensor
                node = self._replace(node)
            else:
                node.law, node.arguments = law
        if not isinstance(node, Leaf):
            for name, value in module.__dict__.items():
                if name not in STANDARD and type(value) not in ATOMS:
                    attributes[name] = self._remap(value, attributes, name)
            node.counting = ".parametrizations." not in f".{node.path}."
        if "forward" in attributes:
            self._patched.append((attributes, attributes["forward"]))
            node.forward = attributes["forward"]
        else:
            node.forward = types.MethodType(kind.forward, shadow)
        # what nn.Module.__call__ runs in place of its own code, hooks and all
        attributes["forward"] = attributes["_compiled_call_impl"] = node

    def _replace(self, leaf: Leaf) -> Node:
        """A plain node in the place of a leaf."""
        node = Node(self.meter, leaf.path, leaf.module)
        node.own_params = leaf.own_params
        self.nodes[self.nodes.index(leaf)] = node
        return node

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
            return self._shadow(value, f"({kind.__name__} {len(self.nodes)}, not registered)", registered=False)
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
        """What the nodes saw, with what is inside added up."""
        params = [node.own_params for node in self.nodes]
        places = {node.path: index for index, node in enumerate(self.nodes)}
        for index in range(len(self.nodes) - 1, 0, -1):
            parent = places.get(self.nodes[index].path.rpartition(".")[0])
            if parent is not None:
                params[parent] += params[index]
        total = self.meter.macs or 1
        return [
            Layer(
                node.path, node.module, node.input_shape and tuple(node.input_shape),
                node.output_shape and tuple(node.output_shape), inside, node.macs, node.macs / total, node.calls,
                node.own_params, node.own_macs,
            )
            for node, inside in zip(self.nodes, params, strict=True)
        ]  # fmt: skip

    def release(self) -> None:
        """Let go of the model's tensors and code; what remains says what each tensor was like."""
        specs: dict[int, Spec] = {}
        for shadow in self._shadows:
            attributes = shadow.__dict__
            attributes.pop("forward", None)
            attributes["_compiled_call_impl"] = None
            for kept in ("_parameters", "_buffers"):
                tensors = attributes[kept]
                for name, tensor in tensors.items():
                    if tensor is not None:
                        spec = specs.get(id(tensor))
                        if spec is None:
                            spec = specs[id(tensor)] = (tensor.shape, tensor.dtype, tensor.requires_grad, kept)
                        tensors[name] = spec
        for attributes, forward in self._patched:
            attributes["forward"] = forward
        for holder, key in self._loose:
            tensor = holder[key] if not isinstance(holder, dict) or key in holder else None
            if isinstance(tensor, Tensor):
                fresh = (tensor.shape, tensor.dtype, tensor.requires_grad, "")
                holder[key] = specs.setdefault(id(tensor), fresh)
        for node in self.nodes:
            node.forward = None
            if isinstance(node, Leaf):
                node.arguments = ()
        for store in (self.parameters, self.buffers, self._memo):
            store.clear()
        self._alive.clear()
        self.meter.close()

    def twin(self) -> nn.Module:
        """After :meth:`release`: the model on meta, to be run by others; its parameters have shapes and no memory."""
        tensors: dict[int, Tensor] = {}

        def empty(spec: Any) -> Any:
            if spec is None or isinstance(spec, Tensor):
                return spec
            if id(spec) not in tensors:
                shape, dtype, requires_grad, kept = spec
                tensor = torch.empty(shape, dtype=dtype, device="meta")
                tensors[id(spec)] = nn.Parameter(tensor, requires_grad) if kept == "_parameters" else tensor
            return tensors[id(spec)]

        for shadow in self._shadows:
            for hooks in HOOKS:
                shadow.__dict__[hooks] = OrderedDict()
            for kept in (shadow.__dict__["_parameters"], shadow.__dict__["_buffers"]):
                for name in kept:
                    kept[name] = empty(kept[name])
        for holder, key in self._loose:
            if not isinstance(holder, dict) or key in holder:
                holder[key] = empty(holder[key])
        return self.root
