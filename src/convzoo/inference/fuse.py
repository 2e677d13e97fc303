"""Which parts of a model can be computed faster, and what takes their place.

:class:`Fuser` looks at the trace of one run (see ``trace.py``) and rewrites only where it shows all that happens:
layers of exactly the classes known here, without hooks, each in one place and called once, a batch norm or activation
that is the only reader of what the layer before it gives. There are two ways, by whose code calls the layers:

- In ``nn.Sequential`` and in the zoo's own classes, all of whose methods are known, batch norm and activation move into
  the layer before them, and an Identity stays where they were.
- Any other module that makes one tensor of one tensor, by known layers and functions alone, becomes a
  :class:`FusedBlock` as a whole: no other method of its class is left that could call the layers in another way.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

from torch import nn

from ..models import Classifier
from .block import FUNCTIONS, FusedBlock, Step
from .folding import side_by_side
from .graph import ADDITIONS, Graph, Node
from .layers import is_layer, place
from .packed import PackedConv2d, PackedLinear, StandIn
from .tokens import fast_parts
from .trace import DROPOUTS, Call, Trace, Value, replace

STEPS = (  # what a FusedBlock may call: layers that make a new tensor, or change theirs in place, and no views
    *(PackedConv2d, PackedLinear, nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LocalResponseNorm),
    *(nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.GELU, nn.SiLU),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)


@dataclass
class Part:
    """A rewritten part: of ``source``, ``module`` at ``path`` must make ``output``, or some maps of it.

    ``maps`` are the first of them and their number. ``text`` says what it was.
    """

    path: str
    module: nn.Module
    source: Value
    output: Value
    maps: tuple[int, int] | None
    text: str


class Fuser:
    """Rewrites ``model``, whose layers are packed, by what ``trace`` shows of it; the parts at ``leave`` stay.

    Attributes:
        model: the rewritten model.
        parts: what was rewritten in it.
    """

    def __init__(self, model: nn.Module, trace: Trace, leave: Collection[str] = ()) -> None:
        self.model, self.parts = model, list[Part]()
        self._trace, self._leave = trace, leave
        self._graph = Graph(model, trace, leave)
        self._modules = self._graph.modules
        self._replaced: list[str] = []
        self._fuse_transformers()
        layers = self._fuse_in_place()
        self._fuse_blocks()
        self.parts += [part for part in layers if not self._is_replaced(part.path)]
        for call in trace.modules:
            if is_layer(self._modules[call.path], *DROPOUTS) and not self._is_replaced(call.path):
                self.model = place(self.model, call.path, StandIn())
        self._announce()

    def _announce(self) -> None:
        """Let modules that give what others behind them gave say so."""
        modules = dict(self.model.named_modules())
        for call in self._trace.calls + self._trace.modules:
            if call.path in modules and call.output is not None and (names := self._graph.followers(call.output)):
                modules[call.path].absorbed = names

    def _is_free(self, path: str) -> bool:
        """Whether what is at ``path`` may be replaced as a whole."""
        return path not in self._leave and self._graph.is_sealed(path)

    def _is_replaced(self, path: str) -> bool:
        return any(path == each or path.startswith(f"{each}.") for each in self._replaced)

    def _replace(self, call: Call, module: nn.Module) -> None:
        """Put ``module`` in the place of the one that ``call`` calls."""
        self.model = place(self.model, call.path, module)
        if call.path and call.output is not None:
            source, output = (self._graph.now(value) for value in (call.args[0], call.output))
            kind = type(self._modules[call.path]).__name__
            self.parts.append(Part(call.path, module, source, output, None, kind))

    def _fuse_transformers(self) -> None:
        """Put in the faster parts of T2T-ViTs."""
        calls = {call.path: call for call in self._trace.modules}
        for path in calls:
            for name, module in fast_parts(self._modules, path, self._is_free):
                self._replace(calls[name], module)
                if name != path:
                    self._replaced.append(name)

    def _fuse_in_place(self) -> list[Part]:
        """Let layers absorb what follows them in known code."""
        for node in list(self._graph.nodes):
            if self._graph.absorb(node, self._is_known_code):
                self.model = place(self.model, node.call.path, StandIn())
        parts = []
        for node in self._graph.nodes:
            if node.layer is not None and node.layer.absorbed:
                value, *maps = node.part or (node.output,)
                text = " with ".join((type(node.layer).__bases__[-1].__name__, *node.layer.absorbed))
                first = cast("tuple[int, int]", tuple(maps)) if maps else None
                parts.append(Part(node.call.path, node.layer, node.reads[0], value, first, text))
        return parts

    def _is_known_code(self, node: Node) -> bool:
        """Whether torch's or the zoo's own code makes this call, and it can be taken out of there."""
        if not node.call.frames:
            return False
        frame = self._modules[node.call.frames[-1]]
        kind = type(frame)
        known = is_sequence(kind) or kind.__module__.startswith("convzoo.models.")
        own_methods = any(inspect.isroutine(getattr(kind, name, None)) for name in vars(frame))
        single = self._graph.is_single(node.call.path) if node.call.path else node.call.function == "cat"
        return known and not own_methods and single and not self._is_replaced(node.call.path or node.call.frames[-1])

    def _fuse_blocks(self) -> None:
        """Put blocks in the place of modules that gain by it, innermost first."""
        for call in self._trace.modules:
            module, path = self._modules[call.path], call.path
            container = isinstance(module, (nn.Sequential, Classifier)) or not module._modules
            nested = any(each.startswith(f"{path}.") for each in self._replaced)
            if not path or container or nested or self._is_replaced(path) or call.source is None or call.output is None:
                continue
            if self._is_free(path):
                block = self._make_block(call)
                if block is not None:
                    self._replace(call, block)
                    self._replaced.append(path)

    def _make_block(self, call: Call) -> FusedBlock | None:
        """What can stand for the module that ``call`` calls; None if it has to stay as it is, or gains nothing."""
        graph = self._graph
        nodes = [node for node in graph.nodes if call.start <= node.index < call.end]
        source, output = graph.now(call.source), graph.now(call.output)  # type: ignore[arg-type] # both are known
        if not nodes or nodes[-1].output != output or not self._is_straight(nodes, source, call):
            return None
        inside = set(nodes)
        gains = [graph.absorb(node, inside.__contains__) or graph.add_in_convolution(node, inside) for node in nodes]
        nodes = [node for node in graph.nodes if node in inside]
        groups = find_mergeable(nodes)
        if not any(gains) and not groups:
            return None
        return self._assemble(call.path, source, nodes, groups)

    def _is_straight(self, nodes: list[Node], source: Value, call: Call) -> bool:
        """Whether ``nodes`` are all that happened during ``call``, of its own layers, known, and read ``source`` and
        each other."""
        reads = Counter(read for node in nodes for read in node.reads)
        own = f"{call.path}."
        return (
            all(node.call.path.startswith(own) for node in nodes if node.call.path)
            and all(each.output is not None for each in self._trace.calls[call.start : call.end])
            and all(self._step(node) is not None for node in nodes)
            and {source, *(node.output for node in nodes)}.issuperset(reads)
            and all(self._graph.readers[node.output] == reads[node.output] for node in nodes[:-1])
        )

    def _step(self, node: Node) -> Step | None:
        """The call of ``node``, if a block can make it."""
        call, outputs = node.call, (node.output,)
        if call.path:
            known = node.layer is not None or is_layer(self._modules[call.path], *STEPS)
            return Step(call.path, "", tuple(node.reads), outputs) if known and call.source is not None else None
        function = ADDITIONS.get(call.function, call.function)
        listed = function == "cat"
        count = 1 if listed else len(node.reads)
        constants: list[Value] = []
        replace((call.args[count:], call.kwargs), Value, constants.append)
        if function not in FUNCTIONS or not node.reads or constants:
            return None
        return Step("", function, tuple(node.reads), outputs, call.args[count:], call.kwargs, listed)

    def _assemble(self, path: str, source: Value, nodes: list[Node], groups: list[list[Node]]) -> FusedBlock:
        modules: dict[str, nn.Module] = {}
        steps: list[Step] = []
        grouped = {node: index for index, group in enumerate(groups) for node in group}
        for node in nodes:
            if node in grouped:
                index = grouped[node]
                if node is groups[index][0]:
                    modules[f"merged{index}"], more = merge(groups[index], index)
                    steps += more
                continue
            step = self._step(node)
            assert step is not None  # as _is_straight found
            if step.path:
                name = step.path[len(path) + 1 :]
                modules[name] = node.layer if node.layer is not None else self._modules[step.path]
                step = step._replace(path=name)
            if node.layer is not None and len(node.reads) == 2:
                writer = self._graph.writer.get(node.reads[1])
                free = writer in nodes and writer not in grouped and self._graph.readers[node.reads[1]] == 1
                if free and writer.layer is not None:  # type: ignore[union-attr] # free says so
                    step = step._replace(kwargs={"overwrite": True})
            steps.append(step)
        return FusedBlock(type(self._modules[path]).__name__, source, steps, modules)


def is_sequence(kind: type[nn.Module]) -> bool:
    """Whether ``kind`` is ``nn.Sequential``, or a subclass that does nothing but to fill it."""
    classes = kind.__mro__[: kind.__mro__.index(nn.Sequential)] if issubclass(kind, nn.Sequential) else None
    return classes is not None and not any(
        inspect.isroutine(value) and name != "__init__" for each in classes for name, value in vars(each).items()
    )


def find_mergeable(nodes: list[Node]) -> list[list[Node]]:
    """Groups of 1x1 convolutions that read the same maps and can be one."""
    groups: dict[object, list[Node]] = {}
    for node in nodes:
        conv = node.layer
        if not isinstance(conv, PackedConv2d) or len(node.reads) > 1:
            continue
        if (conv.kernel_size, conv.padding, conv.groups) == ((1, 1), (0, 0), 1):
            key = (node.reads[0], conv.stride, conv.activation, conv.weight.dtype, conv.weight.device)
            groups.setdefault(key, []).append(node)
    return [group for group in groups.values() if len(group) > 1]


def merge(group: list[Node], index: int) -> tuple[PackedConv2d, list[Step]]:
    """The convolutions of ``group`` as one, and the steps that take its maps apart."""
    convs = [node.layer for node in group]
    conv = PackedConv2d.of(side_by_side(convs), convs[0].activation, channels_last=convs[0].channels_last)
    together = -1 - index  # a number that no value has
    widths = [each.out_channels for each in convs]
    first = Step(f"merged{index}", "", (group[0].reads[0],), (together,))
    return conv, [first, Step("", "split", (together,), tuple(node.output for node in group), (widths, 1))]
