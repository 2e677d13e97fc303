"""Which classes to explain: what ``target`` may be, and the scores that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from .._checks import check_count, shorten
from .._modules import autocast_off

Target = (
    int
    | Sequence[int]
    | Sequence[Sequence[int]]
    | Tensor
    | Callable[[Tensor], Tensor]
    | Literal["all"]
    | tuple[Literal["top"], int]
    | None
)

_ALLOWED = (
    "target takes None (the predicted class), one class, one class per image, (N, K) classes, ('top', k), 'all' or a "
    "callable from logits to scores"
)


def check_target(target: Target, images: int, classes: int | None = None) -> None:
    """Raise an error if ``target`` does not fit ``images`` images or, where known, ``classes`` classes.

    Raises:
        TypeError: not one of the kinds of target.
        ValueError: of the wrong length, or a class out of range.
    """
    if target is None or callable(target) or (isinstance(target, str) and target == "all"):
        return
    if _is_top(target):
        _top_count(target, classes)
        return
    _check_table(target, images, classes)


def class_scores(logits: Tensor) -> Tensor:
    """The score of each class: the logits (N, classes); of a single logit (N, 1) the scores (N, 2) of the two classes
    that it decides between, no (0), which the negated logit speaks for, and yes (1)."""
    return logits if logits.shape[1] != 1 else torch.cat([-logits, logits], 1)


def find_classes(target: Target, logits: Tensor) -> Tensor:
    """The classes meant by ``target``, which is no callable: (N, K) int64 on the device of ``logits`` (N, classes)."""
    scores = class_scores(logits)
    images, classes = scores.shape
    if target is None:
        return scores.argmax(1, keepdim=True)
    if isinstance(target, str):
        return torch.arange(classes, device=logits.device).expand(images, classes)
    if _is_top(target):
        return scores.topk(_top_count(target, classes), dim=1).indices
    return _check_table(target, images, classes).to(logits.device)


def call_target(target: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """The scores (N, K) that a callable makes of ``logits`` (N, classes).

    Raises:
        TypeError, ValueError: it does not return scores (N,) or (N, K) of the logits.
    """
    scores = target(logits)
    if not isinstance(scores, Tensor):
        raise TypeError(f"target returns a {type(scores).__name__}; a callable target returns scores (N,) or (N, K)")
    fits = scores.ndim in (1, 2) and scores.shape[0] == logits.shape[0] and scores.numel() > 0
    if not fits or not scores.is_floating_point():
        kind = f"{tuple(scores.shape)} of {scores.dtype}"
        raise ValueError(
            f"target returns {kind} for logits {tuple(logits.shape)}; a callable target returns scores (N,) or (N, K), "
            "such as lambda logits: logits[:, 3] - logits[:, 5]"
        )
    if logits.requires_grad and not scores.requires_grad:
        raise ValueError("target returns scores that have no gradient to the logits; compute them from the logits")
    return scores[:, None] if scores.ndim == 1 else scores


def pick_scores(target: Target, logits: Tensor) -> tuple[Tensor | None, Tensor]:
    """The classes (N, K), None of a callable target, and their scores (N, K), with the graph of ``logits``."""
    with torch.set_grad_enabled(logits.requires_grad), autocast_off(logits.device):
        if callable(target):
            return None, call_target(target, logits)
        classes = find_classes(target, logits.detach())
        return classes, class_scores(logits).gather(1, classes)


def _is_top(target: Target) -> bool:
    return isinstance(target, tuple) and len(target) == 2 and isinstance(target[0], str) and target[0] == "top"


def _top_count(target: Target, classes: int | None) -> int:
    """k of ``("top", k)``."""
    return check_count("k of target=('top', k)", target[1], most=classes)  # type: ignore[index] # _is_top has looked


def _check_table(target: Target, images: int, classes: int | None) -> Tensor:
    """An explicit target as a table of classes (N, K) that there are."""
    table = _as_table(target, images)
    least, most = int(table.min()), int(table.max())
    if least < 0 or (classes is not None and most >= classes):
        wrong = least if least < 0 else most
        known = "classes count from 0" if classes is None else f"the model has {classes} classes, 0 to {classes - 1}"
        raise ValueError(f"target names class {wrong}, but {known}; pass a class in that range")
    return table


def _as_table(target: Target, images: int) -> Tensor:
    """An explicit target as a table of classes (N, K)."""
    if isinstance(target, (bool, str, bytes)):
        raise TypeError(f"target cannot be {shorten(target)}; {_ALLOWED}")
    try:
        table = torch.as_tensor(target).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"target cannot be {shorten(target)}; {_ALLOWED}") from error
    if table.is_nested or table.is_meta or table.is_quantized or table.layout is not torch.strided:
        raise TypeError(f"target cannot be a nested, meta, quantised or sparse tensor; {_ALLOWED}")
    if table.numel() and (table.is_floating_point() or table.is_complex() or table.dtype == torch.bool):
        raise TypeError(f"classes are whole numbers, got {table.dtype}; {_ALLOWED}")
    table = table.to("cpu", torch.int64, copy=True)  # made in inference mode, autograd could not save it
    if table.ndim == 0:
        return table.expand(images, 1)
    if table.ndim > 2 or table.shape[0] != images or table.numel() == 0:
        raise ValueError(
            f"target has shape {tuple(table.shape)} for {images} image{'s' * (images != 1)}; pass one class, "
            f"a list of {images}, or a table of shape ({images}, K)"
        )
    return table[:, None] if table.ndim == 1 else table
