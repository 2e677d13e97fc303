"""Which stage of a net a parameter belongs to.

``Classifier.stages`` names the layer that each stage ends with. Layers are registered in the order in which they run,
so a stage is everything behind the end of the one before it, up to its own end. What comes after the last stage is the
head, and so are auxiliary heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._base import Classifier

HEAD = "head"


def stage_of_modules(net: Classifier) -> dict[str, str]:
    """Path of every module of ``net`` to the name of its stage, or to ``"head"``; the net itself is of the first."""
    places = {path: place for place, (path, _) in enumerate(net.named_modules(remove_duplicate=False))}
    ends: dict[str, int] = {}
    for stage, end in net.stages.items():
        inside = [place for path, place in places.items() if path == end or path.startswith(f"{end}.")]
        if inside:  # a backbone of a few maps has the first stages only
            ends[stage] = max(inside)
    found = {path: next((stage for stage in ends if place <= ends[stage]), HEAD) for path, place in places.items()}
    for path in found:
        if path.partition(".")[0] in net.aux_heads:
            found[path] = HEAD
    return found


def stage_of_parameters(net: Classifier) -> dict[str, str]:
    """Path of every parameter of ``net`` to the name of its stage, or to ``"head"``."""
    modules = stage_of_modules(net)
    return {path: modules[path.rpartition(".")[0]] for path, _ in net.named_parameters()}


def number_stages(net: Classifier) -> dict[str, int]:
    """Path of every parameter of ``net`` to the place of its stage, counted from the image inwards."""
    places = {stage: place for place, stage in enumerate([*net.stages, HEAD])}
    return {path: places[stage] for path, stage in stage_of_parameters(net).items()}
