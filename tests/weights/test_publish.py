"""Weights on their way out: folders, the Hub, the package."""

from __future__ import annotations

import json
import os

import pytest
import torch
import yaml
from helpers.weight_folders import files_of, make_folder, run_python, same
from torch import nn

import convzoo
from convzoo import WeightsCorrupted, WeightsForbidden, WeightsNotFound, WeightsUnavailable
from convzoo.__main__ import main
from convzoo.weights import entries, find
from convzoo.weights.files import read_tensors
from convzoo.weights.publish import bundle, export_bundled

# the Hub's client hands its HTTP library bytes in a way that the newer of the two deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

MEASURED = {
    "metrics": {"top1": 99.2, "n": 10_000},
    "dataset": {"id": "someone/digits", "split": "test", "name": "Digits"},
    "recipe": {"epochs": 3, "optimizer": "AdamW", "held_out": [98.0, 99.1]},
    "dataset_terms": "by someone, for anyone.",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An empty table and folder in place of the package's own."""
    place = tmp_path / "package"
    (place / "bundled").mkdir(parents=True)
    monkeypatch.setattr(entries, "ENTRIES", place / "entries.json")
    monkeypatch.setattr(entries, "BUNDLED", place / "bundled")
    monkeypatch.setattr(find, "hub_folders", list)
    entries.write_table({}, {})
    return place


# -- into a folder


def test_what_a_folder_holds(tmp_path):
    torch.manual_seed(0)
    model = convzoo.create_model("fcn_gap", head="gap_then_conv").eval()
    classes = [f"digit {digit}" for digit in range(10)]
    folder = convzoo.save_pretrained(
        model, tmp_path / "a" / "b", tag="mine", classes=classes, mean=[0.1], std=0.3, dtype="float16", **MEASURED
    )
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    config = json.loads((folder / "config.json").read_text())
    assert set(config["pretrained_cfg"]) <= TIMM_PRETRAINED_KEYS
    assert config["architecture"] == "fcn_gap"
    assert config["model_args"] == {"head": "gap_then_conv"}
    assert config["label_names"] == classes
    assert config["pretrained_cfg"]["input_size"] == [1, 28, 28]
    assert config["convzoo"]["size"] == (folder / "model.safetensors").stat().st_size
    loaded = convzoo.create_model("fcn_gap", pretrained=folder)
    assert same(loaded, model.half().float())
    info = loaded.weights
    assert (info.name, info.classes, info.mean, info.std, info.dtype) == (
        "fcn_gap.mine",
        tuple(classes),
        (0.1,),
        (0.3,),
        "float16",
    )
    assert (info.metrics, info.dataset, info.recipe) == (MEASURED["metrics"], MEASURED["dataset"], MEASURED["recipe"])
    assert info.num_params == sum(parameter.numel() for parameter in model.parameters())
    assert info.macs == convzoo.profile(model, (1, 28, 28)).macs


TIMM_PRETRAINED_KEYS = {
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "architecture", "tag", "custom_load"),
    *("input_size", "test_input_size", "min_input_size", "fixed_input_size", "interpolation", "crop_pct"),
    *("test_crop_pct", "crop_mode", "mean", "std", "num_classes", "label_offset", "label_names", "label_descriptions"),
    *("pool_size", "test_pool_size", "first_conv", "classifier", "license", "description", "origin_url", "paper_name"),
    *("paper_ids", "notes"),
}  # timm's PretrainedCfg refuses any other name


def test_the_model_card(tmp_path):
    folder = make_folder(tmp_path / "lenet5.made_up", **MEASURED)
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    meta = yaml.safe_load(front)
    assert meta["library_name"] == "convzoo"
    assert meta["pipeline_tag"] == "image-classification"
    assert meta["license"] == "mit"
    assert meta["datasets"] == ["someone/digits"]
    assert meta["tags"] == ["image-classification", "convzoo", "pytorch", "lenet"]
    (result,) = meta["model-index"][0]["results"]
    assert result["dataset"] == {"name": "Digits", "type": "someone/digits", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 99.2, "name": "accuracy"}]
    for part in (
        'convzoo.create_model("lenet5", pretrained="convzoo/lenet5.made_up")',
        "| parameters | 61,706 |",
        "| multiply-accumulates | 416,520 |",
        "28 x 28 (bilinear",
        "mean 0.13, std 0.31",
        "| top-1 | 99.20 % | 99.01 to 99.36 % | 10,000 |",
        "| epochs | 3 |",
        "convzoo.cam(",
        "by someone, for anyone.",
        "LeCun",
    ):
        assert part in body, part
    assert "timm" not in body


def test_the_card_of_a_net_that_timm_has_says_so(tmp_path):
    folder = make_folder(tmp_path / "a", "resnet18", options={"num_classes": 3}, repo_id="me/net")
    text = (folder / "README.md").read_text()
    assert 'timm.create_model("hf-hub:me/net", pretrained=True)' in text
    assert "- timm" in text
    small = make_folder(tmp_path / "b", "resnet18", options={"num_classes": 3, "stem": "small"})
    assert "timm" not in (small / "README.md").read_text()


