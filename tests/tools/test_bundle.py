"""The maintainers' tool that puts weights into the package, and publishes them."""

from __future__ import annotations

import json

import pytest
from bundle import bundle, export_bundled, pin, write_table
from bundle import main as tool
from helpers.weight_folders import make_folder, same

import convzoo
from convzoo import WeightsCorrupted, WeightsNotFound
from convzoo.__main__ import main
from convzoo.weights import entries, find
from convzoo.weights.files import read_tensors

# the Hub's client hands its HTTP library bytes in a way that the newer of the two deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

MEASURED = {"metrics": {"top1": 99.2, "n": 10_000}, "dataset": {"id": "someone/digits"}, "license": "mit"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty table and folder in place of the package's own."""
    place = tmp_path / "package"
    (place / "bundled").mkdir(parents=True)
    monkeypatch.setattr(entries, "ENTRIES", place / "entries.json")
    monkeypatch.setattr(entries, "BUNDLED", place / "bundled")
    monkeypatch.setattr(find, "hub_folders", list)
    write_table({}, {})
    return place


def test_a_bundled_model_loads_without_a_network(package, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "run", dtype="float16", **MEASURED)
    (folder / "log.json").write_text('{"seed": 0}')
    info = bundle(folder)
    assert {path.name for path in (package / "bundled").iterdir()} == {
        "lenet5.made_up.safetensors",
        "lenet5.made_up.json",
    }
    monkeypatch.setattr("convzoo.weights.hub.Repository", None)
    for model in (
        convzoo.create_model("lenet5", pretrained=True),
        convzoo.create_model("lenet5", pretrained="made_up"),
        convzoo.create_model("lenet5", pretrained="lenet5.made_up"),
        convzoo.create_model("lenet5.made_up", pretrained=True),
    ):
        assert same(model, convzoo.create_model("lenet5", pretrained=folder))
        assert model.weights.source == "package"
        assert model.weights.metrics["top1"] == 99.2
    assert convzoo.list_weights() == convzoo.list_models(pretrained=True) == ["lenet5.made_up"]
    assert convzoo.weight_info("lenet5.made_up") == info
    assert info.bundled
    assert info.repo_id == "convzoo/lenet5.made_up"


def test_the_first_tag_is_the_default_until_another_is_chosen(package, tmp_path):
    for seed, tag in enumerate(("one", "two", "three")):
        bundle(make_folder(tmp_path / tag, tag=tag, seed=seed), default=True if tag == "three" else None)
        expected = {"one": "one", "two": "one", "three": "three"}[tag]
        assert convzoo.create_model("lenet5", pretrained=True).weights.tag == expected
    assert convzoo.list_weights("*.t*") == ["lenet5.three", "lenet5.two"]


def test_a_damaged_package_is_told(package, tmp_path):
    bundle(make_folder(tmp_path / "run"))
    path = package / "bundled" / "lenet5.made_up.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsCorrupted, match="the package is damaged: install convzoo again"):
        convzoo.create_model("lenet5", pretrained=True)


def test_what_does_not_get_into_the_package(package, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "run")
    monkeypatch.setattr("bundle.PACKAGE_LIMIT", 1000)
    with pytest.raises(ValueError, match=r"1,000 are allowed"):
        bundle(folder)
    assert bundle(folder, copy=False).name == "lenet5.made_up"
    assert list((package / "bundled").iterdir()) == []
    (folder / "config.json").unlink()
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsCorrupted):
        bundle(folder)


def test_did_you_mean(package, tmp_path):
    bundle(make_folder(tmp_path / "run"))
    with pytest.raises(WeightsNotFound, match=r"no weights 'lenet5.madeup'; did you mean 'lenet5.made_up'"):
        convzoo.create_model("lenet5", pretrained="madeup")
    with pytest.raises(TypeError, match="named by a string"):
        convzoo.weight_info(3)


def test_entries_come_from_folders_and_the_hub_in_that_order(package, hub, tmp_path, monkeypatch):
    """The package, CONVZOO_WEIGHTS, the cache, the Hub: each takes over when the one before is gone."""
    folder = make_folder(tmp_path / "hub" / "lenet5.made_up")
    bundle(folder)
    commit = convzoo.push_to_hub(folder, token="hf_good")
    write_table({"lenet5.made_up": bundle(folder)}, {"lenet5": "made_up"})
    pin("lenet5.made_up", commit)
    monkeypatch.setattr(find, "hub_folders", lambda: [tmp_path / "hub"] if (tmp_path / "hub").is_dir() else [])
    hub.clear()

    def source():
        return convzoo.create_model("lenet5", pretrained=True).weights.source

    assert source() == "package"
    (package / "bundled" / "lenet5.made_up.safetensors").unlink()
    assert source() == str(folder)
    assert hub.requests() == []
    (tmp_path / "hub").rename(tmp_path / "gone")
    assert source() == f"convzoo/lenet5.made_up@{commit}"
    assert len(hub.requests("GET")) == 2
    hub.clear()
    assert source() == f"convzoo/lenet5.made_up@{commit}"
    assert hub.requests() == []


# -- from the command line


def test_publishing_from_the_command_line(package, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    folder = make_folder(tmp_path / "hub" / "lenet5.made_up", **MEASURED)
    tool(["add", str(folder)])
    tool(["publish", str(folder)])
    commit = hub.repos["convzoo/lenet5.made_up"].branches["main"]
    assert capsys.readouterr().out.splitlines()[-1] == f"convzoo/lenet5.made_up@{commit}"
    assert convzoo.weight_info("lenet5.made_up").revision == commit
    tool(["publish", "--owner", "alice", "lenet5.made_up"])  # from the package
    assert hub.files("alice/lenet5.made_up")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert main(["weights"]) == 0
    assert "in the package" in capsys.readouterr().out.splitlines()[-1]
    with pytest.raises(WeightsNotFound, match=r"there are no weights 'no.such'"):
        tool(["publish", "--owner", "alice", "no.such"])
    assert main(["publish", "--owner", "bob", str(folder)]) == 0  # what everybody has
    assert capsys.readouterr().out.startswith("bob/lenet5.made_up@")
    assert main(["publish", "--owner", "bob", "no.such"]) == 2


def test_a_repository_from_the_package(package, tmp_path):
    folder = make_folder(tmp_path / "run", dtype="float16", **MEASURED)
    bundle(folder)
    exported = export_bundled("lenet5.made_up", tmp_path / "out")
    assert (exported / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert "| top-1 | 99.20 %" in (exported / "README.md").read_text()
    assert json.loads((exported / "config.json").read_text()) == json.loads((folder / "config.json").read_text())
    assert read_tensors(exported / "model.safetensors").keys() == convzoo.create_model("lenet5").state_dict().keys()


def test_predicting_from_the_command_line(package, tmp_path, capsys):
    from PIL import Image

    bundle(make_folder(tmp_path / "run", classes=[f"digit {digit}" for digit in range(10)]))
    Image.new("RGB", (60, 40), "white").save(tmp_path / "white.png")
    assert main(["predict", str(tmp_path / "white.png"), "--weights", "lenet5.made_up", "--top", "2"]) == 0
    path, answers = capsys.readouterr().out.strip().split(": ")
    assert path == str(tmp_path / "white.png")
    assert len(answers.split(", ")) == 2
    assert answers.startswith("digit ")
    assert answers.endswith(" %")
    assert main(["predict", str(tmp_path / "no.png"), "--weights", "lenet5.made_up"]) == 2
    assert main(["predict", "x.png", "--weights", "lenet5"]) == 0 or "No such file" in capsys.readouterr().err
