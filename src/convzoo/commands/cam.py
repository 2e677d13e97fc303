"""``convzoo cam``: a picture of where a net with weights looks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models import Classifier

VIEW = 224  # smaller pictures are enlarged to this many pixels, so that one sees something


def add_commands(subparsers: Any) -> None:
    """Add ``cam``."""
    parser = subparsers.add_parser("cam", help="show where a net looks")
    parser.add_argument("name", help="an architecture and the tag of its weights, such as fcn_gap.mnist")
    parser.add_argument("image", type=Path, help="a picture; what weights of grey digits expect is white on black")
    parser.add_argument("-o", "--out", type=Path, default=Path("cam.png"), help="the picture to write (cam.png)")
    parser.add_argument("--classes", help="names or numbers of the classes, with commas; without: the likeliest")
    parser.add_argument("--top", type=int, default=1, help="so many of the likeliest classes (1)")
    parser.add_argument("--method", default="auto", help="auto, cam, grad_cam, hires_cam, layer_cam, attention, ...")
    parser.add_argument("--layer", help="path of the module to explain; without: the family's own")
    parser.set_defaults(run=run_cam)


def run_cam(args: argparse.Namespace) -> None:
    """Write the image and one overlay per class side by side, and print a line for each class."""
    from PIL import Image, UnidentifiedImageError

    from .. import cam, create_model
    from ..weights.files import replacing

    if args.out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ValueError(f"the picture is written as .png, .jpg or .webp, got {args.out.name!r}; name it so")
    try:
        with Image.open(args.image) as opened:
            picture = opened.convert("L" if opened.mode in ("1", "L") else "RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{args.image} is not a picture that Pillow can read; give it a PNG or JPEG file") from error
    model = create_model(args.name, pretrained=True)
    images = model.preprocess(picture)
    target: Any = ("top", args.top) if args.classes is None else [find_classes(model, args.classes)]
    result = cam(model, images, target, method=args.method, layer=args.layer)
    size = [max(side, round(side * VIEW / min(result.input_size))) for side in result.input_size]
    heat = result.heatmap(normalize="joint")
    sheet = draw_sheet(images[0], heat[0], result, (size[0], size[1]))
    with replacing(args.out) as temporary:
        sheet.save(temporary, format={"jpg": "jpeg"}.get(kind := args.out.suffix.lower()[1:], kind))
    chances = result.logits.float().softmax(1)[0]
    for k, number in enumerate(result.target[0].tolist()):
        note = ", but nothing speaks for it" if result.empty[0, k] else ""
        print(f"{label(model, number)}: {100 * float(chances[number]):.1f} %{note}")
    print(f"{result.method} at {result.layer}: {args.out}")


def draw_sheet(image: Any, heat: Any, result: Any, size: tuple[int, int]) -> Any:
    """The image, and beside it the image with each map of ``heat`` (K, H, W) over it, each of ``size``."""
    from PIL import Image

    from ..explain import overlay

    look = {"mean": result.mean, "std": result.std, "size": size}
    panels = [overlay(image, heat[0] * 0, **look), *(overlay(image, one, **look) for one in heat)]
    sheet = Image.new("RGB", (len(panels) * (size[1] + 4) - 4, size[0]), "white")
    for index, panel in enumerate(panels):
        sheet.paste(panel, (index * (size[1] + 4), 0))
    return sheet


def find_classes(model: Classifier, words: str) -> list[int]:
    """Names, identifiers or numbers with commas between them, as numbers of classes."""
    names, identifiers = (list(model.weights.classes), list(model.weights.class_ids)) if model.weights else ([], [])
    found = []
    for word in (part.strip() for part in words.split(",")):
        if word in names:
            found.append(names.index(word))
        elif word in identifiers:
            found.append(identifiers.index(word))
        elif word.isdigit() and int(word) < model.num_classes:
            found.append(int(word))
        else:
            known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise ValueError(
                f"no class {word!r}; pass a number from 0 to {model.num_classes - 1}"
                + (f", or one of {known}" * bool(names))
            )
    return found


def label(model: Classifier, number: int) -> str:
    """A class in words where the weights have some."""
    names = model.weights.classes if model.weights else ()
    return names[number] if names else f"class {number}"
