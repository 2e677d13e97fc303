"""What ``predict`` and ``cam`` share: which weights, which pictures, and what was done to them."""

from __future__ import annotations

import argparse
import glob
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _options

if TYPE_CHECKING:
    from PIL.Image import Image

    from .._transform import View
    from ..models import Classifier

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2", ".tga"}
WEIGHTS_HELP = (
    "a name that 'convzoo weights' lists, a folder that save_pretrained wrote, a .safetensors file, or OWNER/NAME of "
    "the Hub"
)


def add_picture_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that both commands have."""
    parser.add_argument(
        "images", nargs="+", metavar="[WEIGHTS] IMAGE",
        help="picture files, folders, wildcards in quotes, or - for standard input; before them the weights, unless "
        "--weights names them",
    )  # fmt: skip
    parser.add_argument("-w", "--weights", metavar="WEIGHTS", help=WEIGHTS_HELP)
    parser.add_argument("--arch", metavar="NAME", help="the architecture, for a file that does not tell it")
    parser.add_argument("--invert", action="store_true", help="take dark for bright")
    parser.add_argument(
        "--no-prepare", action="store_true",
        help="do not do to the pictures what was done to MNIST's (ink bright on black, in a box, centred)",
    )  # fmt: skip


def split_weights(args: argparse.Namespace) -> tuple[str, list[str]]:
    """The weights and the images, however they were given."""
    if args.weights is not None:
        return args.weights, args.images
    first, *rest = args.images
    if not rest or Path(first).suffix.lower() in SUFFIXES:
        raise ValueError(
            "no weights are named; write them before the images or with --weights: " + WEIGHTS_HELP + ". Those in the "
            "package read MNIST's digits: try --weights lenet5"
        )
    return first, rest


def load(source: str, architecture: str | None = None) -> Classifier:
    """The model of weights by name, of a folder or file, or of a repository of the Hub."""
    from .. import create_model, list_models
    from ..weights.find import Access, find_outright

    pretrained: Any = source
    found = find_outright(source, Access())
    if found is None and "." not in source and source not in list_models() and Path(source).exists():
        pretrained = Path(source)
        found = find_outright(pretrained, Access())
    if found is None:
        return create_model(source, pretrained=True)
    name = found.info.architecture if found.info else architecture
    if name is None:
        raise ValueError(f"{source} does not tell which architecture its weights are of; name it with --arch")
    return create_model(name, pretrained=pretrained)


def find_images(sources: list[str]) -> tuple[list[str], int]:
    """The files that are meant, and the exit status so far: 1 where a source, which is said, means none.

    What cannot be a picture is passed on, so that it is named when it is read.

    Raises:
        ValueError: no source means a file.
    """
    found: list[str] = []
    wrong: list[str] = []
    for source in sources:
        try:
            found += _files_of(source)
        except (ValueError, OSError) as error:
            wrong.append(_options.one_line(error))
    if not found:
        raise ValueError("; ".join(wrong))
    for words in wrong:
        _options.say(words)
    return found, int(bool(wrong))


def _files_of(source: str) -> list[str]:
    if source == "-":
        return [source]
    if source.startswith(("http://", "https://")):
        raise ValueError(f"nothing is fetched from the network; pipe it: curl -s {source} | convzoo ... -")
    if Path(source).is_dir():
        inside = sorted(path for path in Path(source).iterdir() if path.suffix.lower() in SUFFIXES)
        if not inside:
            raise ValueError(f"there is no picture in the folder {source}; their names end in .png, .jpg, ...")
        return list(map(str, inside))
    if any(mark in source for mark in "*?[") and not Path(source).exists():
        matching = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - takes absolute patterns too
        if not matching:
            raise ValueError(f"no file matches {source!r}")
        return matching
    return [source]


def read_images(names: list[str]) -> Iterator[tuple[str, Image | None]]:
    """Each picture by its name; None where it cannot be read, which is said."""
    from .._images import open_image

    for name in names:
        try:
            if name == "-":
                yield "-", open_image(io.BytesIO(sys.stdin.buffer.read()), "standard input")
            else:
                yield name, open_image(Path(name))
        except (ValueError, OSError) as error:
            _options.say(_options.one_line(error))
            yield name, None


def look(model: Classifier, image: Image, args: argparse.Namespace) -> View:
    """What the net sees of a picture."""
    transform = model.transform
    if transform is None:
        raise ValueError(
            f"nothing tells what input these weights of {model.config.name} expect; save them by save_pretrained"
        )
    (view,) = transform.views([image], prepare=False if args.no_prepare else "auto", invert=args.invert)
    return view


def notes(model: Classifier, view: View) -> list[str]:
    """What was done to a picture, and what is odd about it, in words."""
    unlike = model.transform.unlike(view) if model.transform else ""
    unlike = unlike.replace("prepare=True", "leaving out --no-prepare").replace("invert=True", "--invert")
    return [*view.notes, *([f"the picture {unlike}"] if unlike else [])]


def say_notes(name: str, done: list[str]) -> None:
    """Say on one line what was done to a picture."""
    if done:
        _options.say(f"{name}: {'; '.join(done)}")


def class_name(model: Classifier, number: int) -> str:
    """A class in words where the weights have some."""
    classes = model.weights.classes if model.weights else ()
    return classes[number] if classes else f"class {number}"
