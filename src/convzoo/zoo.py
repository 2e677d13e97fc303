"""Models by name: make them, list them, describe them, add one's own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import registry
from ._checks import check_bool, check_number, check_text, match_names, shorten
from ._table import as_json, facts
from .models import Classifier, ModelConfig
from .models._config import check_target
from .models._features import check_backbone, to_backbone
from .models._init import build_empty
from .models._input import suggest_for_small_images

if TYPE_CHECKING:
    from os import PathLike


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is known of an architecture before it is built.

    Attributes:
        name: what :func:`create_model` knows it by.
        family: the nets that share its code.
        paper: its title; None where there is none.
        authors: of the paper.
        year: of the paper.
        arxiv: number of the paper there.
        source: which table or figure the architecture is read from.
        num_classes: length of the logits.
        in_chans: channels of the images.
        img_size: (height, width) of the images, in pixels.
        min_size: smallest side of the images that it takes.
        fixed_size: True if it takes images of the size it was built for and no other.
        num_features: width of the features that its last layer reads.
        params: number of its learnable numbers.
        options: each option and its default here.
        small_images: the options that suit images of less than 96 pixels; empty if there are none.
        weights: the tags that ``pretrained=`` knows.
    """

    name: str
    family: str
    paper: str | None
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
    small_images: Mapping[str, Any]
    weights: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it, with ``macs``, as numbers, strings, lists and dicts, fit for JSON."""
        return as_json({**asdict(self), "macs": self.macs})

    def _repr_html_(self) -> str:
        """A table of what is known, for notebooks."""
        return facts({**asdict(self), "macs": self.macs})._repr_html_()

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image of ``img_size``."""
        return _count_macs(self.name)


def create_model(
    name: str,
    num_classes: int | None = None,
    in_chans: int | None = None,
    *,
    pretrained: bool | str | PathLike[str] | Mapping[str, Tensor] = False,
    img_size: int | tuple[int, int] | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | PathLike[str] | None = None,
    mmap: bool = True,
    verify: bool = False,
    **options: Any,
) -> Classifier:
    """Build a model by name.

    Args:
        name: an architecture (``"resnet18"``), or with ``pretrained=True`` an architecture and the tag of its
            weights (``"lenet5.mnist"``).
        num_classes: length of the logits; 0 leaves the head out. None: the architecture's own, or the weights'.
        in_chans: channels of the images. None: the architecture's own, or the weights'.
        pretrained: False, random weights; True, the tag's or the architecture's default weights; or a tag, a folder
            or ``.safetensors`` file (a :class:`~pathlib.Path` is nothing else), a repository of the Hub
            (``"owner/name"``, ``"owner/name@revision"``, outright ``"hub:owner/name"``), or tensors by name.
        img_size: pixels, one number or (height, width). None: the architecture's own, or the weights'.
        features_only: build a backbone: without its head, returning the maps of its stages as a list, from the image
            inwards; :class:`feature_info <convzoo.models.FeatureInfo>` gives their channels and reductions.
        out_indices: which of a backbone's maps to return, counted from 0; negative ones count from the end. None: all.
        device: where the parameters are to be. The same seed gives the same weights on every device. None: the
            default device.
        dtype: of the parameters, such as ``torch.bfloat16``. None: the default type.
        token: of the Hub, for what is not public; False sends none. None: the one that the Hub's client has stored.
        revision: branch, tag or commit of the repository on the Hub. None: the newest, or the one of the entry.
        local_files_only: use what is cached, never the network.
        cache_dir: folder of the cache. None: the Hub client's own.
        mmap: map weight files into memory; False reads them whole, for files that another program may cut short.
        verify: compare weights with their hash by reading the file, also if that was done before and nobody has
            written to the file since.
        **options: the architecture's own options; ``model_info(name).options`` lists them.

    Returns:
        The model, in training mode with random weights, in evaluation mode with pretrained ones.

    Raises:
        ValueError: unknown name, or a value out of range.
        TypeError: an option the architecture does not have, or a value of the wrong type.
        WeightsError: the weights cannot be found, read or adapted.

    Warns:
        UserWarning: images of the ``img_size`` given leave maps of 2x2 or less, and an option would leave larger ones.

    Example:
        >>> import convzoo, torch
        >>> model = convzoo.create_model("resnet18", num_classes=10, in_chans=1, stem="small")
        >>> model(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 10])
        >>> backbone = convzoo.create_model("resnet18", features_only=True, out_indices=(1, 4))
        >>> [tuple(maps.shape) for maps in backbone(torch.rand(2, 3, 64, 64))]
        [(2, 64, 16, 16), (2, 512, 2, 2)]
    """
    if not isinstance(name, str):
        registry.find_entry(name)  # says what a name is
    if check_bool("features_only", features_only) or out_indices is not None:
        check_backbone(name, features_only, out_indices, num_classes, options)
    target = check_target(device, dtype)
    on_meta = target.get("device") == torch.device("meta")
    with torch.device("meta") if on_meta else contextlib.nullcontext():
        if pretrained is False and "." not in name:
            config = registry.make_config(name, num_classes, in_chans, img_size, options)
            model = registry.build(config)
            if img_size is not None:
                suggest_for_small_images(config, options)
        else:
            from .weights.find import Access
            from .weights.load import create_pretrained

            access = Access(token, local_files_only, cache_dir, revision, verify)
            model = create_pretrained(name, pretrained, num_classes, in_chans, img_size, options, access, mmap=mmap)
    if features_only:
        model = to_backbone(model, out_indices)
    return model.to(**target) if target else model


