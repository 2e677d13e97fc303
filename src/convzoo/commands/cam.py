"""``convzoo cam``: pictures of where a net with weights looks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _options, _pictures

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..models import Classifier

VIEW = 224  # smaller pictures are enlarged to this many pixels, so that one sees something
LARGEST = 1600  # larger ones are reduced to it
GAP, LINE = 8, 18  # pixels between panels, and of a line of text at least
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_commands(subparsers: Any) -> None:
    """Add ``cam``."""
    parser = subparsers.add_parser(
        "cam",
        help="show where a net looks",
        description="Write a sheet: each picture, and beside it the picture with the heat of each class over it, with "
        "names and percents, at the picture's own resolution.",
        epilog="examples:\n  convzoo cam fcn_gap digit.jpg -o cam.png\n"
        "  convzoo cam --weights lenet5 photos/ --top 3 -o sheet.png         a row a picture\n"
        "  convzoo cam fcn_gap photos/*.jpg -o sheets/                       a sheet a picture\n"
        "  convzoo cam fcn_gap digit.jpg --classes 3,8 --method layer_cam",
    )
    _pictures.add_picture_options(parser)
    parser.add_argument("-o", "--out", default="cam.png", help="the picture to write, or a folder/ (cam.png)")
    parser.add_argument("--classes", help="names or numbers of the classes, with commas; without: the likeliest")
    parser.add_argument("--top", type=_options.count, default=1, metavar="N", help="so many of the likeliest (1)")
    parser.add_argument("--method", default="auto", help="auto, cam, grad_cam, hires_cam, layer_cam, attention, ...")
    parser.add_argument("--layer", help="path of the module to explain; without: the family's own")
    _options.add_format(parser, ("lines", "json"))
    parser.set_defaults(run=run_cam)


def run_cam(args: argparse.Namespace) -> int:
    """Write the sheets, and print a line for each class; 1 if a picture could not be read, 2 if none could."""
    out = Path(args.out)
    many = args.out.endswith("/") or out.is_dir()
    if not many and out.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"the picture is written as .png, .jpg or .webp, got {out.name!r}; name it so, or a folder: {args.out}/"
        )
    from .._images import require_pillow

    require_pillow()
    source, images = _pictures.split_weights(args)
    images, status = _pictures.find_images(images)
    model = _pictures.load(source, args.arch)
    target: Any = ("top", min(args.top, max(model.num_classes, 2))) if args.classes is None else None
    target = target or [read_classes(model, args.classes)]
    rows: list[dict[str, Any]] = []
    written: list[Path] = []
    for name, image in _pictures.read_images(images):
        if image is None:
            status = 1
            continue
        try:
            row = explain_picture(model, image, target, args)
        except ValueError as error:
            _options.say(f"{name}: {error}")
            status = 1
            continue
        row["image"] = name
        rows.append(row)
        if args.format == "lines":
            print_row(row, alone=len(images) == 1)
        if many:
            written.append(save(draw_sheet([row]), free_name(out, name, written)))
    if rows and not many:
        written.append(save(draw_sheet(rows), out))
    if args.format == "json":
        for row in rows:
            del row["panels"]
        _options.show_json({"images": rows, "written": [str(path) for path in written]})
    elif rows:
        print(f"{rows[0]['method']} at {rows[0]['layer']}: {', '.join(map(str, written))}")
    return status if rows else 2


def free_name(folder: Path, image: str, taken: Sequence[Path]) -> Path:
    """Where the sheet of a picture goes: under its name, or with a number where two pictures have the same."""
    stem = "stdin" if image == "-" else Path(image).stem
    path, number = folder / f"{stem}.png", 2
    while path in taken:
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path


def explain_picture(model: Classifier, image: Image, target: Any, args: argparse.Namespace) -> dict[str, Any]:
    """One picture: its classes with their probabilities, what was done to it, and the panels of its row."""
    from .. import cam, overlay
    from .._images import upright
    from ..explain.pictures import cross_out

    view = _pictures.look(model, image, args)
    transform = model.transform
    assert transform is not None
    result = cam(model, transform.normalise(view.pixels), target, method=args.method, layer=args.layer)
    heat = result.heatmap(normalize="joint")[0]
    picture = upright(image)
    reduction = max(picture.size) / LARGEST
    box = view.box
    if reduction > 1:
        picture = picture.resize((round(picture.width / reduction), round(picture.height / reduction)))
        box = type(box)(*(value / reduction for value in box))
    style: dict[str, Any] = {"box": box, "min_side": VIEW, "ground": transform.ground}
    panels = [(overlay(picture, heat[0] * 0, **style), ["image"])]
    classes = []
    for k, number in enumerate(result.target[0].tolist() if result.target is not None else []):
        name, chance = _pictures.class_name(model, number), float(result.probabilities[0, number])
        empty = bool(result.empty[0, k])
        lines = [name, f"{100 * chance:.1f} %" + (", nothing speaks for it" if empty else "")]
        panel = overlay(picture, heat[k], **style)
        panels.append((cross_out(panel) if empty else panel, lines))
        classes.append({"class": name, "probability": chance, "empty": empty})
    done = _pictures.notes(model, view)
    return {"classes": classes, "notes": done, "method": result.method, "layer": result.layer, "panels": panels}


def print_row(row: dict[str, Any], *, alone: bool) -> None:
    """A line for each class of a picture, and one for what was done to it."""
    for entry in row["classes"]:
        note = ", but nothing speaks for it" if entry["empty"] else ""
        where = "" if alone else f"{row['image']}: "
        print(f"{where}{entry['class']}: {100 * entry['probability']:.1f} %{note}")
    _pictures.say_notes(row["image"], row["notes"])


def draw_sheet(rows: Sequence[dict[str, Any]]) -> Image:
    """A row of panels for each picture, with words over each, on white; a bar at the right tells the colours."""
    from PIL import Image, ImageDraw, ImageFont

    line = max(LINE, max(panel.width for row in rows for panel, _ in row["panels"]) // 20)
    widths = [sum(panel.width + GAP for panel, _ in row["panels"]) for row in rows]
    heights = [2 * line + max(panel.height for panel, _ in row["panels"]) + GAP for row in rows]
    bar = colour_bar(heights[0] - 2 * line - GAP, line - 5)
    sheet = Image.new("RGB", (max(widths) + GAP + bar.width, sum(heights) + GAP), "white")
    pen, top = ImageDraw.Draw(sheet), GAP
    pen.font = ImageFont.load_default(line - 5)
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for panel, lines in row["panels"]:
            for number, text in enumerate(lines[-2:], 2 - len(lines[-2:])):
                pen.text((left, top + number * line), fitting(pen, text, panel.width), fill="black")
            sheet.paste(panel, (left, top + 2 * line))
            left += panel.width + GAP
        top += height
    sheet.paste(bar, (sheet.width - bar.width, GAP + 2 * line))
    return sheet


def colour_bar(height: int, size: int) -> Image:
    """Which colour is how much heat, in letters of ``size`` pixels."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from ..explain import colorize

    font = ImageFont.load_default(size)
    bar = Image.new("RGB", (16 + round(font.getlength("none")) + GAP, height), "white")
    strip = colorize(np.linspace(1, 0, height)[:, None].repeat(12, 1))
    bar.paste(Image.fromarray(np.rint(strip * 255).astype(np.uint8)), (0, 0))
    pen = ImageDraw.Draw(bar)
    pen.text((16, 0), "peak", fill="black", font=font)
    pen.text((16, height), "none", fill="black", font=font, anchor="ld")
    return bar


def fitting(pen: Any, text: str, width: int) -> str:
    """``text``, cut to ``width`` pixels."""
    if pen.textlength(text) <= width:
        return text
    while text and pen.textlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..." if text else ""


def save(sheet: Image, path: Path) -> Path:
    """Write a picture in one step; its folder is made."""
    from ..weights.files import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        sheet.save(temporary, format={"jpg": "jpeg"}.get(kind := path.suffix.lower()[1:], kind))
    return path


def read_classes(model: Classifier, words: str) -> list[int]:
    """Names, the data set's identifiers or numbers with commas between them, as numbers of classes."""
    names, identifiers = (list(model.weights.classes), list(model.weights.class_ids)) if model.weights else ([], [])
    found = []
    for word in (part.strip() for part in words.split(",")):
        if word in names:
            found.append(names.index(word))
        elif word in identifiers:
            found.append(identifiers.index(word))
        elif word.isdecimal() and int(word) < model.num_classes:
            found.append(int(word))
        else:
            known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ValueError(
                f"no class {word!r}; pass a number from 0 to {model.num_classes - 1}"
                + (f", or one of {known}" * bool(names))
            )
    return found
