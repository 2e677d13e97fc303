"""The meter: it stands between a model's code and torch, and answers every call with an empty map.

:class:`Meter` sees each call of a torch function in its thread (:class:`torch.overrides.TorchFunctionMode`). If
the table of rules has the function, its rule answers. If not, the call runs on meta tensors, which have shapes and
no memory, while the operators it comes down to are counted by the formulas of :mod:`torch.utils.flop_counter`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..models._init import FACTORIES, META
from .rules import RULES
from .shapes import METADATA, READS, VIEWS

QUIET = torch._C.DisableTorchFunction  # within it calls go to torch and not to the meter
GET_DEVICE = torch.Tensor.device.__get__


class Node:
    """One module while the model runs: it stands in for the module's ``forward``, and notes what passed."""

    __slots__ = (
        "calls", "code", "counting", "input_shape", "inside", "macs", "meter", "module", "output_shape",
        "own_macs", "own_params", "path",
    )  # fmt: skip

    def __init__(self, meter: Meter, path: str, module: str) -> None:
        self.meter, self.path, self.module = meter, path, module
        self.code: Any = None  # the module's forward; set before the model runs
        self.counting = True
        self.input_shape: tuple[int, ...] | None = None
        self.output_shape: tuple[int, ...] | None = None
        self.calls = self.inside = self.macs = self.own_macs = self.own_params = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        meter = self.meter
        outer, before, outer_counting = meter.node, meter.macs, meter.counting
        meter.node, meter.counting = self, self.counting and outer_counting
        self.inside += 1
        try:
            output = self.code(*args, **kwargs)
        except BaseException:
            meter.failed = meter.failed or self
            raise
        finally:
            self.inside -= 1
            meter.node, meter.counting = outer, outer_counting
        if not self.inside:
            self.macs += meter.macs - before
        if not self.calls:
            with QUIET():
                self.input_shape, self.output_shape = first_shape(args, kwargs), first_shape(output)
        self.calls += 1
        return output

    @property
    def __wrapped__(self) -> Any:  # what inspect.signature looks for
        return self.code


def first_shape(*values: Any) -> tuple[int, ...] | None:
    """The shape of the first tensor among ``values``, looking into tuples, lists and dicts."""
    for value in values:
        if isinstance(value, Tensor):
            return tuple(value.shape)
        if isinstance(value, Mapping):
            value = tuple(value.values())
        if isinstance(value, (tuple, list)):
            shape = first_shape(*value)
            if shape is not None:
                return shape
    return None


class Memory:
    """The bytes of one map; they are free again when the last tensor that shows the map is gone."""

    __slots__ = ("bytes", "meter")

    def __init__(self, meter: Meter, count: int) -> None:
        self.meter, self.bytes = meter, count
        live = meter.live_bytes = meter.live_bytes + count
        if live > meter.peak_bytes:  # noqa: PLR1730 - called for every map
            meter.peak_bytes = live

    def __del__(self) -> None:
        self.meter.live_bytes -= self.bytes


