"""The shadow: a model's modules once more, sharing every tensor, so that running it leaves the model alone.

A module's shadow has the module's class and a copy of its attributes. It is always in evaluation mode, has no
hooks, and its ``forward`` is a node that keeps count. What the model's code assigns, appends or registers lands in
the shadow; the tensors themselves are never written to, because the meter puts empty twins in their place.

Stock layers, which are only ever called, have a leaf (:mod:`convzoo.profiling.leaves`) in place of a shadow.
"""

from __future__ import annotations

import functools
import types
from collections import OrderedDict, defaultdict, deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .leaves import LEAVES, Leaf, LeafNode
from .meter import Meter, Node
from .result import Layer

HOOKS = (
    "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
PLAIN = (nn.Parameter, Tensor)
ATOMS = frozenset({
    int, float, str, bool, bytes, complex, type(None), type, torch.dtype, torch.device, torch.Size, torch.layout,
    torch.memory_format, types.BuiltinFunctionType, types.ModuleType, range, slice,
})  # fmt: skip
STANDARD = frozenset(nn.Module().__dict__) | {"_compiled_call_impl"}


def unwrapped(module: nn.Module, path: str) -> nn.Module:
    """What ``torch.compile`` or a data-parallel wrapper was given; TypeError for a scripted module."""
    while True:
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(
                f"{path or 'the model'} is a scripted module ({type(module).__name__}), whose code Python does not "
                "run; profile takes modules of Python code; pass the module it was made from"
            )
        inner = module._modules.get("_orig_mod")
        if inner is None and isinstance(module, WRAPPERS):
            inner = module.module
        if inner is None:
            return module
        module = inner


class Shadow:
    """The shadow of ``model``: ``shadow.root`` runs, ``shadow.nodes`` tell what its modules did.

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
        self._copies: list[tuple[dict[str, Any], Any]] = []  # the attributes of each shadow, and its own forward
        self._loose: list[tuple[Any, Any]] = []  # container and key of tensors outside parameters and buffers
        self._pending: list[tuple[nn.Module, nn.Module, Node]] = []
        self._hooks: dict[str, Any] = {
            name: OrderedDict() for name in HOOKS
        }  # no shadow calls its hooks: one set does for all
        self.root = self._enter(model, "", registered=True)
        self.meter.node = self.nodes[0]
        self.finish()

    def _enter(self, module: nn.Module, path: str, registered: bool) -> Any:
        """The shadow of ``module``, or a leaf; what it holds goes into the totals if it is ``registered``."""
        kind = type(module)
        if kind not in LEAVES:  # stock layers wrap nothing and are not scripted
            module = unwrapped(module, path)
            kind = type(module)
        known = self._memo.get(id(module))
        if known is not None:
            return known
        law = None
        if kind in LEAVES and not module._forward_pre_hooks and "forward" not in module.__dict__:
            law = LEAVES[kind](module)  # pruning, for one, has a hook, and a plain tensor for a weight
        node = Node(self.meter, path, kind.__name__) if law is None else LeafNode(self, module, path, law)
        self.nodes.append(node)
        meter = self.meter
        for tensors, seen in ((module._parameters, self.parameters), (module._buffers, self.buffers)):
            for name, tensor in tensors.items():
                if tensor is None or id(tensor) in seen:
                    continue
                if type(tensor) not in PLAIN and is_lazy(tensor):
                    raise ValueError(
                        f"{path or 'the model'} ({kind.__name__}) is lazy and its {name} has no shape yet; "
                        "profile takes initialised modules; run one batch through the model first"
                    )
                if tensor.is_meta:
                    meter.guarded.add(id(tensor))
                if registered:
                    seen[id(tensor)] = tensor
                    if seen is self.parameters:
                        node.own_params += tensor.numel()
        if isinstance(node, LeafNode):
            return self._remember(module, Leaf(node))
        shadow = self._remember(module, self.copy(module, node))
        children = shadow._modules
        for name, child in children.items():
            if child is not None:
                children[name] = self._enter(child, f"{path}.{name}" if path else name, registered)
        return shadow

    def copy(self, module: nn.Module, node: Node) -> nn.Module:
        """The shadow of one module; :meth:`finish` completes it."""
        shadow = object.__new__(type(module))
        attributes = shadow.__dict__
        attributes.update(module.__dict__)
        attributes.update(self._hooks)
        attributes["training"] = False
        for name in ("_parameters", "_buffers", "_modules"):
            attributes[name] = attributes[name].copy()
        self._pending.append((module, shadow, node))
        return shadow

    def finish(self) -> None:
        """Give new shadows their attributes: last, when what these refer to has its place in the tree."""
        while self._pending:
            module, shadow, node = self._pending.pop()
            attributes = shadow.__dict__
            for name, value in module.__dict__.items():
                if name not in STANDARD and type(value) not in ATOMS:
                    attributes[name] = self._remap(value, attributes, name)
            own = attributes.get("forward")
            self._copies.append((attributes, own))
            node.code = own or types.MethodType(type(module).forward, shadow)
            node.counting = ".parametrizations." not in f".{node.path}."
            # what nn.Module.__call__ runs in place of its own code, hooks and all
            attributes["forward"] = attributes["_compiled_call_impl"] = node

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
            return self._enter(value, f"({kind.__name__} {len(self.nodes)}, not registered)", registered=False)
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
        params, macs = [node.own_params for node in self.nodes], [node.macs for node in self.nodes]
        places = {node.path: index for index, node in enumerate(self.nodes)}
        for index in range(len(self.nodes) - 1, 0, -1):
            parent = places.get(self.nodes[index].path.rpartition(".")[0])
            if parent is not None:
                params[parent] += params[index]
                if not self.nodes[parent].calls:  # a list of modules is not called itself
                    macs[parent] += macs[index]
        total = self.meter.macs or 1
        return [
            Layer(
                node.path, node.module, node.input_shape and tuple(node.input_shape),
                node.output_shape and tuple(node.output_shape), held, cost, cost / total, node.calls,
                node.own_params, node.own_macs,
            )
            for node, held, cost in zip(self.nodes, params, macs, strict=True)
        ]  # fmt: skip

    def release(self) -> None:
        """Let go of the model: what is left of the shadow must not keep its tensors alive."""
        for attributes, _ in self._copies:
            for name in ("_parameters", "_buffers", "_modules"):
                attributes[name].clear()
            attributes["forward"] = attributes["_compiled_call_impl"] = None
        for holder, key in self._loose:
            if not isinstance(holder, dict) or key in holder:
                holder[key] = None
        for node in self.nodes:
            node.code = None
            if isinstance(node, LeafNode):
                node.arguments, node.shadow = (), None
        self.root = None
        for store in (self.parameters, self.buffers, self._memo, self._alive, self.nodes):
            store.clear()
        self.meter.close()

    def twin(self) -> nn.Module:
        """The model on meta, for others to run: a tree of its own, whose parameters have shapes and no memory."""
        twins: dict[int, Tensor] = {}

        def empty(tensor: Any) -> Any:
            if not isinstance(tensor, Tensor):
                return tensor
            if id(tensor) not in twins:
                fresh = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
                is_parameter = isinstance(tensor, nn.Parameter)
                twins[id(tensor)] = nn.Parameter(fresh, tensor.requires_grad) if is_parameter else fresh
            return twins[id(tensor)]

        for node in tuple(self.nodes):
            if isinstance(node, LeafNode):
                node.make()
        for attributes, own in self._copies:
            attributes.update({name: OrderedDict() for name in HOOKS}, _compiled_call_impl=None)
            del attributes["forward"]
            if own is not None:
                attributes["forward"] = own
            for name in ("_parameters", "_buffers"):
                attributes[name] = {key: empty(tensor) for key, tensor in attributes[name].items()}
            children = attributes["_modules"]
            for key, child in children.items():
                children[key] = child._node.make() if type(child) is Leaf else child
        for holder, key in self._loose:
            if not isinstance(holder, dict) or key in holder:
                holder[key] = empty(holder[key])
        self._copies = []
        return self.root._node.make() if type(self.root) is Leaf else self.root
