"""Publishing: which arguments are taken, where the commit goes, and what is refused before anything is sent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from helpers.weight_folders import files_of, make_folder, same

import convzoo
from convzoo import WeightsForbidden, WeightsUnavailable

# the Hub's client hands its HTTP library bytes in a way that the newer of the two deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("made") / "lenet5.made_up")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"privat": True}, "no argument 'privat'; did you mean 'private'"),
        ({"branch": "x"}, r"no argument 'branch'; .*its arguments are .*revision"),
        ({"tag": "mine"}, "tag= describes a model, and a folder is described already"),
        ({"x" * 10_000: 1}, "no argument"),
        ({"private": 1}, "private must be True or False"),
        ({"create_pr": "yes"}, "create_pr must be True or False"),
        ({"revision": 3}, "revision must be a string"),
        ({"message": 3}, "message must be a string"),
        ({"repo_id": 3}, "repo_id must be a string"),
    ],
)
def test_arguments_that_are_not_taken(hub, folder, arguments, words):
    with pytest.raises(TypeError, match=words) as caught:
        convzoo.push_to_hub(folder, **{"repo_id": "alice/net", "token": "hf_good", **arguments})
    assert len(str(caught.value)) < 800
    assert hub.requests() == []


def test_arguments_of_a_model_that_are_not_taken(hub, tmp_path):
    model = convzoo.create_model("lenet5")
    with pytest.raises(TypeError, match="no argument 'mena'; did you mean 'mean'"):
        convzoo.push_to_hub(model, "alice/net", token="hf_good", tag="mine", mena=0.1, std=0.3)
    for source in (3, None, model.fc1):
        with pytest.raises(TypeError, match="source must be a model of the zoo or a folder"):
            convzoo.push_to_hub(source, "alice/net", token="hf_good")
    assert hub.requests() == []


@pytest.mark.parametrize(
    ("revision", "words"),
    [("../x", "no revision can be called"), ("", "must not be empty"), ("0" * 40, "must be a branch, got a commit")],
)
def test_branches_that_cannot_be(hub, folder, revision, words):
    with pytest.raises(ValueError, match=words):
        convzoo.push_to_hub(folder, "alice/net", token="hf_good", revision=revision)
    assert hub.requests() == []


def test_a_branch_is_made_and_then_used(hub, folder, tmp_path):
    first = convzoo.push_to_hub(folder, "alice/net", token="hf_good", revision="next")
    repo = hub.repos["alice/net"]
    assert repo.branches["next"] == first != repo.branches["main"]
    assert hub.files("alice/net", "next").items() >= files_of(folder).items()
    assert "model.safetensors" not in hub.files("alice/net")
    other = make_folder(tmp_path / "other", seed=1)
    second = convzoo.push_to_hub(other, "alice/net", token="hf_good", revision="next")
    assert repo.branches["next"] == second
    model = convzoo.create_model("lenet5", pretrained="hub:alice/net@next")
    assert same(model, convzoo.create_model("lenet5", pretrained=other))


def test_a_pull_request_leaves_the_branch_alone(hub, folder):
    convzoo.push_to_hub(make_folder(folder.parent / "first", seed=1), "alice/net", token="hf_good")
    repo = hub.repos["alice/net"]
    before = repo.branches["main"]
    commit = convzoo.push_to_hub(folder, "alice/net", token="hf_good", create_pr=True)
    assert repo.branches == {"main": before, "refs/pr/1": commit}
    model = convzoo.create_model("lenet5", pretrained="hub:alice/net@refs/pr/1")
    assert same(model, convzoo.create_model("lenet5", pretrained=folder))
    assert model.weights.revision == commit


def test_a_model_takes_them_too(hub):
    model = convzoo.create_model("lenet5").eval()
    saved = {"tag": "mine", "mean": 0.1, "std": 0.3}
    commit = convzoo.push_to_hub(model, "alice/net", token="hf_good", revision="next", message="First try", **saved)
    assert hub.repos["alice/net"].branches["next"] == commit
    assert same(convzoo.create_model("lenet5", pretrained=f"hub:alice/net@{commit}"), model)


def test_a_file_that_may_not_be_read(hub, folder, monkeypatch):
    original = Path.open

    def fails(self, *args, **options):
        if self.name == "README.md":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return original(self, *args, **options)

    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(WeightsForbidden, match=r"README.md may not be read"):
        convzoo.push_to_hub(folder, "alice/net", token="hf_good")
    assert hub.requests() == []


@pytest.mark.parametrize("pattern", ["repos/create", "preupload", "/branch/", "/commit/"])
def test_whatever_goes_wrong_is_of_the_family(hub, folder, pattern, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client tries some of these again for half a minute
    for fault, kind in (
        ({"status": 403}, WeightsForbidden),
        ({"status": 404}, convzoo.WeightsError),
        ({"reset": True}, WeightsUnavailable),
    ):
        hub.clear()
        hub.fault("*", pattern, **fault)
        with pytest.raises(kind, match="publishing alice/net") as caught:
            convzoo.push_to_hub(folder, "alice/net", token="hf_good", revision="next")
        assert "hf_good" not in str(caught.value)