def list_models(
    pattern: str = "*",
    *,
    family: str | None = None,
    pretrained: bool = False,
    max_params: float | None = None,
    max_macs: float | None = None,
) -> list[str]:
    """Names of the zoo's models, in natural order.

    Args:
        pattern: shell wildcards, as in ``"resnet*"``.
        family: one family only, such as ``"vgg"``.
        pretrained: list ``arch.tag`` names of the weights there are, instead of architectures.
        max_params: only models with at most so many learnable numbers.
        max_macs: only models with at most so many multiply-accumulates for one image of their own size.

    Raises:
        TypeError: an argument of another kind.
        ValueError: there is no such family.

    Example:
        >>> import convzoo
        >>> convzoo.list_models("resnet*")
        ['resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152']
        >>> convzoo.list_models("resn*", max_params=25.1e6, max_macs=5e9)
        ['resnet18', 'resnet34', 'resnext50_32x4d']
    """
    known = registry.entries(family)
    if check_bool("pretrained", pretrained):
        from .weights import list_weights

        names = [name for name in list_weights(pattern) if name.partition(".")[0] in known]
    else:
        names = match_names(pattern, known)
    if max_params is not None:
        most = check_number("max_params", max_params)
        names = [name for name in names if _cost(name, "params") <= most]
    if max_macs is not None:
        most = check_number("max_macs", max_macs)
        names = [name for name in names if _cost(name, "macs") <= most]
    return names


def model_info(name: str) -> ModelInfo:
    """What is known of an architecture: its paper, size, options, weights. No weight is drawn or downloaded.

    Raises:
        TypeError: the name is not a string.
        ValueError: unknown name.

    Example:
        >>> import convzoo
        >>> info = convzoo.model_info("resnet18")
        >>> info.params, info.macs
        (11689512, 1814073344)
    """
    registry.find_entry(name)
    from .weights import list_weights

    tags = tuple(tag.split(".", 1)[1] for tag in list_weights(f"{name}.*"))
    return ModelInfo(**_describe(name), weights=tags)


@functools.cache
def _describe(name: str) -> dict[str, Any]:
    """All that the architecture alone tells."""
    entry = registry.find_entry(name)
    model = build_empty(entry.config)
    kept = ("num_classes", "in_chans", "img_size", "min_size", "fixed_size", "num_features")
    params = sum(parameter.numel() for parameter in model.parameters())
    return {
        "name": name,
        **entry.about,
        **{key: getattr(model, key) for key in kept},
        "params": params,
        "options": entry.config.options,
        "small_images": entry.config.small_images,
    }


