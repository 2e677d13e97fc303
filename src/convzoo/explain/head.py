"""The linear head of a net that pools its last maps, and the class activation maps that it gives.

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

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._modules import list_modules, private_copy
from ..models import Classifier
from .layers import is_pooled
from .methods import weighted_sum
from .run import Pass


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

    def logits(self, features: Tensor, pooled: Tensor) -> Tensor:
        """What this head makes of features (N, C, h, w), whose means are ``pooled`` (N, C): (N, classes)."""
        if self.wide:
            return self.maps(features, None).mean((2, 3)) + self.bias
        scores = functional.linear(pooled, self.weight.flatten(1))
        return (scores if self.scale is None else scores * self.scale.flatten(1)) + self.bias

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
    pooled = features.mean((2, 3))
    head = _read(classifier, norm, pooled)
    if head is None or head.weight.shape[0] != logits.shape[1]:
        return None
    logits = logits.to(features.dtype)
    difference = (head.logits(features, pooled) - logits).abs()
    size = logits.abs().amax(1, keepdim=True) + pooled.abs().amax(1, keepdim=True)
    wrong = difference > (0.05 if half else 1e-3) * size + 1e-6  # what is not a number is not wrong
    return None if bool(wrong.any()) else head


def _read(classifier: nn.Module, norm: nn.Module | None, pooled: Tensor) -> LinearHead | None:
    """The head that these layers would make of ``pooled`` (N, C)."""
    conv: nn.Conv2d | None = None
    if isinstance(classifier, nn.Linear):
        weight = classifier.weight.detach()[..., None, None]
    elif isinstance(classifier, nn.Conv2d) and classifier.groups == 1 and classifier.padding_mode == "zeros":
        weight, conv = classifier.weight.detach(), classifier
    else:
        return None
    if weight.shape[1] != pooled.shape[1]:
        return None
    weight = weight.to(pooled.dtype)
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
    variance = pooled.var(1, correction=0)
    return LinearHead(flat[..., None, None], bias, (variance + norm.eps).rsqrt()[:, None, None, None], conv)


def evaluated(module: Any) -> Any:
    """``module``, whose weights can be read without a change to it: a parametrised one that is trained makes new
    statistics of its weight whenever that is read, so it is read on a copy."""
    if isinstance(module, nn.Module) and any(each.training for each in list_modules(module)):
        return private_copy(module)
    return module


def find_head(model: nn.Module, seen: Pass, layer: str) -> LinearHead | None:
    """The linear head behind ``layer``; None if the logits are computed in another way."""
    features, logits = seen.activations(layer), seen.logits.detach()
    norm: nn.Module | None = None
    classifier: nn.Module | None
    if isinstance(model, Classifier) and is_pooled(model, (layer,)):
        classifier, norm = model.get_classifier(), getattr(model, "norm", None)
    else:
        wanted = (logits.shape[1], features.shape[1])
        layers = [module for module in evaluated(model).modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
        classifier = next((each for each in reversed(layers) if tuple(each.weight.shape[:2]) == wanted), None)
    if classifier is None:
        return None
    return read_head(classifier, norm, features, logits, seen.outputs[layer].dtype)


def read_head(
    classifier: nn.Module, norm: nn.Module | None, features: Tensor, logits: Tensor, dtype: torch.dtype
) -> LinearHead | None:
    """The linear head that ``classifier`` is for features that were computed in ``dtype``; None if it is none."""
    half = not {torch.float16, torch.bfloat16}.isdisjoint((dtype, logits.dtype))
    head = linear_head(evaluated(classifier), evaluated(norm), features, logits, half=half)
    return None if head is None else head.for_classes()
