"""Saving: a model into a folder in the layout of a Hub repository."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import registry
from .._checks import check_choice, check_mapping, check_path, check_text, shorten
from .._spread import gather_first, is_spread
from .._transform import per_channel, transform
from .._wrappers import unwrap
from ..models import Classifier
from ..profiling import profile
from . import find, fit, layouts
from .card import make_card
from .entries import FILE_NAME, WeightInfo, bundled_path
from .errors import WeightsError
from .files import read_tensors, write_tensors, write_text
from .folder import write_folder
from .hashes import sha256_of
from .load import create_pretrained
from .plain import as_built
from .schema import check_metrics, make_config, name_classes, read_info

REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
CARD_NAME, LOG_NAME = "README.md", "log.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def save_pretrained(
    model: Classifier | nn.Module,
    folder: str | os.PathLike[str],
    *,
    tag: str | None = None,
    classes: Sequence[str] | Mapping[str, str] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    crop_mode: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    dataset: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    license: str | None = None,
    dataset_terms: str | None = None,
    dtype: str = "float32",
    repo_id: str | None = None,
) -> Path:
    """Write a model as a repository: ``model.safetensors``, ``config.json`` and a model card.

    What is not given is taken from ``model.transform`` and ``model.weights`` where that still holds. Before the folder
    appears, the model is held against a freshly built one, and the files are loaded once; so what is there can be
    loaded.

    Args:
        model: a model of the zoo, of which tensors and the head may have been replaced; compiled, data-parallel and
            averaged models are saved as what is inside.
        folder: made if need be; other files in it stay.
        tag: what the weights were made from, such as ``"mnist"``; letters, digits, ``_`` and ``-``.
        classes: names of the classes in order; or, where the data set identifies them otherwise, a mapping in
            order from identifier to name and synonyms: ``{"n02123045": "tabby, tabby cat", ...}``. By default their
            numbers.
        mean: of the training images scaled to 0..1, per channel or one number for all.
        std: likewise.
        interpolation: how images are to be resized: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        crop_pct: part of the resized image's side that the centre crop keeps.
        crop_mode: ``"center"`` or ``"squash"``.
        metrics: ``top1`` and ``top5`` in percent, and ``n``, the number of images they were measured on.
        dataset: ``id`` on the Hub, ``split`` of the metrics, ``name``.
        recipe: how it was trained: names and values.
        license: of the weights, such as ``"mit"``; by default that of the loaded weights if their numbers are
            unchanged, else none is stated.
        dataset_terms: what the data set's owners ask for; by default likewise.
        dtype: of the numbers in the file: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        repo_id: ``owner/name`` on the Hub, where it will be published; the card then says so.

    Returns:
        The folder.

    Raises:
        TypeError: not a model of the zoo, or a value of the wrong kind.
        ValueError: something missing or out of range, or the model was changed so that it could not be loaded.
        OSError: the folder cannot be written; it is as it was.

    Example:
        >>> import convzoo, tempfile
        >>> model = convzoo.create_model("lenet5")
        >>> folder = convzoo.save_pretrained(model, tempfile.mkdtemp(), tag="mine", mean=0.13, std=0.31)
        >>> convzoo.create_model("lenet5", pretrained=folder).weights.name
        'lenet5.mine'
    """
    inner = unwrap(model) if isinstance(model, nn.Module) else model
    if not isinstance(inner, Classifier):
        raise TypeError(
            f"a model of the zoo can be saved, got {type(inner).__name__}; pass what create_model gave, or use "
            "safetensors.torch.save_file"
        )
    name = inner.config.name
    if is_spread(model):
        raise ValueError(gather_first(name, "save"))
    model = inner
    if model.feature_info is not None:
        raise ValueError(
            f"this {name} was made with features_only=True, and folders are of classifiers; keep its state_dict() (the "
            "keys are the classifier's), with safetensors.torch.save_file"
        )
    folder = check_path("folder", folder)
    old = model.weights
    tag = tag if tag is not None else (old.tag if old else None)
    if not isinstance(tag, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", tag):
        raise ValueError(f"tag must be letters, digits, _ and -, got {shorten(tag)}; pass e.g. tag='mnist'")
    if repo_id is not None and not REPOSITORY.fullmatch(check_text("repo_id", repo_id)):
        raise ValueError(f"repo_id must be 'owner/name', got {shorten(repo_id)}; pass e.g. 'me/{name}.{tag}'")
    known: dict[str, Any] = {"img_size": model.img_size}
    if model.transform is not None and model.transform.in_chans == model.in_chans:
        known = dict(vars(model.transform))
    given = {"mean": mean, "std": std, "interpolation": interpolation, "crop_pct": crop_pct, "crop_mode": crop_mode}
    known |= {what: value for what, value in given.items() if value is not None}
    if not known.keys() >= {"mean", "std"}:
        raise ValueError(
            f"mean and std of the training images of {name} are not known; pass mean= and std= per channel, of images "
            "scaled to 0..1 (0 and 1 if that was all), or set model.transform"
        )
    known |= {what: per_channel(what, known[what], model.in_chans) for what in ("mean", "std")}
    look = transform(**known)
    check_choice("dtype", dtype, tuple(DTYPES))
    info = WeightInfo(
        name=f"{name}.{tag}",
        architecture=name,
        tag=tag,
        repo_id=repo_id or "",
        dtype=dtype,
        num_classes=model.num_classes,
        **_name_classes(model, classes),
        in_chans=model.in_chans,
        **vars(look),
        temperature=old.temperature if old else 1.0,
        metrics=_check_metrics(check_mapping("metrics", metrics)),
        dataset=_plain("dataset", check_mapping("dataset", dataset)),
        recipe=_plain("recipe", check_mapping("recipe", recipe)),
        license="unknown" if license is None else check_text("license", license, empty=False),
        dataset_terms="" if dataset_terms is None else check_text("dataset_terms", dataset_terms),
        model_args=_changed_options(model),
    )
    try:
        read_info(make_config(model, info), "what was passed to save_pretrained")
    except WeightsError as error:  # what would not be read is not written
        raise ValueError(f"{error}") from error
    plain = as_built(model)
    if old and (license is None or dataset_terms is None) and _unchanged(plain, old):
        info = replace(
            info,
            license=old.license if license is None else info.license,
            dataset_terms=old.dataset_terms if dataset_terms is None else info.dataset_terms,
        )
    counted = profile(plain, (plain.in_chans, *info.img_size))
    info = replace(info, num_params=counted.params, macs=counted.macs)
    state = {key: _cast(key, value, DTYPES[dtype]) for key, value in plain.state_dict().items()}
    described = make_config(plain, info)

    def write(path: Path) -> None:
        write_tensors(path, state, {"format": "pt", "convzoo": described})

    def check(staging: Path) -> None:
        loaded = create_pretrained(name, staging).state_dict()
        wrong = [key for key, value in state.items() if not torch.equal(loaded[key], value.cpu().to(loaded[key].dtype))]
        if wrong and not any(value.isnan().any() for value in state.values()):
            raise ValueError(f"{wrong[0]} of this {name} was not read back as it was written; save it again")

    return write_repository(folder, plain, info, write, check)


def _name_classes(model: Classifier, classes: Sequence[str] | Mapping[str, str] | None) -> dict[str, Any]:
    """Names, identifiers and descriptions, as :class:`WeightInfo` has them."""
    old, name = model.weights, model.config.name
    if classes is None:
        if old is not None and old.num_classes == model.num_classes and old.classes:
            return {key: getattr(old, key) for key in ("classes", "class_ids", "class_descriptions")}
        return {"classes": tuple(map(str, range(model.num_classes)))}
    if isinstance(classes, (str, bytes, Set)) or not hasattr(classes, "__iter__"):
        raise TypeError(f"classes must be names in order, got {shorten(classes)}; pass a list, or a dict by identifier")
    texts = [str(text) for text in classes]
    if len(texts) != model.num_classes:
        raise ValueError(f"{name} has {model.num_classes} classes, got {len(texts)} names; pass one for each, in order")
    if isinstance(classes, Mapping):
        described = {str(identifier): str(text) for identifier, text in classes.items()}
        return {
            "classes": name_classes(described),
            "class_ids": tuple(described),
            "class_descriptions": tuple(described.values()),
        }
    return {"classes": tuple(texts)}


def _check_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured, as plain numbers."""
    plain = _plain("metrics", metrics)
    if plain and "n" not in plain:
        raise ValueError(f"metrics need n, the number of images measured, got {shorten(plain)}; add 'n': ...")
    return check_metrics(plain)


