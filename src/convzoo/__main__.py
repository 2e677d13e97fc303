"""The command line: ``python -m convzoo`` or ``convzoo``, one module of :mod:`convzoo.commands` a subject."""

from __future__ import annotations

import gc
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 when it went well; 1 when some of what was asked could not be done (a file that is no
        picture, no match); 2 when nothing could, and stderr says why; 130 when interrupted; 141 when the reader of
        the output has gone.
    """
    try:
        from .commands.run import run

        return run(arguments)
    except KeyboardInterrupt:  # also during the imports, which take a second
        print("convzoo: interrupted", file=sys.stderr)
        return 130


def program() -> int:
    """:func:`main` as a program of its own.

    Importing torch makes some hundred thousand objects that stay; looking through them for garbage, again and again,
    takes a tenth of a second.
    """
    gc.set_threshold(1_000_000)
    return main()


if __name__ == "__main__":
    sys.exit(program())
