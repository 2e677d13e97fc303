"""The table of architectures: the families put their rows in, and models are built from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ._checks import did_you_mean, shorten

if TYPE_CHECKING:
    from .models import Classifier, ModelConfig


@dataclass(frozen=True)
class Entry:
    """A row, the class that builds it, and where it comes from."""

    model_class: type[Classifier]
    config: ModelConfig
    about: Mapping[str, Any] = field(repr=False)


_ENTRIES: dict[str, Entry] = {}


def register(
    model_class: type[Classifier],
    variants: Iterable[ModelConfig],
    *,
    family: str,
    paper: str | None = None,
    source: str = "",
    authors: str | None = None,
    year: int | None = None,
    arxiv: str | None = None,
) -> None:
    """Make every row of ``variants`` a model of the zoo, built by ``model_class(row)``; all of them or none.

    Raises:
        ValueError: a row's name is taken, or no name.
    """
    about = {"family": family, "paper": paper, "authors": authors, "year": year, "arxiv": arxiv, "source": source}
    fresh: dict[str, Entry] = {}
    for config in variants:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", config.name):
            raise ValueError(
                f"a model's name is letters, digits, _ and -, got {shorten(config.name)}; a dot would begin a tag"
            )
        if config.name in _ENTRIES or config.name in fresh:
            raise ValueError(f"the model name {config.name!r} is taken; every row needs a name of its own")
        fresh[config.name] = Entry(model_class, config, about)
    _ENTRIES.update(fresh)


def find_entry(name: str) -> Entry:
    """The row called ``name``, or ValueError with the names that come close."""
    if not isinstance(name, str):
        raise TypeError(
            f"a model name is a string, got {shorten(name)} ({type(name).__name__}); list_models() names all"
        )
    if name in _ENTRIES:
        return _ENTRIES[name]
    hint = did_you_mean(name, _ENTRIES)
    raise ValueError(f"unknown model {shorten(name)}; {hint}list_models() names all {len(_ENTRIES)}")


def make_config(
    name: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """The row of ``name`` with the values given put in; ``None`` leaves the architecture's own.

    Raises:
        TypeError: an option that this architecture does not have.
        ValueError: an unknown name.
    """
    config = find_entry(name).config
    given: dict[str, Any] = dict(options or {})
    known = config.option_names()
    unknown = [option for option in given if option not in known]
    if unknown:
        listed = f"its options are {', '.join(known)}; model_info({name!r}).options gives their defaults"
        raise TypeError(
            f"{name} has no option {shorten(unknown[0])}; {did_you_mean(unknown[0], known)}"
            + (listed if known else "it has no options; leave it out")
        )
    for key, value in (("num_classes", num_classes), ("in_chans", in_chans), ("img_size", img_size)):
        if value is not None:
            given[key] = value
    return replace(config, **given)


def build(config: ModelConfig) -> Classifier:
    """The model of a row, freshly initialised."""
    return find_entry(config.name).model_class.build(config)


def entries(family: str | None = None) -> dict[str, Entry]:
    """All rows by name, or those of one family.

    Raises:
        ValueError: there is no such family.
    """
    families = sorted({entry.about["family"] for entry in _ENTRIES.values()})
    if family is not None and not (isinstance(family, str) and family in families):
        raise ValueError(f"unknown family {shorten(family)}; the families are {', '.join(families)}")
    return {name: entry for name, entry in _ENTRIES.items() if family in (None, entry.about["family"])}
