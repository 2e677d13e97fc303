"""Layers of a model: finding them by path, which of them :func:`convzoo.cam` explains, and how to read their outputs.

A map is (N, C, h, w). What a layer of the zoo gives is known. What another layer gives is known where torch defines it
(a convolution's channels come first); elsewhere it is measured: on images of another size, the axis that becomes
longer with the height is the map's height, and so with its width; tokens become more, a class token stays one. Which
token is which cell's is measured too: it moves the most when the image changes there. A layer whose output cannot be
read with certainty is refused; ``reshape=`` tells it then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .._checks import shorten
from .._spread import gather_first, is_spread
from .._wrappers import has_forward_hooks, unwrap, unwrap_call
from ..models import Classifier
from .measure import measure, token_order
from .methods import ATTENTION, WEIGHTINGS

Reader = Callable[[Tensor], Tensor]

# layers whose four-dimensional output is (N, C, h, w) by definition
CHANNELS_FIRST = (
    nn.Conv2d, nn.ConvTranspose2d, _BatchNorm, _InstanceNorm, nn.GroupNorm, nn.MaxPool2d, nn.AvgPool2d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.LPPool2d, nn.FractionalMaxPool2d, nn.Upsample, nn.PixelShuffle,
    nn.PixelUnshuffle, nn.LocalResponseNorm,
)  # fmt: skip


def cam_layers(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """The methods of :func:`convzoo.cam` that suit ``model``, each with the layers it may be asked at, best first.

    Of a model that is not the zoo's, the convolutions are named, last first.

    Raises:
        TypeError: ``model`` is not a module.

    Example:
        >>> import convzoo
        >>> layers = convzoo.cam_layers(convzoo.create_model("resnet18"))
        >>> layers["cam"], layers["grad_cam"][:2]
        (('layer4',), ('layer4', 'layer3'))
    """
    model = check_model(model)
    if not isinstance(model, Classifier) or not names_layers(model):
        found = [path for path, module in walk(model) if isinstance(module, nn.Conv2d)]
        return dict.fromkeys(WEIGHTINGS, tuple(reversed(found)))
    if gives_attention(model):
        norms = [path for path, _ in walk(model) if path.startswith("blocks.") and path.endswith("norm1")]
        return {**dict.fromkeys(ATTENTION, ("blocks",)), **dict.fromkeys(WEIGHTINGS, tuple(reversed(norms)))}
    best, pooled = gradient_layer(model), class_map_layer(model)
    paths = [path for path, _ in walk(model)]
    before = paths[: paths.index(best)]  # a stage may end behind it, with the final pooling
    layers = dict.fromkeys(WEIGHTINGS, (best, *(path for path in reversed(model.stages.values()) if path in before)))
    return {"cam": (pooled,), **layers} if pooled else layers


def check_model(model: object) -> nn.Module:
    """``model`` without the wrappers around it.

    Raises:
        TypeError: not a module, a scripted one, or one whose parameters are spread over processes.
        ValueError: calling a wrapper is not calling the module inside.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; create_model(name) makes one")
    inner = unwrap_call(model)
    if isinstance(inner, torch.jit.ScriptModule):
        raise TypeError("a scripted module cannot be looked into; pass the module it was made from")
    if is_spread(model):
        raise TypeError(gather_first(name_of(inner), "explain"))
    return inner


def name_of(model: nn.Module) -> str:
    """The name that messages call ``model`` by."""
    return model.config.name if isinstance(model, Classifier) else type(model).__name__


def gives_attention(model: nn.Module) -> bool:
    """Whether ``model`` is one of the zoo's whose ``forward_features`` tells its attention probabilities."""
    return isinstance(model, Classifier) and model.cam_method == "attention"


def names_layers(model: nn.Module) -> bool:
    """Whether ``model`` says which of its layers to explain, as all nets of the zoo do."""
    return isinstance(model, Classifier) and bool(model.stages or model.cam_layer)


def gradient_layer(model: Classifier) -> str:
    """Path of the layer that the gradient methods explain by default."""
    pooled = model.cam_method == "cam" or not model.cam_layer  # a net that pools has its last maps explained
    return list(model.stages.values())[-1] if pooled else model.cam_layer


def class_map_layer(model: Classifier) -> str:
    """Path of the layer whose output is, or makes, the class activation maps; empty if the model has none."""
    if model.cam_method != "cam" or not names_layers(model):
        return ""
    classifier = model.get_classifier()
    wide = isinstance(classifier, nn.Conv2d) and math.prod(classifier.kernel_size) > 1
    return model.classifier_name if wide else gradient_layer(model)


def is_pooled(model: nn.Module, layers: tuple[str, ...]) -> bool:
    """Whether ``layers`` is the last layer of one of the zoo's nets that pool and apply a linear layer."""
    return isinstance(model, Classifier) and bool(class_map_layer(model)) and layers == (gradient_layer(model),)


