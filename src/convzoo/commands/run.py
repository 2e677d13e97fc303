"""From arguments to an exit status: the parser of all commands, and what becomes of errors and warnings."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from .._checks import did_you_mean
from ..weights.errors import WeightsError
from . import _options, cam, completion, models, predict, profile, weights

COMMANDS = (models, profile, weights, predict, cam, completion)
DESCRIPTION = "The classic image classifiers, by name: what there is, what it costs, what it sees."
EXAMPLES = """examples:
  convzoo list --max-params 5M --sort macs       the nets there are
  convzoo compare 'resnet*' --input 64           what they cost, side by side
  convzoo predict digit.jpg --weights lenet5     what a picture shows
  convzoo cam fcn_gap digit.jpg -o cam.png       and where the net looks
  convzoo COMMAND --help                         more of a command, with examples
"""


class Parser(argparse.ArgumentParser):
    """A parser that names a close command when one is mistyped, and shows examples as they are written."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        mark = "" if message.endswith("?") else ";"
        print(f"convzoo: {message}{mark} {self.prog} --help tells more", file=sys.stderr)
        raise SystemExit(2)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but words may come before and after options; what is left over is refused in words."""
        found, rest = super().parse_known_args(args, namespace)
        several = [action.dest for action in self._actions if action.nargs in ("+", "*") and not action.option_strings]
        if several and not any(word.startswith("-") and word != "-" for word in rest):
            setattr(found, several[0], [*getattr(found, several[0]), *rest])
            rest = []
        if rest:
            known = [word for action in self._actions for word in action.option_strings]
            close = difflib.get_close_matches(rest[0], known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            if not close and "--option" in known:
                hint = "; what belongs to a net is set by -o NAME=VALUE, such as -o stem=small"
            self.error((f"there is no option {rest[0]!r}" if rest[0][0] == "-" else f"{rest[0]!r} is too much") + hint)
        return found, rest

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message or "")  # argparse's own swallows what a closed pipe raises

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            hint = did_you_mean(value, [*action.choices, "--version", "--help"])
            raise argparse.ArgumentError(None, f"there is no command {value!r}; {hint}".rstrip("; "))
        super()._check_value(action, value)


def make_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(prog="convzoo", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument("-V", "--version", action="version", version=f"convzoo {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)
    for module in COMMANDS:
        module.add_commands(subparsers)
    return parser


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command; see :func:`convzoo.__main__.main`."""
    try:
        try:
            args = make_parser().parse_args(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 2
        else:
            status = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # "| head" has seen enough; nothing may be written when the interpreter ends either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _run(args: argparse.Namespace) -> int:
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment] # takes what it is given
        try:
            return int(args.run(args) or 0)
        except BrokenPipeError:
            raise
        except (ValueError, TypeError, ImportError, OSError, WeightsError) as error:
            _options.say(_options.one_line(error))
            return 2


def _show_warning(message: Warning | str, *_: Any) -> None:
    _options.say(_options.one_line(message))
