"""``convzoo completion``: a script for bash, zsh or fish that completes commands, options, values, names and files."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .models import read_catalogue

# what the words of a command and the values of an option may be: models, weights, files, or these words
WORDS: dict[str, tuple[str, ...]] = {"list": ("models",), "weights": ("weights",), "publish": ("files",)}
WORDS |= dict.fromkeys(("info", "profile", "compare"), ("models", "weights"))
WORDS |= dict.fromkeys(("predict", "cam"), ("weights", "files"))
VALUES: dict[str, tuple[str, ...]] = {"--weights": ("weights", "files"), "--arch": ("models",), "--out": ("files",)}
VALUES |= {"--method": ("auto", "cam", "grad_cam", "grad_cam_pp", "hires_cam", "layer_cam", "attention", "rollout")}
TOP = {"-h": "show this help message and exit", "-V": "show program's version number and exit"}
TOP |= {"--help": TOP["-h"], "--version": TOP["-V"]}
LISTS = {"models": "convzoo list --names 2>/dev/null", "weights": "convzoo weights --names 2>/dev/null"}


@dataclass
class Option:
    """One option of a command: how it is written, what it does, and what may follow it (None: nothing does)."""

    words: list[str]
    help: str
    values: tuple[str, ...] | None
    repeated: bool


@dataclass
class Command:
    """One command: what it does, its options, and what its words may be."""

    name: str
    help: str
    options: list[Option]
    values: tuple[str, ...]


def add_commands(subparsers: Any) -> None:
    """Add ``completion``."""
    parser = subparsers.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Print a script that completes commands, options, their values, names and files.",
        epilog="examples:\n  source <(convzoo completion bash)                  in ~/.bashrc\n"
        "  source <(convzoo completion zsh)                   in ~/.zshrc, after compinit\n"
        "  convzoo completion fish > ~/.config/fish/completions/convzoo.fish",
    )
    parser.add_argument("shell", choices=sorted(SCRIPTS))
    parser.set_defaults(run=run_completion, subparsers=subparsers)


def run_completion(args: argparse.Namespace) -> None:
    """Print the script."""
    print("\n".join(SCRIPTS[args.shell](commands(args.subparsers))))


def commands(subparsers: Any) -> list[Command]:
    """All commands, as their parsers have them."""
    families = tuple(sorted({entry["family"] for entry in read_catalogue().values()}))
    known = VALUES | {"--family": families}
    found = []
    for told in subparsers._choices_actions:
        options, words = [], WORDS.get(told.dest, ())
        for action in subparsers.choices[told.dest]._actions:
            written = list(action.option_strings)
            if not written:
                words = tuple(action.choices or words)
                continue
            values = None if action.nargs == 0 else tuple(action.choices or known.get(written[-1], ()))
            options.append(Option(written, action.help or "", values, isinstance(action, argparse._AppendAction)))
        found.append(Command(told.dest, told.help or "", options, words))
    return found


def split(values: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Those that a command lists, and those that stand for themselves; files are neither."""
    listed = [value for value in values if value in LISTS]
    return listed, [value for value in values if value not in LISTS and value != "files"]


def bash(known: list[Command]) -> list[str]:
    """For bash, from version 3 on."""

    def answer(values: tuple[str, ...]) -> str:
        listed, plain = split(values)
        words = " ".join([*(f"$({LISTS[value]})" for value in listed), *plain])  # compgen expands it
        return f"words={quoted(words)}" + "; files=yes" * ("files" in values)

    cases = []
    for command in known:
        for option in command.options:
            if option.values is not None:
                pattern = "|".join(quoted(f"{command.name} {word}") for word in option.words)
                cases.append(f"    {pattern}) {answer(option.values)} ;;")
        every = " ".join(word for option in command.options for word in option.words)
        cases.append(f"    '{command.name} '*) {answer(command.values)}; options='{every}' ;;")
    names = " ".join(command.name for command in known)
    return [
        "_convzoo() {",
        '  local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
        '  local words="" options="" files="" line',
        "  COMPREPLY=()",
        "  if [ \"$word\" = '=' ]; then word=''; [[ $before == --* ]] || return 0  # --format=csv is three words here",
        '  elif [ "$before" = \'=\' ]; then before="${COMP_WORDS[COMP_CWORD-2]}"; [[ $before == --* ]] || return 0; fi',
        "  if [ $COMP_CWORD -eq 1 ]; then",
        f"    words='{names}' options='{' '.join(TOP)}'",
        '  else case "${COMP_WORDS[1]} $before" in',
        *cases,
        "  esac; fi",
        '  [[ $word != -* ]] || { words="$options"; files=""; }',
        '  while IFS= read -r line; do COMPREPLY+=("$line"); done < <(',
        '    compgen -W "$words" -- "$word"; [ -z "$files" ] || compgen -f -- "$word"',
        "  )",
        '  if [ -n "$files" ] && [ ${#COMPREPLY[@]} -eq 0 ]; then',
        "    compopt -o default 2>/dev/null || true  # the name of a file in quotes is left to readline",
        "  fi",
        "}",
        "complete -o filenames -F _convzoo convzoo",
    ]


