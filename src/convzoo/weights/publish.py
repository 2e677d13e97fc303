"""The way out: a model into a folder in the Hub's layout, a folder into the package."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..models import Classifier
from ..profiling import profile
from .card import make_card
from .entries import FILE_NAME, OWNER, WeightInfo, bundled_path, read_table, weight_info, write_table
from .errors import WeightsNotFound
from .files import replacing, sha256_of, write_tensors, write_text
from .find import CONFIG_NAME, find_path
from .preprocess import CROP_MODES, INTERPOLATIONS
from .schema import make_config, name_classes, read_info

CARD_NAME, LOG_NAME = "README.md", "log.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PACKAGE_LIMIT = 16_000_000  # bytes of weights that travel in the package


def save_pretrained(
    model: Classifier,
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

    What is not given is taken from ``model.transform`` and ``model.weights`` where that still holds.

    Args:
        model: a model of the zoo.
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
        license: of the weights (``"mit"``).
        dataset_terms: what the data set's owners ask for.
        dtype: of the numbers in the file: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        repo_id: where it will be published; ``convzoo/ARCHITECTURE.TAG`` by default.

    Returns:
        The folder.

    Raises:
        TypeError: not a model of the zoo.
        ValueError: something missing or out of range.

    Example:
        >>> import convzoo, tempfile
        >>> model = convzoo.create_model("lenet5")
        >>> folder = convzoo.save_pretrained(model, tempfile.mkdtemp(), tag="mine", mean=0.13, std=0.31)
        >>> convzoo.create_model("lenet5", pretrained=folder).weights.name
        'lenet5.mine'
    """
    if not isinstance(model, Classifier):
        raise TypeError(
            f"a model of the zoo can be saved, got {type(model).__name__}; pass the model itself, unwrapped"
        )
    old = model.weights
    if old is not None and old.num_classes == model.num_classes and classes is None:
        named: dict[str, Any] = {
            "classes": old.classes,
            "class_ids": old.class_ids,
            "class_descriptions": old.class_descriptions,
        }
    else:
        named = _name_classes(classes)
    seen = model.transform
    if seen is not None and seen.in_chans != model.in_chans:
        seen = None
    if seen is not None:
        mean, std = (seen.mean if mean is None else mean), (seen.std if std is None else std)
    tag = tag if tag is not None else (old.tag if old else None)
    name = model.config.name
    if tag is None or not re.fullmatch(r"[A-Za-z0-9_-]+", tag):
        raise ValueError(f"tag must be letters, digits, _ and -, got {tag!r}; pass e.g. tag='mnist'")
    if mean is None or std is None:
        raise ValueError(
            f"mean and std of the training images of {name} are not known; pass mean= and std= per channel, of images "
            "scaled to 0..1 (0 and 1 if that was all), or set model.transform"
        )
    named["classes"] = named["classes"] or tuple(map(str, range(model.num_classes)))
    if len(named["classes"]) != model.num_classes:
        raise ValueError(
            f"{name} has {model.num_classes} classes, got {len(named['classes'])} names; pass one for each, in order"
        )
    if metrics and not isinstance(metrics.get("n"), int):
        raise ValueError(f"metrics need n, the number of images measured, got {dict(metrics)!r}; add 'n': ...")
    _choose("dtype", dtype, DTYPES)
    state = {key: _cast(key, value, DTYPES[dtype]) for key, value in model.state_dict().items()}
    counted = profile(model, (model.in_chans, *model.img_size))
    info = WeightInfo(
        name=f"{name}.{tag}",
        architecture=name,
        tag=tag,
        repo_id=repo_id or f"{OWNER}/{name}.{tag}",
        dtype=dtype,
        num_classes=model.num_classes,
        **named,
        in_chans=model.in_chans,
        img_size=seen.img_size if seen else model.img_size,
        mean=_per_channel("mean", mean, model.in_chans),
        std=_per_channel("std", std, model.in_chans),
        interpolation=_choose(
            "interpolation", interpolation or (seen.interpolation if seen else "bilinear"), INTERPOLATIONS
        ),
        crop_pct=crop_pct if crop_pct is not None else (seen.crop_pct if seen else 1.0),
        crop_mode=_choose("crop_mode", crop_mode or (seen.crop_mode if seen else "center"), CROP_MODES),
        preparation=seen.preparation if seen else "",
        temperature=old.temperature if old else 1.0,
        metrics=dict(metrics or {}),
        dataset=dict(dataset or {}),
        recipe=dict(recipe or {}),
        license=license or (old.license if old else "mit"),
        dataset_terms=dataset_terms if dataset_terms is not None else (old.dataset_terms if old else ""),
        model_args=_changed_options(model),
        num_params=counted.params,
        macs=counted.macs,
    )
    described = make_config(model, info)
    read_info(described, "save_pretrained")  # what would not be read is not written

    return _write_repository(
        Path(folder), model, info, lambda path: write_tensors(path, state, {"format": "pt", "convzoo": described})
    )


