"""Weights: where they are found, how they are checked, how they are fitted to a model, how they are published.

``entries`` is the table of what there is, ``find`` the order of places, ``hub`` a repository of the Hub (``cache`` its
folder on this machine, ``transfer`` the way of its files, ``client`` what the Hub's own library says), ``files`` the
reading of safetensors, ``schema`` the ``config.json``, ``layouts`` other people's names, ``adapt`` other classes,
channels and sizes, ``fit`` the tensors put in; ``plain``, ``publish``, ``folder``, ``card`` and ``push`` save and
publish.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from .entries import WeightInfo as WeightInfo
    from .entries import list_weights as list_weights
    from .entries import weight_info as weight_info
    from .errors import WeightsCorrupted as WeightsCorrupted
    from .errors import WeightsError as WeightsError
    from .errors import WeightsForbidden as WeightsForbidden
    from .errors import WeightsMismatch as WeightsMismatch
    from .errors import WeightsNotFound as WeightsNotFound
    from .errors import WeightsUnavailable as WeightsUnavailable
    from .errors import WeightsUnsafe as WeightsUnsafe
    from .load import create_pretrained as create_pretrained
    from .load import load_weights as load_weights
    from .publish import save_pretrained as save_pretrained
    from .push import push_to_hub as push_to_hub

# The public names by the module that they live in, imported when first used: listing the weights needs no torch.
_PUBLIC = {
    "entries": "WeightInfo list_weights weight_info",
    "errors": "WeightsCorrupted WeightsError WeightsForbidden WeightsMismatch WeightsNotFound WeightsUnavailable "
    "WeightsUnsafe",
    "load": "create_pretrained load_weights",
    "publish": "save_pretrained",
    "push": "push_to_hub",
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the table is its only source


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        value = globals()[name] = getattr(_import_module(f".{_MODULE_OF[name]}", __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; dir() names what it has")


def __dir__() -> list[str]:
    return list(__all__)
