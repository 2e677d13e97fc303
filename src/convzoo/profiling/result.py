"""What a profile says, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .peers import Comparison


class Layer(NamedTuple):
    """One module. ``params`` and ``macs`` include the modules inside; the ``own_`` figures do not and add up to the
    totals. ``macs`` are those of all ``calls``, ``share`` is their share of the model's. The shapes are of the first
    tensor in and out at the first call, for one image; None where the module did not run. A parameter that several
    modules share counts at the first."""

    path: str
    type: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    params: int
    macs: int
    share: float
    calls: int
    own_params: int
    own_macs: int

    @property
    def depth(self) -> int:
        """0 for the model itself, 1 for its children."""
        return self.path.count(".") + 1 if self.path else 0


def short(number: float, unit: str = "") -> str:
    """4089184256 as 4.089 G: decimal prefixes, four digits."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3f} {prefix}{unit}"
    return f"{number:,} {unit}".rstrip()


def times(shape: tuple[int, ...] | None) -> str:
    """(1, 64, 112, 112) as 64x112x112, the single image left out."""
    if shape is None:
        return "not run"
    return "x".join(map(str, shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)) or "1"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Parameters and costs of a model for one image, in inference.

    Attributes:
        model: name of the model, or of its class.
        input_shape: shape of the (first) input, one image.
        params: elements of the parameters, each once, used or not.
        trainable_params: those that require a gradient.
        buffers: elements of the buffers, such as running statistics.
        macs: multiply-accumulates of convolutions, linear layers and matrix products.
        activations: elements of the outputs of convolutions, linear layers and matrix products.
        param_bytes: memory of the parameters.
        peak_activation_bytes: largest sum of the maps alive at once, the input included; an estimate: workspace that
            a kernel takes for itself is not in it.
        layers: one row per module, the model itself first.
        uncounted: operators that ran and have no formula; what they compute is missing in ``macs``.
        counter: whose figures these are.

    Example:
        >>> import convzoo
        >>> p = convzoo.profile(convzoo.create_model("resnet18"), (3, 224, 224))
        >>> p.params, p.macs, p.flops
        (11689512, 1814073344, 3628146688)
    """

    model: str
    input_shape: tuple[int, ...]
    params: int
    trainable_params: int
    buffers: int
    macs: int
    activations: int
    param_bytes: int
    peak_activation_bytes: int
    layers: tuple[Layer, ...] = field(repr=False)
    uncounted: tuple[str, ...] = ()
    counter: str = "convzoo"
    _source: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_source"}  # a weak reference

    @property
    def flops(self) -> int:
        """Floating-point operations: two per multiply-accumulate."""
        return 2 * self.macs

    def to_dict(self) -> dict[str, Any]:
        """All the figures as numbers, strings, lists and dicts, fit for JSON."""
        names = [name for name in self.__dataclass_fields__ if not name.startswith("_") and name != "layers"]
        figures = {name: getattr(self, name) for name in names}
        figures["input_shape"], figures["uncounted"] = list(self.input_shape), list(self.uncounted)
        figures["flops"] = self.flops
        figures["layers"] = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in layer._asdict().items()}
            for layer in self.layers
        ]
        return figures

    def _shown(self, depth: int) -> Iterator[tuple[Layer, tuple[str, ...]]]:
        for layer in self.layers[1:]:
            if layer.depth <= depth:
                share = f"{100 * layer.share:.1f} %" if layer.macs else "-"
                macs = f"{layer.macs:,}" if layer.macs else "-"
                params = f"{layer.params:,}" if layer.params else "-"
                output = "-" if layer.macs and not layer.calls else times(layer.output_shape)
                if layer.calls > 1:
                    output += f" ({layer.calls} calls)"
                yield layer, (layer.type, output, params, macs, share)

    def _table(self, depth: int, indent: bool) -> str:
        head = ("layer", "type", "output", "params", "MACs", "share")
        rows = []
        for layer, cells in self._shown(depth):
            name = "  " * (layer.depth - 1) + layer.path.rpartition(".")[2] if indent else layer.path
            rows.append((name, *cells))
        last = self.layers[0]
        total = ("total", last.type, times(last.output_shape), f"{self.params:,}", f"{self.macs:,}", "100.0 %")
        widths = [max(map(len, column)) for column in zip(head, total, *rows, strict=True)]

        def line(cells: tuple[str, ...]) -> str:
            parts = [
                cell.ljust(width) if column < 3 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ]
            return "  ".join(parts).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([line(head), rule, *map(line, rows), rule, line(total)])

    def _summary(self) -> str:
        frozen = self.params - self.trainable_params
        return (
            f"{self.model} at {times(self.input_shape)}: {short(self.params)} parameters"
            + (f" ({frozen:,} frozen)" if frozen else "")
            + f", {short(self.macs, 'MACs')} = {short(self.flops, 'FLOPs')}, {short(self.activations)} activations; "
            f"{self.param_bytes / 1e6:.1f} MB of parameters, maps of {self.peak_activation_bytes / 1e6:.1f} MB at the "
            f"peak (estimate); per image, counted by {self.counter}"
            + (f"\nnot counted: {', '.join(self.uncounted)}" if self.uncounted else "")
        )

    def __str__(self) -> str:
        return f"{self._table(1, indent=False)}\n{self._summary()}"

    def tree(self, depth: int = 2) -> str:
        """The modules down to ``depth`` levels, children indented under their parents.

        Raises:
            TypeError, ValueError: ``depth`` is not a whole number of at least 1.
        """
        from .._checks import check_count

        return f"{self._table(check_count('depth', depth), indent=True)}\n{self._summary()}"

    def to_markdown(self, depth: int = 1) -> str:
        """The table in Markdown.

        Raises:
            TypeError, ValueError: ``depth`` is not a whole number of at least 1.
        """
        from .._checks import check_count

        lines = ["| layer | type | output | params | MACs | share |", "| --- | --- | --- | ---: | ---: | ---: |"]
        lines += [
            f"| {' | '.join((f'`{layer.path}`', *cells))} |"
            for layer, cells in self._shown(check_count("depth", depth))
        ]
        last = self.layers[0]
        lines.append(
            f"| **total** | {last.type} | {times(last.output_shape)} | {self.params:,} | {self.macs:,} | 100.0 % |"
        )
        return "\n".join(lines)

    def check(self, counter: str = "thop") -> Comparison:
        """Run another counter on an empty copy of the model, and explain term by term where it differs.

        Raises:
            ValueError: the counter is not known, or these figures are not convzoo's own.
            ImportError: it is not installed.

        Example:
            >>> import convzoo
            >>> c = convzoo.profile(convzoo.create_model("resnet50"), (3, 196, 196)).check("thop")
            >>> c.macs, c.their_macs
            (3470766848, 3506562304)
            >>> sum(term.amount for term in c.macs_terms) == c.their_macs - c.macs
            True
        """
        from .peers import compare

        return compare(self, counter)
