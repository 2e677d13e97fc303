"""What the layers of a net make of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models import Classifier
from .probe import find_layer
from .replica import replica, unwrap


def feature_maps(model: nn.Module, images: Tensor, layers: Sequence[str] | str | None = None) -> dict[str, Tensor]:
    """The outputs of named layers for a batch of images, in the order in which they are computed.

    As with :func:`convzoo.cam`, the model is only read: nothing of it changes, and the maps are those of evaluation
    mode. Each tensor is a copy of its own, so that an activation in place behind the layer does not show in it.

    Args:
        model: any module; ``images`` is what it takes.
        images: (N, C, H, W).
        layers: paths of modules, or names of the zoo's stages (``"stem"``, ``"stage1"``, ...). None: all stages, or of
            a model that is not the zoo's all its direct children.

    Returns:
        By the name asked for, what the layer returned at its last call, without gradient: (N, C, h, w) mostly.

    Raises:
        ValueError: there is no such layer, or it takes no part in the forward pass.
        TypeError: the layer does not return a tensor.

    Example:
        >>> import convzoo, torch
        >>> maps = convzoo.feature_maps(convzoo.create_model("resnet18"), torch.rand(1, 3, 64, 64))
        >>> maps["stage4"].shape
        torch.Size([1, 512, 2, 2])
    """
    model = unwrap(model)
    stages = dict(model.stages) if isinstance(model, Classifier) else {}
    if isinstance(model, Classifier):
        model.check_input(images)
    automatic = layers is None
    if layers is None:
        layers = list(stages) or [name for name, _ in model.named_children()]
    elif isinstance(layers, str):
        layers = [layers]
    body = replica(model)
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.pop(name, None)
                found[name] = output.detach().clone()
            elif not automatic:
                raise TypeError(f"layer {name!r} returns a {type(output).__name__}; pick one that returns a tensor")

        return hook

    for name in layers:
        path = stages.get(name) or find_layer(model, name)
        body.get_submodule(path).register_forward_hook(keep(name))
    with torch.no_grad():
        body(images)
    missing = [name for name in layers if name not in found]
    if missing and not automatic:
        raise ValueError(f"layer {missing[0]!r} takes no part in the forward pass; pick one that does")
    return found
