"""Models side by side: what each of them costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._checks import check_img_size, check_mapping, shorten
from ._table import Column, Table, times

COLUMNS = (
    Column("model", "model"),
    Column("input_size", "input", times),
    Column("params", "params", "{:,}".format, True),
    Column("macs", "MACs", "{:,}".format, True),
    Column("flops", "FLOPs", "{:,}".format, True),
    Column("activations", "activations", "{:,}".format, True),
    Column("param_bytes", "params MB", lambda count: f"{count / 1e6:.1f}", True),
    Column("peak_activation_bytes", "maps MB", lambda count: f"{count / 1e6:.1f}", True),
    Column("top1", "top-1 %", "{:.2f}".format, True),
)


def compare(
    models: Any,
    input_size: int | Sequence[int] | None = None,
    *,
    num_classes: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Table:
    """What models cost, side by side; nothing is run, and no memory taken for weights.

    Args:
        models: names of the zoo, also with wildcards (``"resnet*"``) or of weights (``"lenet5.mnist"``), or modules;
            one or a list.
        input_size: of one image, (channels, height, width), or height and width as one number; None: each model's own.
        num_classes: length of the logits; None: each model's own.
        options: the architecture's own options, for models given by name.

    Returns:
        A table: it prints, shows itself in a notebook, and has ``to_dict``, ``to_csv``, ``to_markdown`` and
        ``to_dataframe``. Its last column is the accuracy of the weights that are named.

    Raises:
        TypeError: something that is neither a name nor a module, a module without ``input_size``, or ``options`` of
            another kind.
        ValueError: no such model, or a size or option that it does not take.

    Example:
        >>> import convzoo
        >>> table = convzoo.compare(["resnet18", "mnist_res*"])
        >>> [row["macs"] for row in table]
        [1814073344, 786811136]
        >>> table.to_csv().splitlines()[0]
        'model,input_size,params,macs,flops,activations,param_bytes,peak_activation_bytes,top1'
    """
    given = list(models) if isinstance(models, (list, tuple, set, frozenset)) else [models]
    if not given:
        raise ValueError("there is no model in the list; give names or modules")
    own = check_mapping("options", options)
    return Table(COLUMNS, [row for model in given for row in _rows(model, input_size, num_classes, own)])


def _rows(
    model: Any, input_size: int | Sequence[int] | None, num_classes: int | None, options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if isinstance(model, str):
        return [_costs(name, *profile_by_name(name, input_size, num_classes, options)) for name in expand(model)]
    return [_costs(None, _profile_module(model, input_size), None)]


def _profile_module(model: Any, input_size: int | Sequence[int] | None) -> Any:
    from torch import nn

    from ._wrappers import unwrap
    from .models import Classifier
    from .profiling import profile

    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is a name or a torch.nn.Module, got {shorten(model)}; list_models() names all")
    inner = unwrap(model)
    if not isinstance(inner, Classifier) and (input_size is None or isinstance(input_size, int)):
        raise TypeError(f"the input of {type(inner).__name__} is not known; pass input_size=(channels, height, width)")
    return profile(model, input_size)


def profile_by_name(
    name: str,
    input_size: int | Sequence[int] | None = None,
    num_classes: int | None = None,
    options: Mapping[str, Any] | None = None,
    counter: str = "convzoo",
) -> tuple[Any, float | None]:
    """The profile of a model of the zoo, or of weights, built without memory; and the weights' accuracy in percent."""
    from . import registry
    from .models._init import build_empty
    from .profiling import profile
    from .weights import weight_info

    architecture, _, tag = name.partition(".")
    info = weight_info(name) if tag else None
    given = {**(info.model_args if info else {}), **(options or {})}
    row = registry.make_config(architecture, None, None, None, given)
    own = (info.in_chans, *info.img_size) if info else (row.in_chans, *check_img_size(row.img_size))
    chans, height, width = full_size(input_size, own[0], (own[1], own[2]))
    classes = num_classes if num_classes is not None else (info.num_classes if info else None)
    model = build_empty(registry.make_config(architecture, classes, chans, (height, width), given))
    changed = (input_size, num_classes) != (None, None) or options
    top1 = None if changed or info is None else info.metrics.get("top1")
    return profile(model, (chans, height, width), counter=counter), top1


def full_size(given: int | Sequence[int] | None, chans: int, img_size: tuple[int, int]) -> tuple[int, ...]:
    """(channels, height, width) of what is given: nothing, one number, (height, width) or all three."""
    if given is None:
        return (chans, *img_size)
    if isinstance(given, int):
        return (chans, given, given)
    if not isinstance(given, (tuple, list)):
        raise TypeError(f"an input has the size (channels, height, width), got {shorten(given)}; pass (3, 224, 224)")
    size = tuple(given)
    if len(size) not in (2, 3):
        raise ValueError(f"an input has the size (channels, height, width), got {size}; pass e.g. (3, 224, 224)")
    return size if len(size) == 3 else (chans, *size)


def expand(pattern: str) -> list[str]:
    """The names of models and weights that a name, or a pattern with wildcards, means.

    Raises:
        ValueError: none.
    """
    if not any(mark in pattern for mark in "*?["):
        return [pattern]
    if "." in pattern:
        from .weights import list_weights

        names = list_weights(pattern)
    else:
        from .zoo import list_models

        names = list_models(pattern)
    if not names:
        raise ValueError(f"no model matches {shorten(pattern)}; list_models() names all")
    return names


def _costs(name: str | None, profile: Any, top1: float | None) -> dict[str, Any]:
    keys = ("params", "macs", "flops", "activations", "param_bytes", "peak_activation_bytes")
    figures = {key: getattr(profile, key) for key in keys}
    return {"model": name or profile.model, "input_size": profile.input_shape[1:], **figures, "top1": top1}
