"""What a shell sees: exit status, one line for what went wrong, pipes, interrupts, missing libraries."""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import convzoo
from convzoo.__main__ import main
from convzoo.commands.run import make_parser

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
RUN = [sys.executable, "-m", "convzoo"]


def shell(*arguments, code=None, **options):
    command = [sys.executable, "-c", code, *arguments] if code else [*RUN, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("arguments", [["list"], ["weights"], ["profile", "resnet18", "--depth", "4"], ["--help"]])
def test_a_reader_that_has_seen_enough(arguments):
    process = subprocess.Popen([*RUN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert errors == b""


def test_an_interrupt_is_one_line():
    command = [*RUN, "predict", "lenet5", *[str(DIGITS / "3.png")] * 20_000]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith(str(DIGITS / "3.png"))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "convzoo: interrupted\n"


def test_an_interrupt_during_the_imports():
    """Ctrl-C at the very moment when torch is about to be imported."""
    code = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from convzoo.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
    done = shell("profile", "resnet18", code=code)
    assert (done.returncode, done.stderr) == (130, "convzoo: interrupted\n")


@pytest.mark.parametrize(
    ("library", "arguments", "words"),
    [
        ("PIL", ["predict", "lenet5", str(DIGITS / "3.png")], "pictures need Pillow: pip install 'convzoo[pictures]'"),
        ("PIL", ["cam", "fcn_gap", str(DIGITS / "3.png")], "pictures need Pillow"),
        ("thop", ["profile", "lenet5", "--counter", "thop"], "thop"),
    ],
)
def test_a_missing_library_is_one_line(library, arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, library, None)  # what imports it meets an ImportError
    assert main(arguments) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert words in errors
    assert errors.count("\n") == 1


def test_cam_needs_no_matplotlib(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None; from convzoo.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = shell("cam", "fcn_gap", str(DIGITS / "3.png"), code=code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cam.png").is_file()


@pytest.mark.parametrize("arguments", [["list"], ["weights"], ["list", "foo"], ["--help"], ["completion", "bash"]])
def test_what_needs_no_torch_does_not_import_it(arguments):
    code = (
        "import sys; from convzoo.__main__ import main; main(sys.argv[1:]); "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert shell(*arguments, code=code).returncode == 0


def test_a_mistyped_command():
    for arguments, words in ((["lst"], "did you mean 'list'"), ([], "required: COMMAND"), (["list", "-x"], "-x")):
        done = shell(*arguments)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["profile", "resnet18", "--stem", "small"], "'--stem'; what belongs to a net is set by -o NAME=VALUE"),
        (["list", "--jsn"], "'--jsn'; did you mean '--json'? convzoo list --help"),
        (["completion", "bash", "zsh"], "'zsh' is too much"),
        (["version"], "no command 'version'; did you mean '--version'?"),
    ],
)
def test_what_is_no_option(arguments, words, capsys):
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert words in errors
    assert errors.count("\n") == 1


def test_words_before_and_after_options():
    parse = make_parser().parse_args
    assert parse(["predict", "lenet5", "--top", "1", "a.png", "--json", "-"]).images == ["lenet5", "a.png", "-"]
    assert parse(["list", "--json", "resnet"]).pattern == ["resnet"]
    assert parse(["compare", "resnet18", "-o", "stem=small", "vgg*"]).names == ["resnet18", "vgg*"]
    assert parse(["list"]).pattern == []


def test_version(capsys):
    for flag in ("-V", "--version"):
        assert main([flag]) == 0
        assert capsys.readouterr().out == f"convzoo {convzoo.__version__}\n"


def commands():
    (action,) = [action for action in make_parser()._actions if action.dest == "==SUPPRESS==" and action.choices]
    return action.choices


@pytest.mark.parametrize("name", list(commands()))
def test_every_help_has_examples_that_parse(name, capsys):
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    examples = [
        line.split("  #")[0].strip() for line in text.partition("examples:")[2].splitlines() if "convzoo" in line
    ]
    assert examples
    for example in examples:
        words = example[example.index("convzoo") :].split("   ")[0].removesuffix(")").replace("'", "").split()
        arguments = [word for word in words[1:] if word not in (">",)]
        make_parser().parse_args(arguments[:2] if name == "completion" else arguments)


def commands_of_pages():
    root = Path(__file__).resolve().parents[2]
    for page in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        blocks = re.findall(r"```(?:bash|sh|console)?\n(.*?)```", page.read_text(), re.DOTALL)
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += [" ".join(code.split()) for code in re.findall(r"`(python -m convzoo \w+\s[^`]+)`", text)]
        for line in lines:
            if match := re.match(r"(?:\$ )?(?:python -m )?convzoo (.*?)(?:\s+#.*)?$", line):
                yield page.name, match[1]


def test_the_commands_of_the_pages_parse():
    found = list(commands_of_pages())
    assert len(found) > 10
    for page, command in found:
        arguments = shlex.split(command.partition(" | ")[0].partition(" > ")[0])
        assert make_parser().parse_args(arguments).run, page


def test_every_argument_says_what_it_is():
    for name, parser in commands().items():
        for action in parser._actions:
            assert action.help or action.choices, (name, action.dest)
