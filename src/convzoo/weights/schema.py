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

from .._checks import check_choice, check_count, check_img_size, check_mapping, check_number, check_text, shorten
from .._transform import per_channel, transform
from .entries import WeightInfo
from .errors import WeightsCorrupted
from .files import reading
from .layouts import LAYOUTS

if TYPE_CHECKING:
    from ..models import Classifier

SCHEMA = 1
MAX_BYTES = 16 << 20  # of a description; the names of 20,000 classes take two million
MAX_CHANNELS, MAX_CLASSES = 4096, 10_000_000
MAX_SIDE, MIN_CROP = 8192, 0.1  # pixels of an image before it is cropped, and the part of it that is left


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
    if not isinstance(labels, (list, tuple)):
        raise TypeError(f"label_names must be a list, got {type(labels).__name__}")
    labels = tuple(str(label) for label in labels)
    if len(labels) != num_classes:
        return {}
    texts = check_mapping("label_descriptions", config.get("label_descriptions"))
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
        WeightsCorrupted: it is not one JSON object, or longer than any description is.
        WeightsError: the file cannot be read, see :func:`~convzoo.weights.files.reading`.
    """
    with reading(path), path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    return parse_config(text, str(path))


def parse_config(text: str | bytes, where: str) -> dict[str, Any]:
    """``text`` as one JSON object, or WeightsCorrupted that names ``where`` it stood."""
    if len(text) > MAX_BYTES:
        raise WeightsCorrupted(f"{where} is longer than {MAX_BYTES:,} bytes, so it is no description of weights")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsCorrupted(f"{where} is not JSON ({error}); fetch or write it again") from error
    if not isinstance(config, dict):
        raise WeightsCorrupted(f"{where} holds {type(config).__name__}, not an object; fetch or write it again")
    return config


def read_info(config: Mapping[str, Any], where: str, *, repo_id: str = "") -> WeightInfo:
    """What a ``config.json`` says of its weights; ours, timm's, or timm's older one without ``pretrained_cfg``.

    Raises:
        WeightsCorrupted: something needed is missing, of the wrong kind or out of all bounds.
    """
    try:
        return _read_info(config, repo_id)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        words = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsCorrupted(
            f"{where} does not describe weights ({words}); it needs architecture and, in pretrained_cfg, input_size "
            "[C, H, W], mean and std: correct it, or get another copy"
        ) from error


def _read_info(config: Mapping[str, Any], repo_id: str) -> WeightInfo:
    pretrained = check_mapping("pretrained_cfg", config.get("pretrained_cfg", config))
    own = check_mapping("convzoo", config.get("convzoo"))
    model_args = check_mapping("model_args", config.get("model_args"))
    architecture = check_text("architecture", config["architecture"], empty=False)
    tag = check_text("tag", pretrained.get("tag") or "")
    in_chans, height, width = pretrained["input_size"]
    # what the model was made with goes before what its images are said to be: timm keeps both
    in_chans = _first(model_args.pop("in_chans", None), in_chans)
    num_classes = config.get("num_classes", pretrained.get("num_classes", 1000))
    num_classes = _first(model_args.pop("num_classes", None), num_classes)
    in_chans = check_count("channels", in_chans, most=MAX_CHANNELS)
    num_classes = check_count("num_classes", num_classes, least=0, most=MAX_CLASSES)
    interpolation = pretrained.get("interpolation") or "bilinear"
    look = transform(
        check_img_size(_first(model_args.pop("img_size", None), (height, width))),
        per_channel("mean", pretrained["mean"], in_chans),
        per_channel("std", pretrained["std"], in_chans),
        interpolation="bilinear" if interpolation == "random" else interpolation,  # timm's, for training
        crop_pct=_first(pretrained.get("crop_pct"), 1.0),
        crop_mode=pretrained.get("crop_mode") or "center",
        preparation=own.get("preparation") or "",
    )
    if look.crop_pct < MIN_CROP or max(look.img_size) / look.crop_pct > MAX_SIDE:
        raise ValueError(
            f"crop_pct {look.crop_pct:g} of images of {look.img_size}; {MIN_CROP} to 1 and {MAX_SIDE} pixels are sane"
        )
    temperature = check_number("temperature", own.get("temperature", 1.0))
    if not 1e-3 <= temperature <= 1e3:
        raise ValueError(f"a temperature of {temperature:g}, where 0.001 to 1000 is sane")
    layout = own.get("key_layout", "convzoo") if own else "timm"
    return WeightInfo(
        name=f"{architecture}.{tag}" if tag else architecture,
        architecture=architecture,
        tag=tag,
        repo_id=repo_id,
        sha256=_hash(own.get("sha256")),
        size=_optional_count("size", own.get("size")),
        dtype=check_text("dtype", own.get("dtype", "float32")),
        num_classes=num_classes,
        **_read_classes(config, num_classes),
        in_chans=in_chans,
        **vars(look),
        temperature=temperature,
        metrics=check_metrics(check_mapping("metrics", own.get("metrics"))),
        dataset=check_mapping("dataset", own.get("dataset")),
        recipe=check_mapping("recipe", own.get("recipe")),
        license=str(pretrained.get("license") or "unknown"),
        dataset_terms=check_text("dataset_terms", own.get("dataset_terms") or ""),
        model_args=_options(model_args),
        num_params=_optional_count("num_params", own.get("num_params")),
        macs=_optional_count("macs", own.get("macs")),
        layout=str(check_choice("key_layout", layout, LAYOUTS)),
    )


def _first(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _optional_count(what: str, value: Any) -> int | None:
    return None if value is None else check_count(what, value, least=0, most=None)


def _hash(value: Any) -> str | None:
    if value is not None and not re.fullmatch(r"[0-9a-f]{64}", check_text("sha256", value)):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, got {shorten(value)}")
    return value


def check_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """What was measured; the accuracies must be numbers, since they are printed as such."""
    for key in {"top1", "top5"} & metrics.keys():
        if not 0 <= check_number(key, metrics[key]) <= 100:
            raise ValueError(f"{key} is in percent, 0 to 100, got {metrics[key]:g}; pass 100 times the share")
    if metrics.get("n") is not None:
        check_count("n, the number of images measured,", metrics["n"])
    return metrics


def _options(model_args: dict[str, Any]) -> dict[str, Any]:
    """The options of the architecture, less what timm writes beside them: its defaults (null), what is never
    otherwise here, and rates that matter in training only."""
    never = {"global_pool": "avg", "aux_logits": False}
    return {
        str(key): tuple(value) if isinstance(value, list) else value  # JSON has no tuples; the options do
        for key, value in model_args.items()
        if value is not None
        and not (key in never and never[key] == value)
        and not key.endswith(("drop_rate", "drop_path_rate"))
    }
