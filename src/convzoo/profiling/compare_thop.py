"""thop, the best-known counter, run on an empty copy of the model; and where its figures differ from ours, and why.

It is imported only when asked for. Two distributions install the import package ``thop``: the original ``thop`` (MIT)
and a fork under the AGPL. convzoo asks for the original and runs whichever is there; the result says which.
"""

from __future__ import annotations

import inspect
import math
import warnings
import weakref
from collections import defaultdict
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from .._checks import shorten
from .._modules import private_copy
from .._wrappers import unwrap
from ..models import ModelConfig
from ..models._init import build_empty
from .count import count
from .inputs import Inputs
from .result import Comparison, Layer, Profile, Term


class Counted(NamedTuple):
    """What thop says of a module with and without those inside; ``whole``: it looks at none of those."""

    macs: int
    params: int
    own_macs: int
    own_params: int
    whole: bool


NOTHING = Counted(0, 0, 0, 0, whole=False)


class Source:
    """What a profile was taken of. The model is not kept alive; one of the zoo can be built again, empty."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model = weakref.ref(model)
        self._config = getattr(unwrap(model), "config", None)
        self.inputs = inputs

    def compare(self, ours: Profile) -> Comparison:
        """Ours beside thop's.

        Raises:
            ValueError: the model is gone and cannot be built again, or it is another by now.
        """
        model = self._model()
        gone = model is None
        if model is None and isinstance(self._config, ModelConfig):
            model = build_empty(self._config)
        if model is None or count(model, self.inputs)[0] != ours:
            raise ValueError(
                f"the model of this profile is {'gone' if gone else 'another by now'}, and a check runs it once more; "
                "keep the model in a variable and unchanged until then, or call profile(model, counter='thop')"
            )
        return compare(ours, *run_thop(model, self.inputs))


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


def run_thop(model: nn.Module, inputs: Inputs) -> tuple[str, dict[str, Counted]]:
    """Which thop, and what it says of each module, by path."""
    thop, name = find_thop()
    empty = private_copy(model, device="meta", hooks=False)
    args = inputs.args
    if inputs.kwargs:  # thop passes inputs by position
        bound = inspect.signature(empty.forward).bind(*args, **inputs.kwargs)
        if bound.kwargs:
            raise ValueError(
                f"thop passes inputs by position, and {', '.join(bound.kwargs)} can only be passed by name; "
                "use counter='convzoo', or a tuple of inputs"
            )
        args = bound.args
    with torch.inference_mode(False), torch.no_grad():
        try:
            totals = thop.profile(empty, inputs=args, verbose=False, ret_layer_info=True)
        except Exception as error:  # of the model we know that it can be counted
            raise ValueError(
                f"thop cannot count {type(empty).__name__} ({shorten(str(error), 200)}); convzoo's own count is there"
            ) from error
    counted: dict[str, Counted] = {}

    def note(path: str, macs: float, params: float, inside: dict[str, Any]) -> None:
        own_macs = macs - sum(child[0] for child in inside.values())
        own_params = params - sum(child[1] for child in inside.values())
        counted[path] = Counted(round(macs), round(params), round(own_macs), round(own_params), not inside)
        for key, child in inside.items():
            note(f"{path}.{key}" if path else key, *child)

    note("", *totals)
    return name, counted


def thop_profile(ours: Profile, model: nn.Module, inputs: Inputs) -> Profile:
    """``ours`` with thop's parameters and MACs in it; what thop does not tell stays."""
    name, counted = run_thop(model, inputs)
    total = counted[""]
    layers = []
    for layer in ours.layers:
        figures = counted.get(layer.path, NOTHING)._asdict()
        del figures["whole"]
        layers.append(layer._replace(**figures, share=figures["macs"] / (total.macs or 1)))
    return replace(ours, params=total.params, macs=total.macs, layers=tuple(layers), uncounted=(), counter=name)


def compare(ours: Profile, name: str, counted: dict[str, Counted]) -> Comparison:
    """The difference of both counts, by type of module and by reason."""
    rows = {layer.path: layer for layer in ours.layers}
    mine: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for path, row in rows.items():
        place = looked_at(path, counted)
        mine[place][0] += row.own_macs
        mine[place][1] += row.own_params
    terms: list[dict[tuple[str, str], list[tuple[Layer | None, int]]]] = [defaultdict(list), defaultdict(list)]
    for path in {**mine, **counted}:
        layer, theirs = rows.get(path), counted.get(path, NOTHING)
        kind = layer.type if layer else "shared module"
        macs, params = theirs.own_macs - mine[path][0], theirs.own_params - mine[path][1]
        if macs:
            terms[0][kind, ""].append((layer, macs))
        if params:
            terms[1][kind, why_params(layer, theirs, params)].append((layer, params))
    return Comparison(
        model=ours.model,
        counter=name,
        input_shape=ours.input_shape,
        macs=ours.macs,
        their_macs=counted[""].macs,
        macs_terms=tuple(
            Term(kind, len(items), sum(amount for _, amount in items), why_macs(kind, items))
            for (kind, _), items in terms[0].items()
        ),
        params=ours.params,
        their_params=counted[""].params,
        params_terms=tuple(
            Term(kind, len(items), sum(amount for _, amount in items), why) for (kind, why), items in terms[1].items()
        ),
    )


def looked_at(path: str, counted: dict[str, Counted]) -> str:
    """The module for which thop has one figure with that of the module at ``path`` in it: mostly that module itself."""
    around = path
    while around and around not in counted:
        around = around.rpartition(".")[0]
    return around if counted[around].whole else path


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


def why_params(layer: Layer | None, theirs: Counted, amount: int) -> str:
    """In words, why thop's figure for the parameters of a module is another."""
    if layer is None or amount > 0:
        return "counted again where it is shared"
    if not layer.calls:
        return "did not run, and thop counts what runs"
    return "thop has no rule for it" if theirs.whole else "parameters of its own, beside those of the modules inside"
