"""``config.json`` of a repository, to and from a :class:`WeightInfo`.

The schema is timm's (architecture, model_args, pretrained_cfg, label_names), so that timm reads our repositories and
we read timm's, and a block ``convzoo`` with what that schema has no place for. timm ignores unknown names at the top
level and refuses them inside ``pretrained_cfg``: ours stay in the block.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .entries import WeightInfo
from .errors import WeightsCorrupted
from .preprocess import CROP_MODES, INTERPOLATIONS, PREPARATIONS

if TYPE_CHECKING:
    from ..models import Classifier

SCHEMA = 1


def make_config(model: Classifier, info: WeightInfo) -> dict[str, Any]:
    """The content of ``config.json`` for ``model``, whose weights ``info`` describes."""
    first = next((name for name, module in model.named_modules() if getattr(module, "in_channels", 0)), "")
    return {
        "architecture": info.architecture,
        "num_classes": info.num_classes,
        "num_features": model.num_features,
        "global_pool": "avg",
        **_write_classes(info),
        "model_args": dict(info.model_args),
        "pretrained_cfg": {
            "tag": info.tag,
            "custom_load": False,
            "input_size": [info.in_chans, *info.img_size],
            "fixed_input_size": model.fixed_size,
            "interpolation": info.interpolation,
            "crop_pct": info.crop_pct,
            "crop_mode": info.crop_mode,
            "mean": list(info.mean),
            "std": list(info.std),
            "num_classes": info.num_classes,
            "first_conv": first,
            "classifier": model.classifier_name,
            "license": info.license,
        },
        "convzoo": {
            "schema": SCHEMA,
            "key_layout": info.layout,
            "dtype": info.dtype,
            "sha256": info.sha256,
            "size": info.size,
            "num_params": info.num_params,
            "macs": info.macs,
            "preparation": info.preparation,
            "temperature": info.temperature,
            "dataset": dict(info.dataset),
            "dataset_terms": info.dataset_terms,
            "metrics": dict(info.metrics),
            "recipe": dict(info.recipe),
        },
    }


def _write_classes(info: WeightInfo) -> dict[str, Any]:
    """timm's two keys: the identifiers (or names, where there are none), and the text of each identifier."""
    if not info.class_ids:
        return {"label_names": list(info.classes)}
    texts = info.class_descriptions or info.classes
    return {
        "label_names": list(info.class_ids),
        "label_descriptions": dict(zip(info.class_ids, texts, strict=True)),
    }


def name_classes(descriptions: Mapping[str, str]) -> tuple[str, ...]:
    """A name of each class: the first synonym of its description, with the identifier where two are the same.

    Example:
        >>> name_classes({"n1": "tabby, tabby cat", "n2": "crane", "n3": "crane"})
        ('tabby', 'crane (n2)', 'crane (n3)')
    """
    first = {identifier: text.split(",")[0].strip() or identifier for identifier, text in descriptions.items()}
    count = Counter(first.values())
    return tuple(word if count[word] == 1 else f"{word} ({identifier})" for identifier, word in first.items())


