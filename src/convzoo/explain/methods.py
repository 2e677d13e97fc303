"""The published methods, as formulas: they compute maps from tensors and run nothing.

Gradient methods. With activations A (N, C, h, w) and the gradient G of one class's logit with respect to them, each is
``map = sum over C of weight * A`` and differs only in the weight. Maps stay signed; the ReLU that the papers put
behind the sum is :meth:`convzoo.CAM.heatmap`'s.

Attention. In a vision transformer the patch tokens behind the last attention have no influence on the logits, and
before it the LayerNorms make gradient times activation cancel: Grad-CAM has nothing to go by. What does carry evidence
from place to place is the attention itself. Chefer et al. 2021, arXiv:2103.15679 (equations 5 and 6): a block's matrix
of relevance is the mean over the heads of ``relu(gradient * attention)``; relevance spreads as ``R = R + matrix @ R``,
from R = 1. Of the result we need one row, the class token's, so it is multiplied out from the last block backwards, as
a row. Rollout (Abnar and Zuidema 2020, arXiv:2005.00928) takes the mean attention of the heads instead: no gradient,
the same map for every class. (The paper's factor 1/2 for every block scales the map and nothing else.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

#: A method by its name, or a callable from activations and gradients (N, C, h, w) to maps (N, h, w).
Method = str | Callable[[Tensor, Tensor], Tensor]
#: (gradients (..., C, h, w) or (..., C, 1, 1), sums of activations (..., C, 1, 1), cells of a map) to weights
Weighting = Callable[[Tensor, Tensor, int], Tensor]


def grad_cam(gradients: Tensor, sums: Tensor, cells: int) -> Tensor:
    """The mean gradient of a channel (Selvaraju et al. 2016, arXiv:1610.02391, equation 1)."""
    return gradients.mean((-2, -1), keepdim=True)


def hires_cam(gradients: Tensor, sums: Tensor, cells: int) -> Tensor:
    """The gradient itself (Draelos and Carin 2020, arXiv:2011.08891)."""
    return gradients


def layer_cam(gradients: Tensor, sums: Tensor, cells: int) -> Tensor:
    """The positive part of the gradient (Jiang et al. 2021, LayerCAM, equation 5)."""
    return gradients.relu()


def grad_cam_pp(gradients: Tensor, sums: Tensor, cells: int) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2017, arXiv:1710.11063, equations 10 and 19).

    The paper's coefficient ``g^2 / (2 g^2 + S g^3)`` is ``1 / (2 + S g)`` where g is not 0 (S: the channel's sum of
    activations). Cancelled, it needs no small constant in the denominator, which for gradients of the usual size
    (g^2 about 1e-6) would drown the terms it protects.
    """
    denominator = 2.0 + sums * gradients
    weight = torch.where(denominator == 0, 0.0, gradients.relu() / denominator)
    return cells * weight.mean((-2, -1), keepdim=True)


WEIGHTINGS: dict[str, Weighting] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
}
ATTENTION = ("attention", "rollout")


def weigh_constant(method: str, gradients: Tensor, activations: Tensor) -> Tensor:
    """Weights (N or 1, K, C) from gradients (N or 1, K, C) that are the same in every cell of a map."""
    sums = activations.sum((-2, -1), keepdim=True)[:, None]  # (N, 1, C, 1, 1)
    return WEIGHTINGS[method](gradients[..., None, None], sums, activations.shape[2:].numel()).flatten(2)


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Weights (N or 1, K, C) and activations (N, C, h, w) to maps (N, K, h, w)."""
    if weights.shape[0] == 1:
        return functional.conv2d(activations, weights[0, ..., None, None])
    return torch.bmm(weights, activations.flatten(2)).unflatten(2, activations.shape[2:])


def map_of(method: str, activations: Tensor, gradients: Tensor) -> Tensor:
    """The map (N, h, w) of one class, from activations and gradients (N, C, h, w)."""
    sums = activations.sum((-2, -1), keepdim=True)
    weights = WEIGHTINGS[method](gradients, sums, activations.shape[2:].numel())
    if weights.shape[2:].numel() == 1:
        return weighted_sum(weights.flatten(1)[:, None], activations)[:, 0]
    return (weights * activations).sum(1)


def apply_method(method: Method, activations: Tensor, gradients: Tensor) -> Tensor:
    """The map (N, h, w) of a method by name, or of a callable, whose answer is checked."""
    if isinstance(method, str):
        return map_of(method, activations, gradients)
    maps = method(activations, gradients)
    wanted = (activations.shape[0], *activations.shape[2:])
    if not isinstance(maps, Tensor) or tuple(maps.shape) != wanted:
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"the method given as callable must return maps of shape {wanted}, got {got}")
    return maps.to(activations.dtype)


def average_layers(maps: list[Tensor]) -> Tensor:
    """The mean of the maps (N, K, h, w) of several layers, each over its largest absolute value in an image."""
    if len(maps) == 1:
        return maps[0]
    size = max((each.shape[2:] for each in maps), key=lambda shape: shape.numel())
    total = torch.zeros(())
    for each in maps:
        peak = each.abs().amax((1, 2, 3), keepdim=True)
        scaled = each / torch.where(peak > 0, peak, 1.0)
        total = total.to(each) + functional.interpolate(scaled, size, mode="bilinear", align_corners=False)
    return total / len(maps)


def relevance(probabilities: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """The map (N, h, w) of a score, from the attention (N, heads, 1 + L, 1 + L) of each block and its gradients."""
    pairs = zip(probabilities, gradients, strict=True)
    return _class_token_map([(_wide(block) * _wide(gradient)).relu_().mean(1) for block, gradient in pairs])


def rollout(probabilities: list[Tensor]) -> Tensor:
    """The map (N, h, w) of the attention (N, heads, 1 + L, 1 + L) of each block."""
    return _class_token_map([_wide(block).mean(1) for block in probabilities])


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _class_token_map(matrices: list[Tensor]) -> Tensor:
    """What of the first row (N, 1 + L) of the product of ``1 + matrix``, the last block's on the left, falls to the
    patches, as a square map (N, h, w)."""
    row = torch.zeros_like(matrices[0][:, :1])
    row[..., 0] = 1.0
    for matrix in reversed(matrices):
        row = row + row @ matrix
    side = math.isqrt(row.shape[2] - 1)
    return row[:, 0, 1:].unflatten(1, (side, side))
