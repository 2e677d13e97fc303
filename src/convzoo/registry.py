"""The table of architectures: rows in, models out."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ._checks import did_you_mean, match_names, shorten

if TYPE_CHECKING:
    from os import PathLike

    from .models._base import Classifier, ModelConfig


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is known of an architecture before it is built.

    ``img_size`` is (height, width) in pixels; ``min_size`` the smallest side it takes; ``fixed_size`` says that it
    takes images of the size it was built for and no other; ``options`` maps each option to its default here;
    ``weights`` lists the tags that ``pretrained=`` knows.
    """

    name: str
    family: str
    paper: str
    authors: str | None
    year: int | None
    arxiv: str | None
    source: str
    num_classes: int
    in_chans: int
    img_size: tuple[int, int]
    min_size: int
    fixed_size: bool
    num_features: int
    params: int
    options: Mapping[str, Any]
    weights: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    model_class: type[Classifier]
    config: ModelConfig
    about: Mapping[str, Any] = field(repr=False)


_ENTRIES: dict[str, _Entry] = {}


def register(
    model_class: type[Classifier],
    variants: Iterable[ModelConfig],
    *,
    family: str,
    paper: str,
    source: str,
    authors: str | None = None,
    year: int | None = None,
    arxiv: str | None = None,
) -> None:
    """Make every row of ``variants`` a model of the zoo, built by ``model_class(row)``.

    Raises:
        ValueError: a row's name is taken.
    """
    about = {"family": family, "paper": paper, "authors": authors, "year": year, "arxiv": arxiv, "source": source}
    for config in variants:
        if config.name in _ENTRIES:
            raise ValueError(f"the model name {config.name!r} is taken; every row needs a name of its own")
        _ENTRIES[config.name] = _Entry(model_class, config, about)


def find_entry(name: str) -> _Entry:
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
        raise TypeError(
            f"{name} has no option {unknown[0]!r}; "
            + (f"its options are {', '.join(known)}" if known else "it has no options")
            + f"; model_info({name!r}).options gives their defaults"
        )
    for key, value in (("num_classes", num_classes), ("in_chans", in_chans), ("img_size", img_size)):
        if value is not None:
            given[key] = value
    return replace(config, **given)


def build(config: ModelConfig) -> Classifier:
    """The model of a row, freshly initialised."""
    return find_entry(config.name).model_class(config)


def create_model(
    name: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    *,
    pretrained: bool | str | PathLike[str] = False,
    img_size: int | tuple[int, int] | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **options: Any,
) -> Classifier:
    """Build a model by name.

    Args:
        name: an architecture (``"resnet18"``), or with ``pretrained=True`` an architecture and the tag of its
            weights (``"lenet5.mnist"``).
        num_classes: length of the logits; 0 leaves the head out. None: the architecture's own, or the weights'.
        in_chans: channels of the images. None: the architecture's own, or the weights'.
        pretrained: False, random weights; True, the tag's or the architecture's default weights; or a tag, a folder
            or ``.safetensors`` file, or a repository of the Hub (``"owner/name"``).
        img_size: pixels, one number or (height, width). None: the architecture's own, or the weights'.
        features_only: build a backbone: without its head, returning the maps of its stages as a list, from the image
            inwards; :class:`feature_info <convzoo.models.FeatureInfo>` gives their channels and reductions.
        out_indices: which of a backbone's maps to return, counted from 0; negative ones count from the end. None: all.
        **options: the architecture's own options; ``model_info(name).options`` lists them. With ``pretrained`` also
            ``token``, ``local_files_only``, ``cache_dir`` (as the Hub's client knows them) and ``mmap``, see
            :func:`convzoo.weights.create_pretrained`.

    Returns:
        The model, in training mode with random weights, in evaluation mode with pretrained ones.

    Raises:
        ValueError: unknown name, or a value out of range.
        TypeError: an option the architecture does not have, or a value of the wrong type.
        WeightsError: the weights cannot be had, read or fitted.

    Example:
        >>> import convzoo, torch
        >>> model = convzoo.create_model("resnet18", num_classes=10, in_chans=1, stem="small")
        >>> model(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 10])
        >>> backbone = convzoo.create_model("resnet18", features_only=True, out_indices=(1, 4))
        >>> [tuple(maps.shape) for maps in backbone(torch.rand(2, 3, 64, 64))]
        [(2, 64, 16, 16), (2, 512, 2, 2)]
    """
    if features_only or out_indices is not None:
        from .models._features import check_backbone, to_backbone

        check_backbone(str(name), features_only, out_indices, num_classes, options)
    if pretrained is False and "." not in str(name):
        model = build(make_config(name, num_classes, in_chans, img_size, options))
    else:
        from .weights import create_pretrained

        model = create_pretrained(name, pretrained, num_classes, in_chans, img_size, options)
    return to_backbone(model, out_indices) if features_only else model


def list_models(pattern: str = "*", *, family: str | None = None, pretrained: bool = False) -> list[str]:
    """Names of the zoo's models, in natural order.

    Args:
        pattern: shell wildcards, as in ``"resnet*"``.
        family: one family only, such as ``"vgg"``.
        pretrained: list ``arch.tag`` names of the weights there are, instead of architectures.

    Raises:
        ValueError: there is no such family.

    Example:
        >>> import convzoo
        >>> convzoo.list_models("resnet*")
        ['resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152']
    """
    families = sorted({entry.about["family"] for entry in _ENTRIES.values()})
    if family is not None and family not in families:
        raise ValueError(f"unknown family {shorten(family)}; the families are {', '.join(families)}")
    names = [name for name, entry in _ENTRIES.items() if family in (None, entry.about["family"])]
    if pretrained:
        from .weights import list_weights

        names = [tag for tag in list_weights() if tag.split(".", 1)[0] in names]
    return match_names(pattern, names)


@functools.cache
def model_info(name: str) -> ModelInfo:
    """What is known of an architecture: its paper, size, options, weights. Nothing is drawn or downloaded.

    Raises:
        ValueError: unknown name.

    Example:
        >>> import convzoo
        >>> convzoo.model_info("resnet18").params
        11689512
    """
    entry = find_entry(name)
    with torch.device("meta"):
        model = entry.model_class(entry.config)
    from .weights import list_weights

    return ModelInfo(
        name=name,
        **entry.about,
        num_classes=model.num_classes,
        in_chans=model.in_chans,
        img_size=model.img_size,
        min_size=model.min_size,
        fixed_size=model.fixed_size,
        num_features=model.num_features,
        params=sum(parameter.numel() for parameter in model.parameters()),
        options=entry.config.options,
        weights=tuple(tag.split(".", 1)[1] for tag in list_weights(f"{name}.*")),
    )
