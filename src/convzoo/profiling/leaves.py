"""Leaves: the short way through stock layers.

Most modules of a net are stock layers that are only ever called. A :class:`Leaf` stands in for such a layer and
answers a call by the rule of the one function that the layer calls; should the model's code want anything else of
it, the leaf has the layer's shadow made there and then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from . import rules, shapes
from .meter import QUIET, Node

if TYPE_CHECKING:
    from .shadow import Shadow

# Modules of exactly these types do nothing but call one function. To each the function's rule and the arguments that
# follow the input; None where the layer does something more.
Law = tuple[rules.Rule, tuple[Any, ...]]
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


class Leaf(Node):
    """Stands in for a module that only calls one function: ``law`` is its rule, ``arguments`` what follows the input.

    Anything but a call makes the module's shadow, which from then on does the work.
    """

    __slots__ = ("arguments", "law", "owner", "shadow", "stock")

    def __init__(self, owner: Shadow, stock: nn.Module, path: str, law: Law) -> None:
        super().__init__(owner.meter, path, type(stock).__name__)
        self.owner, self.stock = owner, stock
        self.shadow: Any = None
        self.law, self.arguments = law

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.shadow is None and len(args) == 1 and not kwargs and type(args[0]) is Tensor:
            meter = self.meter
            outer, before = meter.node, meter.macs
            meter.node = self
            with QUIET():
                output = self.law(meter, args[0], *self.arguments)
                if output is not NotImplemented:
                    if not self.calls:
                        self.input_shape, self.output_shape = args[0].shape, output.shape
                    self.calls += 1
                    self.macs += meter.macs - before
            meter.node = outer
            if output is not NotImplemented:
                return output
        self.make()
        return Node.__call__(self, *args, **kwargs)

    def make(self) -> Any:
        """The shadow."""
        if self.shadow is None:
            self.shadow = self.owner.copy(self.stock, self)
            self.owner.finish()
        return self.shadow

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # isinstance(layer, nn.Conv2d) holds
        return type(self.stock)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.make(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in SLOTS:
            object.__setattr__(self, name, value)
        else:
            setattr(self.make(), name, value)


SLOTS = frozenset((*Node.__slots__, *Leaf.__slots__))
