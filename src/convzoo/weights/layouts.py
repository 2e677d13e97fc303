"""Tensors under other people's names, made ours.

Ours are the names that torchvision and the T2T-ViT authors use, so most files need nothing. timm's ResNets agree;
its VGGs keep the hidden linear layers as convolutions under other names; transformers' ResNets have names of their own.
Around the names of the tensors stands whatever held the model when it was saved: other entries of a checkpoint, and
wrappers' names before or inside the keys.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_text, shorten
from .errors import WeightsMismatch

State = dict[str, Tensor]

# timm's VGG head: its first two layers are convolutions of 7x7 and 1x1
TIMM_VGG = {"pre_logits.fc1.": "classifier.0.", "pre_logits.fc2.": "classifier.3.", "head.fc.": "classifier.6."}
# transformers' ResNet: of a path in it, the path in ours
STAGE = r"encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d+)\."
TRANSFORMERS_RESNET = (
    (re.compile(r"embedder\.embedder\.convolution"), lambda found: "conv1"),
    (re.compile(r"embedder\.embedder\.normalization"), lambda found: "bn1"),
    (re.compile(STAGE + r"shortcut\.convolution"), lambda found: f"{_block(found)}.downsample.0"),
    (re.compile(STAGE + r"shortcut\.normalization"), lambda found: f"{_block(found)}.downsample.1"),
    (re.compile(STAGE + r"layer\.(\d)\.convolution"), lambda found: f"{_block(found)}.conv{int(found[3]) + 1}"),
    (re.compile(STAGE + r"layer\.(\d)\.normalization"), lambda found: f"{_block(found)}.bn{int(found[3]) + 1}"),
)
EMBEDDER = "embedder.embedder.convolution.weight"  # there is one in every such ResNet
COUNTER = "num_batches_tracked"  # of a batch norm; older files have none, and only an average over all batches reads it
DEPTH = 4  # mappings inside mappings that a checkpoint is searched through


LAYOUTS = ("convzoo", "torchvision", "t2t-official", "timm", "transformers")
AUX_HEADS = ("aux1", "aux2", "AuxLogits")  # in GoogLeNet's and Inception v3's files; a model built without has no use


def _without_aux_heads(state: State, own: Collection[str]) -> State:
    """The tensors but those of auxiliary heads that the model, whose keys are ``own``, has not."""
    unused = set(AUX_HEADS) - {key.split(".")[0] for key in own}
    return {key: tensor for key, tensor in state.items() if key.split(".")[0] not in unused}


def _from_timm(state: State) -> State:
    """VGG: three renames, and the hidden layers' kernels laid flat; the rest as it is."""
    renamed: State = {}
    for key, tensor in state.items():
        for theirs, ours in TIMM_VGG.items():
            if key.startswith(theirs):
                key = ours + key.removeprefix(theirs)
                tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        renamed[key] = tensor
    return renamed


def _block(found: re.Match[str]) -> str:
    """The path of a block of a ResNet, whose stages we count from 1."""
    return f"layer{int(found['stage']) + 1}.{found['block']}"


def _from_transformers(state: State) -> State:
    """ResNet: every layer renamed, whatever stands before the names; the rest as it is."""
    before = next((key.removesuffix(EMBEDDER) for key in state if key.endswith(EMBEDDER)), "")
    head = before.removesuffix("resnet.") + "classifier.1"
    renamed: State = {}
    for key, tensor in state.items():
        path, _, last = key.rpartition(".")
        if path == head:
            path = "fc"
        for pattern, ours in TRANSFORMERS_RESNET:
            if path.startswith(before) and (found := pattern.fullmatch(path.removeprefix(before))):
                path = ours(found)
        renamed[f"{path}.{last}"] = tensor
    return renamed


def detect(state: State) -> str:
    """Whose names these are, as far as they differ from ours."""
    if any(key.startswith(theirs) for key in state for theirs in TIMM_VGG):
        return "timm"
    if any(key.endswith(EMBEDDER) for key in state):
        return "transformers"
    return "torchvision"


def check_layout(layout: object) -> None:
    """Refuse what is neither a layout nor None.

    Raises:
        TypeError: no text.
        ValueError: no such layout.
    """
    if layout is not None and check_text("layout", layout) not in LAYOUTS:
        raise ValueError(f"unknown layout {shorten(layout)}; it is one of {', '.join(LAYOUTS)}, or None to find out")


