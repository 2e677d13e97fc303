"""Two well-known counters, thop and torchinfo, run on an empty copy of the model and never on the model itself.

Both are imported only when asked for. Two distributions install the import package ``thop``: the original ``thop``
(MIT) and a fork under the AGPL. convzoo asks for the original and runs whichever is there; the result says which.
"""

from __future__ import annotations

import inspect
import math
import warnings
import weakref
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from .._modules import private_copy
from ..models import ModelConfig
from ..registry import build
from .inputs import Inputs
from .result import Layer, Profile, times


class Source:
    """What a profile was taken of. The model is not kept alive; one of the zoo can be built again, empty."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model = weakref.ref(model)
        self._config = getattr(model, "config", None)
        self.inputs = inputs

    def model(self) -> nn.Module:
        """The model.

        Raises:
            ValueError: it is gone, and not one of the zoo.
        """
        model = self._model()
        if model is None and isinstance(self._config, ModelConfig):
            with torch.device("meta"):
                model = build(self._config)
        if model is None:
            raise ValueError(
                "the model of this profile is gone, and a check runs it once more; a profile does not keep its model "
                "alive; keep it in a variable, or call profile(model, input_size, counter='thop')"
            )
        return model


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


def find_thop() -> tuple[Any, str]:
    """The package and the distribution it came from.

    Raises:
        ImportError: there is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compares versions by distutils, which is deprecated
        try:
            import thop
        except ImportError as error:
            raise ImportError("counter 'thop' needs the package thop, which is missing; pip install thop") from error
    version = str(getattr(thop, "__version__", "of an unknown version"))
    return thop, f"thop {version}" if version.startswith("0.") else f"ultralytics-thop {version}"


def as_positional(model: nn.Module, inputs: Inputs) -> tuple[Any, ...]:
    """The inputs in the order of ``forward``, for a counter that takes them so."""
    args, kwargs = inputs
    if not kwargs:
        return args
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    if bound.kwargs:
        raise ValueError(
            f"thop passes inputs by position, and {', '.join(bound.kwargs)} can only be passed by name; "
            "use counter='convzoo', or a tuple of tensors"
        )
    return bound.args


class Counted(NamedTuple):
    """What thop says of a module: all inside, its own, and whether it has a rule for the module as a whole."""

    macs: int
    own_macs: int
    params: int
    whole: bool


def run_thop(model: nn.Module, inputs: Inputs) -> tuple[str, dict[str, Counted]]:
    """Which thop, and what it says of each module, by path."""
    thop, name = find_thop()
    empty = private_copy(model, device="meta", hooks=False)
    macs, params, inside = thop.profile(empty, inputs=as_positional(empty, inputs), verbose=False, ret_layer_info=True)
    counted: dict[str, Counted] = {}

    def note(path: str, macs: float, params: float, inside: dict[str, Any]) -> None:
        own = macs - sum(child[0] for child in inside.values())
        counted[path] = Counted(round(macs), round(own), round(params), not inside)
        for key, child in inside.items():
            note(f"{path}.{key}" if path else key, *child)

    note("", float(macs), float(params), inside)
    return name, counted


def thop_profile(ours: Profile, model: nn.Module, inputs: Inputs) -> Profile:
    """``ours`` with thop's parameters and MACs in it; what thop does not tell stays."""
    name, counted = run_thop(model, inputs)
    total = counted[""]
    nothing = Counted(0, 0, 0, whole=False)
    layers = []
    for layer in ours.layers:
        theirs = counted.get(layer.path, nothing)
        inside = [counted.get(each.path, nothing).params for each in ours.layers if parent(each.path) == layer.path]
        layers.append(
            layer._replace(
                macs=theirs.macs,
                own_macs=theirs.own_macs,
                params=theirs.params,
                own_params=theirs.params - sum(inside) if layer.path else 0,
                share=theirs.macs / (total.macs or 1),
            )
        )
    return replace(ours, params=total.params, macs=total.macs, layers=tuple(layers), counter=name)


def parent(path: str) -> str | None:
    """The path of the module around the one at ``path``; the model itself has none."""
    return path.rpartition(".")[0] if path else None


