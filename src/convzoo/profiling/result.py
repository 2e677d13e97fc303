"""What a profile says, and how it is shown."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .._checks import check_choice, check_count
from .._table import Column, Table


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
    def output(self) -> str:
        """The output shape in words."""
        if self.output_shape is None:
            return "-" if self.calls or self.macs else "not run"
        return times(self.output_shape)

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


def count_or_dash(number: int) -> str:
    """1234567 as 1,234,567, and nothing as a dash."""
    return f"{number:,}" if number else "-"


def times(shape: tuple[int, ...]) -> str:
    """(1, 64, 112, 112) as 64x112x112, the single image left out."""
    return "x".join(map(str, shape[1:] if len(shape) > 1 and shape[0] == 1 else shape)) or "1"


class Term(NamedTuple):
    """A part of a difference: which modules, how many of them, how much, and why."""

    type: str
    modules: int
    amount: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Our figures beside another counter's; ``macs_terms`` and ``params_terms`` add up to the differences."""

    model: str
    counter: str
    input_shape: tuple[int, ...]
    macs: int
    their_macs: int
    macs_terms: tuple[Term, ...]
    params: int
    their_params: int
    params_terms: tuple[Term, ...]

    def __str__(self) -> str:
        lines = [f"{self.model} at {times(self.input_shape)}: convzoo and {self.counter}"]
        for what, ours, terms, theirs in (
            ("MACs", self.macs, self.macs_terms, self.their_macs),
            ("parameters", self.params, self.params_terms, self.their_params),
        ):
            lines.append(f"{ours:>18,}  {what} by convzoo")
            for term in terms:
                modules = f"{term.modules} {term.type}" if term.modules > 1 else term.type
                lines.append(f"{term.amount:>+18,}  {modules}: {term.why}")
            lines.append(f"{theirs:>18,}  {what} by {self.counter}" + ("" if terms else ", the same"))
        return "\n".join(lines)


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

    def table(self, depth: int | None = None) -> Table:
        """The modules down to ``depth`` levels, None for all, as rows: ``to_csv``, ``to_dataframe``, ``to_dict``.

        Raises:
            TypeError, ValueError: ``depth`` is not a whole number of at least 1.
        """
        columns = [Column(key, key) for key in ("path", "type", "input_shape", "output_shape", "calls")]
        columns += [Column(key, key, str, True) for key in ("params", "macs", "share", "own_params", "own_macs")]
        return Table(columns, [layer._asdict() for layer in self._shown(depth)])

    def _shown(self, depth: int | None) -> list[Layer]:
        depth = None if depth is None else check_count("depth", depth)
        return [layer for layer in self.layers[1:] if depth is None or layer.depth <= depth]

    def _with_total(self, depth: int, name: Callable[[Layer], str], total: str) -> Table:
        shown = self._shown(depth)
        again = any(layer.calls > 1 for layer in shown)
        columns = [
            Column("path", "layer"),
            Column("type", "type"),
            Column("output", "output"),
            *([Column("calls", "calls", str, True)] if again else []),
            Column("params", "params", count_or_dash, True),
            Column("macs", "MACs", count_or_dash, True),
            Column("share", "share", lambda share: f"{100 * share:.1f} %" if share else "-", True),
        ]
        rows = [{**layer._asdict(), "path": name(layer), "output": layer.output} for layer in shown]
        figures = {"path": total, "params": self.params, "macs": self.macs, "share": 1.0, "calls": None}
        return Table(columns, [*rows, {**self.layers[0]._asdict(), "output": self.layers[0].output, **figures}])

    def _text(self, depth: int, name: Callable[[Layer], str]) -> str:
        head, *rows, total = str(self._with_total(depth, name, "total")).splitlines()
        line = "-" * max(map(len, (head, *rows, total)))
        return "\n".join([head, line, *rows, line, total, self._summary()])

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
        return self._text(1, lambda layer: layer.path)

    def _repr_html_(self) -> str:
        summary = html.escape(self._summary()).replace("\n", "<br>")
        return f"{self._with_total(1, lambda layer: layer.path, 'total')._repr_html_()}<p>{summary}</p>"

    def tree(self, depth: int = 2) -> str:
        """The modules down to ``depth`` levels, children indented under their parents.

        Raises:
            TypeError, ValueError: ``depth`` is not a whole number of at least 1.
        """
        return self._text(depth, lambda layer: "  " * (layer.depth - 1) + layer.path.rpartition(".")[2])

    def to_markdown(self, depth: int = 1) -> str:
        """The table in Markdown.

        Raises:
            TypeError, ValueError: ``depth`` is not a whole number of at least 1.
        """
        return self._with_total(depth, lambda layer: f"`{layer.path}`", "**total**").to_markdown()

    def to_csv(self, depth: int | None = None) -> str:
        """The layers down to ``depth`` as comma-separated values, a line of names first."""
        return self.table(depth).to_csv()

    def to_dataframe(self, depth: int | None = None) -> Any:
        """The layers down to ``depth`` as a pandas DataFrame.

        Raises:
            ImportError: pandas is not installed.
        """
        return self.table(depth).to_dataframe()

    def check(self, counter: str = "thop") -> Comparison:
        """Run another counter on an empty copy of the model, and explain term by term where it differs.

        Raises:
            ValueError: the counter is not known, these figures are not convzoo's own, or the model is gone or changed.
            ImportError: it is not installed.

        Example:
            >>> import convzoo
            >>> c = convzoo.profile(convzoo.create_model("resnet50"), (3, 196, 196)).check("thop")
            >>> c.macs, c.their_macs
            (3470766848, 3506562304)
            >>> sum(term.amount for term in c.macs_terms) == c.their_macs - c.macs
            True
        """
        check_choice("counter", counter, ("thop",))
        if self.counter != "convzoo" or self._source is None:
            raise ValueError(
                f"check compares convzoo's own figures, and these are {self.counter}'s or were stored and read again; "
                "call check on what profile(model, input_size) returns"
            )
        return self._source.compare(self)
