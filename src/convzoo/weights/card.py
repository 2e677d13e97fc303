"""The model card, ``README.md`` of a repository: front matter for the Hub, and a page for who finds it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .._checks import wilson_interval
from ..registry import find_entry
from .entries import OWNER, WeightInfo

if TYPE_CHECKING:
    from ..models import Classifier

METRICS = {"top1": ("accuracy", "top-1"), "top5": ("top-5 accuracy", "top-5")}
TIMM_FAMILIES = ("resnet", "resnext", "wide_resnet")


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
    name, split = str(info.dataset.get("id", "")), info.dataset.get("split")
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
        license=info.license,
        tags=["image-classification", "convzoo", "pytorch", family, *(["timm"] if reads_with_timm(info) else [])],
        **optional,
    ).to_yaml()


def body(model: Classifier, info: WeightInfo) -> str:
    """What a reader sees: Markdown."""
    about = find_entry(info.architecture).about
    height, width = info.img_size
    origin = ", ".join(str(part) for part in (about["authors"], f"*{about['paper']}*", about["year"]) if part)
    arxiv = f" ([arXiv:{about['arxiv']}](https://arxiv.org/abs/{about['arxiv']}))" if about["arxiv"] else ""
    repo_id = info.repo_id or f"{OWNER}/{info.name}"
    sections = [
        f"# {info.name}\n\n`{info.architecture}`{_trained_on(info)}. The architecture: {origin}{arxiv}.",
        "## Use\n\n```python\nimport convzoo\nfrom PIL import Image\n\n"
        f'model = convzoo.create_model("{info.architecture}", pretrained="{repo_id}")\n'
        'images = model.preprocess(Image.open("picture.png"))\n'
        "probabilities = model(images).softmax(-1)[0]\n"
        "print(model.weights.classes[probabilities.argmax()], float(probabilities.max()))\n```\n\n"
        "Another number of classes or channels: `num_classes=`, `in_chans=`.",
        _timm_use(info, repo_id),
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


def _trained_on(info: WeightInfo) -> str:
    name = info.dataset.get("id")
    return f" trained on [{name}](https://huggingface.co/datasets/{name})" if name else ""


def _timm_use(info: WeightInfo, repo_id: str) -> str:
    if not reads_with_timm(info):
        return ""
    return f'timm reads the same file: `timm.create_model("hf-hub:{repo_id}", pretrained=True)`.'


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _classes(info: WeightInfo) -> str:
    """The names in order, where they say more than the numbers 0, 1, 2 do."""
    if not info.classes or info.classes == tuple(map(str, range(info.num_classes))):
        return ""
    return f"## Classes\n\n{', '.join(info.classes)}."


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
        f"| {key} | {value if isinstance(value, (str, int, float)) else json.dumps(value)} |"
        for key, value in info.recipe.items()
    )
    return f"## Recipe\n\n| | |\n| --- | --- |\n{rows}"


def _terms(info: WeightInfo) -> str:
    terms = f" The data set: {info.dataset_terms}" if info.dataset_terms else ""
    return f"## Licence\n\nThe weights: {info.license}.{terms}"
