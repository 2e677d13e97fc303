"""``cam(model, images)``: checks, the choice of a method and its layers, the maps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .._checks import check_count, shorten
from .._modules import autocast_off
from ..models import Classifier
from .head import find_head, read_head
from .layers import (
    calls_head_of_features,
    check_model,
    class_map_layer,
    earlier_layers,
    find_layers,
    gives_attention,
    gradient_layer,
    is_pooled,
    name_of,
    names_layers,
    no_class_map,
    no_gradient,
)
from .methods import (
    ATTENTION,
    WEIGHTINGS,
    Method,
    apply_method,
    average_layers,
    relevance,
    rollout,
    weigh_constant,
    weighted_sum,
)
from .result import CAM
from .run import Pass, check_images, gradients, is_finite, run_attention, run_pooled
from .targets import Target, check_target, class_scores, find_classes, pick_scores

Layer = str | nn.Module
METHODS = ("auto", "cam", *WEIGHTINGS, *ATTENTION)
NOISE = 0.1  # standard deviation of the noise that smoothing adds, as a share of an image's range


def cam(
    model: nn.Module,
    images: Tensor,
    target: Target = None,
    *,
    method: Method = "auto",
    layer: Layer | Sequence[Layer] | None = None,
    reshape: Callable[[Tensor], Tensor] | None = None,
    smooth: int = 0,
) -> CAM:
    """See where the net looks: class activation maps of a batch of images.

    The model is only read: no parameter, buffer, list, hook, gradient or flag of it changes, it may be frozen, in
    training mode, compiled or in use by other threads, and the images may come in any mode (``no_grad``,
    ``inference_mode``). Maps are always those of evaluation mode.

    Args:
        model: a classifier of the zoo; or any module that returns logits (N, classes), then with ``layer``.
        images: (N, C, H, W), as the model takes them.
        target: which classes to explain: None, the predicted one; an int; N ints, one an image; (N, K) of them;
            ``("top", k)``, the k with the largest logits; ``"all"``; or a callable from logits (N, classes) to scores
            (N,) or (N, K), such as ``lambda logits: logits[:, 3] - logits[:, 5]``. A single logit decides between two
            classes, 0 (no) and 1 (yes).
        method: ``"auto"`` picks by family; ``"cam"`` (Zhou et al. 2015, arXiv:1512.04150), for nets that pool their
            last maps and apply a linear layer; ``"hires_cam"``, ``"grad_cam"``, ``"grad_cam_pp"``, ``"layer_cam"``,
            for any net with maps; ``"attention"`` (relevance, Chefer et al. 2021, arXiv:2103.15679) and
            ``"rollout"`` (Abnar and Zuidema 2020, arXiv:2005.00928; the same map for every class), for T2T-ViT; or a
            callable from activations and gradients, each (N, C, h, w), to maps (N, h, w).
        layer: whose output to explain, a path or a module. None: the family's own; :func:`cam_layers` names others.
            Of a list, each layer's maps are divided by their largest absolute value in an image, enlarged to the
            largest of them, and averaged.
        reshape: a rearrangement of the layer's output to maps (N, C, h, w), where it cannot be known: registers
            beside the tokens, say (``lambda y: y[:, 5:].transpose(1, 2).unflatten(2, (14, 14))``).
        smooth: average the maps of so many copies of the images with noise, of a tenth of their range (SmoothGrad,
            Smilkov et al. 2017, arXiv:1706.03825). The noise is the same at every call.

    Returns:
        The maps (N, K, h, w), signed, at the layer's resolution, with logits and classes.

    Raises:
        TypeError: something is of the wrong kind; images of another dtype or device than the model; a model that is
            spread over processes.
        ValueError: the method does not suit the net, the layer's maps are a single cell, its gradient is zero or its
            output cannot be read as maps with certainty, ``target`` does not fit, or images or logits are not finite;
            the message says what works instead.

    Warns:
        UserWarning: nothing in an image speaks for its predicted class (:attr:`CAM.empty`).

    Example:
        >>> import convzoo, torch
        >>> model = convzoo.create_model("resnet18", num_classes=10)
        >>> r = convzoo.cam(model, torch.rand(2, 3, 64, 64), ("top", 3))
        >>> r.maps.shape, r.method, r.layer
        (torch.Size([2, 3, 2, 2]), 'cam', 'layer4')
    """
    model = check_model(model)
    images = check_images(model, images)
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), got {tuple(images.shape)}; add or merge dimensions")
    classes = model.num_classes if isinstance(model, Classifier) else None
    if classes == 0:
        raise ValueError("a model without a head has no classes to explain; reset_classifier(num_classes) adds one")
    check_target(target, len(images), 2 if classes == 1 else classes)
    if reshape is not None and (layer is None or not callable(reshape)):
        raise TypeError(f"reshape is a callable for the output of layer=, got {shorten(reshape)} with layer={layer!r}")
    count = check_count("smooth", smooth, least=0)
    chosen, layers = _choose(model, target, method, find_layers(model, layer))

    def explain(images: Tensor, target: Target) -> _Answer:
        if chosen in ATTENTION:
            return _explain_attention(model, images, target, str(chosen))
        return _explain_layers(model, images, target, chosen, layers, reshape, automatic=method == "auto")

    with torch.inference_mode(False), torch.no_grad():
        answer = explain(images, target)
        if count:
            answer = _smooth(explain, images, target, answer, count)
    _check_maps(model, images, answer)
    weights = model.weights if isinstance(model, Classifier) else None
    return CAM(
        maps=answer.maps,
        logits=answer.logits,
        target=answer.classes,
        method=answer.method,
        layer=answer.layer,
        input_size=(images.shape[2], images.shape[3]),
        bias=answer.bias,
        transform=model.transform if isinstance(model, Classifier) else None,
        classes=weights.classes if weights else (),
        temperature=weights.temperature if weights else 1.0,
        images=images.detach(),
    )


@dataclass(frozen=True)
class _Answer:
    """Maps (N, K, h, w), logits (N, classes), the classes (N, K) unless the target was a callable, and the bias."""

    maps: Tensor
    logits: Tensor
    classes: Tensor | None
    method: str
    layer: str
    bias: Tensor | None = None


def _choose(
    model: nn.Module, target: Target, method: Method, layers: tuple[str, ...]
) -> tuple[Method, tuple[str, ...]]:
    """The method, no longer ``"auto"``, and the layers, at least one.

    Raises:
        TypeError, ValueError: there is no such method, or it does not suit the model, the layers or the target.
    """
    if not callable(method) and (not isinstance(method, str) or method not in METHODS):
        raise ValueError(f"unknown method {shorten(method)}; pass one of {', '.join(METHODS)}, or a callable")
    zoo = model if isinstance(model, Classifier) and names_layers(model) else None
    if zoo is None and not layers:
        raise ValueError(
            f"{name_of(model)} does not say which layer to explain, as the zoo's models do; pass layer=, the path of "
            "its last module with maps (cam_layers(model) lists candidates)"
        )
    pooled = class_map_layer(zoo) if zoo is not None else ""
    own = zoo is not None and layers in ((), (pooled,))  # where the family's own method applies
    if method == "auto":
        method = zoo.cam_method if zoo is not None and own else "hires_cam"
        if method == "cam" and callable(target):
            method = "hires_cam"
    if method in ATTENTION:
        if not gives_attention(model):
            raise ValueError(f"{name_of(model)} has no attention to explain; pass method='hires_cam'")
        if layers not in ((), ("blocks",)):
            raise ValueError(f"method={method!r} explains all blocks together, got layer={list(layers)}; leave it out")
        return method, ("blocks",)
    if method == "cam":
        if callable(target):
            raise ValueError("method='cam' explains classes, got a callable target; pass method='hires_cam'")
        if len(layers) > 1:
            raise ValueError("method='cam' explains the layer before the pooling, got several; pass method='hires_cam'")
        if zoo is not None and own:
            if not pooled:
                raise ValueError(no_class_map(model, ""))
            return method, (gradient_layer(zoo),)
    return method, layers or (gradient_layer(zoo),) if zoo is not None else layers


def _explain_attention(model: nn.Module, images: Tensor, target: Target, method: str) -> _Answer:
    """The maps of relevance, or of rollout, over all blocks of a transformer."""
    differentiable = method == "attention"
    logits, probabilities = run_attention(model, images, differentiable=differentiable)
    classes, scores = pick_scores(target, logits)
    if differentiable:
        maps = [relevance(probabilities, found) for found in gradients(scores, probabilities)]
    else:
        maps = [rollout(probabilities)] * scores.shape[1]
    return _Answer(torch.stack(maps, 1), logits.detach(), classes, method, "blocks")


def _explain_layers(
    model: nn.Module,
    images: Tensor,
    target: Target,
    method: Method,
    layers: tuple[str, ...],
    reshape: Callable[[Tensor], Tensor] | None,
    *,
    automatic: bool,
) -> _Answer:
    """The maps of all other methods: of the linear head behind one layer, or of the gradients at several."""
    pooled = method == "cam" and reshape is None and is_pooled(model, layers) and calls_head_of_features(model)
    if pooled and isinstance(model, Classifier):
        answer = _explain_pooled(model, images, target, layers[0])
        if answer is not None:
            return answer
    seen = Pass(model, images, layers, reshape)
    logits = seen.logits.detach()
    classes, scores = pick_scores(target, seen.logits)
    with autocast_off(images.device):
        head = None
        if classes is not None and (method == "cam" or (isinstance(method, str) and is_pooled(model, layers))):
            head = find_head(model, seen, layers[0])
        if method == "cam" and head is not None and classes is not None:
            name = class_map_layer(model) if isinstance(model, Classifier) and is_pooled(model, layers) else layers[0]
            maps = head.maps(seen.activations(layers[0]), None if isinstance(target, str) else classes)
            return _Answer(maps, logits, classes, method, name, head.bias[classes])
        if method == "cam":
            if not automatic:
                raise ValueError(no_class_map(model, layers[0]))
            method = "hires_cam"  # the head was replaced by one that is not linear
        name = method if isinstance(method, str) else getattr(method, "__name__", "callable")
        if head is not None and head.plain and classes is not None:
            features = seen.activations(layers[0])
            gradient = head.weight.flatten(1) / features.shape[2:].numel()
            weights = weigh_constant(name, gradient[None] if isinstance(target, str) else gradient[classes], features)
            maps = weighted_sum(weights, features)
        else:
            maps = average_layers(_gradient_maps(model, seen, scores, method))
    return _Answer(maps, logits, classes, name, ", ".join(layers))


def _explain_pooled(model: Classifier, images: Tensor, target: Target, layer: str) -> _Answer | None:
    """The class activation maps of a net that pools its last maps and applies a linear layer, for which no gradient is
    needed; None if what follows the maps at ``layer`` is more than that."""
    features, logits = run_pooled(model, images)
    if not isinstance(features, Tensor) or features.ndim != 4 or not features.is_floating_point():
        return None
    with autocast_off(images.device):
        classes = find_classes(target, logits)
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        head = read_head(model.get_classifier(), getattr(model, "norm", None), exact, logits, features.dtype)
        if head is None:
            return None
        maps = head.maps(exact, None if isinstance(target, str) else classes)
        return _Answer(maps, logits, classes, "cam", class_map_layer(model), head.bias[classes])


def _gradient_maps(model: nn.Module, seen: Pass, scores: Tensor, method: Method) -> list[Tensor]:
    """The maps (N, K, h, w) of a gradient method at each layer.

    Raises:
        ValueError: at one of the layers every gradient is zero.
    """
    activations = {path: seen.activations(path) for path in seen.outputs}
    maps: dict[str, list[Tensor]] = {path: [] for path in activations}
    alive = set()
    for found in seen.gradients(scores):
        for path, gradient in found.items():
            gradient = gradient.to(activations[path].dtype)
            if bool(gradient.any()):
                alive.add(path)
            maps[path].append(apply_method(method, activations[path], gradient))
    for path in activations:
        if path not in alive:
            raise ValueError(no_gradient(model, path))
    return [torch.stack(each, 1) for each in maps.values()]


def _smooth(
    explain: Callable[[Tensor, Target], _Answer], images: Tensor, target: Target, answer: _Answer, count: int
) -> _Answer:
    """``answer`` with the mean of the maps of ``count`` noisy copies of the images, of the same classes."""
    generator = torch.Generator().manual_seed(0)
    spread = NOISE * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True)).detach()
    again: Target = target if answer.classes is None else answer.classes
    total = torch.zeros_like(answer.maps)
    for _ in range(count):
        noise = torch.randn(images.shape, generator=generator).to(images)
        total += explain(images.detach() + spread * noise, again).maps
    return replace(answer, maps=total / count, bias=None)


def _check_maps(model: nn.Module, images: Tensor, answer: _Answer) -> None:
    """ValueError for maps that show nothing, a warning for images in which nothing speaks for the predicted class."""
    maps, (height, width) = answer.maps, images.shape[2:]
    if maps.shape[2:].numel() <= 1:
        earlier = (
            [] if answer.method == "cam" and not isinstance(model, Classifier) else earlier_layers(model, answer.layer)
        )
        remedies = [] if isinstance(model, Classifier) and model.fixed_size else ["enlarge the images"]
        remedies += [f"pass an earlier layer: layer={path!r}, method='hires_cam'" for path in earlier]
        raise ValueError(
            f"{name_of(model)} at {height}x{width} pixels leaves a single cell at {answer.layer!r}, which shows "
            f"nothing; {', or '.join(remedies) or 'pass an earlier layer'}"
        )
    if not is_finite(maps):
        raise ValueError(f"the maps at {answer.layer!r} are not finite: activations or gradients overflow; scale them")
    if answer.classes is None or answer.method not in METHODS:
        return  # what a callable gives may have a sign of its own
    empty = maps.amax((2, 3)) <= 0
    if not bool(empty.any()):
        return
    predicted = answer.classes == class_scores(answer.logits).argmax(1, keepdim=True)
    empty = (empty & predicted).any(1)
    if bool(empty.any()):
        warnings.warn(
            f"for {int(empty.sum())} of {len(images)} images no cell of the {answer.method} map at {answer.layer!r} "
            "speaks for the predicted class, so that its heat map is empty (r.empty says which); another method or "
            "layer may show more: cam_layers(model) lists them",
            stacklevel=3,
        )
