"""``convzoo list`` and ``convzoo info``: what there is."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .. import registry


def add_commands(subparsers: Any) -> None:
    """Add ``list`` and ``info``."""
    parser = subparsers.add_parser("list", help="name the models")
    parser.add_argument("pattern", nargs="?", default="*", help="wildcards, as in 'resnet*'")
    parser.add_argument("--family", help="one family only")
    parser.add_argument("--pretrained", action="store_true", help="name the weights instead")
    parser.set_defaults(run=run_list)
    parser = subparsers.add_parser("info", help="tell what is known of a model")
    parser.add_argument("name")
    parser.set_defaults(run=run_info)


def run_list(args: argparse.Namespace) -> None:
    """Print one name a line."""
    for name in registry.list_models(args.pattern, family=args.family, pretrained=args.pretrained):
        print(name)


def run_info(args: argparse.Namespace) -> None:
    """Print one fact a line."""
    for key, value in asdict(registry.model_info(args.name)).items():
        if isinstance(value, dict):
            value = ", ".join(f"{option}={default!r}" for option, default in value.items())
        elif isinstance(value, tuple):
            value = (" x " if key == "img_size" else ", ").join(map(str, value))
        elif isinstance(value, int) and not isinstance(value, bool) and key != "year":
            value = f"{value:,}"
        print(f"{key:12} {'none' if value in ('', None) else value}")
