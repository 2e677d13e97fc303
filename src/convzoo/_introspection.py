"""What functions and objects hold, as far as Python tells."""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable
from typing import Any


def used_globals(function: types.FunctionType) -> dict[str, Any]:
    """The globals that the code of ``function`` reads by name, with their values; none if it sets one."""
    own, found, codes = function.__globals__, {}, [function.__code__]
    for code in codes:  # which becomes longer meanwhile
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        for step in dis.get_instructions(code):
            if step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                return {}
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in own:
                found[step.argval] = own[step.argval]
    return found


def leads_to(value: Any, wanted: Callable[[Any], bool], seen: set[int] | None = None) -> bool:
    """Whether ``value`` is ``wanted``, is bound to such, has such in it, or is a function that uses such by a global
    name. Containers inside of containers are not looked into."""
    seen = set() if seen is None else seen
    if wanted(value) or id(value) in seen:
        return wanted(value)
    seen.add(id(value))
    if isinstance(value, types.MethodType):
        return wanted(value.__self__)
    if isinstance(value, functools.partial):
        inside = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, functools._lru_cache_wrapper):
        inside = [value.__wrapped__]
    elif isinstance(value, types.FunctionType):
        inside = list(used_globals(value).values())
    else:
        if isinstance(value, (types.MappingProxyType, dict)):
            value = [each for pair in list(value.items()) for each in pair]
        held = list(value) if isinstance(value, (list, tuple, set)) else []
        return any(wanted(each.__self__ if isinstance(each, types.MethodType) else each) for each in held)
    return any(leads_to(each, wanted, seen) for each in inside)


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
    """A class like ``kind``, whose objects do nothing when they are thrown away; None if none can be made unseen."""
    written = any(isinstance(vars(each).get("__del__"), types.FunctionType) for each in kind.__mro__)
    seen = type(kind) is not type or any("__init_subclass__" in vars(each) for each in kind.__mro__[:-1])
    if seen or not written:  # where it is not written in Python it is a file, say
        return None
    return type(kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__, "__del__": lambda self: None})
