"""Where a transformer looks: its attention, weighted by what each of it does for the class.

In a vision transformer the patch tokens behind the last attention have no influence on the logits, and before it the
LayerNorms make gradient times activation cancel: Grad-CAM has nothing to go by. What does carry evidence from place to
place is the attention itself. Chefer et al. 2021, arXiv:2103.15679 (equations 5 and 6): a block's matrix of relevance
is the mean over the heads of ``relu(gradient * attention)``; relevance spreads as ``R = R + matrix @ R``, from R = 1.
Of the result we need one row, the class token's, so it is multiplied out from the last block backwards, as a row.

Rollout (Abnar and Zuidema 2020, arXiv:2005.00928) takes the mean attention of the heads instead: no gradient, the same
map for every class. (The paper's factor 1/2 for every block scales the map and nothing else.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Classifier
from .probe import check_logits
from .replica import replica
from .target import Target, find_classes

ATTENTION = ("attention", "rollout")


def gives_attention(model: nn.Module) -> bool:
    """Whether ``model`` is one of the zoo's whose ``forward_features`` tells its attention probabilities."""
    return isinstance(model, Classifier) and model.cam_method == "attention"


def attention_maps(
    model: nn.Module, images: Tensor, target: Target, method: str, layer: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (N, K, h, w), logits and classes (N, K) of ``method``, one of ``ATTENTION``.

    Raises:
        ValueError: the model has no attention, or a layer was asked for.
    """
    if not gives_attention(model):
        raise ValueError(f"{type(model).__name__} has no attention to explain; pass method='grad_cam'")
    if layer not in ("", "blocks"):
        raise ValueError(f"method={method!r} explains all blocks together, got layer={layer!r}; leave the layer out")
    probabilities: list[Tensor] = []
    with torch.inference_mode(False), torch.set_grad_enabled(method == "attention"):
        body: Any = replica(model)
        images = images.clone() if images.is_inference() else images.detach()
        body.blocks[0].register_forward_pre_hook(_cut)
        logits = check_logits(body.forward_head(body.forward_features(images, probabilities)), images.shape[0])
        classes = find_classes(target, logits.detach())
        if method == "rollout":
            row = _class_row([_wide(block).mean(1) for block in probabilities])
            maps = _grid(row)[:, None].expand(-1, classes.shape[1], -1, -1).clone()
        else:
            maps = torch.stack([_grid(row) for row in _relevance(probabilities, logits, classes)], 1)
    return maps, logits.detach(), classes


def _cut(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make the tokens a leaf: the graph needs nothing before the first attention."""
    return (inputs[0].detach().requires_grad_(torch.is_grad_enabled()), *inputs[1:])


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _relevance(probabilities: list[Tensor], logits: Tensor, classes: Tensor) -> Iterator[Tensor]:
    """The class token's row of relevance (N, 1 + L), for each column of ``classes``."""
    for k, column in enumerate(classes.unbind(1)):
        score = logits.gather(1, column[:, None]).sum()  # images do not mix
        gradients = torch.autograd.grad(score, probabilities, retain_graph=k + 1 < classes.shape[1])
        with torch.no_grad():
            pairs = zip(probabilities, gradients, strict=True)
            yield _class_row([(_wide(block) * _wide(gradient)).relu_().mean(1) for block, gradient in pairs])


def _class_row(matrices: list[Tensor]) -> Tensor:
    """First row (N, 1 + L) of the product of ``1 + matrix`` over the blocks, the last one on the left."""
    row = torch.zeros_like(matrices[0][:, :1])
    row[..., 0] = 1.0
    for matrix in reversed(matrices):
        row = row + row @ matrix
    return row[:, 0]


def _grid(row: Tensor) -> Tensor:
    """What of (N, 1 + L) falls to the patches, as a square map (N, h, w)."""
    side = math.isqrt(row.shape[1] - 1)
    return row[:, 1:].unflatten(1, (side, side))
