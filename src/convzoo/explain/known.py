"""What the zoo knows of its own nets, and the words for what does not work."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..models import Classifier
from .attention import ATTENTION, gives_attention
from .methods import WEIGHTINGS
from .probe import smallest_size
from .replica import unwrap


def cam_layers(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The methods of :func:`convzoo.cam` that suit ``model``, each with the layers it may be asked at, best first.

    Of a model that is not the zoo's, the convolutions are named, last first.

    Example:
        >>> import convzoo
        >>> layers = convzoo.cam_layers(convzoo.create_model("resnet18"))
        >>> layers["cam"], layers["grad_cam"][:2]
        (('layer4',), ('layer4', 'layer3'))
    """
    model = unwrap(model)
    if not isinstance(model, Classifier):
        found = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)]
        return dict.fromkeys(WEIGHTINGS, tuple(reversed(found)))
    if gives_attention(model):
        norms = tuple(
            path for path, _ in model.named_modules() if path.startswith("blocks.") and path.endswith("norm1")
        )
        blocks = ("blocks",)
        return {**dict.fromkeys(ATTENTION, blocks), **dict.fromkeys(WEIGHTINGS, tuple(reversed(norms)))}
    best, pooled = last_layer(model), cam_layer(model)
    paths = [path for path, _ in model.named_modules()]
    before = paths[: paths.index(best)]  # a stage may end behind it, with the final pooling
    stages = tuple(path for path in reversed(model.stages.values()) if path in before)
    layers = dict.fromkeys(WEIGHTINGS, (best, *stages))
    return {"cam": (pooled,), **layers} if pooled else layers


def last_layer(model: nn.Module) -> str:
    """Path of the module whose output the gradient methods explain; empty if the model is not the zoo's."""
    if not isinstance(model, Classifier):
        return ""
    if model.cam_method == "cam" or not model.cam_layer:
        return list(model.stages.values())[-1]
    return model.cam_layer


def cam_layer(model: nn.Module) -> str:
    """Path of the module whose output are, or make, the class activation maps; empty if the model has none."""
    if not isinstance(model, Classifier) or model.cam_method != "cam":
        return ""
    classifier = model.get_classifier()
    wide = isinstance(classifier, nn.Conv2d) and classifier.weight.shape[2:].numel() > 1
    return model.classifier_name if wide else last_layer(model)


def normalisation(model: nn.Module) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Mean and standard deviation, a value per channel, that the model's weights expect of their images."""
    weights: Any = getattr(model, "weights", None)
    mean, std = getattr(weights, "mean", None), getattr(weights, "std", None)
    return (None, None) if mean is None or std is None else (tuple(mean), tuple(std))


def class_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the classes that the model's weights tell, in order; empty if they do not."""
    return tuple(getattr(getattr(model, "weights", None), "classes", ()))


def _name(model: nn.Module) -> str:
    return model.config.name if isinstance(model, Classifier) else type(model).__name__


def no_cam(model: nn.Module, layer: str) -> str:
    """Why ``method="cam"`` does not work here."""
    works = "attention" if gives_attention(model) else "grad_cam"
    if layer:
        return (
            f"{_name(model)} has no class activation map at {layer!r}: it needs global average pooling followed by one "
            f"linear layer right behind it; pass method='{works}'"
        )
    return (
        f"{_name(model)} has no class activation map: it needs global average pooling followed by one linear layer, "
        f"and this head does more; pass method='{works}', or leave the method out"
    )


def no_gradient(model: nn.Module, layer: str) -> str:
    """Why a gradient method does not work at ``layer``."""
    text = f"the logits of {_name(model)} have no gradient at {layer or last_layer(model)!r}"
    if gives_attention(model):
        norm = cam_layers(model)["grad_cam"][0]
        return (
            f"{text}: only the class token is read behind the last attention, so the other tokens no longer count; "
            f"pass layer={norm!r} or an earlier block's norm1, or method='attention'"
        )
    return (
        f"{text} for these images (units that are all off, or a layer behind which nothing follows); pass another layer"
    )


def one_cell(model: nn.Module, images: Tensor, layer: str) -> str:
    """Why a map of one cell is refused, and from which size of images on there are more."""
    height, width = images.shape[2:]
    fixed = isinstance(model, Classifier) and model.fixed_size
    enough = None if fixed else smallest_size(model, layer, images.shape)
    text = f"{_name(model)} at {height}x{width} pixels leaves a single cell at {layer or last_layer(model)!r}, "
    text += "which shows nothing"
    remedies = [] if enough is None else [f"from {enough}x{enough} pixels on there are more"]
    earlier = cam_layers(model).get("grad_cam", ())[1:2]
    remedies += [f"an earlier layer has more: layer={path!r}, method='grad_cam'" for path in earlier]
    return f"{text}; {', or '.join(remedies) or 'pass an earlier layer'}"