def zsh(known: list[Command]) -> list[str]:
    """For zsh, which shows the help beside each word and leaves out options that were given."""

    def answer(values: tuple[str, ...]) -> str:
        listed, plain = split(values)
        if listed or "files" in values:
            return f" _convzoo_words {' '.join(values)}"
        return f"({' '.join(plain)})" if plain else " "

    def spec(option: Option, word: str) -> str:
        before = "*" if option.repeated else f"({' '.join(option.words)})"
        equals = "=" if word.startswith("--") and option.values is not None else ""
        after = f":{option.words[-1].lstrip('-')}:{answer(option.values)}" if option.values is not None else ""
        told = option.help
        for mark in "\\[]:":
            told = told.replace(mark, "\\" + mark)
        return quoted(f"{before}{word}{equals}[{told}]{after}")

    cases = []
    for command in known:
        specs = [spec(option, word) for option in command.options for word in option.words]
        specs += [quoted(f"*:{command.name}:{answer(command.values)}")]
        cases.append(f"    {command.name}) _arguments {' '.join(specs)} ;;")
    told = " ".join(quoted(f"{command.name}:{command.help}") for command in known)
    return [
        "#compdef convzoo",
        "_convzoo_words() {",
        "  local kind expl done=1",
        "  local -a names",
        "  for kind; do",
        "    case $kind in",
        *(f'      {kind}) names=(${{(f)"$({command})"}}) ;;' for kind, command in LISTS.items()),
        "      files) _files && done=0; continue ;;",
        "    esac",
        "    _wanted $kind expl $kind compadd -a names && done=0",
        "  done",
        "  return done",
        "}",
        "_convzoo() {",
        "  local -a commands",
        f"  commands=({told})",
        "  if (( CURRENT == 2 )); then",
        f"    _arguments {' '.join(quoted(f'{word}[{help}]') for word, help in TOP.items())} \\",
        "      '1:command: _describe -t commands command commands'",
        "    return",
        "  fi",
        "  local command=${words[2]}",
        "  shift words; (( CURRENT-- ))",
        "  case $command in",
        *cases,
        "  esac",
        "}",
        "# in a folder of fpath this file is the function itself",
        'if [[ ${funcstack[1]} == _convzoo ]]; then _convzoo "$@"; else compdef _convzoo convzoo; fi',
    ]


def fish(known: list[Command]) -> list[str]:
    """For fish: a line for each word."""

    def answer(values: tuple[str, ...]) -> list[str]:
        listed, plain = split(values)
        return [f"-a {quoted(f'({LISTS[value]})')}" for value in listed] + [f"-a {quoted(' '.join(plain))}"] * bool(
            plain
        )

    def flags(words: Iterable[str]) -> str:
        return " ".join(f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}" for word in words)

    lines = [
        "function __convzoo_is  # the command that is being written",
        "  set -l words (commandline -opc)",
        '  test "$words[2]" = "$argv[1]"',
        "end",
        *(
            f"complete -c convzoo -n '__convzoo_is \"\"' {flags([word])} -d {quoted(help)}"
            for word, help in TOP.items()
        ),
    ]
    for command in known:
        lines.append(f"complete -c convzoo -n '__convzoo_is \"\"' -f -a {command.name} -d {quoted(command.help)}")
        start = f"complete -c convzoo -n '__convzoo_is {command.name}'"
        for option in command.options:
            kind = "" if option.values is None else " -r -F" if "files" in option.values else " -x"
            line = f"{start} {flags(option.words)}{kind} -d {quoted(option.help)}"
            lines.append(" ".join([line, *answer(option.values or ())]))
        files = "-F" if "files" in command.values else "-f"
        lines += [f"{start} {files} {values}" for values in answer(command.values) or [""]]
    return lines


def quoted(text: str) -> str:
    """A word of any of the three shells."""
    return "'" + text.replace("'", "'\\''") + "'"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
