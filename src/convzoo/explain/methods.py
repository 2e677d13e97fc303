"""From activations and gradients to a map: the published formulas, each a weighting of the activations.

With activations A (N, C, h, w) and the gradient G of one class's logit with respect to them, every method here is
``map = sum over C of weight * A`` and differs only in the weight. Maps stay signed; the ReLU that the papers put
behind the sum is :meth:`convzoo.CAM.heatmap`'s.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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


def weigh_constant(method: str, gradients: Tensor, activations: Tensor) -> Tensor:
    """Weights (N or 1, K, C) from gradients (N or 1, K, C) that are the same in every cell of a map."""
    sums = activations.sum((-2, -1), keepdim=True)[:, None]  # (N, 1, C, 1, 1)
    return WEIGHTINGS[method](gradients[..., None, None], sums, activations.shape[2:].numel()).flatten(2)


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Weights (N or 1, K, C) and activations (N, C, h, w) to maps (N, K, h, w)."""
    if weights.shape[0] == 1:
        return torch.nn.functional.conv2d(activations, weights[0, ..., None, None])
    return torch.bmm(weights, activations.flatten(2)).unflatten(2, activations.shape[2:])


def map_of(method: str, activations: Tensor, gradients: Tensor) -> Tensor:
    """The map (N, h, w) of one class, from activations and gradients (N, C, h, w)."""
    sums = activations.sum((-2, -1), keepdim=True)
    weights = WEIGHTINGS[method](gradients, sums, activations.shape[2:].numel())
    if weights.shape[2:].numel() == 1:
        return weighted_sum(weights.flatten(1)[:, None], activations)[:, 0]
    return torch.einsum("nchw,nchw->nhw", weights, activations)
