"""What a classifier can read: the checks of a batch of images, and what their refusals say."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from .._checks import check_img_size, plural, shorten
from .._modules import is_autocast_on
from .._transform import Transform
from ._init import build_empty
from ._layers import chans_in, entrance

if TYPE_CHECKING:
    from ._base import Classifier
    from ._config import ModelConfig

DENSE = frozenset({torch.strided, torch._mkldnn})  # type: ignore[attr-defined] # torch's stubs leave it out
FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})
SMALL_SIDE = 96  # pixels; below it an architecture's options for small images are looked at
AUTOCAST = frozenset({torch.float32, torch.float16, torch.bfloat16})  # autocast makes one of any of these


def check_images(model: Classifier, x: Tensor, *, original: Classifier | None = None) -> None:
    """Raise an explanatory error if ``model`` cannot take ``x``; symbolic tracing and compilation are not disturbed.

    ``original`` is what ``model`` was copied from to be counted, by images without memory on no device. Its first layer
    is looked at, for which that of the copy would have to be made.
    """
    if not isinstance(x, Tensor) or x.is_nested:
        if isinstance(x, fx.Proxy):
            return
        raise TypeError(wrong_type(model, x))
    layer, shape = (None if original is None else entrance(original)) or entrance(model), x.shape
    if len(shape) != 4 or (layer is not None and shape[1] != (chans_in(layer) or model.in_chans)):
        raise ValueError(wrong_shape(model, x))
    check_size(model, shape[2], shape[3])
    if not torch.compiler.is_compiling():
        check_kind(model, x, layer, on_device=original is None)


def check_size(model: Classifier, height: int, width: int) -> None:
    """Refuse images of a size that the model was not built for, or that leaves no map."""
    if model.fixed_size:
        if height != model.img_size[0] or width != model.img_size[1]:
            raise ValueError(wrong_size(model, height, width))
    elif height < model.min_size or width < model.min_size:
        raise ValueError(too_small(model, height, width))


def check_kind(model: Classifier, x: Tensor, layer: nn.Module | None, *, on_device: bool = True) -> None:
    """Refuse a batch without images, and tensors that the first layer, if known, cannot compute with."""
    if x.layout not in DENSE:
        raise TypeError(wrong_type(model, x))
    if x.shape[0] == 0:
        raise ValueError(
            f"{model.config.name} takes one image or more, got a batch of none, {tuple(x.shape)}; leave out the call"
        )
    like = None if layer is None else next(iter(layer._parameters.values()), None)
    if type(like) is not nn.Parameter:  # sharded, quantised or replicated: its own business
        return
    if like.ndim < 2 and tuple(like.shape) != getattr(layer, "normalized_shape", None):  # flattened and sharded
        return
    if on_device and x.device != like.device:
        raise ValueError(f"{model.config.name} is on {like.device}, got images on {x.device}; {_move(x, like)}")
    if x.dtype is not like.dtype and like.dtype in FLOATS:
        either = AUTOCAST.issuperset((x.dtype, like.dtype))
        if not (either and on_device and is_autocast_on(like.device)):
            parameters = f"{model.config.name} has parameters of {like.dtype}"
            raise TypeError(f"{parameters}, got images of {x.dtype}; {_convert(x, like)}")


def _move(x: Tensor, like: Tensor) -> str:
    if like.is_meta:
        return "the model has no numbers yet: model.to_empty(device=...), then load_weights or reset_parameters"
    if x.is_meta:
        return "images on the meta device have no numbers; profile(model, size) counts without them"
    return f"move them, images.to({str(like.device)!r}), or the model, model.to({str(x.device)!r})"


def _convert(x: Tensor, like: Tensor) -> str:
    if x.dtype in FLOATS:
        return f"convert them, images.to({like.dtype}), or the model, model.to({x.dtype}), or use torch.autocast"
    if x.is_quantized:
        return "pass images.dequantize()"
    if x.is_complex():
        return "pass real numbers, such as images.abs()"
    return "scale them to 0..1 and normalise them as in training; model.preprocess does, where the weights are known"


def wrong_type(model: Classifier, x: object) -> str:
    """The text for what is no tensor, or no dense one."""
    name = model.config.name
    if not isinstance(x, Tensor):
        return f"{name} takes a tensor of images, got {type(x).__name__}; convert it first"
    if x.is_nested:
        return f"{name} takes images of one size, got a nested tensor; resize them and torch.stack them"
    return f"{name} takes dense images, got a tensor of layout {x.layout}; pass images.to_dense()"


def wrong_shape(model: Classifier, x: Tensor) -> str:
    """The text for images of another rank, or with other channels."""
    name, shape, chans = model.config.name, tuple(x.shape), model.in_chans
    if x.ndim == 3:
        remedy = "add the batch dimension: images[None]"
    elif x.ndim == 4 and shape[3] == chans:
        remedy = "put the channels second: images.movedim(3, 1)"
    elif x.ndim == 4 and shape[1]:
        remedy = f"convert the images, or create_model({name!r}, in_chans={shape[1]})"
    else:
        remedy = "stack the images into one batch"
    return f"{name} takes images of shape (N, {chans}, H, W), got {shape}; {remedy}"


def wrong_size(model: Classifier, height: int, width: int) -> str:
    """The text for a net of fixed size."""
    (h, w), name = model.img_size, model.config.name
    return (
        f"{name} was built for {h}x{w} images (its head reads the flattened maps), got {height}x{width}; "
        f"resize them, or create_model({name!r}, img_size=({height}, {width}))"
    )


def too_small(model: Classifier, height: int, width: int) -> str:
    """The text for images below the smallest size."""
    why = f" ({model._min_size_why})" if model._min_size_why else ""
    return (
        f"{model.config.name} needs at least {model.min_size}x{model.min_size} pixels{why}, got {height}x{width}; "
        "pad or enlarge the image, or pick a net for small images, such as lenet5 or fcn_gap"
    )


def check_unchanged(model: Classifier, name: str, value: object, layer: str, remedy: str) -> None:
    """Refuse another value for an attribute of ``model`` that one of its layers decides."""
    if value != getattr(model, name):
        raise ValueError(
            f"{name} of {model.config.name} is {getattr(model, name)}, which its {layer} says, got {shorten(value)}; "
            f"{remedy} changes it"
        )


def check_transform(model: Classifier, transform: Any) -> None:
    """Refuse what makes no input of ``model``."""
    if not isinstance(transform, Transform):
        raise TypeError(f"transform must be made by convzoo.transform, got {type(transform).__name__}")
    if transform.in_chans != model.in_chans:
        raise ValueError(
            f"{model.config.name} takes {plural(model.in_chans, 'channel')}, and the transform gives "
            f"{transform.in_chans}; pass convzoo.transform a mean and std for each channel"
        )
    if model.fixed_size and transform.img_size != model.img_size:
        raise ValueError(wrong_size(model, *transform.img_size))


def no_transform(model: Classifier) -> str:
    """The text for pictures to a model of which nothing says what input it expects."""
    name = model.config.name
    return (
        f"{name} has no pretrained weights that would say what input they expect; create_model({name!r}, "
        "pretrained=...) has, else set model.transform = convzoo.transform(img_size, mean, std) as you train"
    )


def no_head(model: Classifier, num_classes: int) -> str:
    """The text for a backbone that is to get another head."""
    name = model.config.name
    return (
        f"this {name} was made with features_only=True and has no head to replace; create_model({name!r}, "
        f"num_classes={num_classes}) makes one with a head"
    )


def suggest_for_small_images(config: ModelConfig, given: Mapping[str, Any]) -> None:
    """Warn where next to nothing is left of the images, and the architecture has options against it."""
    better = {option: value for option, value in config.small_images.items() if option not in given}
    height, width = check_img_size(config.img_size)
    if not better or min(height, width) >= SMALL_SIDE:
        return
    maps = build_empty(config).eval().forward_features(torch.empty(1, config.in_chans, height, width, device="meta"))
    if max(maps.shape[2:]) <= 2:
        advice = ", ".join(f"{option}={value!r}" for option, value in better.items())
        warnings.warn(
            f"of {height}x{width} images {config.name} leaves maps of {maps.shape[2]}x{maps.shape[3]}; pass {advice} "
            "for larger ones, or the option's present value to say that this is meant",
            stacklevel=3,
        )