def _read_classes(config: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Names, identifiers and descriptions, as :class:`WeightInfo` has them; none if their number is wrong.

    Labels are identifiers if no letter in them stands beside another, as in synset numbers.
    """
    labels = config.get("label_names", config.get("labels")) or ()
    if isinstance(labels, Mapping):  # {"0": name, ...}
        labels = [labels[key] for key in sorted(labels, key=int)]
    labels = tuple(str(label) for label in labels)
    if len(labels) != num_classes:
        return {}
    texts = dict(config.get("label_descriptions") or {})
    own = "convzoo" in config  # we write descriptions for identifiers only
    if not texts or not (own or all(re.search(r"[^\W\d_]{2}", label) is None for label in labels)):
        return {"classes": labels}
    described = {label: str(texts.get(label) or label) for label in labels}
    return {
        "classes": name_classes(described),
        "class_ids": labels,
        "class_descriptions": tuple(described.values()),
    }


def read_config(path: Path) -> dict[str, Any]:
    """The content of a ``config.json``.

    Raises:
        WeightsCorrupted: it is not one JSON object.
    """
    return parse_config(path.read_bytes(), str(path))


def parse_config(text: str | bytes, where: str) -> dict[str, Any]:
    """``text`` as one JSON object, or WeightsCorrupted that names ``where`` it stood."""
    try:
        config = json.loads(text)
    except ValueError as error:
        raise WeightsCorrupted(f"{where} is not JSON ({error}); fetch or write it again") from error
    if not isinstance(config, dict):
        raise WeightsCorrupted(f"{where} holds {type(config).__name__}, not an object; fetch or write it again")
    return config


def read_info(config: Mapping[str, Any], where: str, *, repo_id: str = "", revision: str | None = None) -> WeightInfo:
    """What a ``config.json`` says of its weights; ours, timm's, or timm's older one without ``pretrained_cfg``.

    Raises:
        WeightsCorrupted: something needed is missing or of the wrong kind.
    """
    ours = config.get("convzoo")
    pretrained = config.get("pretrained_cfg", config)
    try:
        own = dict(ours or {})
        architecture = str(config["architecture"])
        tag = str(pretrained.get("tag") or "")
        in_chans, height, width = (int(value) for value in pretrained["input_size"])
        num_classes = int(config.get("num_classes", pretrained.get("num_classes", 1000)))
        info = WeightInfo(
            name=f"{architecture}.{tag}" if tag else architecture,
            architecture=architecture,
            tag=tag,
            repo_id=repo_id,
            revision=revision,
            sha256=own.get("sha256"),
            size=own.get("size"),
            dtype=str(own.get("dtype", "float32")),
            num_classes=num_classes,
            **_read_classes(config, num_classes),
            in_chans=in_chans,
            img_size=(height, width),
            mean=_per_channel(pretrained["mean"], in_chans),
            std=_per_channel(pretrained["std"], in_chans),
            interpolation=str(pretrained.get("interpolation") or "bilinear"),
            crop_pct=float(pretrained.get("crop_pct") or 1.0),
            crop_mode=str(pretrained.get("crop_mode") or "center"),
            preparation=str(own.get("preparation") or ""),
            temperature=float(own.get("temperature", 1.0)),
            metrics=dict(own.get("metrics") or {}),
            dataset=dict(own.get("dataset") or {}),
            recipe=dict(own.get("recipe") or {}),
            license=str(pretrained.get("license") or "unknown"),
            dataset_terms=str(own.get("dataset_terms") or ""),
            model_args=_options(dict(config.get("model_args") or {}), num_classes, in_chans),
            num_params=own.get("num_params"),
            macs=own.get("macs"),
            layout=str(own.get("key_layout", "convzoo")) if ours else "timm",
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsCorrupted(
            f"{where} does not describe weights ({type(error).__name__}: {error}); it needs architecture and, in "
            "pretrained_cfg, input_size [C, H, W], mean and std"
        ) from error
    _check(info, where)
    return info


def _per_channel(values: Any, in_chans: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) == 1:
        numbers *= in_chans
    if len(numbers) != in_chans:
        raise ValueError(f"{len(numbers)} values of mean or std for {in_chans} channels")
    return numbers


def _options(model_args: dict[str, Any], num_classes: int, in_chans: int) -> dict[str, Any]:
    """The options of the architecture, less what timm writes beside them: what stands elsewhere in the file, what is
    never otherwise here, and rates that matter in training only."""
    known = {"num_classes": num_classes, "in_chans": in_chans, "global_pool": "avg", "aux_logits": False}
    return {
        str(key): tuple(value) if isinstance(value, list) else value  # JSON has no tuples; the options do
        for key, value in model_args.items()
        if not (key in known and known[key] == value) and not key.endswith(("drop_rate", "drop_path_rate"))
    }


def _check(info: WeightInfo, where: str) -> None:
    wrong = None
    if min(info.in_chans, *info.img_size) < 1 or info.num_classes < 0:
        wrong = f"sizes below 1: {(info.in_chans, *info.img_size)}, {info.num_classes} classes"
    elif not all(value > 0 for value in info.std):
        wrong = f"std {info.std}"
    elif not 0 < info.crop_pct <= 1:
        wrong = f"crop_pct {info.crop_pct}"
    elif info.interpolation not in INTERPOLATIONS and info.interpolation != "random":
        wrong = f"interpolation {info.interpolation!r}, not one of {', '.join(INTERPOLATIONS)}"
    elif info.crop_mode not in CROP_MODES:
        wrong = f"crop_mode {info.crop_mode!r}, not one of {', '.join(CROP_MODES)}"
    elif info.preparation not in PREPARATIONS:
        wrong = f"preparation {info.preparation!r}, not one of {', '.join(map(repr, PREPARATIONS))}"
    elif not 1e-3 <= info.temperature <= 1e3:
        wrong = f"temperature {info.temperature}"
    if wrong:
        raise WeightsCorrupted(f"{where} says {wrong}; correct it or get another copy")