def _name_classes(classes: Sequence[str] | Mapping[str, str] | None) -> dict[str, Any]:
    """Names, identifiers and descriptions, as :class:`WeightInfo` has them."""
    if isinstance(classes, Mapping):
        described = {str(identifier): str(text) for identifier, text in classes.items()}
        texts = tuple(described.values())
        return {"classes": name_classes(described), "class_ids": tuple(described), "class_descriptions": texts}
    return {"classes": tuple(map(str, classes or ()))}


def _choose(what: str, value: str, allowed: Any) -> str:
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {value!r}; pass one of these")
    return value


def _per_channel(what: str, values: Sequence[float] | float, chans: int) -> tuple[float, ...]:
    numbers = (float(values),) * chans if isinstance(values, (int, float)) else tuple(float(value) for value in values)
    if len(numbers) != chans:
        raise ValueError(f"{what} needs {chans} values, one a channel, got {len(numbers)}; pass one number for all")
    return numbers


def _cast(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    if tensor.isfinite().all() and not cast.isfinite().all():
        raise ValueError(f"{key} holds numbers that {dtype} cannot; pass dtype='float32'")
    return cast


def _changed_options(model: Classifier) -> dict[str, Any]:
    """The options that differ from the architecture's own."""
    usual = registry.find_entry(model.config.name).config.options
    return {option: value for option, value in model.config.options.items() if value != usual[option]}


def _write_repository(folder: Path, model: Classifier, info: WeightInfo, write_file: Callable[[Path], object]) -> Path:
    """The three files, made beside the folder and moved there whole; ``config.json``, with the hash, comes last."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        file = staging / FILE_NAME
        write_file(file)
        info = replace(info, sha256=sha256_of(file), size=file.stat().st_size)
        write_text(staging / CARD_NAME, make_card(model, info))
        write_text(staging / CONFIG_NAME, _to_json(make_config(model, info)))
        folder.mkdir(exist_ok=True)
        for name in (FILE_NAME, CARD_NAME, CONFIG_NAME):
            (staging / name).replace(folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _to_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def export_bundled(name: str, folder: str | os.PathLike[str]) -> Path:
    """Write weights of the package as a repository, the file byte for byte as the entry pins it.

    Raises:
        WeightsNotFound: the package has none of that name.
    """
    info = weight_info(name)
    source = bundled_path(name)
    if not source.is_file():
        raise WeightsNotFound(f"the weights {name} do not travel in the package; download them from {info.repo_id}")
    model = registry.create_model(name, pretrained=True)
    return _write_repository(Path(folder), model, info, lambda path: shutil.copyfile(source, path))


def bundle(folder: str | os.PathLike[str], *, default: bool | None = None, copy: bool = True) -> WeightInfo:
    """Put a folder that :func:`save_pretrained` wrote into the package: its file, its log, its entry in the table.

    For maintainers, in a checkout. The weights are loaded once first, so that what does not load does not get in.

    Args:
        folder: with ``model.safetensors`` and ``config.json``, and the training's ``log.json`` if there is one.
        default: make these what ``pretrained=True`` means; None: if the architecture has no default yet.
        copy: False writes the entry alone, for weights that live on the Hub or in ``weights/hub``.

    Returns:
        The entry.

    Raises:
        WeightsError: the folder is not sound, or does not fit its architecture.
        ValueError: the package would outgrow its limit.
    """
    folder = Path(folder)
    info = find_path(folder).info
    if info is None or not info.tag:
        raise WeightsNotFound(f"the folder {folder} has no {CONFIG_NAME} with a tag; write it with save_pretrained")
    registry.create_model(info.architecture, pretrained=folder)
    source, target = folder / FILE_NAME, bundled_path(info.name)
    table = read_table()
    entries, defaults = dict(table[0]), dict(table[1])
    before = entries.get(info.name)
    info = replace(
        info,
        repo_id=f"{OWNER}/{info.name}",
        sha256=sha256_of(source),
        size=source.stat().st_size,
        revision=before.revision if before and before.sha256 == sha256_of(source) else None,
        source="",
    )
    if copy:
        others = sum(path.stat().st_size for path in target.parent.glob("*.safetensors") if path != target)
        if others + source.stat().st_size > PACKAGE_LIMIT:
            raise ValueError(
                f"the package's weights would take {others + source.stat().st_size:,} bytes, {PACKAGE_LIMIT:,} are "
                "allowed; keep these on the Hub (copy=False)"
            )
        target.parent.mkdir(exist_ok=True)
        copies = [(source, target)]
        if (folder / LOG_NAME).is_file():
            copies.append((folder / LOG_NAME, target.with_suffix(".json")))
        for origin, place in copies:
            with replacing(place) as temporary:
                shutil.copyfile(origin, temporary)
    entries[info.name] = info
    if default or (default is None and info.architecture not in defaults):
        defaults[info.architecture] = info.tag
    write_table(entries, defaults)
    return info


def pin(name: str, commit: str) -> None:
    """Write into the table that the weights ``name`` are published as ``commit``."""
    entries, defaults = read_table()
    write_table({**entries, name: replace(entries[name], revision=commit)}, defaults)
