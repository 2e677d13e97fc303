"""What the pages say: the examples in docstrings run, and the README's code too."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import convzoo

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(convzoo.__path__, "convzoo.") if module.name != "convzoo.__main__"
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_public_functions_show_an_example():
    for name in convzoo.__all__:
        thing = getattr(convzoo, name)
        if callable(thing) and not isinstance(thing, type):
            assert ">>> " in thing.__doc__, f"{name} shows no example"
            assert "Raises:" in thing.__doc__ or name in {"list_weights", "cam_layers"}, f"{name} names no error"


def test_readme_code_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert scope["net"](scope["digits"]).argmax(1).tolist() == [3, 7]


def test_every_module_says_what_it_is():
    for name in MODULES:
        assert importlib.import_module(name).__doc__, name


def test_pages_of_the_site_exist():
    nav = re.findall(r": (\w+\.md)", (ROOT / "mkdocs.yml").read_text())
    assert nav
    for page in nav:
        assert (ROOT / "docs" / page).is_file(), page