def _plain(what: str, value: Any) -> Any:
    """``value`` as JSON keeps it, with the numbers of numpy and torch as Python's.

    Raises:
        TypeError: something that JSON has no word for.
        ValueError: a number that is not finite.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{what}[{shorten(key)}]", each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(what, each) for each in value]
    if hasattr(value, "tolist"):  # numpy, torch
        return _plain(what, value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} must be finite, got {value}; leave it out, or write it as text")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise TypeError(f"{what} must be text, a number, a list or a dict of these, got {type(value).__name__}; convert it")


def _cast(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if not torch.equal(tensor.isfinite(), cast.isfinite()):
        raise ValueError(f"{key} holds numbers that {dtype} cannot; pass dtype='float32'")
    return cast


def _changed_options(model: Classifier) -> dict[str, Any]:
    """The options that differ from the architecture's own."""
    usual = registry.find_entry(model.config.name).config.options
    return {option: value for option, value in model.config.options.items() if value != usual[option]}


def _unchanged(plain: Classifier, old: WeightInfo) -> bool:
    """Whether the model still has the numbers of the weights that it was loaded with, which are read again."""
    try:
        if old.source == "package":
            path = bundled_path(old.name)
        elif "@" in old.source and not Path(old.source).exists():
            path = find.find_repository(old.repo_id, old.revision, find.Access(local_files_only=True)).path
        else:
            path = find.find_path(Path(old.source)).path
        state = layouts.convert(read_tensors(path), plain, old.layout)
    except (WeightsError, OSError):
        return False
    own = plain.state_dict()
    return not any(fit.differences(own, state)) and all(
        torch.equal(own[key].cpu(), state[key].to(own[key].dtype)) for key in own
    )


def write_repository(
    folder: Path,
    model: Classifier,
    info: WeightInfo,
    write: Callable[[Path], object],
    check: Callable[[Path], object] = lambda staging: None,
) -> Path:
    """Write the file (by ``write``), its description and its card as one; before they appear, ``check`` looks at them.

    Raises:
        OSError: something cannot be written; ``folder`` is as it was.
    """

    def fill(staging: Path) -> None:
        file = staging / FILE_NAME
        write(file)
        stated = replace(info, sha256=sha256_of(file), size=file.stat().st_size)
        write_text(staging / CARD_NAME, make_card(model, stated))
        config = json.dumps(make_config(model, stated), indent=2, ensure_ascii=False)
        write_text(staging / find.CONFIG_NAME, config + "\n")
        check(staging)

    write_folder(folder, fill, FILE_NAME, find.CONFIG_NAME)
    return folder
