"""``config.json``: what is written of a set of weights, and what is read of one."""

from __future__ import annotations

import json

import pytest
from helpers.weight_folders import edit_json, make_folder

import convzoo
from convzoo.weights.schema import name_classes

SYNSETS = {"n02123045": "tabby, tabby cat", "n02012849": "crane", "n03126707": "crane", "n07920052": "espresso, "}


def labelled(folder):
    return convzoo.create_model("lenet5", pretrained=folder).weights


def test_classes_are_words_with_the_data_sets_identifiers_beside_them(tmp_path):
    folder = make_folder(tmp_path / "a", options={"num_classes": 4}, classes=SYNSETS)
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == list(SYNSETS)  # as timm has them
    assert config["label_descriptions"] == SYNSETS
    info = labelled(folder)
    assert info.classes == ("tabby", "crane (n02012849)", "crane (n03126707)", "espresso")
    assert info.class_ids == tuple(SYNSETS)
    assert info.class_descriptions == tuple(SYNSETS.values())
    assert "tabby, crane (n02012849)" in (folder / "README.md").read_text()
    again = labelled(convzoo.save_pretrained(convzoo.create_model("lenet5", pretrained=folder), tmp_path / "b"))
    assert (again.classes, again.class_ids) == (info.classes, info.class_ids)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["label_descriptions"] == SYNSETS
    other = convzoo.create_model("lenet5", num_classes=5, pretrained=folder).weights
    assert other.classes == other.class_ids == other.class_descriptions == ()
    assert type(info).from_json(info.name, json.loads(json.dumps(info.to_json()))).class_ids == info.class_ids


def test_the_command_line_takes_names_identifiers_and_numbers(tmp_path):
    from convzoo.commands.cam import read_classes

    folder = make_folder(tmp_path / "a", options={"num_classes": 4}, classes=SYNSETS)
    assert read_classes(convzoo.create_model("lenet5", pretrained=folder), "tabby, n03126707, 3") == [0, 2, 3]


@pytest.mark.parametrize(
    ("labels", "descriptions", "classes", "identifiers"),
    [
        (["n1", "n2"], {"n1": "cat, tom", "n2": "dog"}, ("cat", "dog"), ("n1", "n2")),
        (["n1", "n2"], {"n1": "cat, tom"}, ("cat", "n2"), ("n1", "n2")),  # not all described
        (["cat", "dog"], {"cat": "a small feline", "dog": "a canid"}, ("cat", "dog"), ()),  # already words
        (["n1", "n2"], None, ("n1", "n2"), ()),
        ({"1": "dog", "0": "cat"}, None, ("cat", "dog"), ()),
        (["n1"], {"n1": "cat"}, (), ()),  # too few
    ],
)
def test_classes_in_timms_config(tmp_path, labels, descriptions, classes, identifiers):
    folder = make_folder(tmp_path / "a", options={"num_classes": 2})

    def as_timm_writes(config):
        del config["convzoo"], config["label_names"]
        config |= {"label_names": labels} | ({"label_descriptions": descriptions} if descriptions else {})

    edit_json(folder / "config.json", as_timm_writes)
    info = labelled(folder)
    assert (info.classes, info.class_ids) == (classes, identifiers)


def test_name_classes_always_tells_them_apart():
    texts = {"a": "crane, bird", "b": "crane, machine", "c": "", "d": "crane"}
    names = name_classes(texts)
    assert names == ("crane (a)", "crane (b)", "c", "crane (d)")
