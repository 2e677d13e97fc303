"""``cam(model, images)``: which method suits the net, which layer, and the map."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Classifier
from .attention import ATTENTION, attention_maps
from .head import LinearHead, linear_head
from .known import cam_layer, last_layer, no_cam, no_gradient, normalisation, one_cell
from .methods import WEIGHTINGS, map_of, weigh_constant, weighted_sum
from .probe import Probe, as_maps, check_logits, find_layer
from .replica import replica, unwrap
from .result import CAM
from .target import Target, check_target, find_classes

Method = str | Callable[[Tensor, Tensor], Tensor]
METHODS = ("auto", "cam", *WEIGHTINGS, *ATTENTION)


@dataclass(frozen=True)
class _Question:
    """What :func:`cam` was asked; ``layer`` is empty where the family's own is meant."""

    model: nn.Module
    images: Tensor
    target: Target
    layer: str

    def answer(
        self, maps: Tensor, logits: Tensor, classes: Tensor, method: str, layer: str, *, bias: Tensor | None = None
    ) -> CAM:
        """The result, unless its maps are single cells."""
        if maps.shape[2:].numel() <= 1:
            raise ValueError(one_cell(self.model, self.images, self.layer))
        size = (self.images.shape[2], self.images.shape[3])
        mean, std = normalisation(self.model)
        return CAM(maps, logits.detach(), classes, method, layer, size, bias, mean, std)


def cam(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    method: Method = "auto",
    layer: str | nn.Module | None = None,
) -> CAM:
    """See where the net looks: class activation maps of a batch of images.

    The model is only read: no hook, gradient, flag or statistic of it changes, it may be frozen, in training mode,
    compiled or in use by other threads, and the images may come in any mode (``no_grad``, ``inference_mode``).
    Maps are always those of evaluation mode.

    Args:
        model: a classifier of the zoo; or any module that returns logits (N, classes), then with ``layer``.
        images: (N, C, H, W), as the model takes them.
        target: which classes to explain: None, the predicted one; an int; N ints, one an image; (N, K) of them;
            ``("top", k)``, the k with the largest logits; ``"all"``.
        method: ``"auto"`` picks by family; ``"cam"`` (Zhou et al. 2015, arXiv:1512.04150), for nets that pool their
            last maps and apply a linear layer; ``"grad_cam"``, ``"grad_cam_pp"``, ``"hires_cam"``, ``"layer_cam"``,
            for any net with maps; ``"attention"`` (relevance, Chefer et al. 2021, arXiv:2103.15679) and
            ``"rollout"`` (Abnar and Zuidema 2020, arXiv:2005.00928; the same map for every class), for T2T-ViT; or a
            callable from activations and gradients, each (N, C, h, w), to maps (N, h, w).
        layer: whose output to explain, a path or a module. None: the family's own; :func:`cam_layers` names others.

    Returns:
        The maps (N, K, h, w), signed, at the layer's resolution, with logits and classes.

    Raises:
        TypeError: something is of the wrong kind.
        ValueError: the method does not suit the net, the layer's maps are a single cell or its gradient is zero, or
            ``target`` does not fit; the message says what works instead.

    Example:
        >>> import convzoo, torch
        >>> model = convzoo.create_model("resnet18", num_classes=10)
        >>> r = convzoo.cam(model, torch.rand(2, 3, 64, 64), ("top", 3))
        >>> r.maps.shape, r.method, r.layer
        (torch.Size([2, 3, 2, 2]), 'cam', 'layer4')
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; create_model(name) makes one")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("a scripted module cannot be looked into; pass the module it was made from")
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor (N, C, H, W), got {type(images).__name__}; convert it first")
    model = unwrap(model)
    if images.ndim != 4 and not isinstance(model, Classifier):
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}; add or merge dimensions")
    if isinstance(model, Classifier):
        model.check_input(images)
        if model.num_classes == 0:
            raise ValueError("a model without a head has no classes to explain; reset_classifier(num_classes) adds one")
    check_target(target, images.shape[0], getattr(model, "num_classes", None))
    if not callable(method) and method not in METHODS:
        raise ValueError(f"unknown method {method!r}; pass one of {', '.join(METHODS)}, or a callable")
    path = "" if layer is None else find_layer(model, layer)
    if method in ("auto", "cam") and path and path == cam_layer(model):
        path = ""  # the family's own, which needs no hook
    return _explain(_Question(model, images, target, path), method)


def _explain(question: _Question, method: Method) -> CAM:
    model, layer = question.model, question.layer
    zoo = model if isinstance(model, Classifier) else None
    if zoo is None and not layer:
        raise ValueError(
            f"{type(model).__name__} is none of the zoo's models, so its layers are unknown; pass layer=, the path of "
            "its last module with maps (cam_layers(model) lists candidates)"
        )
    automatic = method == "auto"
    if automatic:
        method = zoo.cam_method if zoo is not None and not layer else "grad_cam"
    if method == "cam" and zoo is not None and zoo.cam_method != "cam" and not layer:
        raise ValueError(no_cam(model, layer))
    if method in ATTENTION:
        maps, logits, classes = attention_maps(model, question.images, question.target, str(method), layer)
        return question.answer(maps, logits, classes, str(method), "blocks")
    # behind pooling and a linear layer the gradient at the last maps is known without computing it
    known = zoo is not None and zoo.cam_method == "cam" and not layer and isinstance(method, str)
    pooled = _run_pooled(question) if method == "cam" or known else None
    if pooled is not None and (method == "cam" or pooled.head.plain):
        return _pooled_maps(question, str(method), pooled)
    if method == "cam":
        if not automatic:
            raise ValueError(no_cam(model, layer))
        method = "grad_cam"  # the head was replaced by one that is not linear
    return _gradient_maps(question, method)


def _exact(images: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Autocast off: maps are computed in float32 at least."""
    kind = images.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return contextlib.nullcontext()


