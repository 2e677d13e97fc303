"""Checks of arguments, and the wording that all error messages share.

Every check takes the name of the argument and its value, and returns the value as a plain Python one: numbers of
numpy are accepted wherever a number is, and leave as ``int`` or ``float``. A failed check raises ``TypeError`` (wrong
kind) or ``ValueError`` (wrong value) in three parts: what was given, what is allowed, what to do.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import numbers
import os
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_Z95 = 1.959964  # a standard normal lies within +-_Z95 with probability 0.95
MOST = 2**31 - 1  # of anything that is made or shown; sizes beyond it overflow inside torch, in its own words
MOST_PIXELS = 1 << 20  # a side of an image
_LONGEST_NAME = 200  # characters; no name that we know is longer, and close matches of a longer one cost seconds


def shorten(value: object, width: int = 80) -> str:
    """``repr(value)`` on one line of at most ``width`` characters: the middle of a long one is left out.

    Example:
        >>> shorten("resnet18")
        "'resnet18'"
        >>> shorten("x" * 1_000_000, 12)
        "'xxx...xxxx'"
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = width
    try:
        text = " ".join(short.repr(value).split())
    except Exception:  # a repr of the caller's own may raise anything; an error message must not
        text = f"<{type(value).__name__}>"
    if len(text) <= width:
        return text
    kept = width - 3
    return f"{text[: kept // 2]}...{text[-(kept - kept // 2) :]}"


def plural(count: int, one: str, many: str = "") -> str:
    """``"1 channel"``, ``"3 channels"``; ``many`` where an s is not the plural: ``plural(2, "class", "classes")``."""
    return f"{count} {one}" if count == 1 else f"{count} {many or one + 's'}"


def check_count(what: str, value: object, *, least: int = 1, most: int | None = MOST) -> int:
    """``value`` as an int in ``least`` to ``most``; None: there is no most.

    Example:
        >>> import numpy as np
        >>> check_count("num_classes", np.int64(10))
        10
        >>> check_count("num_classes", 10.0)
        Traceback (most recent call last):
        TypeError: num_classes must be a whole number, got 10.0 (float); pass an int
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        kind = type(value).__name__
        raise TypeError(f"{what} must be a whole number, got {shorten(value)} ({kind}); pass an int")
    count = int(value)
    if count < least:
        raise ValueError(f"{what} must be at least {least}, got {shorten(count)}; pass {least} or more")
    if most is not None and count > most:
        raise ValueError(f"{what} must be at most {most}, got {shorten(count)}; pass {most} or less")
    return count


def check_number(what: str, value: object) -> float:
    """``value`` as a float; NaN and infinity are refused."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} must be a number, got {shorten(value)} ({type(value).__name__}); pass a float")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{what} must be finite, got {shorten(value)}; pass a finite number")
    return number


def check_rate(what: str, value: object) -> float:
    """``value`` as a float in [0, 1), such as the rate of a dropout."""
    rate = check_number(what, value)
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"{what} must be in [0, 1), got {shorten(value)}; pass a rate")
    return rate


def check_bool(what: str, value: object) -> bool:
    """``value`` as a bool; 0, 1 and None are not."""
    kind = type(value)
    if kind is not bool and not (kind.__module__ == "numpy" and kind.__name__ in ("bool", "bool_")):
        raise TypeError(f"{what} must be True or False, got {shorten(value)}; pass a bool")
    return bool(value)


def check_text(what: str, value: object, *, empty: bool = True) -> str:
    """``value`` as a str, which may be empty unless ``empty`` is False."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, got {shorten(value)} ({type(value).__name__}); pass a str")
    if not (value or empty):
        raise ValueError(f"{what} must not be empty; pass at least one character")
    return str(value)


def check_path(what: str, value: object) -> Path:
    """``value``, a string or a path object, as a Path; ``~`` in front is a home."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise TypeError(f"{what} must be a path, got {shorten(value)} ({type(value).__name__}); pass a str or a Path")
    if not path:
        raise ValueError(f"{what} must not be empty; the current folder is '.'")
    try:
        if b"\0" in os.fsencode(path):
            raise ValueError("it holds a null character")
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as error:  # there is no such user, or no file can have such a name
        raise ValueError(f"{what} is no path: {shorten(path)} ({error}); write the path out") from error


def check_mapping(what: str, value: object) -> dict[Any, Any]:
    """``value``, a mapping or None, as a dict."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{what} must be a mapping, got {shorten(value)} ({type(value).__name__}); pass a dict")
    return dict(value or {})


def check_choice(what: str, value: object, allowed: Sequence[object]) -> object:
    """The member of ``allowed`` that ``value`` is equal to and of one kind with (1 is not True)."""
    for choice in allowed:
        if isinstance(value, type(choice)) and isinstance(value, bool) == isinstance(choice, bool) and value == choice:
            return choice
    choices = " or ".join(repr(choice) for choice in allowed)
    raise ValueError(f"{what} must be {choices}, got {shorten(value)}; pass one of these")


def check_img_size(value: object, what: str = "img_size") -> tuple[int, int]:
    """An image size, one number or (height, width), as (height, width) in pixels."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{what} must be one number or (height, width), got {shorten(value)}; pass e.g. 64")
        height = check_count(f"{what} height", value[0], most=MOST_PIXELS)
        return height, check_count(f"{what} width", value[1], most=MOST_PIXELS)
    side = check_count(what, value, most=MOST_PIXELS)
    return side, side


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that puts numbers inside names in the order of their values: resnet18, resnet50, resnet101."""
    parts = re.split(r"([0-9]+)", name)  # text, digits, text, ...
    digits = [part.lstrip("0") for part in parts[1::2]]
    key = [(0, part) for part in parts]
    key[1::2] = [(len(number), number) for number in digits]
    return key


def match_names(pattern: object, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that ``pattern``, with shell wildcards, matches; in natural order.

    Example:
        >>> match_names("b*", ["b10", "a1", "b9"])
        ['b9', 'b10']
    """
    wanted = check_text("pattern", pattern)
    return sorted((name for name in names if fnmatch.fnmatchcase(name, wanted)), key=natural_key)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``"did you mean 'x'? "`` with up to three of ``known`` that look like ``name``; else an empty string."""
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return ""
    close = difflib.get_close_matches(name.lower().replace("-", "_"), list(known), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, close))}? " if close else ""


def wilson_interval(percent: float, count: int) -> tuple[float, float]:
    """The 95 % interval, in percent, of a share of ``percent`` seen in ``count`` trials (Wilson 1927).

    Example:
        >>> low, high = wilson_interval(99.0, 10_000)
        >>> round(low, 2), round(high, 2)
        (98.79, 99.18)
    """
    rate, weight = percent / 100, _Z95**2 / count
    centre = rate + weight / 2
    half = math.sqrt(weight * (rate * (1 - rate) + weight / 4))
    low, high = (centre - half) / (1 + weight), (centre + half) / (1 + weight)
    return 100 * max(0.0, low), 100 * min(1.0, high)
