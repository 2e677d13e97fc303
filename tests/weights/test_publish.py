"""Weights on their way out: folders, the Hub, the package."""

from __future__ import annotations

import json
import os
import random
import re

import numpy as np
import pytest
import torch
import yaml
from helpers.weight_folders import files_of, make_folder, run_python, same
from torch import nn

import convzoo
from convzoo import WeightsCorrupted, WeightsForbidden, WeightsNotFound, WeightsUnavailable
from convzoo.weights.card import escape

# the Hub's client hands its HTTP library bytes in a way that the newer of the two deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

MEASURED = {
    "metrics": {"top1": 99.2, "n": 10_000},
    "dataset": {"id": "someone/digits", "split": "test", "name": "Digits"},
    "recipe": {"epochs": 3, "optimizer": "AdamW", "held_out": [98.0, 99.1]},
    "dataset_terms": "by someone, for anyone.",
    "license": "mit",
}


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
    folder = make_folder(tmp_path / "lenet5.made_up", repo_id="someone/net", **MEASURED)
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
        'convzoo.create_model("lenet5", pretrained="someone/net")',
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
        ({"dtype": "int8"}, "dtype must be 'float32' or 'float16' or 'bfloat16', got"),
        ({"interpolation": "lanczos"}, "interpolation must be 'bilinear' or"),
        ({"tag": "x" * 101}, "tag must be letters"),
        ({"tag": 3}, "tag must be letters"),
        ({"std": [float("nan")]}, "std must be finite"),
        ({"std": 1e-320}, "std"),
        ({"mean": "0.5"}, "mean needs 1 values|mean must be a number"),
        ({"crop_pct": 0}, "crop_pct"),
        ({"crop_pct": float("nan")}, "crop_pct must be finite"),
        ({"metrics": {"top1": 150, "n": 10}}, r"top1 is in percent, 0 to 100, got 150"),
        ({"metrics": {"top1": 99, "n": -3}}, r"at least 1, got -3"),
        ({"metrics": {"top1": 99, "n": 1.5}}, r"must be a whole number, got 1.5"),
        ({"metrics": {"top1": float("nan"), "n": 3}}, "must be finite"),
        ({"recipe": {"loss": float("inf")}}, r"recipe\['loss'\] must be finite"),
        ({"recipe": {"model": object}}, r"recipe\['model'\] must be text, a number"),
        ({"repo_id": "../../etc"}, "repo_id must be 'owner/name'"),
        ({"repo_id": 'a/b") evil('}, "repo_id must be 'owner/name'"),
        ({"license": ""}, "license must not be empty"),
    ],
)
def test_what_cannot_be_saved(tmp_path, change, words):
    arguments = {"tag": "x", "mean": 0.0, "std": 1.0, **change}
    with pytest.raises((ValueError, TypeError), match=words):
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


def test_numbers_of_numpy_and_torch(tmp_path):
    folder = make_folder(
        tmp_path / "a",
        mean=np.float32(0.5),
        std=torch.tensor([0.25]),
        crop_pct=np.float64(0.5),
        metrics={"top1": np.float32(50.5), "top5": torch.tensor(75.25), "n": np.int64(10)},
        recipe={"rates": np.linspace(0, 1, 3), "epochs": np.int8(3), "augment": np.bool_(True), "log": tmp_path},
        classes=np.array(list("abcdefghij")),
    )
    info = convzoo.create_model("lenet5", pretrained=folder).weights
    assert (info.mean, info.std, info.crop_pct, info.classes[1]) == ((0.5,), (0.25,), 0.5, "b")
    assert info.metrics == {"top1": 50.5, "top5": 75.25, "n": 10}
    assert info.recipe == {"rates": [0.0, 0.5, 1.0], "epochs": 3, "augment": True, "log": str(tmp_path)}


# -- what a card says


def test_a_card_claims_nothing_that_is_not_known(tmp_path):
    card = (make_folder(tmp_path / "a", "mnist_net") / "README.md").read_text()
    for claim in ("convzoo/", "license:", "mit", "trained on", "none:", "None", "nan"):
        assert claim not in card, claim
    assert "no licence is stated" in card
    assert 'create_model("mnist_net", pretrained="path/to/this/folder")' in card
    assert "no paper of its own" in card


def test_licence_and_terms_belong_to_numbers(tmp_path):
    folder = make_folder(tmp_path / "a", **{**MEASURED, "license": "cc-by-4.0"})
    model = convzoo.create_model("lenet5", pretrained=folder)

    def saved(name, **more):
        info = convzoo.create_model(
            "lenet5", pretrained=convzoo.save_pretrained(model, tmp_path / name, **more)
        ).weights
        return info.license, info.dataset_terms, info.dataset

    assert saved("same") == ("cc-by-4.0", "by someone, for anyone.", {})
    assert saved("stated", license="mit", dataset_terms="") == ("mit", "", {})
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] += 1e-3  # trained on, on who knows what
    assert saved("other") == ("unknown", "", {})
    bundled = convzoo.create_model("lenet5", pretrained=True)
    info = convzoo.create_model("lenet5", pretrained=convzoo.save_pretrained(bundled, tmp_path / "b")).weights
    assert (info.license, info.dataset_terms) == (bundled.weights.license, bundled.weights.dataset_terms)


HOSTILE = 'a|b <script>alert(1)</script>\n\n# [x](javascript:y) ![z](http://e) `c` **d** _e_ & ~f~ "g" \\ $h$'


def test_a_card_shows_what_it_is_given_as_text(tmp_path):
    folder = make_folder(
        tmp_path / "a",
        recipe={HOSTILE: HOSTILE, "list": [HOSTILE]},
        dataset={"id": HOSTILE, "name": HOSTILE},
        dataset_terms=HOSTILE,
        license=HOSTILE,
        classes=[HOSTILE + str(index) for index in range(10)],
    )
    front, body = (folder / "README.md").read_text().split("---\n", 2)[1:]
    assert yaml.safe_load(front)["license"] == HOSTILE
    assert "datasets" not in yaml.safe_load(front)
    shown = (
        r"a\|b &lt;script>alert(1)&lt;/script> # \[x\](javascript:y) \!\[z\](http://e) \`c\` \*\*d\*\* \_e\_ &amp; "
        r'\~f\~ "g" \\ \$h\$'
    )
    assert body.count(shown) == 2 + 1 + 1 + 1 + 10  # recipe, data set, terms, licence, classes
    assert "<script" not in body
    assert "javascript" not in body.replace(shown, "").replace("javascript:y", "", 1)  # the list, as JSON


def test_escaping_leaves_no_markup_and_loses_nothing():
    draw = random.Random(0)
    for _ in range(2000):
        text = "".join(draw.choice("ab1 .|<>&`*_[]()~$!#+-\\\n\tä") for _ in range(draw.randrange(1, 30)))
        escaped = escape(text)
        assert "\n" not in escaped
        rest = re.sub(r"\\[\\`*_\[\]|~$!]", "", escaped)
        assert not re.search(r"[\\`*\[\]|~$!<]", rest), text
        back = re.sub(r"\\([^\w\s]|_)", r"\1", escaped).replace("&lt;", "<").replace("&amp;", "&")
        assert back == " ".join(text.split())


def test_long_texts_are_cut_in_a_card(tmp_path):
    long = "x" * 1_000_000
    folder = make_folder(tmp_path / "a", recipe={"note": long, long: 1}, dataset={"name": long}, dataset_terms=long)
    assert (folder / "README.md").stat().st_size < 10_000


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
    folder = make_folder(tmp_path / "a", license="mit")
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


# -- found again


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