@dataclass(frozen=True)
class _Pooled:
    """Features (N, C, h, w), logits (N, classes) and the linear head between them."""

    features: Tensor
    logits: Tensor
    head: LinearHead


def _run_pooled(question: _Question) -> _Pooled | None:
    """One forward pass; no graph, and no hook unless a layer was asked for. None if the head is not linear."""
    model, images, layer = question.model, question.images, question.layer
    classifier: nn.Module | None
    norm: nn.Module | None = None
    if isinstance(model, Classifier) and not layer:
        body: Any = replica(model) if any(module.training for module in model.modules()) else model
        with torch.no_grad():
            features = body.forward_features(images)
            logits = check_logits(body.forward_head(features), images.shape[0])
        classifier, norm = model.get_classifier(), getattr(model, "norm", None)
    else:
        probe = Probe(model, images, layer, gradients=False)
        features, logits = as_maps(probe.output, layer), probe.logits
        classifier = _last_linear(model, logits.shape[1], features.shape[1])
    if features.ndim != 4 or classifier is None:
        return None
    half = features.dtype in (torch.float16, torch.bfloat16)
    with torch.no_grad(), _exact(images):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        head = linear_head(classifier, norm, features, logits, half=half)
    return None if head is None else _Pooled(features, logits, head)


def _last_linear(model: nn.Module, classes: int, chans: int) -> nn.Module | None:
    """The last linear layer, or convolution, that reads ``chans`` numbers and gives ``classes``."""
    fitting = [
        module
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and tuple(module.weight.shape[:2]) == (classes, chans)
    ]
    return fitting[-1] if fitting else None


def _pooled_maps(question: _Question, method: str, pooled: _Pooled) -> CAM:
    """The maps of a pooled, linear head."""
    features, logits, head = pooled.features, pooled.logits, pooled.head
    layer = question.layer or last_layer(question.model)
    with torch.no_grad(), _exact(features):
        classes = find_classes(question.target, logits)
        everything = isinstance(question.target, str)
        if method == "cam":
            layer = question.layer or cam_layer(question.model)
            maps = head.maps(features, None if everything else classes)
            return question.answer(maps, logits, classes, method, layer, bias=head.bias[classes])
        gradient = head.weight.flatten(1) / features.shape[2:].numel()
        weights = weigh_constant(method, gradient[None] if everything else gradient[classes], features)
        return question.answer(weighted_sum(weights, features), logits, classes, method, layer)


def _gradient_maps(question: _Question, method: Method) -> CAM:
    """The maps of a gradient method, through the graph from the layer to the logits."""
    model, images = question.model, question.images
    layer = question.layer
    if not layer and isinstance(model, Classifier) and model.cam_method != "cam":
        layer = model.cam_layer
    with torch.inference_mode(False):
        probe = Probe(model, images, layer, gradients=True)
        classes = find_classes(question.target, probe.logits)
        with _exact(images), torch.no_grad():
            maps = _each_map(probe, classes, method)
        if not maps:
            raise ValueError(no_gradient(model, layer))
    name = method if isinstance(method, str) else getattr(method, "__name__", "callable")
    return question.answer(torch.stack(maps, 1), probe.logits, classes, name, layer or last_layer(model))


def _each_map(probe: Probe, classes: Tensor, method: Method) -> list[Tensor]:
    """The map (N, h, w) of each column of ``classes`` (N, K); none at all if every gradient is zero."""
    activations = as_maps(probe.output, probe.layer)
    activations = activations.to(torch.promote_types(activations.dtype, torch.float32))
    alive = False
    maps: list[Tensor] = []
    for k, column in enumerate(classes.unbind(1)):
        gradients = probe.gradient(column, last=k == classes.shape[1] - 1)
        if gradients is None:
            break
        gradients = as_maps(gradients, probe.layer).to(activations.dtype)
        alive = alive or bool(gradients.any())
        if isinstance(method, str):
            maps.append(map_of(method, activations, gradients))
        else:
            maps.append(_call(method, activations, gradients))
    return maps if alive else []


def _call(method: Callable[[Tensor, Tensor], Tensor], activations: Tensor, gradients: Tensor) -> Tensor:
    maps = method(activations, gradients)
    wanted = (activations.shape[0], *activations.shape[2:])
    if not isinstance(maps, Tensor) or tuple(maps.shape) != wanted:
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"the method given as callable must return maps of shape {wanted}, got {got}")
    return maps
