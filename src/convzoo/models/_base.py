"""The contract that every classifier of the zoo keeps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .._checks import check_count, check_img_size, plural, shorten
from ._checkpoint import check_has_blocks, run_checkpointed
from ._config import ModelConfig
from ._functions import class_probabilities
from ._init import drawing_in_parallel, without_default_init
from ._input import check_images, check_transform, check_unchanged, no_head, no_transform, too_small
from ._layers import chans_in, classes_out, entrance, find_module, first_layer, is_marked, mark, output_layer
from ._stages import number_stages

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from .._transform import Transform
    from ..weights import WeightInfo
    from ._features import FeatureInfo


class Classifier(nn.Module):
    """An image classifier: images (N, in_chans, H, W) to logits (N, num_classes).

    Attributes:
        config: the row this model was built from, with the classes and channels that it has now.
        num_classes: length of the logits, read off the head; 0 means no head, :meth:`forward` then returns features.
        in_chans: channels of the images, read off the first layer.
        num_features: width of the features the classifier reads, ``(N, num_features)``.
        img_size: (height, width) the model is meant for; other sizes work too, unless ``fixed_size``.
        min_size: smallest height and width, in pixels, that leaves at least one cell of every map.
        fixed_size: True for nets that flatten their maps: they take images of ``img_size`` and no other.
        can_checkpoint: whether :meth:`set_grad_checkpointing` works.
        classifier_name: path of the last layer, the one that :meth:`reset_classifier` replaces.
        stages: stage name to path of the module whose output ends the stage, from the image inwards.
        feature_layers: paths of the modules whose outputs are the maps of a backbone, from the image inwards: the last
            maps of every resolution, before the pooling that halves them, and what :meth:`forward_features` returns.
        aux_heads: names of the auxiliary heads, if the net was built with them.
        still_layers: paths of the layers that stay in evaluation mode, see :func:`convzoo.freeze`.
        feature_info: of a backbone (``create_model(name, features_only=True)``) the maps that it returns; else None.
        weights: what is known of the weights, for a model made with pretrained ones; else None. Without class names
            and accuracy once the head is another, None once the first layer is.
        cam_method: how :func:`convzoo.cam` explains this net when it is left to choose.
        cam_layer: path of the module whose output Grad-CAM explains: the last convolution's maps, activated, before
            the final pooling. Empty where the maps that ``forward_features`` returns serve.
        in_slices: of an optimised copy, how it goes through a large batch.
        auxiliary_heads: names of the parts that only training uses, where the config has ``aux=True``.
    """

    fixed_size: bool = False
    can_checkpoint: bool = False
    grad_checkpointing: bool = False
    classifier_name: str = "fc"
    cam_method: Literal["cam", "hires_cam", "attention"] = "cam"
    cam_layer: str = ""
    auxiliary_heads: tuple[str, ...] = ()
    stages: dict[str, str] = {}
    feature_layers: tuple[str, ...] = ()
    aux_heads: tuple[str, ...] = ()
    feature_info: FeatureInfo | None = None
    still_layers: tuple[str, ...] = ()
    in_slices: Callable[[Classifier, Callable[[Tensor], Tensor], Tensor], Tensor] | None = None
    num_features: int

    def __init__(self, config: ModelConfig, *, min_size: int = 1, min_size_why: str = "") -> None:
        super().__init__()
        self._config = copy.copy(config)  # what a trainer assigns to it stays with this model
        self._weights: WeightInfo | None = None
        self.img_size = check_img_size(config.img_size)
        self.min_size = min_size
        self._min_size_why = min_size_why
        if min(self.img_size) < min_size:
            raise ValueError(too_small(self, *self.img_size))

    @property
    def num_classes(self) -> int:
        classes = classes_out(find_module(self, self.classifier_name))
        return self._config.num_classes if classes is None else classes

    @num_classes.setter
    def num_classes(self, value: int) -> None:
        remedy = "reset_classifier(num_classes), or another module as the head,"
        check_unchanged(self, "num_classes", value, "head", remedy)

    @property
    def in_chans(self) -> int:
        chans = chans_in(entrance(self))
        return self._config.in_chans if chans is None else chans

    @in_chans.setter
    def in_chans(self, value: int) -> None:
        check_unchanged(self, "in_chans", value, "first layer", "another module in its place")

    @property
    def config(self) -> ModelConfig:
        config, classes, chans = self._config, self.num_classes, self.in_chans
        if config.num_classes != classes or config.in_chans != chans:
            config = self._config = config.changed(num_classes=classes, in_chans=chans)
        return config

    @config.setter
    def config(self, config: ModelConfig) -> None:
        self._config = config

    @property
    def weights(self) -> WeightInfo | None:
        info = self._weights
        if info is None or not is_marked(first_layer(self), info.name):
            return None
        head = output_layer(find_module(self, self.classifier_name))
        if is_marked(head, info.name) or (head is None and info.num_classes == 0):
            return info
        return info.with_other_head(self.num_classes)

    @weights.setter
    def weights(self, info: WeightInfo | None) -> None:
        self._weights = info
        if info is not None:
            mark(first_layer(self), info.name)
            mark(output_layer(find_module(self, self.classifier_name)), info.name)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        """Images (N, in_chans, H, W) to the last maps (N, C, h, w), or to tokens (N, L, D).

        A list given as ``maps`` gets the outputs of :attr:`feature_layers` appended, each (N, C, h, w).
        """
        raise TypeError(f"{type(self).__name__} defines no forward_features; a classifier must")

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """What :meth:`forward_features` gives, to logits; with ``pre_logits`` to features (N, num_features)."""
        raise TypeError(f"{type(self).__name__} defines no forward_head; a classifier must")

    def forward(self, x: Tensor) -> Any:
        """Images (N, in_chans, H, W) to logits (N, num_classes); in a backbone to a list of maps (N, C, h, w)."""
        if self.feature_info is not None:
            maps: list[Tensor] = []
            self.forward_features(x, maps=maps)
            return [maps[index] for index in self.feature_info.out_indices]
        if self.in_slices is None:
            return self.forward_head(self.forward_features(x))
        return self.forward_head(self.in_slices(self, self.forward_features, x))

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
        check_has_blocks(self)
        self.grad_checkpointing = enable

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        """``block(*inputs)``, which in training is computed a second time where checkpointing is on."""
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return run_checkpointed(block, inputs)
        return block(*inputs)

    def _run_blocks(self, blocks: nn.Sequential, x: Tensor) -> Tensor:
        """``blocks(x)``, each of them by :meth:`_run`."""
        if not self.grad_checkpointing:
            return blocks(x)
        for block in blocks:
            x = self._run(block, x)
        return x

    def leave_out_after(self, path: str, stand_in: nn.Module) -> None:
        """Put ``stand_in`` for every module that is registered, and so runs, after the one at ``path``."""
        module: nn.Module = self
        for name in path.split("."):
            names = list(module._modules)
            for later in names[names.index(name) + 1 :]:
                module._modules[later] = stand_in
            module = module.get_submodule(name)

    def train(self, mode: bool = True) -> Self:
        """As :meth:`torch.nn.Module.train`, but what :func:`convzoo.freeze` froze stays in evaluation mode."""
        super().train(mode)
        for path in self.still_layers:
            layer = find_module(self, path)
            if layer is not None:  # it may have been taken out, or merged into another
                layer.eval()
        return self

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The stage of each parameter, by its name, counted from the image inwards: what timm's layer decay asks for.

        ``coarse`` changes nothing.
        """
        return number_stages(self).__getitem__

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are no layer's, such as a class token: optimizers leave them undecayed."""
        return {name for name, parameter in self._parameters.items() if parameter is not None}

    def fixed_tables(self) -> list[str]:
        """Paths of parameters that are constants of the architecture: no gradient reaches them, whatever is set."""
        return []

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As :meth:`torch.nn.Module.requires_grad_`, but what is never trained (:meth:`fixed_tables`) stays so."""
        super().requires_grad_(requires_grad)
        for path in self.fixed_tables():
            self.get_parameter(path).requires_grad_(False)
        return self

    def init_weights(self, module: nn.Module) -> None:
        """Draw the parameters of one layer, by its kind: the family's rule.

        :meth:`build` applies it to every module, the network itself included, once. Without a rule of its own a net
        is drawn as the framework does it.
        """
        reset = None if module is self else getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()

    @classmethod
    def build(cls, config: ModelConfig) -> Self:
        """The net of ``config``, drawn by the rule :meth:`init_weights`; what that leaves, by the framework's."""
        if cls.init_weights is Classifier.init_weights:
            return cls(config)  # each layer draws itself
        with without_default_init() as default:
            model = cls(config)
        model.reset_parameters()
        default.make_up()
        return model

    def reset_parameters(self) -> None:
        """Draw every parameter anew, each once, from the default generator; nothing to draw on the meta device."""
        self._weights = None
        if not next(self.parameters()).is_meta:
            with drawing_in_parallel():
                self.apply(self.init_weights)

    def make_classifier(self, num_classes: int) -> nn.Module:
        """The last layer for ``num_classes`` classes; for 0 one that lets the features through."""
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    @property
    def transform(self) -> Transform | None:
        """One picture to the input (in_chans, H, W) that the weights expect, for data loaders; None if unknown.

        It is the weights' own until another is set, see :func:`convzoo.transform`.
        """
        own = self.__dict__.get("_transform")
        return own if own is not None or self.weights is None else self.weights.transform

    @transform.setter
    def transform(self, transform: Transform | None) -> None:
        if transform is not None:
            check_transform(self, transform)
        self.__dict__["_transform"] = transform

    def preprocess(self, images: Any, *, prepare: bool | Literal["auto"] = False, invert: bool = False) -> Tensor:
        """Pictures to the input (N, in_chans, H, W) that the weights expect, on the model's device, in its type.

        Args:
            images: a PIL image, an array (H, W), (H, W, C), (N, H, W) or (N, H, W, C), a tensor (H, W), (C, H, W),
                (N, H, W) or (N, C, H, W), or a list of any of these; bytes, or numbers in 0..1.
            prepare: do to each picture what was done to the training pictures, for weights that know of such a
                preparation (MNIST's: bright ink on black, in a box of 20x20 pixels, centre of mass in the middle of
                28x28); ``"auto"``: to those that do not look as if it had been done.
            invert: take dark for bright.

        Raises:
            ValueError: the model has neither pretrained weights nor a transform, or the images are of another form.
            TypeError: not images.

        Example:
            >>> import convzoo, torch
            >>> model = convzoo.create_model("lenet5", pretrained=True)
            >>> model.preprocess(torch.zeros(1, 64, 48)).shape
            torch.Size([1, 1, 28, 28])
        """
        transform = self.transform
        if transform is None:
            raise ValueError(no_transform(self))
        like = next(self.parameters())
        return transform.batch(images, prepare=prepare, invert=invert).to(like.device, like.dtype)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (N, num_classes) to probabilities, at the temperature that the weights were trained with.

        Of a single logit, (N, 2): that of the class being absent, and present.

        Raises:
            TypeError: not a dense tensor of real numbers.
            ValueError: a tensor without dimensions.
        """
        if not isinstance(logits, Tensor) or logits.layout != torch.strided or logits.is_complex():
            raise TypeError(
                f"logits are a dense tensor (N, classes), got {shorten(logits)}; pass what the model returned"
            )
        if not logits.ndim:
            raise ValueError("logits are a tensor (N, classes), got a single number; pass what the model returned")
        return class_probabilities(logits, 1.0 if self.weights is None else self.weights.temperature)

    def get_classifier(self) -> nn.Module:
        """The last layer: a Linear or a Conv2d, or an Identity without a head."""
        if self.feature_info is not None:
            return nn.Identity()
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
        num_classes = check_count("num_classes", num_classes, least=0)
        if self.feature_info is not None:
            raise ValueError(no_head(self, num_classes))
        self._replace(self.classifier_name, self.make_classifier(num_classes))

    def _replace(self, path: str, fresh: nn.Module) -> None:
        """Put ``fresh``, newly drawn, where ``path`` names a submodule; on the model's device, in its dtype."""
        like = next(self.parameters())
        fresh.to(device=like.device, dtype=like.dtype).train(self.training)
        parent, _, name = path.rpartition(".")
        setattr(self.get_submodule(parent), name, fresh)
        fresh.apply(self.init_weights)

    def check_input(self, x: Tensor) -> None:
        """Raise an explanatory error if the model cannot take ``x``.

        Raises:
            TypeError: not a dense tensor, or of a type that the parameters do not have.
            ValueError: another shape or size, no image at all, or on another device.
        """
        check_images(self, x)

    def extra_repr(self) -> str:
        height, width = self.img_size
        chans = plural(self.in_chans, "channel")
        gives = plural(self.num_classes, "class", "classes") if self.feature_info is None else self.feature_info
        return f"{self.config.name}: {chans} of {height}x{width}, {gives}"
