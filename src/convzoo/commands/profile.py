"""``convzoo profile`` and ``convzoo compare``: how big and how costly, without building real tensors."""

from __future__ import annotations

import argparse
from typing import Any

from . import _options

COUNTERS = ("convzoo", "thop", "torchinfo")


def add_commands(subparsers: Any) -> None:
    """Add ``profile`` and ``compare``."""
    parser = subparsers.add_parser(
        "profile",
        help="count parameters, MACs and memory, layer by layer",
        description="Count parameters, MACs and memory of a model, layer by layer. No weight is drawn or loaded.",
        epilog="examples:\n  convzoo profile resnet50 --depth 2\n"
        "  convzoo profile resnet18 -o stem=small --input 64 --num-classes 200\n"
        "  convzoo profile lenet5.mnist --json            as the weights were trained\n"
        "  convzoo profile resnet18 --check               against thop's count",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="a model, or weights; wildcards in quotes")
    _options.add_net_options(parser)
    parser.add_argument("--depth", type=_options.count, default=1, metavar="N", help="levels of modules to show (1)")
    parser.add_argument("--counter", choices=COUNTERS, default="convzoo", help="whose count (convzoo)")
    parser.add_argument("--check", action="store_true", help="explain the difference to thop's count")
    _options.add_format(parser)
    parser.set_defaults(run=run_profile)
    parser = subparsers.add_parser(
        "compare",
        help="what models cost, side by side",
        description="What models cost, side by side. No weight is drawn or loaded.",
        epilog="examples:\n  convzoo compare resnet50 t2t_vit_14 inception_v3\n"
        "  convzoo compare 'resnet*' 'vgg*_bn' --input 64 --markdown\n"
        "  convzoo compare '*.mnist' --csv                weights, with their accuracy",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="models, or weights; wildcards in quotes")
    _options.add_net_options(parser)
    _options.add_format(parser)
    for form in ("markdown", "csv"):
        parser.add_argument(f"--{form}", dest="format", action="store_const", const=form, help=f"--format {form}")
    parser.set_defaults(run=run_compare)


def run_profile(args: argparse.Namespace) -> int:
    """Print the table of each model."""
    from ..comparison import expand, profile_by_name

    names = [name for pattern in args.names for name in expand(pattern)]
    profiles = [
        profile_by_name(name, args.input, args.num_classes, dict(args.option), args.counter)[0] for name in names
    ]
    if args.format == "json" and not args.check:
        dicts = [profile.to_dict() for profile in profiles]
        _options.show_json(dicts if len(dicts) > 1 else dicts[0])
        return 0
    for index, profile in enumerate(profiles):
        print("\n" * bool(index), end="")
        if args.check:
            print(profile.check("thop"))
        elif args.format == "csv":
            print(layers(profile, args.depth).to_csv(), end="")
        elif args.format == "markdown":
            print(profile.to_markdown(args.depth))
        else:
            print(profile if args.depth == 1 else profile.tree(args.depth))
    return 0


def layers(profile: Any, depth: int) -> Any:
    """The layers of a profile, down to ``depth``, as a table."""
    from .._table import Column, Table

    keys = ("path", "type", "output_shape", "params", "macs", "share", "calls")
    rows = [layer._asdict() for layer in profile.layers[1:] if layer.depth <= depth]
    return Table([Column(key, key) for key in keys], rows)


def run_compare(args: argparse.Namespace) -> int:
    """Print one model a line."""
    from ..comparison import compare

    _options.show(compare(args.names, args.input, num_classes=args.num_classes, options=dict(args.option)), args.format)
    return 0