def test_any_memory_format_and_shared_tensors(tmp_path):
    model = convzoo.create_model("fcn_gap").to(memory_format=torch.channels_last)
    model.bn2.weight = model.bn3.weight  # tied
    folder = convzoo.save_pretrained(model, tmp_path / "a", tag="x", mean=0, std=1)
    assert same(convzoo.create_model("fcn_gap", pretrained=folder), model)


def test_a_loaded_model_is_saved_with_what_still_holds(tmp_path):
    folder = make_folder(tmp_path / "a", classes=list("abcdefghij"), crop_pct=0.9, interpolation="bicubic", **MEASURED)
    model = convzoo.create_model("lenet5", pretrained=folder)
    again = convzoo.create_model("lenet5", pretrained=convzoo.save_pretrained(model, tmp_path / "b")).weights
    assert (again.name, again.classes[0], again.mean, again.crop_pct) == ("lenet5.made_up", "a", (0.13,), 0.9)
    assert again.interpolation == "bicubic"
    assert again.metrics == {}  # nobody measured these: the model may have been trained on
    other = convzoo.create_model("lenet5", num_classes=3, pretrained=folder)
    assert convzoo.save_pretrained(other, tmp_path / "c", tag="three").is_dir()
    assert convzoo.create_model("lenet5", pretrained=tmp_path / "c").weights.classes == ("0", "1", "2")


def test_saving_over_a_folder_in_use(tmp_path):
    folder = make_folder(tmp_path / "a")
    (folder / "log.json").write_text("{}")
    model = convzoo.create_model("lenet5", pretrained=folder)  # mapped
    convzoo.save_pretrained(model, folder, tag="made_up")
    assert same(convzoo.create_model("lenet5", pretrained=folder), model)
    assert (folder / "log.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tag": None}, "tag must be letters"),
        ({"tag": "a/b"}, "tag must be letters"),
        ({"mean": None}, "mean and std of the training images of lenet5 are not known"),
        ({"mean": [0.1, 0.2]}, "mean needs 1 values"),
        ({"std": 0.0}, "std"),
        ({"classes": ["a"]}, "10 classes, got 1 names"),
        ({"metrics": {"top1": 99.0}}, "metrics need n"),
        ({"dtype": "int8"}, "dtype must be one of float32"),
        ({"interpolation": "lanczos"}, "interpolation must be one of"),
    ],
)
def test_what_cannot_be_saved(tmp_path, change, words):
    arguments = {"tag": "x", "mean": 0.0, "std": 1.0, **change}
    with pytest.raises((ValueError, WeightsCorrupted), match=words):
        convzoo.save_pretrained(convzoo.create_model("lenet5"), tmp_path / "a", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_not_a_model_of_the_zoo(tmp_path):
    with pytest.raises(TypeError, match="a model of the zoo"):
        convzoo.save_pretrained(nn.Linear(1, 1), tmp_path / "a")


def test_numbers_that_float16_cannot_hold(tmp_path):
    model = convzoo.create_model("lenet5")
    model.fc3.bias.data[0] = 1e6
    with pytest.raises(ValueError, match=r"fc3.bias holds numbers that torch.float16 cannot"):
        convzoo.save_pretrained(model, tmp_path / "a", tag="x", mean=0, std=1, dtype="float16")


# -- onto the Hub


def test_round_trip_through_the_hub_and_a_fresh_process(hub, tmp_path):
    folder = make_folder(tmp_path / "lenet5.made_up", **MEASURED)
    commit = convzoo.push_to_hub(folder, token="hf_good")
    assert hub.files("convzoo/lenet5.made_up").items() >= files_of(folder).items()
    assert hub.repos["convzoo/lenet5.made_up"].branches["main"] == commit
    code = f"""
import convzoo, torch
model = convzoo.create_model("lenet5", pretrained="convzoo/lenet5.made_up@{commit}")
torch.manual_seed(1)
print(model(torch.rand(1, 1, 28, 28)).sum().item(), model.weights.metrics["top1"])
"""
    model = convzoo.create_model("lenet5", pretrained=folder)
    torch.manual_seed(1)
    expected = model(torch.rand(1, 1, 28, 28)).sum().item()
    value, top1 = run_python(code, hub, tmp_path / "fresh").split()
    assert (float(value), top1) == (pytest.approx(expected, rel=1e-5), "99.2")


def test_unchanged_is_no_commit(hub, tmp_path):
    folder = make_folder(tmp_path / "a")
    first = convzoo.push_to_hub(folder, "alice/net", token="hf_good")
    hub.clear()
    assert convzoo.push_to_hub(folder, "alice/net", token="hf_good") == first
    assert hub.requests("PUT") == hub.requests("POST", "/commit/") == []
    make_folder(folder, seed=1)
    assert convzoo.push_to_hub(folder, "alice/net", token="hf_good") != first


def test_a_model_is_pushed_as_it_is_saved(hub):
    model = convzoo.create_model("lenet5").eval()
    convzoo.push_to_hub(model, "alice/net", token="hf_good", private=True, tag="mine", mean=0.1, std=0.3)
    assert hub.repos["alice/net"].private
    assert 'pretrained="alice/net"' in hub.files("alice/net")["README.md"].decode()
    assert same(convzoo.create_model("lenet5", pretrained="alice/net", token="hf_good"), model)


def test_only_the_repositorys_own_files_are_uploaded(hub, tmp_path):
    folder = make_folder(tmp_path / "a")
    (folder / "log.json").write_text("{}")
    (folder / "checkpoint.pt").write_bytes(b"\x80")
    convzoo.push_to_hub(folder, "alice/net", token="hf_good")
    assert set(hub.files("alice/net")) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "log.json",
        "model.safetensors",
    }