@functools.cache
def _count_macs(name: str) -> int:
    from .profiling import profile

    model = build_empty(registry.find_entry(name).config)
    return profile(model, (model.in_chans, *model.img_size)).macs


def _cost(name: str, what: str) -> int:
    """``params`` or ``macs`` of an architecture, or of the weights ``arch.tag``, which may have other options."""
    architecture, _, tag = name.partition(".")
    if tag:
        from .weights import weight_info

        info = weight_info(name)
        counted = info.num_params if what == "params" else info.macs
        if counted is not None:
            return counted
    return _describe(architecture)["params"] if what == "params" else _count_macs(architecture)


def register(
    model_class: type[Classifier],
    variants: ModelConfig | Iterable[ModelConfig],
    *,
    family: str,
    paper: str | None = None,
    source: str = "",
    authors: str | None = None,
    year: int | None = None,
    arxiv: str | None = None,
) -> None:
    """Add architectures of one's own: from then on they are listed, made, counted, explained, saved and loaded by name.

    Args:
        model_class: the network; ``model_class(row)`` builds it. It has ``num_features``, defines
            ``forward_features`` and ``forward_head``, and makes its last layer by ``make_classifier``.
            For :func:`convzoo.cam`, :func:`convzoo.feature_maps` and the like it names ``stages``.
        variants: one row, or several, each with a name of its own.
        family: what the rows have in common; a new word, or one of the zoo's.
        paper: title of the paper, if there is one.
        source: which table or figure the rows are read from.
        authors: of the paper.
        year: of the paper.
        arxiv: number of the paper there.

    Raises:
        TypeError: not a subclass of :class:`convzoo.Classifier`, or rows that are no :class:`convzoo.ModelConfig`.
        ValueError: a name that is taken, or no name.

    Example:
        >>> from dataclasses import asdict, dataclass
        >>> import convzoo, torch
        >>> from torch import nn
        >>> @dataclass(kw_only=True)
        ... class TinyConfig(convzoo.ModelConfig):
        ...     width: int = 8
        >>> class Tiny(convzoo.Classifier):
        ...     stages = {"stage1": "relu"}
        ...
        ...     def __init__(self, config):
        ...         super().__init__(config)
        ...         self.num_features = config.width
        ...         self.conv = nn.Conv2d(config.in_chans, config.width, 3)
        ...         self.relu = nn.ReLU()
        ...         self.fc = self.make_classifier(config.num_classes)
        ...
        ...     def forward_features(self, x):
        ...         self.check_input(x)
        ...         return self.relu(self.conv(x))
        ...
        ...     def forward_head(self, features, pre_logits=False):
        ...         pooled = features.mean((2, 3))
        ...         return pooled if pre_logits else self.fc(pooled)
        >>> convzoo.register(Tiny, TinyConfig(name="tiny", num_classes=10, img_size=32), family="tiny")
        >>> model = convzoo.create_model("tiny", num_classes=3, width=16)
        >>> convzoo.profile(model, (3, 32, 32)).params
        499
        >>> convzoo.cam(model, torch.rand(1, 3, 32, 32)).maps.shape
        torch.Size([1, 1, 30, 30])
    """
    if not (isinstance(model_class, type) and issubclass(model_class, Classifier)):
        raise TypeError(
            f"model_class must be a subclass of Classifier, got {shorten(model_class)}; derive it from that"
        )
    rows = (variants,) if isinstance(variants, ModelConfig) else tuple(variants)
    for row in rows:
        if not isinstance(row, ModelConfig):
            raise TypeError(f"variants are rows of ModelConfig, got {shorten(row)}; derive the config from that")
    family = check_text("family", family, empty=False)
    about = {"family": family, "paper": paper, "source": source, "authors": authors, "year": year, "arxiv": arxiv}
    registry.register(model_class, rows, **about)  # type: ignore[arg-type] # each as it is annotated above
