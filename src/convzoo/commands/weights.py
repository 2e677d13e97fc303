"""``convzoo weights``, ``predict`` and ``publish``: what weights there are, used and handed on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .. import registry
from ..weights import list_weights, push_to_hub, weight_info
from ..weights.find import find_path


def add_commands(subparsers: Any) -> None:
    """Add the three."""
    parser = subparsers.add_parser("weights", help="name the weights, with size and accuracy")
    parser.add_argument("pattern", nargs="?", default="*", help="wildcards, as in '*.mnist'")
    parser.set_defaults(run=run_weights)

    parser = subparsers.add_parser("predict", help="say what pictures show")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--weights", required=True, metavar="ARCH.TAG", help="one of the names 'convzoo weights' lists")
    parser.add_argument("--top", type=int, default=3, help="how many classes to name (default 3)")
    parser.set_defaults(run=run_predict)

    parser = subparsers.add_parser("publish", help="upload weights to the Hub")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a folder that save_pretrained wrote")
    parser.add_argument("--owner", required=True, help="your account or organisation")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.set_defaults(run=run_publish)


def run_weights(args: argparse.Namespace) -> None:
    """Print one set of weights a line."""
    for name in list_weights(args.pattern):
        info = weight_info(name)
        size = f"{info.size / 1e6:.2f} MB" if info.size else ""
        top1 = f"top-1 {info.metrics['top1']:.2f} %" if "top1" in info.metrics else ""
        print(f"{name:32} {'in the package' if info.bundled else info.repo_id:40} {size:>10}  {top1}".rstrip())


def run_predict(args: argparse.Namespace) -> None:
    """Print the likeliest classes of each picture, one picture a line."""
    if args.top < 1:
        raise ValueError(f"--top must be at least 1, got {args.top}; pass how many classes to name")
    import torch

    from .._images import open_image

    model = registry.create_model(args.weights, pretrained=True)
    if model.transform is None:
        raise ValueError(f"nothing is known of the input that {args.weights} expects; save it with mean= and std=")
    classes = model.weights.classes if model.weights else ()
    for path in args.images:
        (view,) = model.transform.views(open_image(path), prepare="auto")
        with torch.inference_mode():
            chances = model.probabilities(model(model.transform.normalise(view.pixels)))[0]
        top = chances.topk(min(args.top, model.num_classes))
        answers = [
            f"{classes[index] if classes else index} {100 * probability:.1f} %"
            for probability, index in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]
        print(f"{path}: {', '.join(answers)}")
        unlike = model.transform.unlike(view)
        for note in [*view.notes, *([f"the picture {unlike}"] if unlike else [])]:
            print(f"  {note}", file=sys.stderr)


def run_publish(args: argparse.Namespace) -> None:
    """Print the commit of each."""
    for folder in args.folders:
        info = find_path(folder).info
        repo_id = f"{args.owner}/{info.name if info else folder.name}"
        print(f"{repo_id}@{push_to_hub(folder, repo_id, private=args.private)}")
