"""Options that several commands share, and how their values are written."""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from typing import Any

from .._table import Table

UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
COMMANDS = {"list_models": "list", "list_weights": "weights", "model_info": "info", "weight_info": "info"}
FORMATS = ("table", "markdown", "csv", "json")


def number(text: str) -> float:
    """``"5M"``, ``"1.5G"``, ``"61706"`` as a number."""
    unit = UNITS.get(text[-1:].lower())
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 5M, 1.5G or 61706") from error
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 5M, 1.5G or 61706")
    return value


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def option(text: str) -> tuple[str, Any]:
    """``"stem=small"``, ``"depths=2,2,2,2"``, ``"aux=true"`` as a name and a value."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE, such as stem=small")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value


class Size(argparse.Action):
    """``--input 64``, ``--input 3x64x64`` or ``--input 3 64 64`` as a tuple of one to three numbers."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _: Any = None
    ) -> None:
        parts = [part for value in values for part in value.lower().replace("×", "x").split("x")]
        if not 1 <= len(parts) <= 3 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            parser.error(f"--input {' '.join(values)!r} is not a size such as 64, 64x48 or 3x64x64")
        numbers = tuple(map(int, parts))
        setattr(namespace, self.dest, numbers[0] if len(numbers) == 1 else numbers)


def add_net_options(parser: argparse.ArgumentParser) -> None:
    """What changes a net that is given by name."""
    parser.add_argument(
        "--input", nargs="+", action=Size, metavar="SIZE", help="of one image: 64, 64x48, 3x64x64 (each net's own)"
    )
    parser.add_argument("--num-classes", type=count, metavar="N", help="length of the logits (each net's own)")
    parser.add_argument(
        "-o", "--option", type=option, action="append", default=[], metavar="NAME=VALUE",
        help="an option of the architecture, such as stem=small; 'convzoo info NAME' lists them",
    )  # fmt: skip


def add_format(parser: argparse.ArgumentParser, formats: tuple[str, ...] = FORMATS) -> None:
    """``--format``, and ``--json`` for short."""
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"how to print it ({formats[0]})")
    parser.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")


def show(table: Table, form: str) -> None:
    """Print a table in one of ``FORMATS``."""
    if form == "json":
        show_json(table.to_dict())
    elif form == "csv":
        print(table.to_csv(), end="")
    else:
        print(table.to_markdown() if form == "markdown" else table)


def show_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=list))


def say(text: str) -> None:
    """A line for the person, beside the output."""
    print(f"convzoo: {text}", file=sys.stderr)


def one_line(message: object) -> str:
    """What an error or a warning says, on one line; an error of the system without its number."""
    if isinstance(message, OSError) and message.strerror and message.filename:
        return f"{message.filename}: {message.strerror}"
    return in_commands(" ".join(str(message).split())) or type(message).__name__


def in_commands(text: str) -> str:
    """What the library advises to Python, for a shell: ``list_models()`` is ``'convzoo list'`` there."""

    def command(call: re.Match[str]) -> str:
        return f"'{' '.join(['convzoo', COMMANDS[call[1]], *call[2].split()])}'"

    text = re.sub(rf"\b({'|'.join(COMMANDS)})\('?([\w. ]*)'?\)(?:\.\w+)?", command, text)
    return text.replace("pretrained= also takes", "--weights of predict and cam also takes")