def convert(source: Mapping[str, Any], model: nn.Module, layout: str | None = None, own: State | None = None) -> State:
    """The tensors under our names.

    Args:
        source: tensors by name, or a checkpoint that holds such a mapping.
        model: the model they are for.
        layout: whose names they have; None: found out.
        own: the model's state dict, if it is at hand.

    Raises:
        TypeError: there are no tensors, or the layout is no text.
        ValueError: no such layout.
        WeightsMismatch: several sets of tensors are for this model.
    """
    check_layout(layout)
    own = model.state_dict() if own is None else own
    if source.keys() == own.keys() and all(isinstance(value, Tensor) for value in source.values()):
        return dict(source)
    state = find_state(source, own)
    layout = layout or detect(state)
    if layout == "timm":
        state = _from_timm(state)
    elif layout == "transformers":
        state = _from_transformers(state)
    elif layout == "torchvision":
        state = _without_aux_heads(state, own)
    for key in own:
        if key not in state and key.rpartition(".")[2] == COUNTER:
            state[key] = torch.zeros((), dtype=torch.int64, device="cpu")
    return state


def find_state(source: Mapping[str, Any], own: Collection[str]) -> State:
    """The tensors for a model with the keys ``own``, wherever in a checkpoint they are, without names of wrappers.

    Raises:
        TypeError: there are no tensors, or the layout is no text.
        WeightsMismatch: several sets of tensors fit equally well.
    """
    candidates = list(_states(source, ()))
    if not candidates:
        key, value = next(iter(source.items()), ("", None))
        kind = f"{type(value).__name__} under {shorten(key)}" if source else "an empty mapping"
        raise TypeError(f"a state dict holds tensors by name, got {kind}; pass what model.state_dict() gives")
    found = [(path, prefix, state, names) for path, state in candidates for prefix, names in match(state, own)]
    if not found:
        return max((state for _, state in candidates), key=len)
    most = max(len(names) for *_, names in found)
    best = [each for each in found if len(each[-1]) == most]
    if len(best) > 1:
        places = " and ".join(_place(path, prefix) for path, prefix, *_ in best)
        raise WeightsMismatch(f"there are {len(best)} sets of tensors for this model, {places}; pass one of them alone")
    _, prefix, state, names = best[0]
    return strip(state, prefix, names)


def _states(source: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], State]]:
    """The tensors in ``source`` and in the mappings inside it, each set with the way to it."""
    tensors = {key: value for key, value in source.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for key, value in source.items():
        if isinstance(value, Mapping) and len(path) < DEPTH:
            yield from _states(value, (*path, str(key)))


def _place(path: tuple[str, ...], prefix: str) -> str:
    inside = "".join(f"[{key!r}]" for key in path)
    names = f"the names that begin with {prefix + '.'!r}" if prefix else "the names as they are"
    return f"{names} in {inside}" if inside and prefix else inside or names


def match(state: State, own: Collection[str]) -> list[tuple[str, dict[str, str]]]:
    """The prefixes under which ``state`` has at least half of the keys ``own``, and which key stands for which.

    A key stands for one of ours if it ends in the same name and its path becomes ours by leaving out, before and
    between, words that none of our paths has: what compiling, parallelising and wrapping put there.
    """
    words = {word for key in own for word in key.split(".")[:-1]}
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for key in state:
        *path, last = key.split(".")
        kept = [(place, word) for place, word in enumerate(path) if word in words] + [(len(path), last)]
        for start, (place, _) in enumerate(kept):
            name = ".".join(word for _, word in kept[start:])
            if name in own:
                groups[".".join(path[:place])][name].append(key)
    needed = sum(key.rpartition(".")[2] != COUNTER for key in own) / 2
    found = []
    for prefix, group in groups.items():
        names = {}
        for name, keys in group.items():
            exact = [key for key in keys if key == (f"{prefix}.{name}" if prefix else name)]
            if len(keys) == 1 or exact:
                names[name] = (exact or keys)[0]
        if sum(name.rpartition(".")[2] != COUNTER for name in names) >= needed:
            found.append((prefix, names))
    return found


def strip(state: State, prefix: str, names: Mapping[str, str]) -> State:
    """The tensors under ``prefix``: those in ``names`` under ours, the others under their own without the prefix.

    A warning names those outside the prefix, unless they only count: ``n_averaged`` and the like.
    """
    taken = set(names.values())
    stripped = {name: state[key] for name, key in names.items()}
    before = f"{prefix}." if prefix else ""
    outside = []
    for key, tensor in state.items():
        if key in taken:
            continue
        if key.startswith(before):
            stripped.setdefault(key.removeprefix(before), tensor)
        elif tensor.is_floating_point() or tensor.numel() > 1:
            outside.append(key)
    if outside:
        shown = ", ".join(outside[:3]) + (", ..." if len(outside) > 3 else "")
        warnings.warn(
            f"only the tensors whose names begin with {before!r} are used; {len(outside)} others are not: {shown}",
            stacklevel=2,
        )
    return stripped
