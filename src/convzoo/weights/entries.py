"""The table of weights: one entry per ``architecture.tag``, kept as data in ``entries.json``.

The table is read when it is first asked for, never at import.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._checks import did_you_mean, match_names, shorten
from .._table import as_json, facts
from . import package
from .errors import WeightsNotFound
from .package import BUNDLED, ENTRIES

if TYPE_CHECKING:
    from .._transform import Transform
    from ..models import ModelConfig

OWNER = "convzoo"  # of our repositories on the Hub
FILE_NAME = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class WeightInfo:
    """One set of weights: what it is, where it is, what it expects and what it reaches.

    Attributes:
        name: ``architecture.tag``.
        architecture: the model's name in :func:`convzoo.list_models`.
        tag: what the weights were made from, such as ``"mnist"``.
        repo_id: the repository on the Hub.
        revision: the commit the entry is pinned to; None before it is published.
        file: the file in that repository.
        sha256: hash of the file; None where nobody stated one.
        size: of the file, in bytes.
        dtype: of the numbers in the file; loading makes them the model's.
        num_classes: length of the logits.
        classes: their names in words, in order; empty where unknown.
        class_ids: their identifiers in the data set, such as synset numbers, where the data set has some.
        class_descriptions: the data set's own text for each, with all synonyms, where it has some.
        in_chans: channels of the images.
        img_size: (height, width) in pixels.
        mean: per channel, of images scaled to 0..1.
        std: per channel, likewise.
        interpolation: for resizing: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        crop_pct: part of the resized image's side that the centre crop keeps.
        crop_mode: ``"center"`` (shorter side, then a centre crop) or ``"squash"`` (both sides, aspect lost).
        preparation: the fixed preparation that the training pictures had been through, ``"mnist"`` or none (``""``).
        temperature: what the logits are divided by before they become probabilities.
        metrics: what was measured, ``top1`` and ``top5`` in percent, with ``n``, the number of images.
        dataset: ``id`` on the Hub, ``split`` the metrics are of, and the like.
        recipe: how it was trained.
        license: of the weights.
        dataset_terms: what the data set's owners ask for.
        model_args: options the architecture is built with.
        num_params: learnable numbers.
        macs: multiply-accumulates for one image.
        layout: whose names the tensors have, see :mod:`convzoo.weights.layouts`.
        source: where a loaded model's weights came from.
        adapted: what was changed to fit them to the model asked for; then ``metrics`` is empty, for they no
            longer hold.
    """

    name: str
    architecture: str
    tag: str
    repo_id: str = ""
    revision: str | None = None
    file: str = FILE_NAME
    sha256: str | None = None
    size: int | None = None
    dtype: str = "float32"
    num_classes: int
    classes: tuple[str, ...] = ()
    class_ids: tuple[str, ...] = ()
    class_descriptions: tuple[str, ...] = ()
    in_chans: int
    img_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    preparation: str = ""
    temperature: float = 1.0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    license: str = "mit"
    dataset_terms: str = ""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    num_params: int | None = None
    macs: int | None = None
    layout: str = "convzoo"
    source: str = ""
    adapted: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash((self.name, self.sha256))

    def to_dict(self) -> dict[str, Any]:
        """All of it, with ``bundled``, as numbers, strings, lists and dicts, fit for JSON."""
        return as_json({**asdict(self), "bundled": self.bundled})

    def _repr_html_(self) -> str:
        """A table of what is known, for notebooks."""
        return facts({**asdict(self), "bundled": self.bundled})._repr_html_()

    @property
    def bundled(self) -> bool:
        """True if the file travels in the package, so that no network is needed."""
        return bundled_path(self.name).is_file()

    def with_other_head(self, num_classes: int) -> WeightInfo:
        """What still holds once the head is another one, for ``num_classes`` classes; ``adapted`` says so."""
        change = describe_head(num_classes, self.num_classes)
        nothing: dict[str, Any] = {
            "classes": (),
            "class_ids": (),
            "class_descriptions": (),
            "metrics": {},
            "temperature": 1.0,
        }
        return replace(self, num_classes=num_classes, adapted=(*self.adapted, change), **nothing)

    def in_model(self, model: ModelConfig, trained: ModelConfig | None) -> WeightInfo:
        """What still holds in a model of another configuration than the ``trained`` one; ``adapted`` says so.

        ``trained`` is None where the weights are of another architecture.
        """
        if trained is None:
            changes = [f"{model.name}, trained as {self.architecture}"]
        else:
            fields = ("img_size", *(name for name in model.option_names() if name not in model.training_only))
            pairs = [(name, getattr(model, name), getattr(trained, name)) for name in fields]
            changes = [f"{name}={now!r}, trained with {then!r}" for name, now, then in pairs if now != then]
        if not changes:
            return self
        return replace(self, adapted=(*self.adapted, *changes), metrics={}, temperature=1.0)

    @property
    def transform(self) -> Transform:
        """One picture to the input that these weights expect; see :func:`convzoo.transform`."""
        from .._transform import Transform

        return Transform(**{field.name: getattr(self, field.name) for field in fields(Transform)})

    def to_json(self) -> dict[str, Any]:
        """The entry as it stands in the table: no name (it is the key), nothing about one loading."""
        entry = asdict(self)
        for key in ("name", "source", "adapted"):
            del entry[key]
        return entry

    @classmethod
    def from_json(cls, name: str, entry: Mapping[str, Any]) -> WeightInfo:
        """The entry ``name`` of the table."""
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()
        }
        return cls(name=name, **{key: value for key, value in values.items() if key in known})


def describe_head(num_classes: int, before: int) -> str:
    """What was done to a head for ``before`` classes to make it one for ``num_classes``."""
    if num_classes == 0:
        return f"the head for {before} classes left out"
    return f"a fresh head for {num_classes} classes" + ("" if num_classes == before else f", not {before}")


def bundled_path(name: str) -> Path:
    """Where the package keeps the weights ``name``, if it does."""
    return BUNDLED / f"{name}.safetensors"


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> tuple[dict[str, WeightInfo], dict[str, str]]:
    table = json.loads(path.read_text(encoding="utf-8"))
    entries = {name: WeightInfo.from_json(name, entry) for name, entry in table["weights"].items()}
    return entries, table["defaults"]


def read_table() -> tuple[dict[str, WeightInfo], dict[str, str]]:
    """The entries by name, and each architecture's default tag."""
    return _read(ENTRIES, ENTRIES.stat().st_mtime_ns)


