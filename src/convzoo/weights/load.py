"""A model made with weights, and weights put into a model that is there."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .._checks import check_bool, check_img_size, shorten
from .._spread import is_spread
from .._wrappers import unwrap
from ..models import Classifier, ModelConfig
from ..models._features import keys_left_out
from ..models._init import build_empty
from ..registry import find_entry, make_config
from . import adapt, find, fit, layouts
from .entries import WeightInfo, default_tag, weight_info
from .errors import WeightsCorrupted, WeightsMismatch
from .files import PICKLES, read_pickle, read_tensors

Model = TypeVar("Model", bound=nn.Module)
Source = str | os.PathLike[str]


def create_pretrained(
    name: str,
    pretrained: bool | Source | Mapping[str, Tensor],
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    access: find.Access | None = None,
    *,
    mmap: bool = True,
) -> Classifier:
    """The model ``name`` with weights; what :func:`convzoo.create_model` does when ``pretrained`` is given.

    Its arguments are that function's: ``options`` the architecture's own, ``access`` how the Hub is asked.

    Raises:
        ValueError: unknown name, or a tag without ``pretrained=True``.
        TypeError: an unknown option.
        WeightsError: the weights cannot be had, read or fitted.
    """
    given = dict(options or {})
    access = access or find.Access()
    mmap = check_bool("mmap", mmap)
    if torch.get_default_device().type == "meta":
        raise ValueError(f"weights of {name} cannot be loaded onto the meta device; leave it, or pretrained=False")
    architecture, _, tag = name.partition(".") if isinstance(name, str) else (name, "", "")
    find_entry(architecture)
    wanted = adapt.Wanted(num_classes, in_chans, None if img_size is None else check_img_size(img_size))
    asked = make_config(architecture, num_classes, in_chans, img_size, given)
    if isinstance(pretrained, Mapping):
        model = _load_bare(asked, pretrained, wanted, "the tensors given", copy=True)
    else:
        found = _find(name, architecture, tag, pretrained, access)
        state = read_tensors(found.path, mmap=mmap)
        if found.info is None:
            model = _load_bare(asked, state, wanted, f"the weights in {found.path}")
        else:
            model = _load_described(asked, state, found.info, wanted, given)
    device = torch.get_default_device()
    return model if device.type == "cpu" else model.to(device)


def _find(name: str, architecture: str, tag: str, pretrained: bool | Source, access: find.Access) -> find.Found:
    if pretrained is False:
        raise ValueError(
            f"{shorten(name)} names weights, and pretrained is False; pass pretrained=True, or {architecture!r} for "
            "random weights"
        )
    if pretrained is True:
        return find.find_entry(weight_info(name if tag else f"{architecture}.{default_tag(architecture)}"), access)
    if not isinstance(pretrained, (str, os.PathLike)) or not str(pretrained):
        raise TypeError(
            "pretrained must be True, False, a tag, a folder or file, or 'owner/name' of the Hub, got "
            f"{shorten(pretrained)}; pass one of these"
        )
    source = os.fspath(pretrained)
    if tag and source not in (tag, name):
        raise ValueError(
            f"{shorten(name)} names weights, and pretrained={shorten(source)} names others; pass pretrained=True, or "
            f"{architecture!r} and those"
        )
    return find.find_source(pretrained, architecture, access)


def _load_bare(
    asked: ModelConfig, source: Mapping[str, Tensor], wanted: adapt.Wanted, what: str, *, copy: bool = False
) -> Classifier:
    """Tensors without a description: taken for the architecture and options asked for."""
    model = build_empty(asked)
    own = model.state_dict()
    state = layouts.convert(source, model, own=own)
    native = adapt.read_off(model, state, own)
    if native.num_classes == 0 and wanted.num_classes is None:
        native = model  # a model without its head is not what was asked for
    own = own if native is model else native.state_dict()
    return adapt.load_fitted(native, state, wanted, None, what, own, copy=copy)


def _load_described(
    asked: ModelConfig, state: dict[str, Tensor], info: WeightInfo, wanted: adapt.Wanted, options: dict[str, Any]
) -> Classifier:
    """Tensors with a description, which is held against them before anything is built of it."""
    where = info.source or info.name
    if info.architecture != asked.name:
        theirs = shorten(info.architecture)
        raise WeightsMismatch(
            f"{where} holds weights of {theirs[1:-1]}, and {asked.name} was asked for; "
            f"create_model({theirs}, pretrained=...) loads them"
        )
    trained = _trained_config(info)
    try:
        fit.check_numbers((info.num_classes, info.in_chans, *info.model_args.values()), state)
        # the architecture's own row is no danger
        native = fit.build_counted(trained, state) if info.model_args else build_empty(trained)
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise _impossible(info, error) from error
    if options:
        native = build_empty(trained.changed(**options))
        info = info.in_model(native.config, trained)
    own_state = native.state_dict()
    state = layouts.convert(state, native, info.layout, own_state)
    reason = functools.partial(_reason, info, options)
    return adapt.load_fitted(native, state, wanted, info, f"the weights {info.name}", own_state, reason=reason)


def _reason(info: WeightInfo, options: Mapping[str, Any]) -> fit.Reason:
    """What the weights are held against: what their description says, unless other options were asked for."""
    said = {"num_classes": info.num_classes, "in_chans": info.in_chans, "img_size": info.img_size, **info.model_args}
    described = f"the description (config.json) of {info.source or info.name} ({_list(said)})"
    if options:
        return fit.Reason(f"as {described} has it with {_list(options)} asked for", "leave out what was asked for")
    return fit.Reason(f"as {described} has it", "correct the description, or get the two of one version")


def _list(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{shorten(key)[1:-1]}={shorten(value)}" for key, value in values.items())


def _impossible(info: WeightInfo, error: Exception) -> WeightsCorrupted:
    return WeightsCorrupted(
        f"{info.source or info.name} is described as what {info.architecture} cannot be, or not in this file "
        f"({error}); correct its config.json, or get another copy"
    )


def _trained_config(info: WeightInfo) -> ModelConfig:
    """The configuration that the weights were made with."""
    own = _own_args(info)
    try:
        return make_config(info.architecture, info.num_classes, info.in_chans, info.img_size, own)
    except (ValueError, TypeError, OverflowError) as error:
        raise _impossible(info, error) from error


def _own_args(info: WeightInfo) -> dict[str, Any]:
    """The options that the weights were made with, as their architecture has them."""
    known = find_entry(info.architecture).config.option_names()
    unknown = [option for option in info.model_args if option not in known]
    if unknown:
        option, value = shorten(unknown[0])[1:-1], shorten(info.model_args[unknown[0]])
        raise WeightsMismatch(
            f"{info.source or info.name} was made with {option}={value}, "
            f"which {info.architecture} has no option for; its options are {', '.join(known) or 'none'}: use other "
            "weights"
        )
    return dict(info.model_args)


def load_weights(
    model: Model,
    source: Mapping[str, Any] | Source,
    *,
    layout: str | None = None,
    head: bool = True,
    mmap: bool = True,
    verify: bool = False,
    unsafe_format: bool = False,
) -> Model:
    """Put weights into a model that is there, all of them or none.

    Names of wrappers before or inside the keys (``module.``, ``_orig_mod.``, ``model.``, ...) are left out, and a
    checkpoint is searched for the tensors that are this model's. A model on the meta device gets the tensors on the
    CPU.

    Args:
        model: gets the weights, in its own types and on its own device; compiled, data-parallel and averaged models
            are filled inside. A backbone takes its part of the classifier's tensors.
        source: tensors by name; a checkpoint that holds them, of any framework; or a ``.safetensors`` file or a folder
            that holds one.
        layout: whose names the tensors have: ``"convzoo"``, ``"torchvision"``, ``"timm"``, ``"transformers"`` or
            ``"t2t-official"``.
            None: found out.
        head: False leaves the model the last layer that it has, whatever the source has there.
        mmap: map the file while it is read; False: read it whole.
        verify: compare a described file with its hash by reading it, also if that was done before and nobody has
            written to the file since.
        unsafe_format: also read files of ``torch.save`` (``.pth``, ``.pt``, ``.bin``, ``.ckpt``), with torch's
            ``weights_only=True``: tensors and plain values, nothing that runs code. A hole in torch's reader is then a
            hole here; files of strangers are better had as ``.safetensors``.

    Returns:
        The model.

    Raises:
        TypeError: a source or a model of another kind.
        ValueError: no such layout, or a model whose parameters are spread over processes.
        WeightsMismatch: the tensors are not exactly the model's; it is left as it was.
        WeightsUnsafe: a pickle, and ``unsafe_format`` is False or it holds more than tensors.
        WeightsError: the file is not there or not sound.

    Example:
        >>> import convzoo
        >>> model, other = convzoo.create_model("lenet5"), convzoo.create_model("lenet5")
        >>> convzoo.load_weights(model, other.state_dict()) is model
        True
    """
    head, mmap = check_bool("head", head), check_bool("mmap", mmap)
    verify = check_bool("verify", verify)
    unsafe_format = check_bool("unsafe_format", unsafe_format)
    layouts.check_layout(layout)
    inner = unwrap(model) if isinstance(model, nn.Module) else model
    if not isinstance(inner, Classifier):
        raise TypeError(
            f"load_weights fills a model of the zoo, got {type(inner).__name__}; pass what create_model gave, or use "
            "load_state_dict"
        )
    if is_spread(model):
        raise ValueError(
            f"the parameters of {inner.config.name} are spread over processes (FSDP, DTensor); load its weights before "
            "it is sharded, or hand them out: torch.distributed.checkpoint.state_dict.set_model_state_dict with "
            "full_state_dict=True"
        )
    info: WeightInfo | None = None
    tensors: Mapping[str, Any]
    if isinstance(source, Mapping):
        tensors, what = source, "the tensors given"
    elif not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"weights are a state dict, a file or a folder, got {type(source).__name__}; pass one of these")
    elif unsafe_format and Path(source).suffix.lower() in PICKLES:
        tensors, what = read_pickle(Path(source)), f"the weights in {source}"
    else:
        found = find.find_path(Path(source), verify=verify)
        info, what = found.info, f"the weights in {source}"
        tensors = read_tensors(found.path, mmap=mmap)
        if layout is None and info is not None:
            layout = info.layout
    state = layouts.convert(tensors, inner, layout)
    if not head:
        state = _with_own_head(inner, state)
        info = info and info.with_other_head(inner.num_classes)
    if inner.feature_info is not None:
        others = keys_left_out(inner)
        state = {key: tensor for key, tensor in state.items() if key not in others}
    if info:
        same = info.architecture == inner.config.name
        info = info.in_model(inner.config, _trained_config(info) if same else None)
    fit.put_in(inner, state, what, copy=isinstance(source, Mapping))
    inner.weights = info
    return model


def _with_own_head(model: Classifier, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with the model's own instead of those that its number of classes decides."""
    own, head = model.state_dict(), adapt.head_keys(model)
    body = {key: tensor for key, tensor in state.items() if key not in head}
    return {**body, **{key: own[key] for key in own if key in head}}