def test_who_may_not_publish(hub, tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "a")
    with pytest.raises(WeightsForbidden, match=r"publishing alice/net.*refused \(401\)"):
        convzoo.push_to_hub(folder, "alice/net")
    with pytest.raises(WeightsForbidden, match=r"refused \(401\)"):
        convzoo.push_to_hub(folder, "alice/net", token="hf_wrong")
    hub.fault("POST", "/api/repos/create", status=503)
    with pytest.raises(WeightsUnavailable, match="publishing alice/net"):
        convzoo.push_to_hub(folder, "alice/net", token="hf_good")


def test_what_is_not_sound_is_not_published(hub, tmp_path):
    folder = make_folder(tmp_path / "a")
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(
        card.replace("  results:\n  - task:\n", "  results:\n  - tusk:\n").replace("license: mit", "license: [mit")
    )
    with pytest.raises(ValueError, match="in README"):
        convzoo.push_to_hub(folder, "alice/net", token="hf_good")
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsCorrupted):
        convzoo.push_to_hub(folder, "alice/net", token="hf_good")
    (folder / "config.json").unlink()
    with pytest.raises((WeightsNotFound, WeightsCorrupted)):
        convzoo.push_to_hub(folder, "alice/net", token="hf_good")


# -- into the package


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
    monkeypatch.setattr("convzoo.weights.publish.PACKAGE_LIMIT", 1000)
    with pytest.raises(ValueError, match="1,000 are allowed"):
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
    entries.write_table({"lenet5.made_up": bundle(folder)}, {"lenet5": "made_up"})
    from convzoo.weights.publish import pin

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


def test_folders_of_repositories(tmp_path, monkeypatch):
    make_folder(tmp_path / "one" / "lenet5.folder_a", tag="folder_a")
    make_folder(tmp_path / "two" / "lenet5.folder_b", tag="folder_b")
    (tmp_path / "two" / "lenet5.broken").mkdir()
    (tmp_path / "two" / "lenet5.broken" / "config.json").write_text("{")
    monkeypatch.setenv("CONVZOO_WEIGHTS", os.pathsep.join([str(tmp_path / "one"), str(tmp_path / "two"), "/no/such"]))
    assert {"lenet5.folder_a", "lenet5.folder_b"} <= set(convzoo.list_weights("lenet5.*"))
    assert "lenet5.broken" not in convzoo.list_weights()
    assert convzoo.create_model("lenet5", pretrained="folder_b").weights.source.endswith("lenet5.folder_b")
    assert convzoo.create_model("lenet5", pretrained="convzoo/lenet5.folder_a").weights.tag == "folder_a"
    edit = tmp_path / "one" / "lenet5.folder_a" / "model.safetensors"
    edit.write_bytes(edit.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsCorrupted, match="sha256"):
        convzoo.create_model("lenet5", pretrained="folder_a")


# -- from the command line


def test_publishing_from_the_command_line(package, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    folder = make_folder(tmp_path / "hub" / "lenet5.made_up", **MEASURED)
    assert main(["bundle", str(folder)]) == 0
    assert main(["publish", str(folder)]) == 0
    commit = hub.repos["convzoo/lenet5.made_up"].branches["main"]
    assert capsys.readouterr().out.splitlines()[-1] == f"convzoo/lenet5.made_up@{commit}"
    assert convzoo.weight_info("lenet5.made_up").revision == commit
    assert main(["publish", "--owner", "alice", "lenet5.made_up"]) == 0  # from the package
    assert hub.files("alice/lenet5.made_up")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert main(["weights"]) == 0
    assert "in the package" in capsys.readouterr().out.splitlines()[-1]
    assert main(["publish", "--owner", "alice", "no.such"]) == 2
    assert "there are no weights 'no.such'" in capsys.readouterr().err


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
