"""``convzoo completion``: what the scripts hold, and what bash, zsh and fish make of them where they are installed."""

import os
import shutil
import subprocess
import sys

import pytest

from convzoo.__main__ import main
from convzoo.commands.completion import VALUES
from convzoo.commands.run import make_parser
from convzoo.explain import METHODS

# what is typed, and all that fits there
CASES = {
    "pro": ["profile"],
    "--v": ["--version"],
    "completion f": ["fish"],
    "list --max-p": ["--max-params"],
    "list --format ": ["csv", "json", "markdown", "table"],
    "list --sort y": ["year"],
    "list --family res": ["resnet", "resnext"],
    "profile resnext": ["resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"],
    "profile resnet18 --counter t": ["thop", "torchinfo"],
    "profile resnet18 --depth ": [],
    "info vgg19_bn.": ["vgg19_bn.tiny_imagenet"],
    "predict le": ["leaf.png", "lenet5.mnist", "lenet5.mnist_aug", "lenet5_1998.mnist", "lenet5_1998.mnist_aug"],
    "predict lenet5 my": ["my digit.png"],
    "predict -w vgg": ["vgg19_bn.tiny_imagenet"],
    "predict --arch vgg11": ["vgg11", "vgg11_bn"],
    "predict photos/": ["photos/it's *.png"],
    "cam --method grad": ["grad_cam", "grad_cam_pp"],
    "cam -o le": ["leaf.png"],
}
# what zsh makes of a line where one word fits
LINES = {
    "pro": "profile ",
    "--v": "--version ",
    "completion f": "completion fish ",
    "list --max-p": "list --max-params=",
    "list --format j": "list --format json ",
    "list --format=j": "list --format=json ",
    "list --sort y": "list --sort year ",
    "list --family alex": "list --family alexnet ",
    "profile resnext50": "profile resnext50_32x4d ",
    "profile resnet18 --counter th": "profile resnet18 --counter thop ",
    "profile resnet18 --depth ": "profile resnet18 --depth ",
    "info vgg19_bn.": "info vgg19_bn.tiny_imagenet ",
    "predict lea": "predict leaf.png ",
    "predict lenet5_1998.mnist_": "predict lenet5_1998.mnist_aug ",
    "predict lenet5 my": "predict lenet5 my\\ digit.png ",
    "predict -w vgg": "predict -w vgg19_bn.tiny_imagenet ",
    "predict photos/i": "predict photos/it\\'s\\ \\*.png ",
    "cam --method hi": "cam --method hires_cam ",
    "cam -o le": "cam -o leaf.png ",
}