def compare(ours: Profile, counter: str) -> Comparison:
    """See :meth:`Profile.check`."""
    if counter != "thop":
        raise ValueError(f"unknown counter {counter!r}; a profile can be checked against 'thop'; pass that")
    if ours.counter != "convzoo" or ours._source is None:
        raise ValueError(
            f"check compares convzoo's own figures, and these are {ours.counter}'s or were stored and read again; "
            "call check on what profile(model, input_size) returns"
        )
    model, inputs = ours._source.model(), ours._source.inputs
    with torch.inference_mode(False), torch.no_grad():
        name, counted = run_thop(model, inputs)
    rows = {layer.path: layer for layer in ours.layers}
    missed: dict[str, list[tuple[Layer | None, int]]] = defaultdict(list)
    for path in {**rows, **counted}:
        theirs, mine = counted.get(path), rows.get(path)
        if theirs is not None and theirs.whole:  # one figure for all inside
            own = sum(each.own_macs for each in ours.layers if f"{each.path}.".startswith(f"{path}.") or not path)
            difference = theirs.own_macs - own
        elif theirs is not None:
            difference = theirs.own_macs - (mine.own_macs if mine else 0)
        else:
            difference = 0 if mine is None or within_whole(path, counted) else -mine.own_macs
        if difference:
            missed[mine.type if mine else "shared module"].append((mine, difference))
    macs_terms = tuple(
        Term(kind, len(items), sum(amount for _, amount in items), why_macs(kind, items))
        for kind, items in missed.items()
    )
    return Comparison(
        model=ours.model,
        counter=name,
        input_shape=ours.input_shape,
        macs=ours.macs,
        their_macs=counted[""].macs,
        macs_terms=macs_terms,
        params=ours.params,
        their_params=counted[""].params,
        params_terms=params_terms(ours, counted),
    )


def why_macs(kind: str, items: list[tuple[Layer | None, int]]) -> str:
    """In words, why thop's figure for modules of one type is another."""
    if all(amount < 0 for _, amount in items):
        return "products that thop has no rule for"
    layers = [layer for layer, _ in items if layer is not None]
    amount = sum(amount for _, amount in items)
    elements = sum(math.prod(layer.input_shape or ()) * layer.calls for layer in layers)
    outputs = sum(math.prod(layer.output_shape or ()) * layer.calls for layer in layers)
    if "AdaptiveAvgPool" in kind:
        return f"the mean of every window, {outputs:,} outputs"
    if elements and amount % elements == 0:
        return f"{amount // elements} per element, {elements:,} elements"
    if outputs and amount % outputs == 0:
        return f"{amount // outputs} per output, {outputs:,} outputs"
    return "another formula, or a module that counts once for every place it stands at"


def params_terms(ours: Profile, counted: dict[str, Counted]) -> tuple[Term, ...]:
    """The parameters that thop leaves out, and those it counts more than once, by type of module."""
    missed: dict[tuple[str, str], list[int]] = defaultdict(list)
    for layer in ours.layers:
        theirs = counted.get(layer.path)
        if theirs is not None and theirs.whole:
            amount = theirs.params - layer.params
            why = "thop has no rule for it" if layer.calls else "did not run, and thop counts what runs"
        else:
            amount = -layer.own_params if theirs is not None or not within_whole(layer.path, counted) else 0
            why = "parameters of its own, beside those of the modules inside"
        if amount > 0:
            why = "counted again where it is shared"
        if amount:
            missed[layer.type, why].append(amount)
    extra = counted[""].params - ours.params - sum(map(sum, missed.values()))
    if extra:
        missed["shared module", "counted again where it is shared"].append(extra)
    return tuple(Term(kind, len(amounts), sum(amounts), why) for (kind, why), amounts in missed.items())


def within_whole(path: str, counted: dict[str, Counted]) -> bool:
    """Whether thop has one figure for a module around the one at ``path``."""
    around = parent(path)
    while around is not None and around not in counted:
        around = parent(around)
    return around is not None and counted[around].whole
