"""What has been counted so far, and the tensors without memory that stand for a model's own while it is counted.

A *map* is a tensor without memory that was computed from the model's inputs; a *twin* is one that stands for a
parameter, a buffer or another tensor of the model's own, so that whatever the model's code does, only the twin can be
written to.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..models._init import META

UNRECORDED = torch._C.DisableTorchFunction  # within it calls go to torch, whatever records them
in_transform = torch._C._functorch.peek_interpreter_stack  # not None within vmap, grad and their like


class ModuleRecord:
    """One module while the model runs: it stands in for the module's ``forward``, and notes what passed."""

    __slots__ = (
        "calls", "code", "counting", "input_shape", "inside", "macs", "output_shape", "own_macs", "own_params",
        "parent", "path", "tally", "type",
    )  # fmt: skip

    def __init__(self, tally: Tally, path: str, kind: str, parent: int = -1) -> None:
        self.tally, self.path, self.type = tally, path, kind
        self.parent = parent  # the place of the record of the module that this one is a child of; -1: none
        self.code: Any = None  # the module's forward; set before the model runs
        self.counting = True
        self.input_shape: tuple[int, ...] | None = None
        self.output_shape: tuple[int, ...] | None = None
        self.calls = self.inside = self.macs = self.own_macs = self.own_params = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tally = self.tally
        outer, before, outer_counting = tally.module, tally.macs, tally.counting
        tally.module, tally.counting = self, self.counting and outer_counting
        self.inside += 1
        try:
            output = self.code(*args, **kwargs)
        except BaseException:
            tally.failed = tally.failed or self
            raise
        finally:
            self.inside -= 1
            tally.module, tally.counting = outer, outer_counting
        if not self.inside:
            self.macs += tally.macs - before
        if not self.calls:
            with UNRECORDED():
                self.input_shape, self.output_shape = first_shape(args or kwargs), first_shape(output)
        self.calls += 1
        return output

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """The code alone: a copy of a module that a model's code makes has no record of its own."""
        return copy.deepcopy(self.code, memo)

    @property
    def __wrapped__(self) -> Any:  # what inspect.signature looks for
        return self.code

    @property
    def __func__(self) -> Any:  # of a bound method, as it stands for one
        return self.code.__func__


class Memory:
    """The bytes of one map; they are free again when the last tensor that shows the map is gone."""

    __slots__ = ("bytes", "tally")

    def __init__(self, tally: Tally, count: int) -> None:
        self.tally, self.bytes = tally, count
        live = tally.live_bytes = tally.live_bytes + count
        if live > tally.peak_bytes:  # noqa: PLR1730 - called for every map
            tally.peak_bytes = live

    def __del__(self) -> None:
        self.tally.live_bytes -= self.bytes

    def __copy__(self) -> Memory:  # who copies a tensor copies what it carries
        return self

    def __deepcopy__(self, memo: Any) -> Memory:
        return self


class Tally(TorchFunctionMode):
    """The sums; ``tally.module`` is the module that is being run."""

    module: ModuleRecord

    def __init__(self) -> None:
        super().__init__()
        self.macs = self.activations = self.live_bytes = self.peak_bytes = 0
        self.uncounted: Counter[str] = Counter()  # operators without a formula, and how often they ran
        self.counting = True
        self.sparse = False  # whether any of the model's tensors and inputs is sparse
        self.failed: ModuleRecord | None = None  # the innermost module that raised
        self.guarded: set[int] = set()  # ids of meta tensors that are the model's own
        self._twins: dict[int, tuple[Tensor, Tensor]] = {}

    def count(self, macs: int, elements: int) -> None:
        """Note ``macs`` multiply-accumulates that gave a map of ``elements`` numbers."""
        if self.counting:
            self.macs += macs
            self.module.own_macs += macs
            self.activations += elements

    def note_uncounted(self, operator: str) -> None:
        """Note an operator of which nobody knows how much it computes."""
        if self.counting:
            self.uncounted[operator] += 1

    def map(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A new map."""
        fresh = torch.empty(shape, dtype=dtype, device=META)
        # torch's stubs do not know of this note of ours
        fresh._memory = Memory(self, math.prod(shape) * dtype.itemsize)  # type: ignore[attr-defined]
        return fresh

    def keep(self, result: Any, memory: Memory | None = None) -> Any:
        """Give new maps in ``result`` their memory, or a share in that of the map which they are views of."""
        for each in (result,) if isinstance(result, Tensor) else tensors_in(result):
            if not hasattr(each, "_memory") and each.is_meta:
                # as in map
                each._memory = memory or Memory(self, each.numel() * each.dtype.itemsize)  # type: ignore[attr-defined]
        return result

    def twin(self, tensor: Tensor) -> Tensor:
        """A map itself; the twin of a tensor of the model's own."""
        if tensor.is_meta and id(tensor) not in self.guarded:
            return tensor
        if in_transform() is not None:
            return tensor.to(META)  # it may have a hidden dimension
        known = self._twins.get(id(tensor))
        if known is None:
            known = self._twins[id(tensor)] = (tensor, like(tensor))  # the pair keeps the id from being used anew
        return known[1]

    def has_values(self, tensor: Tensor) -> bool:
        """Whether the tensor is one of the model's own, with numbers in it."""
        return not tensor.is_meta and in_transform() is None

    def cannot_count(self, why: str, advice: str = "profile the parts before and after it") -> ValueError:
        """The error of a model that cannot be counted from shapes."""
        module = self.failed or self.module
        return ValueError(
            f"{module.path or 'the model'} ({module.type}) {why}; profile takes models whose path follows from shapes "
            f"alone; {advice}"
        )

    def close(self) -> None:
        """Let go of the model."""
        self._twins.clear()
        self.guarded.clear()
        self.failed = None
        del self.module


def like(tensor: Tensor) -> Tensor:
    """An empty tensor of the same shape, type and strides, without memory."""
    with UNRECORDED():
        if tensor.layout is not torch.strided:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=META)
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in ``value``, looking into tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(each)


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``function`` applied to everything in its tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        items = [map_leaves(function, each) for each in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [map_leaves(function, each) for each in value]
    if type(value) is dict:
        return {key: map_leaves(function, each) for key, each in value.items()}
    return function(value)


def first_shape(value: Any) -> tuple[int, ...] | None:
    """The shape of the first tensor in ``value``."""
    first = value[0] if type(value) is tuple and value else value
    if isinstance(first, Tensor):
        return tuple(first.shape)
    return next((tuple(each.shape) for each in tensors_in(value)), None)
