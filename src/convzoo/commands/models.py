"""``convzoo list`` and ``convzoo info``: what there is. Listing needs no torch: it reads the generated catalogue."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import shutil
import textwrap
from typing import Any

from .._checks import did_you_mean, match_names, natural_key
from .._table import Column, Table, facts, short, shown, times
from . import _options

CATALOGUE = importlib.resources.files(__package__) / "catalogue.json"  # written by docs/generate.py
COLUMNS = (
    Column("name", "model"),
    Column("family", "family"),
    Column("params", "params", short, True),
    Column("macs", "MACs", short, True),
    Column("input_size", "input", times),
    Column("num_classes", "classes", str, True),
    Column("year", "year", str, True),
    Column("top1", "top-1", "{:.2f} %".format, True),
    Column("weights", "weights", ", ".join),
)
SORTS = ("name", "family", "params", "macs", "year")


def add_commands(subparsers: Any) -> None:
    """Add ``list`` and ``info``."""
    parser = subparsers.add_parser(
        "list",
        help="list the models",
        description="List the models: parameters, MACs for one image of their own size, input, classes, year, the best "
        "accuracy of their weights, and these.",
        epilog="examples:\n  convzoo list resnet                            whose names hold a word\n"
        "  convzoo list 'vgg*_bn' --sort params           wildcards, in quotes\n"
        "  convzoo list --max-params 5M --max-macs 1G     small and quick ones\n"
        "  convzoo list --pretrained --names              names of weights, one a line\n"
        "  convzoo list --family lenet --json             for programs",
    )
    parser.add_argument("pattern", nargs="*", metavar="PATTERN", help="names, wildcards, or a part of the name")
    parser.add_argument("--family", help="one family only")
    parser.add_argument("--max-params", type=_options.number, metavar="N", help="at most so many parameters: 5M")
    parser.add_argument("--max-macs", type=_options.number, metavar="N", help="at most so many MACs an image: 1G")
    parser.add_argument("--pretrained", action="store_true", help="only models with weights; with --names the weights")
    parser.add_argument("--sort", choices=SORTS, default="name", help="by which column (name)")
    parser.add_argument("--names", action="store_true", help="names alone, one a line")
    _options.add_format(parser)
    parser.set_defaults(run=run_list)
    parser = subparsers.add_parser(
        "info",
        help="tell what is known of models and weights",
        description="Tell what is known of models (paper, sizes, options, weights) and of weights (recipe, input, "
        "accuracy, classes).",
        epilog="examples:\n  convzoo info resnet18               a model\n"
        "  convzoo info lenet5.mnist           weights\n  convzoo info 'lenet*' --json        several, for programs",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a model, or weights; wildcards in quotes")
    _options.add_format(parser, ("table", "json"))
    parser.set_defaults(run=run_info)


def read_catalogue() -> dict[str, dict[str, Any]]:
    """The architectures by name, with what the list shows of them."""
    return json.loads(CATALOGUE.read_text(encoding="utf-8"))


def find(patterns: list[str], names: list[str]) -> list[str]:
    """The names that any of the patterns means: as it is, by wildcards, or else as a part of the name."""
    found: dict[str, None] = {}
    for pattern in patterns or ["*"]:
        some = match_names(pattern, names) or match_names(f"*{pattern.lower()}*", names)
        found.update(dict.fromkeys(some))
    return list(found)


def run_list(args: argparse.Namespace) -> int:
    """Print a line a model; 1 if there is none."""
    from ..weights.entries import all_entries

    catalogue = read_catalogue()
    families = sorted({entry["family"] for entry in catalogue.values()})
    if args.family is not None and args.family not in families:
        hint = did_you_mean(args.family, families)
        raise ValueError(f"unknown family {args.family!r}; {hint}the families are {', '.join(families)}")
    tags: dict[str, list[str]] = {name: [] for name in catalogue}
    best: dict[str, float] = {}  # accuracy of an architecture's weights
    for info in sorted(all_entries().values(), key=lambda info: natural_key(info.name)):
        tags.setdefault(info.architecture, []).append(info.tag)
        if "top1" in info.metrics:
            best[info.architecture] = max(info.metrics["top1"], best.get(info.architecture, 0.0))
    rows = [
        {"name": name, **entry, "weights": tags[name], "top1": best.get(name)}
        for name, entry in catalogue.items()
        if args.family in (None, entry["family"])
        and entry["params"] <= (args.max_params or float("inf"))
        and entry["macs"] <= (args.max_macs or float("inf"))
        and (tags[name] or not args.pretrained)
    ]
    kept = set(find(args.pattern, [row["name"] for row in rows]))
    rows = sorted((row for row in rows if row["name"] in kept), key=lambda row: natural_key(row["name"]))
    rows.sort(key=lambda row: 0 if args.sort == "name" else (row[args.sort] is None, row[args.sort] or 0))
    if not rows:
        asked = " ".join(map(repr, args.pattern))
        hint = did_you_mean(args.pattern[0], catalogue) if args.pattern else ""
        _options.say(f"no model matches {asked or 'these limits'}; {hint}'convzoo list' names all {len(catalogue)}")
        return 1
    if not args.names:
        _options.show(Table(COLUMNS, rows), args.format)
        return 0
    names = [row["name"] for row in rows]
    if args.pretrained:
        names = [f"{name}.{tag}" for name in names for tag in tags[name]]
    if args.format == "json":
        _options.show_json(names)
    else:
        print("\n".join(names))
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Print a fact a line, for each name."""
    from dataclasses import asdict

    from .. import model_info, weight_info
    from ..comparison import expand

    told: list[dict[str, Any]] = []
    for name in (name for pattern in args.names for name in expand(pattern)):
        info = weight_info(name) if "." in name else model_info(name)
        told.append({**asdict(info), "macs": info.macs})
    if args.format == "json":
        _options.show_json(told if len(told) > 1 else told[0])
        return 0
    for index, fact in enumerate(told):
        print("\n" * bool(index), end="")
        lines = [(str(row["fact"]), shown(row["value"])) for row in facts(fact)]
        width = max(len(name) for name, _ in lines)
        print("\n".join(f"{name:{width}}  {value}" for name, value in lines))
        if fact.get("options"):
            print_options(fact["name"], width)
    return 0


def print_options(name: str, indent: int) -> None:
    """What each option of a model means, as far as its family says, wrapped to the width of the terminal."""
    from ..registry import find_entry

    meanings = find_entry(name).config.option_meanings()
    width, columns = max(indent, *map(len, meanings)), max(60, shutil.get_terminal_size((100, 24)).columns)
    print("\nwhat these options mean, set by -o NAME=VALUE of profile and compare or create_model(..., NAME=VALUE):")
    for option, meaning in meanings.items():
        text = f"{option:{width}}  {meaning.replace('`', '') or '?'}"
        print(textwrap.fill(text, columns, subsequent_indent=" " * (width + 2)))
