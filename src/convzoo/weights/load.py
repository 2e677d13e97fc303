"""The two doors: a model made with weights, and weights put into a model that is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._checks import check_img_size
from ..models import Classifier
from ..registry import find_entry, make_config
from . import find, fit, layouts
from .entries import WeightInfo, default_tag
from .errors import WeightsMismatch
from .files import read_tensors

Source = str | os.PathLike[str]


def create_pretrained(
    name: str,
    pretrained: bool | Source,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Classifier:
    """The model ``name`` with weights; what :func:`convzoo.create_model` does when ``pretrained`` is given.

    ``options`` are the architecture's, and four about the loading: ``token``, ``local_files_only`` and ``cache_dir``
    as the Hub's client knows them, and ``mmap`` (True: map the file; False: read it whole, for a file that another
    program may cut short while it is in use).

    Raises:
        ValueError: unknown name, or a tag without ``pretrained=True``.
        TypeError: an unknown option.
        WeightsError: the weights cannot be had, read or fitted.
    """
    given = dict(options or {})
    access = find.Access(
        given.pop("token", None), bool(given.pop("local_files_only", False)), given.pop("cache_dir", None)
    )
    mmap = bool(given.pop("mmap", True))
    if torch.get_default_device().type == "meta":
        raise ValueError(f"weights of {name} cannot be loaded onto the meta device; leave it, or pretrained=False")
    architecture, _, tag = name.partition(".") if isinstance(name, str) else (name, "", "")
    find_entry(architecture)
    found = _find(name, architecture, tag, pretrained, access)
    wanted = fit.Wanted(num_classes, in_chans, None if img_size is None else check_img_size(img_size))
    state = read_tensors(found.path, mmap=mmap)
    info = found.info
    if info is None:
        model = _load_bare(architecture, state, wanted, given, str(found.path))
    else:
        if info.architecture != architecture:
            raise WeightsMismatch(
                f"{info.source or info.name} holds weights of {info.architecture}, and {architecture} was asked for; "
                f"create_model({info.architecture!r}, pretrained=...) loads them"
            )
        native = make_config(
            architecture, info.num_classes, info.in_chans, info.img_size, {**_own_args(info, architecture), **given}
        )
        model = fit.load_fitted(native, state, info, wanted)
    device = torch.get_default_device()
    return model if device.type == "cpu" else model.to(device)


def _find(name: str, architecture: str, tag: str, pretrained: bool | Source, access: find.Access) -> find.Found:
    if pretrained is False:
        raise ValueError(
            f"{name!r} names weights, and pretrained is False; pass pretrained=True, or {architecture!r} for random "
            "weights"
        )
    if pretrained is True:
        return find.find_tag(name if tag else f"{architecture}.{default_tag(architecture)}", access)
    if not isinstance(pretrained, (str, os.PathLike)) or not str(pretrained):
        raise TypeError(
            f"pretrained must be True, False, a tag, a folder or file, or 'owner/name' of the Hub, got {pretrained!r}; "
            "pass one of these"
        )
    source = os.fspath(pretrained)
    if tag and source not in (tag, name):
        raise ValueError(
            f"{name!r} names weights, and pretrained={source!r} names others; pass pretrained=True, or "
            f"create_model({architecture!r}, pretrained={source!r})"
        )
    if not isinstance(pretrained, str) or find.looks_like_path(source):
        return find.find_path(Path(source))
    if "/" in source:
        return find.find_repository(*find.split_repository(source), access)
    return find.find_tag(source if source.startswith(f"{architecture}.") else f"{architecture}.{source}", access)


def _own_args(info: WeightInfo, architecture: str) -> dict[str, Any]:
    """The options that the weights were made with, as this architecture has them."""
    known = find_entry(architecture).config.option_names()
    unknown = [option for option in info.model_args if option not in known]
    if unknown:
        raise WeightsMismatch(
            f"{info.source or info.name} was made with {unknown[0]}={info.model_args[unknown[0]]!r}, which "
            f"{architecture} has no option for; its options are {', '.join(known) or 'none'}: use other weights"
        )
    return dict(info.model_args)


def _load_bare(
    architecture: str, state: dict[str, Tensor], wanted: fit.Wanted, options: dict[str, Any], what: str
) -> Classifier:
    """A file without a description: taken for the very model that was asked for."""
    config = make_config(architecture, wanted.num_classes, wanted.in_chans, wanted.img_size, options)
    model = fit.build_empty(config)
    fit.put_in(model, layouts.convert(state, model), what)
    return model.eval()


def load_weights(
    model: Classifier, source: Mapping[str, Tensor] | Source, *, layout: str | None = None, mmap: bool = True
) -> Classifier:
    """Put weights into a model that is there, all of them or none.

    Args:
        model: gets the weights, in its own types and on its own device.
        source: tensors by name, or a ``.safetensors`` file or a folder that holds one.
        layout: whose names the tensors have: ``"convzoo"``, ``"torchvision"``, ``"timm"`` or ``"t2t-official"``.
            None: found out.
        mmap: map the file while it is read; False: read it whole.

    Returns:
        The model.

    Raises:
        TypeError: a source of another kind.
        ValueError: no such layout.
        WeightsMismatch: the tensors are not exactly the model's; it is left as it was.
        WeightsError: the file is not there or not sound.

    Example:
        >>> import convzoo
        >>> model, other = convzoo.create_model("lenet5"), convzoo.create_model("lenet5")
        >>> convzoo.load_weights(model, other.state_dict()) is model
        True
    """
    info: WeightInfo | None = None
    if isinstance(source, Mapping):
        wrong = next((key for key, value in source.items() if not isinstance(value, Tensor)), None)
        if wrong is not None:
            raise TypeError(
                f"a state dict holds tensors by name, got {type(source[wrong]).__name__} under {wrong!r}; pass the "
                f"inner mapping, such as source[{wrong!r}]"
            )
        state, what = dict(source), "the tensors given"
    elif isinstance(source, (str, os.PathLike)):
        found = find.find_path(Path(source))
        info, what = found.info, str(source)
        state = read_tensors(found.path, mmap=mmap)
        layout = layout or (info.layout if info else None)
    else:
        raise TypeError(f"weights are a state dict, a file or a folder, got {type(source).__name__}; pass one of these")
    fit.put_in(model, layouts.convert(state, model, layout), what)
    model.weights = info
    return model
