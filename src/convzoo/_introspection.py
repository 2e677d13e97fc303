"""What functions and objects hold, as far as Python tells."""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from typing import Any

from torch import nn

KNOWN_PACKAGES = sys.stdlib_module_names - {"__main__"} | {"torch", "convzoo"}
HOLDERS = (
    types.MethodType, functools.partial, functools._lru_cache_wrapper, types.MappingProxyType, list, dict, set, deque,
    tuple,
)  # fmt: skip


def global_names(function: types.FunctionType) -> list[str]:
    """The global names in the code of ``function`` that may lead to a module of the user's.

    Their values are modules, what is bound to one, containers, and functions of the same file or notebook. Code of
    Python's and of installed packages is taken to keep nothing of the user's in its globals.
    """
    own = function.__globals__
    package, file = str(own.get("__name__")).partition(".")[0], str(own.get("__file__"))
    if package in KNOWN_PACKAGES or "site-packages" in file or "dist-packages" in file:
        return []
    found, codes = [], [function.__code__]
    for code in codes:  # which becomes longer meanwhile
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        for name in code.co_names:
            value = own.get(name)
            same_file = isinstance(value, types.FunctionType) and value.__globals__ is own
            if same_file or isinstance(value, (nn.Module, *HOLDERS)):
                found.append(name)
    return found


def is_empty(cell: types.CellType) -> bool:
    """Whether a variable of a closure has no value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


@functools.cache
def slots_of(kind: Any) -> tuple[str, ...]:
    """The attributes that objects of a class keep in slots, by the names that Python gives them."""
    found: list[str] = []
    for each in kind.__mro__:
        slots = vars(each).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            found.append(f"_{each.__name__.lstrip('_')}{name}" if private else name)
    return tuple(name for name in found if name not in ("__dict__", "__weakref__"))


@functools.cache
def without_end(kind: Any) -> type | None:
    """A class like ``kind``, whose objects do nothing when they are thrown away; None if there cannot be one."""
    if not any(isinstance(vars(each).get("__del__"), types.FunctionType) for each in kind.__mro__):
        return None  # it is written in C: a file, say
    return type(kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__, "__del__": lambda self: None})