def calls_head_of_features(model: nn.Module) -> bool:
    """Whether calling one of the zoo's nets gives ``forward_head(forward_features(images))`` and nothing else: no hooks
    of the whole net, no ``forward`` of a subclass's or of the instance's own."""
    own = "forward" in vars(model) or not getattr(type(model).forward, "__module__", "").startswith("convzoo.")
    return not own and not has_forward_hooks(model)


def earlier_layers(model: nn.Module, layer: str) -> tuple[str, ...]:
    """The next layer before ``layer`` that may be explained, if there is one."""
    paths = cam_layers(model).get("hires_cam", ())
    return paths[paths.index(layer) + 1 :][:1] if layer in paths else paths[1:2]


def walk(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Paths and modules below ``module``; wrappers have no place in the paths, as they have none in a private copy."""
    for name, child in unwrap(module)._modules.items():
        if child is not None:
            place = f"{path}.{name}" if path else name
            yield place, unwrap(child)
            yield from walk(child, place)


def find_layers(model: nn.Module, layer: object) -> tuple[str, ...]:
    """The paths of ``layer``: a path, a module, or a list of these; None: no paths.

    Raises:
        TypeError: neither a path nor a module.
        ValueError: not in the model, or named twice.
    """
    if layer is None:
        return ()
    if not isinstance(layer, (list, tuple)):
        return (find_layer(model, layer),)
    if not layer:
        raise ValueError("layer=[] names no layer; pass None for the model's own, or the paths of some")
    paths = tuple(find_layer(model, each) for each in layer)
    if len(set(paths)) < len(paths):
        raise ValueError(f"layer={shorten(list(paths))} names a layer twice; name each once")
    return paths


def find_layer(model: nn.Module, layer: object) -> str:
    """The path of ``layer``, given by path or as the module itself."""
    if isinstance(layer, str):
        if any(path == layer and check_alone(path, module) for path, module in walk(model)):
            return layer
        close = model.stages.values() if isinstance(model, Classifier) else (name for name, _ in model.named_children())
        such = ", such as " + ", ".join(list(close)[-4:]) if len(model._modules) else "; this model has none"
        raise ValueError(f"the model has no layer {shorten(layer)}; pass the path of a module{such}")
    if isinstance(layer, nn.Module):
        for path, module in walk(model):
            if module is unwrap(layer) and check_alone(path, module):
                return path
        raise ValueError(f"the {type(layer).__name__} given as layer is not a part of the model; pass one that is")
    raise TypeError(f"layer is the path of a module or the module, got {shorten(layer)}; cam_layers(model) names paths")


def check_alone(path: str, module: nn.Module) -> bool:
    """True, if the output of ``module`` is its own.

    Raises:
        ValueError: it is a layer of an optimised model that does the work of the next ones too.
    """
    absorbed = getattr(module, "absorbed", ())
    if absorbed:
        raise ValueError(
            f"layer {path!r} of this optimised model does the work of what followed it too ({', '.join(absorbed)}); "
            "look at the model that it was made from"
        )
    return True


def reader(model: nn.Module, path: str, output: Tensor, images: Tensor, grid: tuple[int, int] | None) -> Reader:
    """What makes maps (N, C, h, w) of a layer's ``output``, of its activations and of their gradients alike.

    Args:
        model: without wrappers.
        path: of the layer.
        output: of the layer for ``images``.
        images: (N, C, H, W).
        grid: (h, w) of the last maps that a convolution made before it, if one did.

    Raises:
        ValueError: the output is no map, or cannot be read as one with certainty.
    """
    if not output.is_floating_point():
        raise ValueError(f"layer {path!r} gives {output.dtype}, a map needs fractions; pass another layer")
    shape = tuple(output.shape)
    if output.ndim in (3, 4) and shape[0] == len(images):
        found = _of_maps(model, path, images) if output.ndim == 4 else _of_tokens(model, path, shape, images, grid)
        if found is not None:
            return found
    elif output.ndim < 3:
        raise ValueError(
            f"layer {path!r} gives {shape}, a map needs (N, C, h, w) or the tokens of a grid; pick a layer before the "
            "maps are flattened"
        )
    unknown = "which of its axes are the map's channels, height and width"
    example = "lambda y: y.permute(0, 3, 1, 2) where the channels come last"
    if output.ndim == 3:
        unknown = "which of its tokens stands for which place of the image"
        example = "lambda y: y[:, 1:].transpose(1, 2).unflatten(2, (h, w)) where a class token comes first"
    raise ValueError(
        f"layer {path!r} gives {shape} for images {tuple(images.shape)}, and {unknown} is not certain; pass another "
        f"layer, such as a convolution, or reshape=, a callable that makes maps (N, C, h, w) of it ({example})"
    )


def checked(reshape: Callable[[Tensor], Tensor], path: str, images: int) -> Reader:
    """``reshape``, with its answer checked."""

    def read(output: Tensor) -> Tensor:
        maps = reshape(output)
        if not isinstance(maps, Tensor) or maps.ndim != 4 or maps.shape[0] != images or not maps.is_floating_point():
            got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
            raise ValueError(
                f"reshape makes {got} of the output {tuple(output.shape)} of layer {path!r}; it must return maps "
                f"(N, C, h, w) of {images} image{'s' * (images != 1)}"
            )
        return maps

    return read


def _of_maps(model: nn.Module, path: str, images: Tensor) -> Reader | None:
    """The reader of four-dimensional outputs; None if there is no telling."""
    known = isinstance(model, Classifier) and not gives_attention(model)  # all maps of the zoo are channels first
    if known or isinstance(dict(walk(model))[path], CHANNELS_FIRST):
        return _as_it_is
    height, width = images.shape[2:]
    plain, wide, high = (
        measure(model, path, images, size) for size in ((height, width), (height, 2 * width), (2 * height, width))
    )
    if plain is None or wide is None or high is None or not len(plain) == len(wide) == len(high) == 4:
        return None
    across = [axis for axis in range(4) if wide[axis] != plain[axis]]
    down = [axis for axis in range(4) if high[axis] != plain[axis]]
    if len(across) != 1 or len(down) != 1 or across == down or 0 in (*across, *down):
        return None
    (channels,) = {1, 2, 3} - {*across, *down}
    return lambda output: output.permute(0, channels, down[0], across[0])


def _of_tokens(
    model: nn.Module, path: str, shape: tuple[int, ...], images: Tensor, grid: tuple[int, int] | None
) -> Reader | None:
    """The reader of tokens, one for each cell of a grid and perhaps one for the class; None if there is no telling."""
    height, width = images.shape[2:]
    axis, extra = 1, -1
    if isinstance(model, Classifier) and path.startswith("blocks."):
        grid, extra = _grid(shape[1] - 1, height, width), 1
    elif grid is not None:
        fitting = [(axis, shape[axis] - math.prod(grid)) for axis in (1, 2) if 0 <= shape[axis] - math.prod(grid) <= 1]
        if len(fitting) != 1 or shape[0] == shape[1]:  # where both are equal, tokens or images may come first
            return None
        axis, extra = fitting[0]
    else:
        plain, large = (measure(model, path, images, size) for size in ((height, width), (2 * height, 2 * width)))
        if plain is None or large is None or not len(plain) == len(large) == 3:
            return None
        longer = [axis for axis in (1, 2) if large[axis] != plain[axis]]
        if len(longer) != 1:
            return None
        axis = longer[0]
        cells = (large[axis] - plain[axis]) // 3  # four times as many in the large image, and the rest stays
        extra, grid = shape[axis] - cells, _grid(cells, height, width)
    if grid is None or extra not in (0, 1) or min(grid) < 1:
        return None
    cells, sides = math.prod(grid), grid
    if isinstance(model, Classifier) and gives_attention(model):  # the zoo's: the class first, then row by row
        order: Tensor | None = torch.arange(extra, extra + cells)
    else:
        order = token_order(model, path, images, axis, grid, extra)
    if order is None:
        return None
    places = order

    def read(output: Tensor) -> Tensor:
        tokens = output.transpose(1, 2) if axis == 1 else output
        return tokens[:, :, places.to(tokens.device)].unflatten(2, sides)

    return read


def _as_it_is(output: Tensor) -> Tensor:
    return output


def _grid(cells: int, height: int, width: int) -> tuple[int, int] | None:
    """(h, w) with ``cells`` cells and the proportions of an image; None if there is none."""
    rows = math.isqrt(max(cells, 0) * height // width)
    if rows < 1 or cells % rows or rows * width != cells // rows * height:
        return None
    return rows, cells // rows


def no_class_map(model: nn.Module, layer: str) -> str:
    """Why ``method="cam"`` does not work here."""
    works = "attention" if gives_attention(model) else "hires_cam"
    if layer and not is_pooled(model, (layer,)):
        return (
            f"{name_of(model)} has no class activation map at {layer!r}: it needs global average pooling followed by "
            f"one linear layer right behind it; pass method='{works}'"
        )
    return (
        f"{name_of(model)} has no class activation map: it needs global average pooling followed by one linear layer, "
        f"and this head does more; pass method='{works}', or leave the method out"
    )


def no_gradient(model: nn.Module, layer: str) -> str:
    """Why a gradient method does not work at ``layer``."""
    text = f"the logits of {name_of(model)} have no gradient at {layer!r}"
    if gives_attention(model):
        norm = cam_layers(model)["hires_cam"][0]
        return (
            f"{text}: only the class token is read behind the last attention, so the other tokens no longer count; "
            f"pass layer={norm!r} or an earlier block's norm1, or method='attention'"
        )
    return (
        f"{text} for these images (units that are all off, or a layer behind which nothing follows); pass another layer"
    )
