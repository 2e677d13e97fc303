"""What can go wrong with weights: one family, so that ``except WeightsError`` is enough."""

from __future__ import annotations


class WeightsError(RuntimeError):
    """The weights cannot be had, read or fitted; each kind below says what to do."""


class WeightsNotFound(WeightsError):
    """There are no such weights: an unknown tag, repository, revision or file."""


class WeightsForbidden(WeightsError):
    """They are there, but not for you: private, gated, or the token was refused."""


class WeightsUnavailable(WeightsError):
    """They cannot be reached now: no network, a server in trouble, a cache that cannot be written."""


class WeightsCorrupted(WeightsError):
    """What was found is not the file it should be: another hash, cut short, not safetensors at all."""


class WeightsUnsafe(WeightsError):
    """A pickle: opening one can run code, so none is ever opened."""


class WeightsMismatch(WeightsError):
    """They are sound, but of another model than the one asked for."""
