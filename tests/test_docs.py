"""What the pages say: the examples in docstrings run, and the README's code too."""

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from helpers import hubserver
from safetensors.torch import save

import convzoo

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(convzoo.__path__, "convzoo.") if module.name != "convzoo.__main__"
)


@pytest.fixture(autouse=True)
def _registry(monkeypatch):
    """What examples register is forgotten: their classes lose their globals with the example."""
    monkeypatch.setattr(convzoo.registry, "_ENTRIES", dict(convzoo.registry._ENTRIES))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # as torch.compile is first imported
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


TIMM = {"input_size": [3, 224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "tag": "a1_in1k"}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "```python" in page.read_text()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the Hub's client about its own libraries
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_of_pages_runs(page, hub, tmp_path, monkeypatch):
    """Every Python block of a page, one after the other as a reader would paste them, beside a checkout's examples
    and with a Hub of our own, which knows the reader's token and a net of timm's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(hubserver.TOKENS, "hf_of_the_reader", "me")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_reader")
    if "timm/resnet50" in page.read_text():
        state = convzoo.create_model("resnet50").half().state_dict()
        config = {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": TIMM}
        hub.commit("timm/resnet50.a1_in1k", {"config.json": json.dumps(config), "model.safetensors": save(state)})
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
        exec(compile(block, f"{page.name}, block {number}", "exec"), scope)
    if page.name == "README.md":
        assert scope["net"](scope["digits"]).argmax(1).tolist() == [3, 7]
    if page.name == "inference.md":
        assert len(list(scope["fast"].parameters())) == 2


def test_every_module_says_what_it_is():
    for name in MODULES:
        assert importlib.import_module(name).__doc__, name


def test_pages_of_the_site_exist():
    nav = re.findall(r": ([\w/]+\.md)", (ROOT / "mkdocs.yml").read_text())
    assert sorted(nav) == sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md"))


def test_the_notebook_is_the_page():
    """examples/tutorial.ipynb, executed in make docs-test, has the text and the code of docs/start.md."""
    import notebook

    cells = json.loads(notebook.NOTEBOOK.read_text())["cells"]
    assert [(cell["cell_type"] == "code", "".join(cell["source"])) for cell in cells] == notebook.parts()


def test_reference_has_every_public_name():
    listed = re.findall(r"^::: convzoo\.(\w+)$", (ROOT / "docs" / "reference.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(name for name in convzoo.__all__ if not name.startswith("__"))
