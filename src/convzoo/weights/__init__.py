"""Weights: where they are found, how they are checked, how they are fitted to a model, how they are published.

``entries`` is the table of what there is, ``find`` the order of places, ``hub`` a repository of the Hub (``cache`` its
folder on this machine, ``transfer`` the way of its files, ``client`` what the Hub's own library says), ``files`` the
reading of safetensors, ``schema`` the ``config.json``, ``layouts`` other people's names, ``fit`` other classes,
channels and sizes, ``preprocess`` the input that weights expect, ``publish``, ``card`` and ``push`` the way out.
"""

from .entries import WeightInfo, list_weights, weight_info
from .errors import (
    WeightsCorrupted,
    WeightsError,
    WeightsForbidden,
    WeightsMismatch,
    WeightsNotFound,
    WeightsUnavailable,
    WeightsUnsafe,
)
from .load import create_pretrained, load_weights
from .preprocess import transform
from .publish import save_pretrained
from .push import push_to_hub

__all__ = [
    "WeightInfo",
    "WeightsCorrupted",
    "WeightsError",
    "WeightsForbidden",
    "WeightsMismatch",
    "WeightsNotFound",
    "WeightsUnavailable",
    "WeightsUnsafe",
    "create_pretrained",
    "list_weights",
    "load_weights",
    "push_to_hub",
    "save_pretrained",
    "transform",
    "weight_info",
]
