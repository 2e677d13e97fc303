"""Which classes to explain: what the user may say, and what it means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Target = int | Sequence[int] | Sequence[Sequence[int]] | Tensor | Literal["all"] | tuple[Literal["top"], int] | None

_ALLOWED = (
    "target takes None (the predicted class), one class, one class per image, (N, K) classes, ('top', k) or 'all'"
)


def check_target(target: Target, images: int, classes: int | None = None) -> None:
    """Refuse, in words, a target that does not fit ``images`` images or, where known, ``classes`` classes.

    Raises:
        TypeError: not one of the kinds of target.
        ValueError: of the wrong length, or a class out of range.
    """
    if target is None or (isinstance(target, str) and target == "all"):
        return
    if _is_top(target):
        count = target[1]  # type: ignore[index] # _is_top has looked
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"('top', k) takes a whole number, got {count!r}; pass e.g. ('top', 3)")
        if count < 1 or (classes is not None and count > classes):
            most = "" if classes is None else f" to {classes}"
            raise ValueError(f"('top', k) takes k from 1{most}, got {count}; pass 'all' for every class")
        return
    table = _as_table(target, images)
    least, most_class = int(table.min()) if table.numel() else 0, int(table.max()) if table.numel() else 0
    if least < 0 or (classes is not None and most_class >= classes):
        wrong = least if least < 0 else most_class
        known = "classes count from 0" if classes is None else f"the model has {classes} classes, 0 to {classes - 1}"
        raise ValueError(f"target names class {wrong}, but {known}; pass a class in that range")


def find_classes(target: Target, logits: Tensor) -> Tensor:
    """The classes meant by ``target``, (N, K) int64 on the device of ``logits`` (N, classes).

    Raises:
        TypeError, ValueError: as :func:`check_target`.
    """
    images, classes = logits.shape
    check_target(target, images, classes)
    if target is None:
        return logits.argmax(1, keepdim=True)
    if isinstance(target, str):
        return torch.arange(classes, device=logits.device).expand(images, classes)
    if _is_top(target):
        return logits.topk(target[1], dim=1).indices  # type: ignore[index,arg-type] # _is_top has looked
    return _as_table(target, images).to(logits.device)


def _is_top(target: Target) -> bool:
    return isinstance(target, tuple) and len(target) == 2 and isinstance(target[0], str) and target[0] == "top"


def _as_table(target: Target, images: int) -> Tensor:
    """An explicit target as a table of classes (N, K)."""
    if isinstance(target, (bool, str)):
        raise TypeError(f"target cannot be {target!r}; {_ALLOWED}")
    try:
        table = torch.as_tensor(target).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"target cannot be {target!r}; {_ALLOWED}") from error
    whole = not (table.dtype.is_floating_point or table.dtype.is_complex or table.dtype == torch.bool)
    if table.numel() and not whole:
        raise TypeError(f"classes are whole numbers, got {table.dtype}; {_ALLOWED}")
    table = table.long().clone()  # a tensor made in inference mode could not be saved for a backward pass
    if table.ndim == 0:
        return table.expand(images, 1)
    if table.ndim > 2 or table.shape[0] != images or table.numel() == 0:
        raise ValueError(
            f"target has shape {tuple(table.shape)} for {images} image{'s' * (images != 1)}; pass one class, "
            f"a list of {images}, or a table of shape ({images}, K)"
        )
    return table[:, None] if table.ndim == 1 else table