class Meter(TorchFunctionMode):
    """Counts what runs inside ``with meter:``; ``meter.node`` is the module that is being run."""

    node: Node

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.activations = self.live_bytes = self.peak_bytes = 0
        self.counting = True
        self.failed: Node | None = None  # the innermost module that raised
        self.guarded: set[int] = set()  # ids of meta tensors that are the user's own
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}

    def count(self, macs: int, elements: int) -> None:
        """Note ``macs`` multiply-accumulates that gave a map of ``elements`` numbers."""
        if self.counting:
            self.macs += macs
            self.node.own_macs += macs
            self.activations += elements

    def map(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """An empty map."""
        fresh = torch.empty(shape, dtype=dtype, device=META)
        fresh._memory = Memory(self, math.prod(shape) * dtype.itemsize)  # type: ignore[attr-defined]
        return fresh

    def twin(self, tensor: Tensor) -> Tensor:
        """``tensor`` itself if it is a map of ours; for one of the model's own, an empty tensor like it."""
        if tensor.is_meta and id(tensor) not in self.guarded:
            return tensor
        known = self._twins.get(id(tensor))
        if known is None:
            known = self._twins[id(tensor)] = (tensor, like(tensor))  # the pair keeps the id from being used anew
        return known[1]

    def close(self) -> None:
        """Let go of the model."""
        self._twins.clear()
        self.guarded.clear()
        self.failed = None
        del self.node

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        law = RULES.get(func)
        if law is not None:
            try:
                result = law(self, *args, **kwargs)
            except TypeError:  # not the arguments that the rule knows
                result = NotImplemented
            if result is not NotImplemented:
                return result
        elif func in VIEWS:
            source = self.twin(args[0])
            return self.keep(func(source, *args[1:], **kwargs), getattr(source, "_memory", None))
        elif func in METADATA:
            return func(*args, **kwargs)
        elif getattr(func, "__name__", "") == "__get__":
            return META if func == GET_DEVICE else func(*args, **kwargs)
        elif func in READS:
            if not any(tensor.is_meta for tensor in (*args, *kwargs.values()) if isinstance(tensor, Tensor)):
                return func(*args, **kwargs)
            raise ValueError(
                f"{self.node.path or 'the model'} ({self.node.module}) reads the values of a map "
                f"({getattr(func, '__name__', func)}) to decide what to do next, and counting from shapes has none; "
                "profile takes models whose path follows from shapes alone; profile the parts between the decisions"
            )
        return self.run_on_meta(func, args, kwargs)

    def run_on_meta(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Any function: torch works out the shapes, and the operators beneath are counted."""
        args, kwargs = self._to_meta(args), self._to_meta(kwargs)
        if func in FACTORIES:
            kwargs["device"] = META
        if kwargs.get("generator") is not None:
            kwargs["generator"] = None
        with OperatorCounter(self):
            result = func(*args, **kwargs)
        first = args[0] if args and isinstance(args[0], Tensor) else None
        shown = None
        if first is not None and isinstance(result, (Tensor, tuple, list)):
            one = result if isinstance(result, Tensor) else next((x for x in result if isinstance(x, Tensor)), first)
            if one.is_meta and one is not first and one.untyped_storage()._cdata == first.untyped_storage()._cdata:
                shown = getattr(first, "_memory", None)  # a view: no memory of its own
        return self.keep(result, shown)

    def keep(self, result: Any, memory: Memory | None = None) -> Any:
        """Give new tensors in ``result`` their memory, or a share in that of the map they are views of."""
        if isinstance(result, Tensor):
            if not hasattr(result, "_memory") and result.is_meta:
                memory = memory or Memory(self, result.numel() * result.dtype.itemsize)
                result._memory = memory  # type: ignore[attr-defined]
        elif isinstance(result, Mapping):
            for each in result.values():
                self.keep(each, memory)
        elif isinstance(result, (tuple, list)):
            for each in result:
                self.keep(each, memory)
        return result

    def _to_meta(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.twin(value)
        if isinstance(value, torch.device):
            return META
        if isinstance(value, tuple):
            items = [self._to_meta(each) for each in value]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        if isinstance(value, list):
            return [self._to_meta(each) for each in value]
        if type(value) is dict:
            return {key: self._to_meta(each) for key, each in value.items()}
        return value


def like(tensor: Tensor) -> Tensor:
    """An empty tensor of the same shape, type and strides, without memory."""
    with QUIET():
        if tensor.layout is not torch.strided:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


# Operators that torch.utils.flop_counter leaves out: from the shapes of all the arguments to MACs.
MORE_OPERATORS: dict[str, Callable[..., int]] = {
    "aten::mv": lambda matrix, vector: math.prod(matrix),
    "aten::addmv": lambda added, matrix, vector: math.prod(matrix),
    "aten::dot": lambda left, right: math.prod(left),
    "aten::vdot": lambda left, right: math.prod(left),
    "aten::addbmm": lambda added, left, right: math.prod(left) * right[-1],
}


class OperatorCounter(TorchDispatchMode):
    """Counts the operators that a function of torch comes down to; one thread's, unlike ``FlopCounterMode``."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from torch.utils.flop_counter import flop_registry

        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        more = MORE_OPERATORS.get(func._schema.name)
        if formula is None and more is None:
            with self:  # an operator made of others, such as einsum, shows what it is made of
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        elements = result.numel() if isinstance(result, Tensor) else 0
        if formula is not None:
            self.meter.count(formula(*args, **kwargs, out_val=result) // 2, elements)
        elif more is not None:
            self.meter.count(more(*(each.shape for each in args if isinstance(each, Tensor))), elements)
        return result
