"""Backbones: a classifier without its head that returns the maps of its stages.

A backbone is of the classifier's own class, with its state-dict keys. Every layer behind the last map that is asked for
is left out, so that each parameter there is gets a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._checks import check_bool, check_count, shorten
from ._base import Classifier

Model = TypeVar("Model", bound=Classifier)


class FeatureInfo:
    """The maps of a backbone, with the methods that users of timm know.

    It is a sequence of dicts, one a map that the architecture has, from the image inwards: ``num_chs`` (channels),
    ``reduction`` (pixels of the image to a cell of the map, each way), ``module`` (path of the layer that the map is
    the output of) and ``index``. The methods speak of the maps that the backbone returns, unless they are told which.

    Attributes:
        out_indices: indices of the maps that the backbone returns.

    Example:
        >>> import convzoo
        >>> backbone = convzoo.create_model("resnet18", features_only=True)
        >>> backbone.feature_info.channels(), backbone.feature_info.reduction()
        ([64, 64, 128, 256, 512], [2, 4, 8, 16, 32])
        >>> backbone.feature_info[-1]
        {'num_chs': 512, 'reduction': 32, 'module': 'layer4', 'index': 4}
    """

    def __init__(self, maps: Sequence[dict[str, Any]], out_indices: tuple[int, ...]) -> None:
        self.info = list(maps)
        self.out_indices = out_indices

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Channels of the maps returned, as a list; or of those with the given indices, a number for a number."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Pixels of the image to a cell of the maps, each way; as :meth:`channels`."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Paths of the layers that the maps are the outputs of; as :meth:`channels`."""
        return self.get("module", idx)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """The entry ``key`` of the maps returned, as a list; or of those with the given indices."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[index][key] for index in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """The dicts of the maps, with all entries or those named ``keys``; which maps, as in :meth:`channels`."""
        if isinstance(idx, int):
            return {key: value for key, value in self.info[idx].items() if keys is None or key in keys}
        return [self.get_dicts(keys, index) for index in (self.out_indices if idx is None else idx)]

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.info[index]

    def __len__(self) -> int:
        return len(self.info)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.info)

    def __repr__(self) -> str:
        maps = ", ".join(f"{each['num_chs']} at 1/{each['reduction']}" for each in self.get_dicts())
        return f"{type(self).__name__}({maps})"


class NoHead(nn.Module):
    """Stands where a layer of the head was."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(
            f"this {self.name} was made with features_only=True and has no head; create_model({self.name!r}) makes one "
            "with a head"
        )

    def extra_repr(self) -> str:
        return "features_only"


def check_out_indices(name: str, out_indices: Any, count: int) -> tuple[int, ...]:
    """``out_indices`` as indices from 0 on, of a net with ``count`` maps.

    Raises:
        TypeError, ValueError: they are no indices of such a net, or do not go up.
    """
    if out_indices is None:
        return tuple(range(count))
    if not isinstance(out_indices, (tuple, list)):
        raise TypeError(
            f"out_indices of {name} must be a tuple of indices, got {shorten(out_indices)}; pass e.g. (1, 2)"
        )
    indices = [check_count("every entry of out_indices", index, least=-count) for index in out_indices]
    places = [index + count if index < 0 else index for index in indices]
    if not places or max(places) >= count or places != sorted(set(places)):
        raise ValueError(
            f"out_indices of {name} must go up from 0 to at most {count - 1} (or count from the end, -1 the last), got "
            f"{tuple(out_indices)!r}; it has {count} maps: feature_info of the backbone with all of them describes them"
        )
    return tuple(places)


def check_backbone(
    name: str, features_only: object, out_indices: object, num_classes: object, options: Mapping[str, Any]
) -> None:
    """Refuse what does not go with a backbone, before anything is built.

    Raises:
        TypeError: ``features_only`` is no bool, or ``num_classes`` no whole number.
        ValueError: ``out_indices`` without ``features_only``, or something about a head with it.
    """
    if not check_bool("features_only", features_only):
        raise ValueError(
            f"out_indices={shorten(out_indices)} names maps of a backbone; pass features_only=True with it, or leave it"
        )
    if num_classes is not None and check_count("num_classes", num_classes, least=0):
        raise ValueError(
            f"features_only=True leaves the head of {name} out, and num_classes={shorten(num_classes)} is of the head; "
            "leave one of them"
        )
    if options.get("aux") is True:
        raise ValueError(
            f"features_only=True leaves every head of {name} out, and aux=True asks for auxiliary heads; leave one out"
        )


def describe(model: Classifier) -> list[dict[str, Any]]:
    """What :class:`FeatureInfo` knows of each map of the architecture: measured on the meta device, at two sizes."""
    with torch.device("meta"):
        twin = type(model).build(model.config).eval()
        twin.fixed_size = False
        step = 64 * model.min_size  # a multiple of every reduction
        sizes, measured = (4 * model.min_size, 4 * model.min_size + step), []
        for size in sizes:
            maps: list[Tensor] = []
            twin.forward_features(torch.empty(1, model.in_chans, size, size), maps=maps)
            measured.append(maps)
    return [
        {"num_chs": large.shape[1], "reduction": step // (large.shape[2] - small.shape[2]), "module": path, "index": at}
        for at, (small, large, path) in enumerate(zip(*measured, model.feature_layers, strict=True))
    ]


def keys_left_out(backbone: Classifier) -> set[str]:
    """State-dict keys that the classifier has, with its auxiliary heads, and ``backbone`` has not."""
    aux = {"aux": True} if "aux" in backbone.config.options else {}
    with torch.device("meta"):
        classifier = type(backbone).build(backbone.config.changed(num_classes=1, **aux))
    return classifier.state_dict().keys() - backbone.state_dict().keys()


def to_backbone(model: Model, out_indices: Sequence[int] | None = None) -> Model:
    """Make ``model`` a backbone: without its head, and with :attr:`~Classifier.feature_info`.

    Args:
        model: a classifier; it is changed, and keeps its weights.
        out_indices: which of its maps to return, from the image inwards and counted from 0; negative ones count from
            the end. None: all.

    Raises:
        TypeError, ValueError: ``out_indices`` are no indices of its maps, or it names none.
    """
    if not model.feature_layers:
        raise ValueError(
            f"{model.config.name} makes no backbone: its class does not say which layers put out maps "
            "(feature_layers); convzoo.feature_maps(model, images, layers) gives the maps of any layers"
        )
    indices = check_out_indices(model.config.name, out_indices, len(model.feature_layers))
    info = FeatureInfo(describe(model), indices)
    for name in model.aux_heads:
        delattr(model, name)
    model.aux_heads = ()
    model.leave_out_after(model.feature_layers[indices[-1]], nn.Sequential())
    model.leave_out_after(model.feature_layers[-1], NoHead(model.config.name))
    model.config = model.config.changed(num_classes=0, **({"aux": False} if "aux" in model.config.options else {}))
    model.feature_info = info
    model.fixed_size = False  # only a head needs one
    return model
