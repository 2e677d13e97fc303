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

Class activation maps (Zhou et al. 2015, arXiv:1512.04150). With logit_c = weight_c . mean(A) + bias_c, the map is
weight_c . A, cell by cell; its mean over the cells is the logit without the bias. Three other heads are covered:

- a 1x1 convolution behind the pooling is a linear layer;
- a convolution before the pooling gives the maps itself;
- a LayerNorm between pooling and linear layer, ``gain (v - mean(v)) / s(v) + shift`` with s the standard deviation, is
  linear but for the division. We take s as it is for the image at hand. Then logit_c is exactly
  ``W'_c . v / s + (W_c . shift + b_c)`` with ``W'_c = gain W_c - mean(gain W_c)``: what depends on the image stands in
  the map, what does not in the bias. (It is not the gradient: that would also count how s changes with v.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
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
    return torch.einsum("nchw,nchw->nhw", weights, activations)


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


@dataclass(frozen=True)
class LinearHead:
    """logits (N, classes) = mean over the cells of :meth:`maps` + ``bias``.

    ``weight`` is (classes, C, kh, kw): 1x1 unless the classifier is a wider convolution; ``scale`` is 1, or the images'
    own 1 / s (N, 1, 1, 1).
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor | None
    conv: nn.Conv2d | None

    def for_classes(self) -> LinearHead:
        """This head, or of a single logit the head of the two classes that it decides between, no and yes."""
        if self.weight.shape[0] != 1:
            return self
        return replace(self, weight=torch.cat([-self.weight, self.weight]), bias=torch.cat([-self.bias, self.bias]))

    @property
    def wide(self) -> bool:
        """Whether the classifier reads more than one cell at a time."""
        return self.weight.shape[2:].numel() > 1

    @property
    def plain(self) -> bool:
        """Whether the gradient of a logit at the features is its weights over the number of cells, everywhere."""
        return self.scale is None and not self.wide

    def logits(self, features: Tensor) -> Tensor:
        """What this head makes of features (N, C, h, w): (N, classes)."""
        if self.wide:
            return self.maps(features, None).mean((2, 3)) + self.bias
        pooled = functional.linear(features.mean((2, 3)), self.weight.flatten(1))
        return (pooled if self.scale is None else pooled * self.scale.flatten(1)) + self.bias

    def maps(self, features: Tensor, classes: Tensor | None) -> Tensor:
        """The maps (N, K, h, w) of ``classes`` (N, K), or of all, from features (N, C, h, w)."""
        if self.conv is not None and self.wide:
            conv = self.conv
            maps = functional.conv2d(features, self.weight, None, conv.stride, conv.padding, conv.dilation)
            if classes is not None:
                maps = maps.gather(1, classes[..., None, None].expand(-1, -1, *maps.shape[2:]))
        elif classes is None:
            maps = functional.conv2d(features, self.weight)
        else:
            maps = weighted_sum(self.weight.flatten(1)[classes], features)
        return maps if self.scale is None else maps * self.scale


def linear_head(
    classifier: nn.Module, norm: nn.Module | None, features: Tensor, logits: Tensor, *, half: bool
) -> LinearHead | None:
    """The linear part of the head that makes ``logits`` (N, classes) of ``features`` (N, C, h, w), float32 or float64.

    ``half`` says that the logits were computed in 16 bits. None, if between the features and the logits there is
    anything but pooling, ``norm`` and ``classifier``: the head found here must reproduce the logits.
    """
    head = _read(classifier, norm, features)
    if head is None or head.weight.shape[0] != logits.shape[1]:
        return None
    logits = logits.to(features.dtype)
    difference = (head.logits(features) - logits).abs()
    size = logits.abs().amax(1, keepdim=True) + features.mean((2, 3)).abs().amax(1, keepdim=True)
    wrong = difference > (0.05 if half else 1e-3) * size + 1e-6  # what is not a number is not wrong
    return None if bool(wrong.any()) else head


def _read(classifier: nn.Module, norm: nn.Module | None, features: Tensor) -> LinearHead | None:
    """The head that these layers would make behind a pooling."""
    conv: nn.Conv2d | None = None
    if isinstance(classifier, nn.Linear):
        weight = classifier.weight.detach()[..., None, None]
    elif isinstance(classifier, nn.Conv2d) and classifier.groups == 1 and classifier.padding_mode == "zeros":
        weight, conv = classifier.weight.detach(), classifier
    else:
        return None
    if weight.shape[1] != features.shape[1]:
        return None
    weight = weight.to(features.dtype)
    bias = weight.new_zeros(weight.shape[0]) if classifier.bias is None else classifier.bias.detach().to(weight.dtype)
    if norm is None or isinstance(norm, nn.Identity):
        return LinearHead(weight, bias, None, conv)
    if not isinstance(norm, nn.LayerNorm) or weight.shape[2:].numel() > 1:
        return None
    flat = weight.flatten(1)
    if norm.bias is not None:
        bias = bias + flat @ norm.bias.detach().to(flat.dtype)
    if norm.weight is not None:
        flat = flat * norm.weight.detach().to(flat.dtype)
    flat = flat - flat.mean(1, keepdim=True)
    variance = features.mean((2, 3)).var(1, correction=0)
    return LinearHead(flat[..., None, None], bias, (variance + norm.eps).rsqrt()[:, None, None, None], conv)
