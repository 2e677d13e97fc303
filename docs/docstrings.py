"""Docstrings as the site shows them: Sphinx roles become links, and every example a code block."""

import re

import griffe

import convzoo

ROLE = re.compile(r":[a-z]+:`~?(?:([^`<>]+?) ?<([\w.]+)>|([\w.]+))`")


def link(match: re.Match[str]) -> str:
    """``:func:`convzoo.cam``` as a link into the reference; a name that is not in it as code."""
    text, target, plain = match.groups()
    target = target or plain
    parts = target.split(".")
    known = parts[0] == "convzoo" and len(parts) > 1 and parts[1] in convzoo.__all__
    return f"[`{text or target.removeprefix('convzoo.')}`][{target}]" if known else f"`{text or target}`"


class Docstrings(griffe.Extension):
    """For mkdocstrings' handler of Python."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = ROLE.sub(link, re.sub(r"(?m)^(\s*)Example:$", r"\1Examples:", text))
