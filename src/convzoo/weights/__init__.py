"""Weights: where they are found, how they are checked, how they are fitted to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models import Classifier


def list_weights(pattern: str = "*") -> list[str]:
    """Names (``arch.tag``) of the weights there are."""
    return []


def create_pretrained(
    name: str,
    pretrained: Any,
    num_classes: int | None,
    in_chans: int | None,
    img_size: int | tuple[int, int] | None,
    options: dict[str, Any],
) -> Classifier:
    """The model ``name`` with weights; see :func:`convzoo.create_model`."""
    raise ValueError(f"no weights for {name!r}; list_weights() names those there are")
