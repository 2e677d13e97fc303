"""``convzoo predict``: what pictures show."""

from __future__ import annotations

import argparse
from typing import Any

from .._table import Column, Table
from . import _options, _pictures

COLUMNS = (
    Column("image", "image"),
    Column("rank", "rank", str, True),
    Column("class", "class"),
    Column("probability", "probability", "{:.4f}".format, True),
    Column("notes", "notes", "; ".join),
)


def add_commands(subparsers: Any) -> None:
    """Add ``predict``."""
    parser = subparsers.add_parser(
        "predict",
        help="say what pictures show",
        description="Say what pictures show: the likeliest classes of each, and what was done to it. Pictures are "
        "turned as their EXIF entry says; for weights of MNIST's digits those that are not 28x28 pixels of bright ink "
        "on black already are prepared as MNIST's were.",
        epilog="examples:\n  convzoo predict lenet5 digit.png\n"
        "  convzoo predict photos/ 'scans/*.jpg' --weights mnist_resnet --top 1\n"
        "  convzoo predict --weights runs/mine *.png --format csv\n"
        "  curl -s https://example.com/a.png | convzoo predict lenet5 - --json",
    )
    _pictures.add_picture_options(parser)
    parser.add_argument("--top", type=_options.count, default=3, metavar="N", help="how many classes to name (3)")
    _options.add_format(parser, ("lines", "csv", "json"))
    parser.set_defaults(run=run_predict)


def run_predict(args: argparse.Namespace) -> int:
    """Print the likeliest classes of each picture, one picture a line; 1 if one could not be read, 2 if none could."""
    import torch

    source, images = _pictures.split_weights(args)
    images, status = _pictures.find_images(images)
    model = _pictures.load(source, args.arch)
    rows: list[dict[str, Any]] = []
    for name, image in _pictures.read_images(images):
        if image is None:
            status = 1
            continue
        try:
            view = _pictures.look(model, image, args)
        except ValueError as error:
            _options.say(f"{name}: {error}")
            status = 1
            continue
        with torch.inference_mode():
            images_in = model.transform.normalise(view.pixels) if model.transform else view.pixels
            probabilities = model.probabilities(model(images_in))[0]
        top = probabilities.topk(min(args.top, len(probabilities)))
        done = _pictures.notes(model, view)
        answers = [
            {"image": name, "rank": rank, "class": _pictures.class_name(model, index), "probability": chance}
            for rank, (chance, index) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True), 1)
        ]
        rows += [{**answer, "notes": done} for answer in answers]
        if args.format == "lines":
            print(f"{name}: " + ", ".join(f"{a['class']} {100 * a['probability']:.1f} %" for a in answers), flush=True)
            _pictures.say_notes(name, done)
    if args.format == "json":
        _options.show_json(_by_image(rows))
    elif args.format == "csv":
        print(Table(COLUMNS[:4], rows).to_csv(), end="")
    return status if rows else 2


def _by_image(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        entry = found.setdefault(row["image"], {"image": row["image"], "classes": [], "notes": row["notes"]})
        entry["classes"].append({"class": row["class"], "probability": row["probability"]})
    return list(found.values())
