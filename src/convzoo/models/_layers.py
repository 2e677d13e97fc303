"""What the first and the last layer of a network say about it, whoever put them there.

A user may replace the head or the first convolution by hand (``model.fc = nn.Linear(512, 3)``). The number of classes
and of channels is therefore read off the layers. Whether a layer is still the one that pretrained weights were loaded
into is told by a mark on the layer itself: it stays through ``deepcopy``, ``pickle``, ``to`` and ``load_state_dict``,
and a new layer does not have it.
"""

from __future__ import annotations

from torch import nn

_MARK = "_convzoo_weights"
PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Unfold)  # what they put out is of the images' own kind
_WIDTHS_IN = ("in_channels", "num_features", "num_channels")  # of convolutions, and of norms that stand first
_WIDTHS_READ = ("in_features", *_WIDTHS_IN)
_WIDTHS_OUT = ("out_features", "out_channels", "num_classes", "num_features")


def find_module(model: nn.Module, path: str) -> nn.Module | None:
    """The submodule at ``path``, if there is one."""
    module: nn.Module | None = model
    for name in path.split("."):
        if module is None:
            return None
        module = module._modules.get(name)
    return module


def first_layer(module: nn.Module) -> nn.Module | None:
    """The first layer inside ``module`` that has parameters, or that says how many channels it reads."""
    for child in module._modules.values():
        if child is not None:
            layer = child if _is_layer(child) else first_layer(child)
            if layer is not None:
                return layer
    return None


def entrance(model: nn.Module) -> nn.Module | None:
    """The first layer of ``model`` if that is what reads the images; None where it cannot be told.

    It cannot where a container begins with a function, for that may turn the images into anything, nor where the
    layer does not run the code of its class alone.
    """
    for child in model._modules.values():
        if child is not None:
            layer = _begin(child) if child._modules and not child._parameters else child
            if layer is not None and (layer is not child or _is_layer(child)):
                own_code = getattr(layer.forward, "__func__", None) is layer.__class__.forward
                return layer if _is_layer(layer) and own_code and not layer._forward_pre_hooks else None
    return None


def _begin(container: nn.Module) -> nn.Module | None:
    """The first module inside, at any depth, that has no modules in it."""
    for child in container._modules.values():
        if child is not None and not isinstance(child, PASSING):
            first = _begin(child) if child._modules and not child._parameters else child
            if first is not None:
                return first
    return None


def _is_layer(module: nn.Module) -> bool:
    return len(module._parameters) > 0 or _width(module, _WIDTHS_IN) is not None


def output_layer(head: nn.Module | None) -> nn.Module | None:
    """The layer of a head whose outputs are the logits; None where the head computes with nothing of its own.

    Of a :class:`~torch.nn.Sequential` it is the last that is more than a function, such as dropout or softmax, of its
    input.
    """
    if isinstance(head, nn.Sequential):
        layers = map(output_layer, reversed(head._modules.values()))
        return next((layer for layer in layers if layer is not None), None)
    if head is None:
        return None
    return head if head._parameters or head._buffers or head._modules or _width(head, _WIDTHS_OUT) is not None else None


def chans_in(layer: nn.Module | None) -> int | None:
    """Channels that a first layer reads; None where it does not say."""
    return None if layer is None else _width(layer, _WIDTHS_IN)


def classes_out(head: nn.Module | None) -> int | None:
    """Length of what ``head`` puts out; 0 for one that lets the features through, None where nothing says."""
    if head is None:
        return None
    layer = output_layer(head)
    if layer is None:
        return 0
    width = _width(layer, _WIDTHS_OUT)
    if width is None and (weight := layer._parameters.get("weight")) is not None and weight.ndim > 1:
        return weight.shape[0]
    return _width_of_parts(layer) if width is None else width


def _width_of_parts(head: nn.Module) -> int | None:
    """What a head of several layers puts out: the width that no other of them reads, in whatever order they are
    registered; where that is none or several, that of the last."""
    parts = [(part, width) for part in head._modules.values() if (width := classes_out(part))]
    read = [(part, _width(layer, _WIDTHS_READ)) for part, _ in parts if (layer := first_layer_of(part)) is not None]
    ends = {width for part, width in parts if not any(width == other for each, other in read if each is not part)}
    if len(ends) == 1:
        return ends.pop()
    return parts[-1][1] if parts else None


def first_layer_of(module: nn.Module | None) -> nn.Module | None:
    """``module`` if it is a layer, or the first one inside."""
    return module if module is None or _is_layer(module) else first_layer(module)


def mark(layer: nn.Module | None, weights: str) -> None:
    """Note in ``layer`` that the weights called ``weights`` were loaded into it."""
    if layer is not None:
        setattr(layer, _MARK, weights)


def is_marked(layer: nn.Module | None, weights: str) -> bool:
    """Whether ``layer``, or what it wraps, is the one that :func:`mark` was given."""
    if layer is None:
        return False
    return layer.__dict__.get(_MARK) == weights or any(part.__dict__.get(_MARK) == weights for part in layer.modules())


def _width(layer: nn.Module, names: tuple[str, ...]) -> int | None:
    for name in names:  # not by getattr alone: a module takes microseconds to say that it has no such attribute
        width = layer.__dict__.get(name) or (getattr(layer, name) if hasattr(type(layer), name) else None)
        if type(width) is int:
            return width
    return None
