"""The model card, ``README.md`` of a repository: front matter for the Hub, and a page for who finds it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._checks import wilson_interval
from ..registry import find_entry
from .entries import WeightInfo

if TYPE_CHECKING:
    from ..models import Classifier

METRICS = {"top1": ("accuracy", "top-1"), "top5": ("top-5 accuracy", "top-5")}
TIMM_FAMILIES = ("resnet", "resnext", "wide_resnet")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
LONGEST, LONGEST_TERMS = 300, 4000  # characters of a value in the text


def make_card(model: Classifier, info: WeightInfo) -> str:
    """The whole text of the card."""
    return f"---\n{front_matter(info)}\n---\n\n{body(model, info)}"


def reads_with_timm(info: WeightInfo) -> bool:
    """True where timm has the same net under the same name, with the same tensors."""
    return find_entry(info.architecture).about["family"] in TIMM_FAMILIES and not info.model_args


def front_matter(info: WeightInfo) -> str:
    """What the Hub reads: YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    family = find_entry(info.architecture).about["family"]
    name, split = _dataset_id(info), info.dataset.get("split")
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=name or "unknown",
            dataset_name=str(info.dataset.get("name", name or "unknown")),
            dataset_split=split,
            dataset_revision=info.dataset.get("revision"),
            metric_type="accuracy",
            metric_name=METRICS[key][0],
            metric_value=value,
        )
        for key, value in info.metrics.items()
        if key in METRICS
    ]
    optional: dict[str, Any] = {"datasets": [name]} if name else {}
    if results:
        optional |= {"metrics": ["accuracy"], "model_name": info.name, "eval_results": results}
    return ModelCardData(
        library_name="convzoo",
        pipeline_tag="image-classification",
        license=None if info.license == "unknown" else info.license,
        tags=["image-classification", "convzoo", "pytorch", family, *(["timm"] if reads_with_timm(info) else [])],
        **optional,
    ).to_yaml()


def escape(value: object, longest: int = LONGEST) -> str:
    """``value`` as Markdown that shows it as it is inside a line, also in a table; a long one is cut.

    Example:
        >>> print(escape("a|b <i> *c* d_e"))
        a\\|b &lt;i> \\*c\\* d_e
    """
    text = " ".join(str(value).split())
    if len(text) > longest:
        text = f"{text[: longest - 3]}..."
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"[\\`*\[\]|~$!]|(?<!\w)_|_(?!\w)", lambda match: f"\\{match[0]}", text)


def _dataset_id(info: WeightInfo) -> str:
    """The data set's name on the Hub, if it is one that the Hub can have."""
    name = str(info.dataset.get("id") or "")
    return name if len(name) <= LONGEST and HUB_NAME.fullmatch(name) else ""


def body(model: Classifier, info: WeightInfo) -> str:
    """What a reader sees: Markdown."""
    height, width = info.img_size
    source = info.repo_id or "path/to/this/folder"
    sections = [
        f"# {info.name}\n\n`{info.architecture}`{_trained_on(info)}. {_origin(find_entry(info.architecture).about)}",
        "## Use\n\n```python\nimport convzoo\nfrom PIL import Image\n\n"
        f'model = convzoo.create_model("{info.architecture}", pretrained="{source}")\n'
        'images = model.preprocess(Image.open("picture.png"))\n'
        "probabilities = model.probabilities(model(images))[0]\n"
        "print(model.weights.classes[probabilities.argmax()], float(probabilities.max()))\n```\n\n"
        "Another number of classes or channels: `num_classes=`, `in_chans=`.",
        _timm_use(info),
        "## Sizes\n\n| | |\n| --- | --- |\n"
        f"| parameters | {info.num_params:,} |\n"
        f"| multiply-accumulates | {info.macs:,} |\n"
        f"| file | {(info.size or 0) / 1e6:.2f} MB, {info.dtype} |\n"
        f"| input | {info.in_chans} x {height} x {width} |\n"
        f"| classes | {info.num_classes} |\n"
        f"| features | {model.num_features} |",
        "## Preprocessing\n\n"
        f"{'Squashed' if info.crop_mode == 'squash' else 'Shorter side resized, then centre-cropped,'} to "
        f"{height} x {width} ({info.interpolation}, crop {info.crop_pct:g}); scaled to 0..1; mean "
        f"{_numbers(info.mean)}, std {_numbers(info.std)}. `model.preprocess` does it.",
        _classes(info),
        _metrics(info),
        _recipe(info),
        "## Where it looks\n\n```python\nimages = model.preprocess(picture)\n"
        "explained = convzoo.cam(model, images)  # class activation maps\n"
        "pictures = explained.overlay(images)\n```",
        _terms(info),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _origin(about: Mapping[str, Any]) -> str:
    """Where the architecture is from: its paper, or where else it is described."""
    paper = str(about["paper"] or "")
    if not paper:
        source = f": {escape(about['source'])}" if about["source"] else ""
        return f"The architecture has no paper of its own{source}."
    parts = (escape(about["authors"] or ""), f"*{escape(paper)}*", about["year"])
    arxiv = f" ([arXiv:{about['arxiv']}](https://arxiv.org/abs/{about['arxiv']}))" if about["arxiv"] else ""
    return f"The architecture: {', '.join(str(part) for part in parts if part)}{arxiv}."


def _trained_on(info: WeightInfo) -> str:
    name = _dataset_id(info)
    if name:
        return f" trained on [{escape(name)}](https://huggingface.co/datasets/{name})"
    text = info.dataset.get("name") or info.dataset.get("id")
    return f" trained on {escape(text)}" if text else ""


def _timm_use(info: WeightInfo) -> str:
    if not reads_with_timm(info):
        return ""
    source = f"hf-hub:{info.repo_id}" if info.repo_id else "local-dir:path/to/this/folder"
    return f'timm reads the same file: `timm.create_model("{source}", pretrained=True)`.'


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _classes(info: WeightInfo) -> str:
    """The names in order, where they say more than the numbers 0, 1, 2 do."""
    if not info.classes or info.classes == tuple(map(str, range(info.num_classes))):
        return ""
    return f"## Classes\n\nIn order: {', '.join(map(escape, info.classes))}."


def _metrics(info: WeightInfo) -> str:
    count = info.metrics.get("n")
    rows = []
    for key, value in info.metrics.items():
        if key in METRICS and count:
            low, high = wilson_interval(value, count)
            rows.append(f"| {METRICS[key][1]} | {value:.2f} % | {low:.2f} to {high:.2f} % | {count:,} |")
    if not rows:
        return ""
    table = "\n".join(rows)
    return f"## Metrics\n\n| | measured | 95 % interval | images |\n| --- | --- | --- | --- |\n{table}"


def _recipe(info: WeightInfo) -> str:
    if not info.recipe:
        return ""
    rows = "\n".join(
        f"| {escape(key)} | {escape(value if isinstance(value, (str, int, float)) else json.dumps(value))} |"
        for key, value in info.recipe.items()
    )
    return f"## Recipe\n\n| | |\n| --- | --- |\n{rows}"


def _terms(info: WeightInfo) -> str:
    terms = f" The data set: {escape(info.dataset_terms, LONGEST_TERMS)}" if info.dataset_terms else ""
    stated = "no licence is stated" if info.license == "unknown" else escape(info.license)
    return f"## Licence\n\nThe weights: {stated}.{terms}"
