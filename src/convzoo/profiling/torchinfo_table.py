"""torchinfo's table of layers, with convzoo's counts written in.

torchinfo renders well and counts only what layers with parameters do, without their tokens. It is run on an empty
copy of the model; the figures in its table are then replaced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .._checks import check_choice, check_count, shorten
from .._modules import private_copy
from .._wrappers import unwrap
from .inputs import Inputs
from .result import Profile

# The options of torchinfo.summary that shape the table, and the names that their values are made of; empty: a number.
OPTIONS: dict[str, tuple[str, ...]] = {
    "depth": (),
    "col_names": ("kernel_size", "input_size", "output_size", "num_params", "params_percent", "mult_adds", "trainable"),
    "col_width": (),
    "row_settings": ("depth", "var_names", "ascii_only", "hide_recursive_layers"),
}
UNITS = {"Units.TERABYTES": "T", "Units.GIGABYTES": "G", "Units.MEGABYTES": "M", "Units.NONE": ""}


def check_options(options: dict[str, Any]) -> None:
    """Refuse options that torchinfo.summary does not have, or not with such values.

    Raises:
        TypeError: an unknown option, or a value of the wrong kind.
        ValueError: an unknown name among the values, or a number that is too small.
    """
    for name, value in options.items():
        if name not in OPTIONS:
            raise TypeError(
                f"summary has no option {shorten(name)}; its options are {', '.join(OPTIONS)}; leave it out"
            )
        known = OPTIONS[name]
        if not known:
            check_count(name, value)
        elif isinstance(value, str) or not isinstance(value, (tuple, list)):
            raise TypeError(f"{name} is a tuple of names, got {shorten(value)}; the names are {', '.join(known)}")
        else:
            for each in value:
                check_choice(f"each of {name}", each, known)


def torchinfo_summary(ours: Profile, model: nn.Module, inputs: Inputs, options: dict[str, Any]) -> Any:
    """See :func:`convzoo.summary`."""
    try:
        import torchinfo
        from torchinfo import torchinfo as engine
    except ImportError as error:
        raise ImportError("summary needs the package torchinfo, which is missing; pip install torchinfo") from error
    if "col_names" not in options:
        options = options | {"col_names": ("output_size", "num_params", "mult_adds")}
    empty = private_copy(model, device="meta", hooks=False)
    for theirs, own in zip(empty.parameters(), unwrap(model).parameters(), strict=True):
        theirs.requires_grad_(own.requires_grad)
    paths = {id(module): path for path, module in empty.named_modules()}
    options |= {"input_data": inputs.kwargs or list(inputs.args), "device": "meta", "verbose": 0}
    try:
        with torch.inference_mode(False), torch.no_grad():
            statistics: Any = torchinfo.summary(empty, cache_forward_pass=False, **options)
    except Exception as error:  # of the model we know that it can be counted
        reason = shorten(str(error.__cause__ or error), 200)
        raise ValueError(
            f"torchinfo has no table for {ours.model} ({reason}); convzoo.profile has one of its own"
        ) from error
    finally:
        engine.clear_cached_forward_pass()  # it keeps the last model of each class alive
    rows = {layer.path: layer for layer in ours.layers}
    for info in statistics.summary_list:  # a row for each call: ours goes into the first
        layer = rows.pop(paths.get(id(info.module), ""), None)
        info.macs = layer.macs if layer else 0
        text = f"{info.macs:,}" if info.macs else "--"
        if layer and layer.macs and layer.calls > 1:
            text += f" ({layer.calls} calls)"
        info.macs_to_str = lambda reached_max_depth, text=text: text
    statistics.total_mult_adds = ours.macs
    statistics.total_params, statistics.trainable_params = ours.params, ours.trainable_params
    statistics.__class__ = with_our_totals(type(statistics), ours)
    return statistics


def with_our_totals(base: type, ours: Profile) -> type:
    """torchinfo's result with its lines on units and memory put right."""

    class Table(base):  # type: ignore[misc] # which class it is, is known when it runs
        def __repr__(self) -> str:
            lines = []
            for line in super().__repr__().splitlines():
                for unit, letter in UNITS.items():
                    line = line.replace(f" ({unit})", f" ({letter})" if letter else "")
                if line.startswith(("Forward/backward pass size", "Estimated Total Size")):
                    continue  # for training, and of some layers only
                if line.startswith("Params size"):
                    line = (
                        f"Params size (MB): {ours.param_bytes / 1e6:.2f}\n"
                        f"Largest sum of live maps (MB, estimate): {ours.peak_activation_bytes / 1e6:.2f}"
                    )
                lines.append(line)
            return "\n".join(lines)

    Table.__name__ = base.__name__
    return Table
