"""The recorder: it stands between a model's code and torch, and answers every call with a tensor without memory.

:class:`Recorder` sees each call of a torch function in its thread (:class:`torch.overrides.TorchFunctionMode`). If
there is a rule for the function, the rule answers. If not, the call runs on meta tensors, which have shapes and no
memory, and :mod:`convzoo.profiling.operators` counts the operators that it comes down to.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils.flop_counter import flop_registry

from ..models._init import FACTORIES, META
from .operators import BY_VALUE, OperatorCounter, custom_formula
from .passthrough import INDEXING, METADATA, READS, SAME_AS, VIEWS
from .rules import RULES
from .sparse import run_sparse
from .tally import Memory, Tally, in_transform, map_leaves, tensors_in

GET_DEVICE = torch.Tensor.device.__get__
FORMAT = torch.Tensor.__format__
CPU = torch.device("cpu")
KERNEL: Any = SimpleNamespace(in_kernel_invocation=True, shape_env=None)
KERNEL_CONTEXT = torch._guards.TracingContext(KERNEL)


class Recorder(Tally):
    """Counts what runs inside ``with recorder:``."""

    failed_operator: Any = None  # beneath the function that is being run
    read: dict[int, Tensor] | None = None  # tensors with values that were read, by id, where somebody asks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.read is not None:
            self.read |= {id(each): each for each in tensors_in((args, kwargs)) if self.has_values(each)}
        try:
            if self.sparse and (result := run_sparse(self, func, args, kwargs)) is not NotImplemented:
                return result
            rule = RULES.get(func)
            if rule is not None and in_transform() is None:
                try:
                    result = rule(self, *args, **kwargs)
                except TypeError:  # not the arguments that the rule knows
                    result = NotImplemented
                if result is not NotImplemented:
                    return result
            elif func in VIEWS and in_transform() is None:
                source = self.twin(args[0])
                return self.keep(func(source, *args[1:], **kwargs), getattr(source, "_memory", None))
            elif func in METADATA:
                return func(*args, **kwargs)
            elif getattr(func, "__name__", "") == "__get__":
                # code asks for a device to put something there, or to choose a kernel: one that runs everywhere
                return CPU if func == GET_DEVICE else func(*args, **kwargs)
            elif func in READS:
                if all(map(self.has_values, tensors_in((args, kwargs)))) or (func is FORMAT and not args[1]):
                    return func(*args, **kwargs)
                self.failed_operator = None
                raise self.refusal(func)
            return self.run_on_meta(func, args, kwargs)
        except (NotImplementedError, RuntimeError, TypeError, BufferError) as error:
            if isinstance(error, NotImplementedError) or is_about_meta(error):
                raise self.refusal(func) from error
            raise

    def run_on_meta(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Any function: torch works out the shapes, and the operators beneath are counted."""
        if hasattr(func, "py_kernels") and isinstance(func, HigherOrderOperator):
            return self.run_higher_order(func, args, kwargs)
        self.failed_operator = None
        given = args, kwargs
        if func in INDEXING:
            args = (args[0], self.known_index(args[1]), *args[2:])
        args, kwargs = map_leaves(self._to_meta, args), map_leaves(self._to_meta, kwargs)
        if func in FACTORIES and not (func is torch.normal and any(True for _ in tensors_in(args))):
            kwargs["device"] = META
        if kwargs.get("generator") is not None:
            kwargs["generator"] = None
        formula = custom_formula(func)
        counter = OperatorCounter(self)
        try:
            with counter if formula is None else contextlib.nullcontext():
                result = SAME_AS.get(func, func)(*args, **kwargs)
        except Exception as error:
            self.failed_operator = counter.failed
            known = isinstance(error, NotImplementedError) or is_about_meta(error)
            if known and all(map(self.has_values, tensors_in(given))):
                return func(*map_leaves(clone, given[0]), **map_leaves(clone, given[1]))
            raise
        if formula is not None:
            self.count(formula(*args, out=result, **kwargs), sum(each.numel() for each in tensors_in(result)))
        if in_transform() is not None:
            return result  # its maps have hidden dimensions
        return self.keep(result, shown_memory(args, result))

    def run_higher_order(self, func: HigherOrderOperator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of functions, such as flex attention: its Python code is recorded as the model's is."""
        kernel = func.py_kernels.get(torch._C.DispatchKey.CompositeExplicitAutograd)
        if kernel is None:
            raise self.refusal(func)
        formula, counting = flop_registry.get(func), self.counting
        self.counting = counting and formula is None
        try:
            with self:
                result = kernel(*args, **kwargs)
        finally:
            self.counting = counting
        if formula is not None:
            self.count(formula(*args, out_val=result, **kwargs) // 2, next(tensors_in(result)).numel())
        return result

    def refusal(self, func: Any) -> ValueError:
        """The error for ``func``, of which torch cannot tell the result from shapes."""
        operator = self.failed_operator
        if operator is not None and not any(tag in operator.tags for tag in BY_VALUE):
            name = operator._schema.name
            advice = (
                "profile the float model that it was made from"
                if "quantized" in name
                else ("give it one (torch.library.register_fake), or profile the parts before and after it")
            )
            return self.cannot_count(f"calls {name}, for which torch has no rule that gives shapes from shapes", advice)
        name = getattr(func, "__name__", str(func)) if operator is None else operator._schema.name
        return self.cannot_count(f"reads the values of a map ({name}), and counting from shapes has none")

    def known_index(self, index: Any) -> Any:
        """An index in which a mask of the model's own is replaced by as many places as it selects."""
        items: list[Any] = []
        for each in index if isinstance(index, tuple) else (index,):
            if isinstance(each, Tensor) and each.dtype == torch.bool and self.has_values(each):
                items += [torch.empty(int(each.sum()), dtype=torch.int64, device=META)] * each.ndim
            else:
                items.append(each)
        return tuple(items) if isinstance(index, tuple) or len(items) != 1 else items[0]

    def _to_meta(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.twin(value)
        return META if isinstance(value, torch.device) else value


def compilation_off() -> contextlib.AbstractContextManager[Any]:
    """Within it, what :func:`torch.compile` has made runs as the Python code that it was made from, in this thread.

    torch does so while the kernel of an operator is traced, and we say that one is.
    """
    return torch._guards.tracing(KERNEL_CONTEXT)


def is_about_meta(error: Exception) -> bool:
    """Whether torch raised because there are no values, and not because the model's code is wrong."""
    return re.search(r"(?i)meta(?!data)|internal assert", str(error)) is not None


def clone(value: Any) -> Any:
    """A tensor that code may write to."""
    return value.clone() if isinstance(value, Tensor) else value


def shown_memory(args: tuple[Any, ...], result: Any) -> Memory | None:
    """The memory of the first argument, if ``result`` is a view of it."""
    first = args[0] if args and isinstance(args[0], Tensor) else None
    one = next(tensors_in(result), None) if isinstance(result, (Tensor, tuple, list)) else None
    if first is None or one is None or one is first or not one.is_meta:
        return None
    if one.untyped_storage()._cdata != first.untyped_storage()._cdata:
        return None
    return getattr(first, "_memory", None)
