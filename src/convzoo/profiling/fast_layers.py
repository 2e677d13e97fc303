"""The short way through stock layers, which most modules of a net are, and which mostly are only called.

A :class:`FastLayer` stands in for such a layer and answers a call by the rule of the one function that the layer
calls. Should the model's code want anything else of it, the copy of the layer is made there and then. It is not of the
layer's class, and so stands only where all code around is the zoo's or torch's, which does not ask for that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .rules import free, products
from .rules.table import Rule
from .tally import UNRECORDED, ModuleRecord, Tally, in_transform

# Modules of exactly these types do nothing but call one function: its rule, and the arguments that follow the input.
# None where the layer does something more.
Call = tuple[Rule, tuple[Any, ...]]
FAST_LAYERS: dict[type[nn.Module], Callable[[Any], Call | None]] = {
    nn.Linear: lambda m: (products.linear, (m._parameters["weight"],)),
    nn.BatchNorm2d: lambda m: (free.batch_norm, (m._buffers["running_mean"], None, m._parameters["weight"])),
    nn.LayerNorm: lambda m: (free.layer_norm, (m.normalized_shape,)),
    nn.ReLU: lambda m: (free.in_place if m.inplace else free.activation, ()),
    nn.GELU: lambda m: (free.activation, ()),
    nn.Sigmoid: lambda m: (free.activation, ()),
    nn.Tanh: lambda m: (free.activation, ()),
    nn.Dropout: lambda m: (free.in_place, ()),
    nn.Identity: lambda m: (free.in_place, ()),
    nn.MaxPool2d: lambda m: (
        free.max_pool,
        (m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices),
    ),
    nn.AvgPool2d: lambda m: (free.avg_pool, (m.kernel_size, m.stride, m.padding, m.ceil_mode)),
    nn.AdaptiveAvgPool2d: lambda m: (free.adaptive_pool, (m.output_size,)),
    nn.Conv2d: lambda m: (
        (products.convolution, (m._parameters["weight"], None, m.stride, m.padding, m.dilation, m.groups))
        if m.padding_mode == "zeros"
        else None
    ),
}
# Types of attributes that can be looked at without a copy: sizes, names, flags, weights.
UNCHANGING = (int, bool, float, str, tuple, nn.Parameter)


class FastLayerRecord(ModuleRecord):
    """The record of a stock layer; ``expand`` makes the copy of the layer."""

    __slots__ = ("arguments", "copy", "expand", "layer", "rule")

    def __init__(
        self,
        tally: Tally,
        path: str,
        layer: nn.Module,
        call: Call,
        expand: Callable[[ModuleRecord, nn.Module], Any],
        parent: int = -1,
    ) -> None:
        super().__init__(tally, path, type(layer).__name__, parent)
        self.rule, self.arguments = call
        self.layer, self.expand = layer, expand
        self.copy: Any = None

    def expanded(self) -> Any:
        """The copy of the layer."""
        if self.copy is None:
            self.copy = self.expand(self, self.layer)
        return self.copy


class FastLayer:
    """Stands in for a stock layer. Anything but a call makes the layer's copy, which from then on does the work."""

    __slots__ = ("__weakref__", "_record")

    def __init__(self, record: FastLayerRecord) -> None:
        object.__setattr__(self, "_record", record)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        record: FastLayerRecord = self._record
        tally = record.tally
        if (
            record.copy is None and len(args) == 1 and not kwargs and type(args[0]) is Tensor
            and not tally.sparse and in_transform() is None
        ):  # fmt: skip
            outer, before = tally.module, tally.macs
            tally.module = record
            with UNRECORDED():
                try:
                    output = record.rule(tally, args[0], *record.arguments)
                except TypeError:  # not the arguments that the rule knows
                    output = NotImplemented
                if output is not NotImplemented:
                    if not record.calls:
                        record.input_shape, record.output_shape = args[0].shape, output.shape
                    record.calls += 1
                    record.macs += tally.macs - before
            tally.module = outer
            if output is not NotImplemented:
                return output
        record.expanded()
        return record(*args, **kwargs)

    @property  # type: ignore[misc] # stands over an attribute of the class
    def __class__(self) -> Any:  # isinstance(layer, nn.Conv2d) holds
        return type(self._record.layer)

    def __getattr__(self, name: str) -> Any:
        record: FastLayerRecord = self._record
        if record.copy is None and name != "training":
            state = record.layer.__dict__
            value = state[name] if name in state else state["_parameters"].get(name)
            if type(value) in UNCHANGING:
                return value
        return getattr(record.expanded(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._record.expanded(), name, value)
