"""``convzoo weights`` and ``publish``: what weights there are, and handing one's own on. Listing needs no torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .._checks import natural_key
from .._table import Column, Table, short, times
from . import _options
from .models import find

COLUMNS = (
    Column("name", "weights"),
    Column("size", "file", lambda size: f"{size / 1e6:.2f} MB", True),
    Column("params", "params", short, True),
    Column("macs", "MACs", short, True),
    Column("input_size", "input", times),
    Column("num_classes", "classes", str, True),
    Column("top1", "top-1", "{:.2f} %".format, True),
    Column("dataset", "data set"),
    Column("where", "where"),
)


def add_commands(subparsers: Any) -> None:
    """Add the two."""
    parser = subparsers.add_parser(
        "weights",
        help="list the weights, with size and accuracy",
        description="List the weights: those in the package, and those in the folders that CONVZOO_WEIGHTS names.",
        epilog="examples:\n  convzoo weights lenet                whose names hold a word\n"
        "  convzoo weights '*.mnist' --csv      wildcards, in quotes\n"
        "  convzoo info lenet5.mnist            all that is known of one",
    )
    parser.add_argument("pattern", nargs="*", metavar="PATTERN", help="names, wildcards, or a part of the name")
    parser.add_argument("--names", action="store_true", help="names alone, one a line")
    _options.add_format(parser)
    for form in ("markdown", "csv"):
        parser.add_argument(f"--{form}", dest="format", action="store_const", const=form, help=f"--format {form}")
    parser.set_defaults(run=run_weights)

    parser = subparsers.add_parser(
        "publish",
        help="upload weights of one's own to the Hub",
        description="Upload weights of one's own to the Hub, in a repository for each folder.",
        epilog="examples:\n  convzoo publish runs/mine --owner me             me/ARCHITECTURE.TAG\n"
        "  convzoo publish runs/mine --owner me --private",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a folder that save_pretrained wrote")
    parser.add_argument("--owner", required=True, help="your account or organisation")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.set_defaults(run=run_publish)


def run_weights(args: argparse.Namespace) -> int:
    """Print one set of weights a line; 1 if there is none."""
    from ..weights.entries import all_entries

    entries = all_entries()
    names = sorted(find(args.pattern, list(entries)), key=natural_key)
    if not names:
        _options.say(
            f"no weights match {' '.join(map(repr, args.pattern))}; 'convzoo weights' names all {len(entries)}"
        )
        return 1
    if args.names:
        _options.show_json(names) if args.format == "json" else print("\n".join(names))
    else:
        _options.show(Table(COLUMNS, map(_row, (entries[name] for name in names))), args.format)
    return 0


def _row(info: Any) -> dict[str, Any]:
    return {
        "name": info.name,
        "size": info.size,
        "params": info.num_params,
        "macs": info.macs,
        "input_size": (info.in_chans, *info.img_size),
        "num_classes": info.num_classes,
        "top1": info.metrics.get("top1"),
        "dataset": info.dataset.get("name") or info.dataset.get("id"),
        "where": "in the package" if info.bundled else info.repo_id,
    }


def run_publish(args: argparse.Namespace) -> None:
    """Print the commit of each."""
    from .. import push_to_hub
    from ..weights.find import find_path

    for folder in args.folders:
        info = find_path(folder).info
        repo_id = f"{args.owner}/{info.name if info else folder.name}"
        print(f"{repo_id}@{push_to_hub(folder, repo_id, private=args.private)}")
