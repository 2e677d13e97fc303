"""``convzoo profile`` and ``convzoo compare``: how big and how costly, without building real tensors."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from .. import profiling, registry


def add_commands(subparsers: Any) -> None:
    """Add ``profile`` and ``compare``."""
    parser = subparsers.add_parser("profile", help="count parameters, MACs and memory of a model")
    parser.add_argument("name")
    add_size(parser)
    parser.add_argument("--num-classes", type=int, help="length of the logits")
    parser.add_argument("--depth", type=int, default=1, help="levels of modules to show (1)")
    parser.add_argument("--counter", choices=profiling.COUNTERS, default="convzoo", help="whose count")
    parser.add_argument("--check", action="store_true", help="explain the difference to thop's count")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table")
    parser.set_defaults(run=run_profile)
    parser = subparsers.add_parser("compare", help="models side by side")
    parser.add_argument("names", nargs="+", metavar="name")
    add_size(parser)
    parser.add_argument("--format", choices=("table", "markdown"), default="table")
    parser.set_defaults(run=run_compare)


def add_size(parser: argparse.ArgumentParser) -> None:
    """The option that both commands have."""
    parser.add_argument(
        "--input", nargs=3, type=int, metavar=("C", "H", "W"), help="channels, height, width (each model's own)"
    )


def take(
    name: str, size: list[int] | None, num_classes: int | None = None, counter: str = "convzoo"
) -> profiling.Profile:
    """The profile of a registered model, built without memory for an input of ``size``."""
    with torch.device("meta"):
        if size is None:
            config = registry.make_config(name, num_classes)
        else:
            chans, height, width = size
            config = registry.make_config(name, num_classes, chans, (height, width))
        model = registry.build(config)
    return profiling.profile(model, (model.in_chans, *model.img_size), counter=counter)


def run_profile(args: argparse.Namespace) -> None:
    """Print the table of one model."""
    profile = take(args.name, args.input, args.num_classes, args.counter)
    if args.check:
        print(profile.check("thop"))
    elif args.format == "json":
        print(json.dumps(profile.to_dict(), indent=2))
    elif args.format == "markdown":
        print(profile.to_markdown(args.depth))
    elif args.depth == 1:
        print(profile)
    else:
        print(profile.tree(args.depth))


def run_compare(args: argparse.Namespace) -> None:
    """Print one model a line."""
    head = ("model", "input", "params", "MACs", "FLOPs", "activations", "params MB", "maps MB")
    rows: list[tuple[str, ...]] = [head]
    for name in args.names:
        profile = take(name, args.input)
        rows.append((
            name,
            "x".join(map(str, profile.input_shape[1:])),
            f"{profile.params:,}",
            f"{profile.macs:,}",
            f"{profile.flops:,}",
            f"{profile.activations:,}",
            f"{profile.param_bytes / 1e6:.1f}",
            f"{profile.peak_activation_bytes / 1e6:.1f}",
        ))  # fmt: skip
    if args.format == "markdown":
        rows.insert(1, ("---", "---", *["---:"] * 6))
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
