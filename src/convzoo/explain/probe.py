"""One forward pass that stops at a layer: its maps, the logits, and the gradient between them.

The pass runs without a graph up to the layer. There the output is cut off and made a leaf, and from there to the
logits a graph is built, of the layer's gradient alone: no parameter of a replica asks for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Classifier
from .replica import replica


def find_layer(model: nn.Module, layer: str | nn.Module) -> str:
    """The path of ``layer``, given by path or as the module itself.

    Raises:
        TypeError: neither a path nor a module.
        ValueError: not in the model.
    """
    if isinstance(layer, str):
        if layer and layer in dict(model.named_modules()):
            return layer
        known = [path for path, _ in model.named_children()]
        close = list(model.stages.values()) if isinstance(model, Classifier) else known
        raise ValueError(
            f"the model has no layer {layer!r}; pass the path of a module, such as {', '.join(close[-4:])}"
        )
    if isinstance(layer, nn.Module):
        for path, module in model.named_modules():
            if module is layer and path:
                return path
        raise ValueError(f"the {type(layer).__name__} given as layer is not a part of the model; pass one that is")
    raise TypeError(f"layer is the path of a module or the module, got {layer!r}; cam_layers(model) names paths")


def check_logits(logits: object, images: int) -> Tensor:
    """``logits`` if they are (N, classes), or in words what is wrong with them."""
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model returns a {type(logits).__name__}, cam explains logits (N, classes); "
            "wrap the model in one that returns the logits alone"
        )
    if logits.ndim != 2 or logits.shape[0] != images:
        raise ValueError(
            f"the model returns {tuple(logits.shape)} for {images} images, cam explains logits (N, classes); "
            "wrap the model in one that returns them"
        )
    return logits


def as_maps(output: Tensor, layer: str) -> Tensor:
    """A layer's output as maps (N, C, h, w); tokens (N, L, D) of a square grid too, with or without a class token."""
    if output.ndim == 4:
        return output
    if output.ndim == 3:
        for first in (1, 0):
            side = math.isqrt(output.shape[1] - first)
            if side > 0 and side * side == output.shape[1] - first:
                return output[:, first:].transpose(1, 2).unflatten(2, (side, side))
    raise ValueError(
        f"layer {layer!r} gives {tuple(output.shape)}, a map needs (N, C, h, w) or the tokens of a square grid; "
        "pick a layer before the maps are flattened"
    )


class Probe:
    """``model`` run once on ``images``, opened at ``layer`` (empty: at the maps ``forward_features`` returns).

    Attributes:
        logits: (N, classes), detached.
        output: of the layer, detached.
    """

    def __init__(self, model: nn.Module, images: Tensor, layer: str, *, gradients: bool) -> None:
        body = replica(model)
        images = images.clone() if images.is_inference() else images.detach()
        if layer:
            self._leaf: Tensor | None = None
            body.get_submodule(layer).register_forward_hook(self._open(layer, gradients))
            with torch.no_grad():  # the hook turns gradients on; they go back to what they were when this block ends
                logits = body(images)
        else:
            if not isinstance(body, Classifier):  # cam() asks for a layer of any other model
                raise TypeError(f"{type(body).__name__} is no convzoo model; name the layer")
            with torch.no_grad():
                features = body.forward_features(images)
                self._leaf = features.detach().requires_grad_(gradients)
                torch.set_grad_enabled(gradients)
                logits = body.forward_head(self._leaf.clone() if gradients else features)
        if self._leaf is None:
            raise ValueError(f"layer {layer!r} takes no part in the forward pass; pick one that does")
        self._logits = check_logits(logits, images.shape[0])
        self.logits = self._logits.detach()
        self.output = self._leaf.detach()
        self.layer = layer

    def _open(self, layer: str, gradients: bool) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor):
                raise TypeError(f"layer {layer!r} returns a {type(output).__name__}; pick one that returns a tensor")
            self._leaf = output.detach().requires_grad_(gradients)
            if gradients:
                torch.set_grad_enabled(True)
            return self._leaf.clone()  # whatever follows may overwrite its input

        return hook

    def gradient(self, classes: Tensor, *, last: bool) -> Tensor | None:
        """The gradient of each image's logit (N,) at the layer, or None where there is none; ``last``: of all calls."""
        if not self._logits.requires_grad or self._leaf is None:
            return None
        with torch.enable_grad():
            score = self._logits.gather(1, classes[:, None]).sum()  # images do not mix, so this is each one's gradient
        return torch.autograd.grad(score, self._leaf, retain_graph=not last, allow_unused=True)[0]


def smallest_size(model: nn.Module, layer: str, shape: torch.Size, *, limit: int = 1024) -> int | None:
    """The smallest square image, in pixels, from which on ``layer`` has more than one cell; None if unknown.

    Found on the meta device, where a forward pass computes shapes only.
    """

    def cells(side: int) -> int:
        images = torch.empty(1, shape[1], side, side, device="meta")
        images = images.to(next((p.dtype for p in model.parameters()), torch.float32))
        with torch.no_grad():
            body = replica(model, device="meta")
            seen: list[int] = []
            if layer:
                body.get_submodule(layer).register_forward_hook(lambda *args: seen.append(args[-1].shape[2:].numel()))
                body(images)
            elif isinstance(body, Classifier):
                seen.append(body.forward_features(images).shape[2:].numel())
        return seen[-1]

    side = max(shape[2:])
    try:
        enough = side
        while cells(enough) <= 1:
            side, enough = enough, 2 * enough
            if enough > limit:
                return None
        while enough - side > 1:
            middle = (side + enough) // 2
            side, enough = (middle, enough) if cells(middle) <= 1 else (side, middle)
    except (RuntimeError, ValueError):  # a net for one size only, or one that the meta device cannot run
        return None
    return enough
