"""``convzoo completion``: a script that completes commands, options and names in bash, zsh or fish."""

from __future__ import annotations

import argparse
from typing import Any

# which commands take names of models or of weights
NAMES = {"info": "both", "profile": "both", "compare": "both", "list": "models", "weights": "weights"}
NAMES |= {"predict": "weights", "cam": "weights"}
LISTS = {
    "models": "convzoo list --names 2>/dev/null",
    "weights": "convzoo weights --names 2>/dev/null",
    "both": "convzoo list --names 2>/dev/null; convzoo weights --names 2>/dev/null",
}


def add_commands(subparsers: Any) -> None:
    """Add ``completion``."""
    parser = subparsers.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Print a script that completes commands, options and names.",
        epilog="examples:\n  source <(convzoo completion bash)                  in ~/.bashrc\n"
        "  source <(convzoo completion zsh)                   in ~/.zshrc, after compinit\n"
        "  convzoo completion fish > ~/.config/fish/completions/convzoo.fish",
    )
    parser.add_argument("shell", choices=sorted(SCRIPTS))
    parser.set_defaults(run=run_completion, subparsers=subparsers)


def run_completion(args: argparse.Namespace) -> None:
    """Print the script."""
    print(SCRIPTS[args.shell](commands(args.subparsers)), end="")


def commands(subparsers: Any) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Each command with its help and its options, (name, help)."""
    helps = {action.dest: action.help or "" for action in subparsers._choices_actions}
    return {
        name: (
            helps.get(name, ""),
            [(word, action.help or "") for action in parser._actions for word in action.option_strings],
        )
        for name, parser in subparsers.choices.items()
    }


def bash(known: dict[str, tuple[str, list[tuple[str, str]]]]) -> str:
    """For bash: words, and files where nothing else fits."""
    cases = "".join(
        f"    {name}) options='{' '.join(word for word, _ in options)}'; names=$({LISTS[NAMES[name]]}) ;;\n"
        if name in NAMES
        else f"    {name}) options='{' '.join(word for word, _ in options)}' ;;\n"
        for name, (_, options) in known.items()
    )
    return (
        "_convzoo() {\n"
        '  local word="${COMP_WORDS[COMP_CWORD]}" options="" names=""\n'
        "  if [ $COMP_CWORD -eq 1 ]; then\n"
        f"    COMPREPLY=($(compgen -W '{' '.join(known)} --help --version' -- \"$word\")); return\n"
        "  fi\n"
        '  case "${COMP_WORDS[1]}" in\n'
        f"{cases}"
        "  esac\n"
        '  case "$word" in\n'
        '    -*) COMPREPLY=($(compgen -W "$options" -- "$word")) ;;\n'
        '    *) COMPREPLY=($(compgen -W "$names" -- "$word") $(compgen -f -- "$word")) ;;\n'
        "  esac\n"
        "}\n"
        "complete -o filenames -F _convzoo convzoo\n"
    )


def zsh(known: dict[str, tuple[str, list[tuple[str, str]]]]) -> str:
    """For zsh: the same, with the help beside each word."""

    def described(words: list[tuple[str, str]]) -> str:
        return " ".join(_quoted(f"{word.replace(':', chr(92) + ':')}:{text}") for word, text in words)

    first = described([(name, text) for name, (text, _) in known.items()])
    cases = ""
    for name, (_, options) in known.items():
        names = f' names=(${{(f)"$({LISTS[NAMES[name]]})"}})' if name in NAMES else ""
        cases += f"    {name}) options=({described(options)});{names} ;;\n"
    return (
        "#compdef convzoo\n"
        "_convzoo() {\n"
        "  local -a commands options names\n"
        f"  commands=({first})\n"
        "  if (( CURRENT == 2 )); then _describe command commands; return; fi\n"
        "  case ${words[2]} in\n"
        f"{cases}"
        "  esac\n"
        "  if [[ ${words[CURRENT]} == -* ]]; then _describe option options\n"
        "  else (( ${#names} )) && compadd -a names; _files; fi\n"
        "}\n"
        "compdef _convzoo convzoo\n"
    )


def fish(known: dict[str, tuple[str, list[tuple[str, str]]]]) -> str:
    """For fish: a line a word."""
    lines = []
    for name, (text, options) in known.items():
        lines.append(f"complete -c convzoo -n __fish_use_subcommand -f -a {name} -d {_quoted(text)}")
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for word, told in options:
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-s {word[1:]}"
            lines.append(f"complete -c convzoo {seen} {kind} -d {_quoted(told)}")
        if name in NAMES:
            lines.append(f"complete -c convzoo {seen} -a '({LISTS[NAMES[name]]})'")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "").replace("\\", "") + "'"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
