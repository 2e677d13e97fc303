"""The calls of a trace as a graph of what reads what, in which layers take over the work of those behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import nn

from .folding import affine_of, fold
from .layers import is_layer, is_plain, is_replaceable
from .packed import NONE, Activation, PackedConv2d, PackedLinear, activation_of
from .trace import Call, Trace, Value, replace

FOLDABLE = (nn.BatchNorm2d, nn.SyncBatchNorm)
ADDITIONS = {"add": "add", "__add__": "add", "__radd__": "add", "add_": "add_", "__iadd__": "add_"}


@dataclass(eq=False)
class Node:
    """What is left to do of one call of the trace.

    Attributes:
        index: of the call.
        reads: the values that it reads, in order; last the one that a packed convolution adds at its end.
        output: the value that it gives.
        layer: the packed layer called, if nothing else calls it.
        part: where ``output`` is some maps of another value: that value, the first map, their number.
    """

    index: int
    call: Call
    reads: list[Value]
    output: Value
    layer: Any = None
    part: tuple[Value, int, int] | None = None


class Graph:
    """The calls of ``trace`` that made tensors. ``model`` is the model traced, its layers packed; the layers at
    ``leave`` keep to their own work."""

    def __init__(self, model: nn.Module, trace: Trace, leave: Collection[str] = ()) -> None:
        self.trace = trace
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.places = Counter(id(module) for module in self.modules.values())
        self.times = Counter(call.path for call in trace.calls + trace.modules)
        self.readers: Counter[Value] = Counter(trace.kept)
        self.writer: dict[Value, Node] = {}
        self._reads = trace.direct_reads()
        self._untouchable = {*leave, *(path for path, _ in self._reads)}
        self._renamed: dict[Value, tuple[Value, str]] = {}
        for index, call in enumerate(trace.calls):
            reads: list[Value] = []
            replace((call.args, call.kwargs), Value, reads.append)
            self.readers.update(reads)
            if call.output is None:
                continue
            node = self.writer[call.output] = Node(index, call, reads, call.output)
            module = self.modules.get(call.path)
            packed = isinstance(module, (PackedConv2d, PackedLinear)) and is_plain(module)
            if packed and call.source is not None and self.is_single(call.path) and call.path not in self._untouchable:
                node.layer = module
        self.nodes = list(self.writer.values())

    def now(self, value: Value) -> Value:
        """The value that is made in place of ``value``."""
        while value in self._renamed:
            value, _ = self._renamed[value]
        return value

    def followers(self, value: Value) -> tuple[str, ...]:
        """What was done to ``value`` and is now done in making it."""
        names = []
        while value in self._renamed:
            value, name = self._renamed[value]
            names.append(name)
        return tuple(names)

    def is_single(self, path: str) -> bool:
        """Whether the module at ``path`` stands in one place and is called once."""
        return self.times[path] == 1 and self.places[id(self.modules[path])] == 1

    def is_sealed(self, path: str) -> bool:
        """Whether nothing but its classes' code runs in the module at ``path``, and only that calls what is in it."""
        prefix = f"{path}."
        inside = [module for name, module in self.modules.items() if name == path or name.startswith(prefix)]
        calls = [call for call in self.trace.calls + self.trace.modules if call.path.startswith(prefix)]
        calls += [call for name, call in self._reads if name == path or name.startswith(prefix)]
        return (
            self.times[path] == 1
            and all(is_replaceable(module) and self.places[id(module)] == 1 for module in inside)
            and all(path in call.frames for call in calls)
        )

    def absorb(self, node: Node, allowed: Callable[[Node], bool]) -> bool:
        """If ``node`` is a batch norm or an activation, let the layers before it do its work.

        ``allowed`` says which nodes may be changed.
        """
        norm, activation = self._norm(node), self._activation(node)
        if (norm is None and activation is None) or not allowed(node):
            return False
        ends = self._output_layers(node.reads[0], allowed)
        if not ends or any(end.layer.activation != NONE for end in ends):
            return False
        widths = [end.layer.weight.shape[0] for end in ends]
        if norm is not None:
            if sum(widths) != norm.num_features or not all(_can_fold(norm, end) for end in ends):
                return False
            factor, offset = affine_of(norm)
            for end, *affine in zip(ends, factor.split(widths), offset.split(widths), strict=True):
                fold(end.layer, *affine)
        start = 0
        for end, width in zip(ends, widths, strict=True):
            if activation is not None:
                end.layer.activation = activation
            end.layer.absorbed += (type(norm).__name__ if activation is None else activation.name,)
            end.part = (node.output, start, width) if len(ends) > 1 else end.part
            start += width
        self.drop(node)
        return True

    def add_in_convolution(self, node: Node, inside: Collection[Node]) -> bool:
        """If ``node`` adds something to what a convolution ``inside`` gives, let that convolution do so."""
        kind = ADDITIONS.get(node.call.function)
        if kind is None or node.call.kwargs or len(node.reads) != 2 or len(node.call.args) != 2:
            return False
        found = [self.writer.get(value) for value in node.reads]
        writers = [writer for writer in found if writer is not None and writer in inside]
        if not writers or (kind == "add_" and found[0] not in writers):
            return False  # what stands outside would not see that it is changed
        last = max(writers, key=lambda writer: writer.index)  # when it runs, the other summand is there
        other = node.reads[node.reads[0] == last.output]
        shapes = self.trace.shapes
        free = isinstance(last.layer, PackedConv2d) and last.layer.activation == NONE and len(last.reads) == 1
        if not free or self.readers[last.output] != 1 or shapes[node.reads[0]] != shapes[node.reads[1]]:
            return False
        node.reads = [last.output]
        last.reads.append(other)
        last.layer.absorbed += ("addition",)
        self.drop(node)
        return True

    def drop(self, node: Node) -> None:
        """Take ``node`` out: instead of what it reads, what it gave is made."""
        writer = self.writer.pop(node.reads[0])
        name = type(self.modules[node.call.path]).__name__ if node.call.path else node.call.function
        self._renamed[writer.output] = node.output, name
        writer.output = node.output
        self.writer[node.output] = writer
        self.nodes.remove(node)

    def _output_layers(self, value: Value, allowed: Callable[[Node], bool]) -> list[Node]:
        """The layers whose outputs, side by side if they are several, are ``value``, and that are read for it alone."""
        node = self.writer.get(value)
        if node is None or self.readers[value] != 1 or not allowed(node):
            return []
        if node.layer is not None:
            return [node]
        if node.call.function != "cat" or node.call.args[1:] != (1,) or node.call.kwargs:
            return []
        parts = [self._output_layers(each, allowed) for each in node.reads]
        return [end for part in parts for end in part] if all(parts) else []

    def _norm(self, node: Node) -> Any:
        """The batch norm that ``node`` is, if it does the same to every image."""
        module = self.modules[node.call.path] if node.call.path else None
        if module is None or node.call.source is None or node.call.path in self._untouchable:
            return None
        if not is_layer(module, *FOLDABLE) or module.training:
            return None
        return None if module.running_mean is None or module.running_var is None else module

    def _activation(self, node: Node) -> Activation | None:
        """The activation that ``node`` is, if the kernels know it."""
        call = node.call
        if call.path:
            module = self.modules[call.path]
            return activation_of(module) if call.source is not None and is_replaceable(module) else None
        if len(call.args) == 1 and call.function in ("relu", "relu_", "sigmoid"):
            return Activation("sigmoid" if call.function == "sigmoid" else "relu")
        if len(call.args) == 1 and call.function == "gelu" and call.kwargs.get("approximate", "none") == "none":
            return Activation("gelu", (), "none")
        return None


def _can_fold(norm: Any, end: Node) -> bool:
    convolution = isinstance(end.layer, PackedConv2d) and len(end.reads) == 1
    return convolution and end.layer.weight.device == norm.running_mean.device
