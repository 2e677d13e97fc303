"""What a model is told when it is built: the rows of the families' tables, and the checks of their values."""

from __future__ import annotations

import copy
import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import torch

from .._checks import (
    check_bool,
    check_choice,
    check_count,
    check_img_size,
    check_number,
    check_rate,
    check_text,
    shorten,
)

if TYPE_CHECKING:
    from typing_extensions import Self

Rate = Annotated[float, check_rate]  # an option in [0, 1), such as the rate of a dropout; a plain float may be any


@dataclass(kw_only=True)
class ModelConfig:
    """What every architecture is told: a row of its family's table, with the user's own values put in.

    Its fields cannot be assigned. Other attributes can, for trainers keep settings of their own in a model's config,
    and :meth:`to_dict` and :meth:`to_json_string` write down both.

    The fields beyond these four are the architecture's options. An option's annotation says what it may be: ``bool``,
    ``int`` (at least 1), ``float`` (finite), ``str``, ``tuple[int, ...]``, ``Literal[...]``, :data:`Rate`, or any
    ``Annotated[type, check]`` where ``check(what, value)`` returns the value or raises.
    """

    name: str
    num_classes: int = 1000
    in_chans: int = 3
    img_size: int | tuple[int, int] = 224

    small_images: ClassVar[Mapping[str, Any]] = {}  # options that suit images of less than 96 pixels
    training_only: ClassVar[tuple[str, ...]] = (
        "drop_rate",
    )  # options that a net in evaluation mode does not depend on

    @property
    def options(self) -> dict[str, Any]:
        """The architecture's options and their values."""
        return {name: getattr(self, name) for name in self.option_names()}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the options of this family."""
        common = {field.name for field in fields(ModelConfig)}
        return tuple(field.name for field in fields(cls) if field.name not in common)

    @classmethod
    def option_meanings(cls) -> dict[str, str]:
        """What the docstring of this family says of each option, under ``Attributes:``; empty where it says nothing."""
        described = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
        parts = re.split(r"^    (\w+): ", described, flags=re.MULTILINE)
        told = {
            name: " ".join(text.split()).replace("``", "`") for name, text in zip(parts[1::2], parts[2::2], strict=True)
        }
        return {name: told.get(name, "") for name in cls.option_names()}

    def __post_init__(self) -> None:
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse_change(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse_change(name)
        super().__delattr__(name)

    def _refuse_change(self, name: str) -> None:
        if name in self.__dict__ and name in self.__dataclass_fields__:
            raise FrozenInstanceError(
                f"{name} of {self.name} is part of the architecture and cannot be changed; "
                f"create_model({self.name!r}, {name}=...) builds another model, reset_classifier replaces the head"
            )

    def changed(self, **values: Any) -> Self:
        """A copy with other values in some fields, checked; attributes that are no fields come along."""
        fresh = copy.copy(self)
        fresh.__dict__.update(values)
        fresh.validate()
        return fresh

    def to_dict(self) -> dict[str, Any]:
        """All fields, and whatever else was assigned."""
        return copy.deepcopy(self.__dict__)

    def to_json_string(self) -> str:
        """:meth:`to_dict` as JSON; what JSON has no word for is written as its ``str``."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, default=str) + "\n"

    def validate(self) -> None:
        """Refuse values of the wrong kind, and make plain Python numbers of the others.

        Raises:
            TypeError: a value is not of the option's type.
            ValueError: a value is out of range or not one of the allowed ones.
        """
        checked: dict[str, Any] = {
            "num_classes": check_count("num_classes", self.num_classes, least=0),
            "in_chans": check_count("in_chans", self.in_chans),
            "img_size": check_img_size(self.img_size),
        }
        hints = _hints(type(self))  # type: ignore[arg-type] # the class is hashable, only its instances are not
        for name, value in self.options.items():
            checked[name] = _check_option(f"{name} of {self.name}", value, hints[name])
        self.__dict__.update(checked)


@functools.cache
def _hints(config_class: type[Any]) -> dict[str, Any]:
    return get_type_hints(config_class, include_extras=True)


def _check_option(what: str, value: Any, hint: Any) -> Any:
    """``value`` as its annotation says: plain types, a ``Literal``, or an ``Annotated`` that carries its own check."""
    if get_origin(hint) is Annotated:
        (check,) = hint.__metadata__
        return check(what, value)
    if get_origin(hint) is Literal:
        return check_choice(what, value, get_args(hint))
    if hint == tuple[int, ...]:
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{what} must be a tuple of whole numbers, got {shorten(value)}; pass e.g. (2, 2, 2, 2)")
        return tuple(check_count(f"every entry of {what}", item) for item in value)
    checks: dict[Any, Callable[[str, Any], Any]]
    checks = {bool: check_bool, int: check_count, float: check_number, str: check_text}
    return checks[hint](what, value)


def check_target(device: Any, dtype: Any) -> dict[str, Any]:
    """What was given of the two, for ``Module.to``."""
    target: dict[str, Any] = {}
    if device is not None:
        try:
            target["device"] = torch.device(device)
        except (RuntimeError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"device must be a torch.device or its name, got {shorten(device)}; pass e.g. 'cpu', 'cuda' or 'meta'"
            ) from error
    if dtype is not None:
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize == 1:
            raise TypeError(
                f"dtype must be a floating-point torch.dtype, got {shorten(dtype)}; pass e.g. torch.float16"
            )
        target["dtype"] = dtype
    return target