@pytest.fixture
def play(tmp_path):
    """A folder with files in it, beside it a command ``convzoo``, and nobody's settings."""
    for name in ("leaf.png", "my digit.png", "photos/it's *.png"):
        (tmp_path / "play" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "play" / name).touch()
    (tmp_path / "convzoo").write_text(f'#!/bin/sh\nexec {sys.executable} -m convzoo "$@"\n')
    (tmp_path / "convzoo").chmod(0o755)
    homes = dict.fromkeys(("HOME", "ZDOTDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"), str(tmp_path))
    environment = {**os.environ, **homes, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TERM": "dumb"}
    return {"cwd": tmp_path / "play", "env": environment}


@pytest.fixture
def script(tmp_path, capsys):
    def write(kind):
        assert main(["completion", kind]) == 0
        (tmp_path / f"_{kind}").write_text(capsys.readouterr().out)
        return tmp_path / f"_{kind}"

    return write


def run(command, play, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, **play, **options)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_every_option_and_choice_is_in_the_script(kind, script):
    path = script(kind)
    lines = path.read_text().splitlines()
    (parsers,) = [action.choices for action in make_parser()._actions if action.choices]
    for name, parser in parsers.items():
        of_command = [line for line in lines if f"{name}) " in line or f"{name} " in line or f"{name}'" in line]
        for action in parser._actions:
            for word in action.option_strings:
                wanted = f"-l {word[2:]} " if kind == "fish" and word[:2] == "--" else word.removeprefix("-")
                assert any(wanted in line for line in of_command), (name, word)
            if action.choices:
                assert any(" ".join(action.choices) in line for line in of_command), (name, action.dest)
    if shutil.which(kind):
        subprocess.run([kind, "-n", path], check=True)


def test_the_methods_are_those_of_cam():
    assert VALUES["--method"] == METHODS


def test_bash(play, script):
    ask = (
        'source "$0"; for line; do read -ra COMP_WORDS <<< "convzoo $line"; [[ $line != *" " ]] || COMP_WORDS+=("");'
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _convzoo; printf "%s\\n" "${COMPREPLY[@]}" "--"; done'
    )
    answers = run(["bash", "-c", ask, script("bash"), *CASES], play).split("--\n")
    found = {line: answer.strip("\n").splitlines() for line, answer in zip(CASES, answers, strict=False)}
    assert {line: sorted(words) for line, words in found.items()} == {line: sorted(w) for line, w in CASES.items()}


def test_bash_sees_an_equals_sign_as_a_word(play, script):
    ask = 'source "$0"; COMP_WORDS=(convzoo "$@"); COMP_CWORD=$#; _convzoo; echo "${COMPREPLY[@]}"'
    path = script("bash")
    assert run(["bash", "-c", ask, path, "list", "--format", "=", "j"], play) == "json\n"
    assert run(["bash", "-c", ask, path, "list", "--sort", "="], play) == "name family params macs year\n"
    assert run(["bash", "-c", ask, path, "profile", "resnet18", "-o", "stem", "=", "s"], play) == "\n"


def test_fish(play, script):
    path = script("fish")
    assert "complete -c convzoo" in path.read_text()
    if shutil.which("fish"):
        ask = 'source $argv[1]; for line in $argv[2..]; complete -C "convzoo $line"; echo END; end'
        answers = run(["fish", "-c", ask, path, *CASES], play).split("END\n")
        found = {
            line: [word.partition("\t")[0] for word in answer.splitlines()]
            for line, answer in zip(CASES, answers, strict=False)
        }
        assert {line: sorted(words) for line, words in found.items()} == {line: sorted(w) for line, w in CASES.items()}


@pytest.mark.parametrize("autoload", [False, True], ids=["sourced", "in-fpath"])
def test_zsh(autoload, play, script, tmp_path):
    """Keys typed into a real terminal; ^B writes the line down and clears it."""
    path = script("zsh")
    assert path.read_text().startswith("#compdef convzoo\n")
    if not shutil.which("zsh"):
        return
    (tmp_path / "functions").mkdir()
    path.rename(tmp_path / "functions" / "_convzoo")
    path = tmp_path / "functions" / "_convzoo"
    (tmp_path / "settings").write_text(
        f"PS1='READY '; {'fpath=($HOME/functions $fpath);' * autoload} autoload -Uz compinit; compinit -u -D\n"
        f"{f'source {path}' * (not autoload)}\n"
        "note() { print -r -- \"$BUFFER\" >> $HOME/lines; BUFFER=''; }; zle -N note; bindkey '^B' note; echo SET\n"
    )
    type_in = (
        "zmodload zsh/zpty; zpty shell zsh -f -i; zpty -w shell 'source $HOME/settings';"
        "zpty -r shell seen '*SET*READY*';"
        "for line; do zpty -n -w shell \"convzoo $line\"$'\\t\\x02'; done; zpty -w shell exit;"
        "while zpty -r shell seen; do print -r -- $seen; done"
    )
    shown = run(["zsh", "-f", "-c", type_in, "zsh", *LINES], play)
    lines = (tmp_path / "lines").read_text().splitlines()
    assert lines == [f"convzoo {line}" for line in LINES.values()]
    assert "not found" not in shown
    assert "convzoo:" not in shown
