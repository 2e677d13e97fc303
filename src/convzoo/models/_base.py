"""The contract that every classifier of the zoo keeps."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from .._checks import (
    check_bool,
    check_choice,
    check_count,
    check_img_size,
    check_number,
    check_rate,
    check_text,
    plural,
    shorten,
)
from ._init import drawing_together

if TYPE_CHECKING:
    from ..weights import WeightInfo

Rate = Annotated[float, check_rate]  # an option in [0, 1), such as the rate of a dropout; a plain float may be any


class AuxLogits(NamedTuple):
    """What a net with auxiliary heads returns in training mode: the logits, and each auxiliary head's."""

    logits: Tensor
    aux: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every architecture is told: a row of its family's table, with the user's own values put in.

    The fields beyond these four are the architecture's options. An option's annotation says what it may be: ``bool``,
    ``int`` (at least 1), ``float`` (finite), ``str``, ``tuple[int, ...]``, ``Literal[...]``, :data:`Rate`, or any
    ``Annotated[type, check]`` where ``check(what, value)`` returns the value or raises.
    """

    name: str
    num_classes: int = 1000
    in_chans: int = 3
    img_size: int | tuple[int, int] = 224

    @property
    def options(self) -> dict[str, Any]:
        """The architecture's options and their values."""
        return {name: getattr(self, name) for name in self.option_names()}

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the options of this family."""
        common = {field.name for field in fields(ModelConfig)}
        return tuple(field.name for field in fields(cls) if field.name not in common)

    def __post_init__(self) -> None:
        self.validate()

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
        hints = _hints(type(self))
        for name, value in self.options.items():
            checked[name] = _check_option(f"{name} of {self.name}", value, hints[name])
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@functools.cache
def _hints(config_class: type[ModelConfig]) -> dict[str, Any]:
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
    check = {bool: check_bool, int: check_count, float: check_number, str: check_text}[hint]
    return check(what, value)


class Classifier(nn.Module):
    """An image classifier: images (N, in_chans, H, W) to logits (N, num_classes).

    Attributes:
        config: the row this model was built from.
        num_classes: length of the logits; 0 means no head, :meth:`forward` then returns features.
        in_chans: channels of the images.
        num_features: width of the features the classifier reads, ``(N, num_features)``.
        img_size: (height, width) the model is meant for; other sizes work too, unless ``fixed_size``.
        min_size: smallest height and width, in pixels, that leaves at least one cell of every map.
        fixed_size: True for nets that flatten their maps: they take images of ``img_size`` and no other.
        can_checkpoint: whether :meth:`set_grad_checkpointing` works.
        classifier_name: path of the last layer, the one that :meth:`reset_classifier` replaces.
        stages: stage name to path of the module whose output ends the stage, from the image inwards.
        weights: what is known of the weights, for a model made with pretrained ones; else None.
        cam_method: how :func:`convzoo.cam` explains this net when it is left to choose.
        cam_layer: path of the module whose output Grad-CAM explains: the last convolution's maps, activated, before
            the final pooling. Empty where the maps that ``forward_features`` returns serve.
    """

    fixed_size: bool = False
    can_checkpoint: bool = False
    grad_checkpointing: bool = False
    classifier_name: str = "fc"
    cam_method: Literal["cam", "grad_cam", "attention"] = "cam"
    cam_layer: str = ""
    weights: WeightInfo | None = None
    stages: dict[str, str]
    num_features: int

    def __init__(self, config: ModelConfig, *, min_size: int = 1, min_size_why: str = "") -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.in_chans = config.in_chans
        self.img_size = check_img_size(config.img_size)
        self.min_size = min_size
        self._min_size_why = min_size_why
        if min(self.img_size) < min_size:
            raise ValueError(self._too_small(*self.img_size))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) to the last maps (N, C, h, w), or to tokens (N, L, D)."""
        raise TypeError(f"{type(self).__name__} defines no forward_features; a classifier must")

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """What :meth:`forward_features` gives, to logits; with ``pre_logits`` to features (N, num_features)."""
        raise TypeError(f"{type(self).__name__} defines no forward_head; a classifier must")

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Train in less memory: keep only what enters each block, and compute the block again in the backward pass.

        Gradients and running statistics are the same, a training step takes about a third longer (Chen et al. 2016,
        arXiv:1604.06174). Evaluation is not affected.

        Raises:
            ValueError: the net is not deep enough for this to be worth while.

        Example:
            >>> import convzoo
            >>> model = convzoo.create_model("resnet152")
            >>> model.set_grad_checkpointing()
        """
        if not self.can_checkpoint:
            raise ValueError(
                f"{self.config.name} has no blocks to compute again, its activations are few; train it as it is, or "
                "take a deep net (resnet, vgg, googlenet, inception_v3, t2t_vit)"
            )
        self.grad_checkpointing = enable

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        """``block(*inputs)``, which in training is computed a second time where checkpointing is on."""
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return block(*inputs)
        contexts = functools.partial(recomputation, block)
        return torch.utils.checkpoint.checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)

    def _run_blocks(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        """``blocks(x)``, each of them by :meth:`_run`."""
        if not self.grad_checkpointing:
            return blocks(x)
        for block in blocks:
            x = self._run(block, x)
        return x

    def init_weights(self, module: nn.Module) -> None:
        """Draw the parameters of one layer, by its kind; the family's rule."""
        raise TypeError(f"{type(self).__name__} defines no init_weights; a classifier must")

    def reset_parameters(self) -> None:
        """Draw every parameter anew, each once, from the default generator; nothing to draw on the meta device."""
        if not next(self.parameters()).is_meta:
            with drawing_together():
                self.apply(self.init_weights)

    def make_classifier(self, num_classes: int) -> nn.Module:
        """The last layer for ``num_classes`` classes; for 0 one that lets the features through."""
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def preprocess(self, images: Any) -> Tensor:
        """Pictures to the input (N, in_chans, H, W) that the weights expect, on the model's device, in its type.

        Args:
            images: a PIL image, an array (H, W), (H, W, C) or (N, H, W, C), a tensor (H, W), (C, H, W) or
                (N, C, H, W), or a list of any of these; bytes, or numbers in 0..1.

        Raises:
            ValueError: the model has no pretrained weights, or the images are of another form.
            TypeError: not images.

        Example:
            >>> import convzoo, torch
            >>> model = convzoo.create_model("lenet5", pretrained=True)
            >>> model.preprocess(torch.zeros(3, 64, 48)).shape
            torch.Size([1, 1, 28, 28])
        """
        if self.weights is None:
            raise ValueError(
                f"{self.config.name} has no pretrained weights that would say what input they expect; "
                f"create_model({self.config.name!r}, pretrained=...) has, else scale and normalise images as you train"
            )
        from ..weights.preprocess import preprocess

        like = next(self.parameters())
        return preprocess(images, self.weights).to(like.device, like.dtype)

    def get_classifier(self) -> nn.Module:
        """The last layer: a Linear or a Conv2d, or an Identity without a head."""
        return self.get_submodule(self.classifier_name)

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh last layer for ``num_classes`` classes in; 0 leaves none, so that features come out.

        Raises:
            TypeError, ValueError: ``num_classes`` is not a whole number of at least 0.

        Example:
            >>> import convzoo
            >>> model = convzoo.create_model("lenet5")
            >>> model.reset_classifier(7)
            >>> model.get_classifier().out_features
            7
        """
        check_count("num_classes", num_classes, least=0)
        self._replace(self.classifier_name, self.make_classifier(num_classes))
        self.num_classes = num_classes

    def _replace(self, path: str, fresh: nn.Module) -> None:
        """Put ``fresh``, newly drawn, where ``path`` names a submodule; on the model's device, in its dtype."""
        like = next(self.parameters())
        fresh.to(device=like.device, dtype=like.dtype).train(self.training)
        parent, _, name = path.rpartition(".")
        setattr(self.get_submodule(parent), name, fresh)
        fresh.apply(self.init_weights)

    def check_input(self, x: Tensor) -> None:
        """Refuse, in words, what the net cannot read."""
        if not isinstance(x, Tensor):
            raise TypeError(f"{self.config.name} takes a tensor of images, got {type(x).__name__}; convert it first")
        if x.ndim != 4 or x.shape[1] != self.in_chans:
            raise ValueError(self._wrong_shape(x))
        height, width = x.shape[2:]
        if self.fixed_size:
            if height != self.img_size[0] or width != self.img_size[1]:
                raise ValueError(self._wrong_size(height, width))
        elif height < self.min_size or width < self.min_size:
            raise ValueError(self._too_small(height, width))

    def _wrong_shape(self, x: Tensor) -> str:
        name, shape = self.config.name, tuple(x.shape)
        if x.ndim == 3:
            remedy = "add the batch dimension: images[None]"
        elif x.ndim == 4:
            remedy = f"convert the images, or create_model({name!r}, in_chans={x.shape[1]})"
        else:
            remedy = "stack the images into one batch"
        return f"{name} takes images of shape (N, {self.in_chans}, H, W), got {shape}; {remedy}"

    def _wrong_size(self, height: int, width: int) -> str:
        (h, w), name = self.img_size, self.config.name
        return (
            f"{name} was built for {h}x{w} images (its head reads the flattened maps), got {height}x{width}; "
            f"resize them, or create_model({name!r}, img_size=({height}, {width}))"
        )

    def _too_small(self, height: int, width: int) -> str:
        why = f" ({self._min_size_why})" if self._min_size_why else ""
        return (
            f"{self.config.name} needs at least {self.min_size}x{self.min_size} pixels{why}, got {height}x{width}; "
            "pad or enlarge the image, or pick a net for small images, such as lenet5 or fcn_gap"
        )

    def extra_repr(self) -> str:
        height, width = self.img_size
        chans = plural(self.in_chans, "channel")
        return f"{self.config.name}: {chans} of {height}x{width}, {self.num_classes} classes"


def global_average(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) to their means (N, C): global average pooling (Lin et al. 2013, arXiv:1312.4400)."""
    return torch.nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1)


def recomputation(
    block: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """What surrounds the two passes of a checkpointed block: nothing, and :func:`statistics_kept`."""
    return contextlib.nullcontext(), statistics_kept(block)


@contextlib.contextmanager
def statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms in ``block`` normalise as in training but count no batch: this one they have seen before."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [(norm.momentum, None if (seen := norm.num_batches_tracked) is None else seen.clone()) for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0  # the new mean weighs nothing
        yield
    finally:
        for norm, (momentum, seen) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and seen is not None:
                norm.num_batches_tracked.copy_(seen)
