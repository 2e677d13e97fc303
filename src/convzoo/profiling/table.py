"""torchinfo's table of layers, with convzoo's counts written in.

torchinfo renders well and counts only what layers with parameters do, without their tokens. It is run on an empty
copy of the model; the figures in its table are then replaced.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .._modules import private_copy
from .inputs import Inputs
from .result import Layer, Profile

OPTIONS = ("depth", "col_names", "col_width", "row_settings")
UNITS = {"Units.TERABYTES": "T", "Units.GIGABYTES": "G", "Units.MEGABYTES": "M", "Units.NONE": ""}


def torchinfo_summary(ours: Profile, model: nn.Module, inputs: Inputs, options: dict[str, Any]) -> Any:
    """See :func:`convzoo.summary`."""
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise TypeError(f"summary has no option {unknown[0]!r}; its options are {', '.join(OPTIONS)}; leave it out")
    try:
        import torchinfo
        from torchinfo import torchinfo as engine
    except ImportError as error:
        raise ImportError("summary needs the package torchinfo, which is missing; pip install torchinfo") from error
    if "col_names" not in options:
        options = options | {"col_names": ("output_size", "num_params", "mult_adds")}
    args, kwargs = inputs
    empty = private_copy(model, device="meta", hooks=False)
    try:
        statistics = torchinfo.summary(
            empty, input_data=dict(kwargs) or list(args), device="meta", verbose=0, cache_forward_pass=False, **options
        )
        paths = {id(module): path for path, module in empty.named_modules()}
    finally:
        engine.clear_cached_forward_pass()  # it keeps the last model of each class alive
    rows = {layer.path: layer for layer in ours.layers}
    for info in statistics.summary_list:
        layer = rows.get(paths.get(id(info.module), ""))
        if layer is not None:
            write(info, layer)
    statistics.total_mult_adds = ours.macs
    statistics.total_params, statistics.trainable_params = ours.params, ours.trainable_params
    statistics.__class__ = with_our_totals(type(statistics), ours)
    return statistics


def write(info: Any, layer: Layer) -> None:
    """Put our figure into a row, one row for each time the module was called."""
    info.macs = layer.macs // max(layer.calls, 1)
    info.macs_to_str = lambda reached_max_depth: f"{info.macs:,}" if info.macs else "--"


def with_our_totals(base: type, ours: Profile) -> type:
    """torchinfo's result with its lines on units and memory put right."""

    class Table(base):
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
