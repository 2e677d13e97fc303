"""The command line: ``python -m convzoo`` or ``convzoo``, one module of :mod:`convzoo.commands` a subject."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commands import cam, models, profile, weights
from .weights import WeightsError

COMMANDS = (models, profile, weights, cam)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it went well, 2 and one line on stderr when what was asked cannot be done."""
    parser = argparse.ArgumentParser(prog="convzoo", description="The classic image classifiers, by name.")
    parser.add_argument("--version", action="version", version=f"convzoo {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_commands(subparsers)
    args = parser.parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, TypeError, OSError, WeightsError) as error:
        print(f"convzoo: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