def all_entries() -> dict[str, WeightInfo]:
    """The table's entries, and those of the folders of repositories."""
    table = read_table()[0]
    large = {path.name for path in package.LARGE.iterdir()} if package.LARGE.is_dir() else set()
    if not os.environ.get("CONVZOO_WEIGHTS") and large <= table.keys():
        return dict(table)  # without what reads weights, which needs torch
    from .find import folder_entries

    return {**folder_entries(), **table}


def list_weights(pattern: str = "*") -> list[str]:
    """Names (``architecture.tag``) of the weights there are, in natural order.

    Args:
        pattern: shell wildcards, as in ``"*.mnist"``.

    Example:
        >>> import convzoo
        >>> "lenet5.mnist" in convzoo.list_weights("*.mnist")
        True
    """
    return match_names(pattern, all_entries())


def weight_info(name: str) -> WeightInfo:
    """What is known of the weights ``architecture.tag``; nothing is downloaded.

    Raises:
        TypeError: the name is not a string.
        WeightsNotFound: there are none of that name.

    Example:
        >>> import convzoo
        >>> convzoo.weight_info("lenet5.mnist").img_size
        (28, 28)
    """
    if not isinstance(name, str):
        raise TypeError(f"weights are named by a string, got {shorten(name)}; list_weights() names all")
    known = read_table()[0]
    if name in known:  # whatever the folders of CONVZOO_WEIGHTS are like
        return known[name]
    entries = all_entries()
    if name in entries:
        return entries[name]
    raise unknown(name, entries)


def unknown(name: str, entries: Mapping[str, WeightInfo]) -> WeightsNotFound:
    """The error that says that ``entries`` has no weights of this name, and which look like it."""
    hint = did_you_mean(name, entries)
    return WeightsNotFound(
        f"there are no weights {shorten(name)}; {hint}list_weights() names all {len(entries)}, and pretrained= also "
        "takes a folder, a .safetensors file or a repository of the Hub ('owner/name')"
    )


def default_tag(architecture: str) -> str:
    """The tag that ``pretrained=True`` means for ``architecture``.

    Raises:
        WeightsNotFound: it has no weights, or several and none is its default.
    """
    defaults = read_table()[1]
    if architecture in defaults:
        return defaults[architecture]
    tags = [name.split(".", 1)[1] for name in list_weights(f"{architecture}.*")]
    if len(tags) == 1:
        return tags[0]
    if tags:
        raise WeightsNotFound(
            f"{architecture} has several weights and no default: {', '.join(tags)}; pass one as pretrained="
        )
    raise WeightsNotFound(
        f"there are no weights for {architecture!r}; list_weights() names those there are, and pretrained= also "
        "takes a folder, a .safetensors file or a repository of the Hub ('owner/name')"
    )
