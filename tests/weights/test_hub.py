"""The cache and the Hub: each case against a server of our own, none beyond this machine."""

from __future__ import annotations

import hashlib
import re
import time

import pytest
from helpers.hubserver import Blob, point_client_at
from helpers.weight_folders import fetch, files_of, leftovers, make_folder, put, same

import convzoo
from convzoo import (
    WeightsCorrupted,
    WeightsError,
    WeightsForbidden,
    WeightsMismatch,
    WeightsNotFound,
    WeightsUnavailable,
)
from convzoo.weights import transfer

REPO = "someone/files"
DATA = bytes(range(256)) * 400  # 100 kB that no test parses
DEAD = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE", 0.01)


@pytest.fixture
def commit(hub):
    """A repository with one file of weights, not real ones; its commit."""
    return hub.commit(REPO, {"model.safetensors": DATA, "config.json": "{}"})


def cut_off(monkeypatch):
    """As if the network were gone."""
    point_client_at(DEAD, monkeypatch)


def go_offline(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


# -- what goes well


def test_a_repository_is_downloaded_once_and_pinned_it_is_never_asked_for_again(hub, tmp_path):
    folder = make_folder(tmp_path / "folder", classes=[f"c{i}" for i in range(10)])
    commit = put(hub, folder)
    source = f"someone/lenet5.made_up@{commit}"
    first = convzoo.create_model("lenet5", pretrained=source)
    assert same(first, convzoo.create_model("lenet5", pretrained=folder))
    assert not first.training
    assert first.weights.revision == commit
    assert first.weights.source == source
    assert first.weights.classes[3] == "c3"
    assert len(hub.requests("GET")) == 2  # config.json, and the weights from the second host
    assert all("convzoo/" in entry["user_agent"] for entry in hub.requests("HEAD"))
    hub.clear()
    assert same(convzoo.create_model("lenet5", pretrained=source), first)
    assert hub.requests() == []


def test_a_branch_costs_one_short_request_a_file_and_follows_new_commits(hub, tmp_path):
    folder = make_folder(tmp_path / "one")
    put(hub, folder)
    old = convzoo.create_model("lenet5", pretrained="someone/lenet5.made_up")
    hub.clear()
    again = convzoo.create_model("lenet5", pretrained="someone/lenet5.made_up")
    assert same(again, old)
    assert [entry["method"] for entry in hub.requests()] == ["HEAD"]  # config.json: the weights are of its commit
    put(hub, make_folder(tmp_path / "two", seed=1))
    new = convzoo.create_model("lenet5", pretrained="someone/lenet5.made_up")
    assert not same(new, old)


def test_revisions_a_tag_a_branch_a_commit(hub, commit):
    hub.repo(REPO).tags["v1"] = commit
    other = hub.commit(REPO, {"model.safetensors": DATA[::-1]}, branch="main")
    hub.repo(REPO).branches["side"] = commit
    assert fetch(revision="v1").read_bytes() == DATA
    assert fetch(revision="side").read_bytes() == DATA
    assert fetch(revision=commit).read_bytes() == DATA
    assert fetch(revision=other).read_bytes() == DATA[::-1]
    assert fetch().read_bytes() == DATA[::-1]


def test_the_cache_is_the_clients_own_and_can_be_named(hub, commit, tmp_path):
    path = fetch(cache_dir=tmp_path / "mine")
    assert path.is_relative_to(tmp_path / "mine" / "models--someone--files" / "snapshots" / commit)
    assert fetch().is_relative_to(tmp_path / "cache")


# -- who may not, what is not there


@pytest.mark.parametrize(
    ("source", "filename", "words"),
    [
        ("someone/nothing", "model.safetensors", "no such repository, or it is private"),
        (f"{REPO}@v9", "model.safetensors", "no such revision"),
        (REPO, "other.safetensors", "no such file"),
        ("some--one/..files", "model.safetensors", "malformed"),
    ],
)
def test_what_is_not_there(hub, commit, source, filename, words):
    repo_id, _, revision = source.partition("@")
    with pytest.raises(WeightsNotFound, match=words):
        fetch(repo_id, filename, revision or None)


def test_private_gated_and_refused(hub, commit):
    hub.repo(REPO, private=True)
    with pytest.raises(WeightsNotFound, match=r"or it is private.*token="):
        fetch()
    with pytest.raises(WeightsForbidden, match=r"refused \(401\).*token="):
        fetch(token="hf_wrong")
    hub.repo(REPO, private=False, gated=())
    with pytest.raises(WeightsForbidden, match=r"closed to you.*ask for access"):
        fetch()
    with pytest.raises(WeightsForbidden, match="closed to you"):
        fetch(token="hf_good")
    hub.repo(REPO, private=True, gated=("alice",))
    assert fetch(token="hf_good").read_bytes() == DATA
    assert all("cdn" not in entry["path"] for entry in hub.requests() if entry["token"])  # the token stays at home


def test_token_and_local_files_only_are_arguments_of_create_model(hub, tmp_path):
    put(hub, make_folder(tmp_path / "folder"))
    hub.repo("someone/lenet5.made_up", private=True)
    with pytest.raises(WeightsUnavailable, match="switched off"):
        convzoo.create_model("lenet5", pretrained="someone/lenet5.made_up", local_files_only=True)
    assert hub.requests() == []
    model = convzoo.create_model("lenet5", pretrained="someone/lenet5.made_up", token="hf_good")
    hub.clear()
    again = convzoo.create_model("lenet5", pretrained="someone/lenet5.made_up", local_files_only=True)
    assert same(again, model)
    assert hub.requests() == []
    assert convzoo.create_model("lenet5", token="hf_good", local_files_only=True).weights is None  # nobody to ask
    assert hub.requests() == []


STATUS = [
    (401, WeightsForbidden, "401"),
    (403, WeightsForbidden, "403"),
    (404, WeightsError, "404"),
    (429, WeightsUnavailable, "429"),
    (500, WeightsUnavailable, "500"),
    (503, WeightsUnavailable, "503"),
]


@pytest.mark.parametrize(("status", "error", "words"), STATUS)
def test_a_refusing_server(hub, commit, status, error, words):
    hub.fault("HEAD", "resolve", status=status)
    with pytest.raises(error, match=words):
        fetch()


@pytest.mark.parametrize("status", [status for status, _, _ in STATUS])
def test_a_refusing_server_and_a_good_copy(hub, commit, status):
    path = fetch()
    hub.fault("HEAD", "resolve", status=status)
    with pytest.warns(UserWarning, match="the cached copy is used") as caught:
        assert fetch() == path
    assert len(caught) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_stumbles_once(hub, commit, status):
    hub.fault("HEAD", "resolve", times=1, status=status)
    hub.fault("GET", "cdn", times=1, status=status, headers={"Retry-After": "0"})
    assert fetch().read_bytes() == DATA


def test_one_warning_for_all_files_of_a_repository(hub, tmp_path, monkeypatch):
    put(hub, make_folder(tmp_path / "folder"))
    model = convzoo.create_model("lenet5", pretrained="someone/lenet5.made_up")
    cut_off(monkeypatch)
    with pytest.warns(UserWarning, match="the cached copy is used") as caught:
        assert same(convzoo.create_model("lenet5", pretrained="someone/lenet5.made_up"), model)
    assert len(caught) == 1


# -- not a Hub


def test_a_log_in_page_instead_of_the_hub(hub, commit):
    page = b"<html>Welcome to the hotel</html>"
    hub.fault("*", "resolve", status=200, body=page, headers={"Content-Type": "text/html"})
    with pytest.raises(WeightsUnavailable, match=r"not the Hub.*log-in page"):
        fetch()
    hub.clear()
    path = fetch()
    hub.fault("*", "resolve", status=200, body=page)
    with pytest.warns(UserWarning, match="not the Hub"):
        assert fetch() == path


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!doctype html><html>not found</html>" * 9, "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
    ],
)
def test_something_else_kept_as_weights(hub, tmp_path, content, words):
    files = files_of(make_folder(tmp_path / "folder"))
    files["config.json"] = files["config.json"].replace(
        re.search(rb'"sha256": "(\w+)"', files["config.json"])[1], hashlib.sha256(content).hexdigest().encode()
    )
    hub.commit("someone/lenet5.made_up", {**files, "model.safetensors": content})
    with pytest.raises(WeightsCorrupted, match=words):
        convzoo.create_model("lenet5", pretrained="someone/lenet5.made_up")


def test_only_pickles_in_the_repository(hub, tmp_path):
    files = files_of(make_folder(tmp_path / "folder"))
    hub.commit("someone/pickles", {"config.json": files["config.json"], "pytorch_model.bin": b"\x80\x04."})
    with pytest.raises(WeightsNotFound, match=r"pickles \(.bin, .pth\) never"):
        convzoo.create_model("lenet5", pretrained="someone/pickles")
    assert hub.requests("", "pytorch_model") == []


# -- no network


def test_no_network_and_nothing_cached_is_told_within_three_seconds(hub, commit, monkeypatch):
    cut_off(monkeypatch)
    started = time.monotonic()
    with pytest.raises(WeightsUnavailable, match="pretrained= also takes a folder"):
        fetch()
    assert time.monotonic() - started < 3


def test_no_network_names_what_travels_in_the_package(hub, monkeypatch):
    cut_off(monkeypatch)
    monkeypatch.setattr("convzoo.weights.client.bundled_names", lambda: ["lenet5.mnist", "fcn_gap.mnist"])
    with pytest.raises(WeightsUnavailable, match=r"need no network: lenet5.mnist, fcn_gap.mnist"):
        fetch()


def test_no_network_and_a_good_copy(hub, commit, monkeypatch):
    branch, pinned = fetch(), fetch(revision=commit)
    cut_off(monkeypatch)
    with pytest.warns(UserWarning, match="the cached copy is used"):
        assert fetch() == branch
    assert fetch(revision=commit) == pinned  # nobody was asked, nothing to warn of


def test_offline_by_choice(hub, commit, monkeypatch):
    path = fetch()
    go_offline(monkeypatch)
    hub.clear()
    assert fetch() == path
    with pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE"):
        fetch("someone/other")
    with pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE"):
        fetch(revision="v1")
    assert hub.requests() == []


# -- accidents on the way


def test_connection_reset_at_the_first_question(hub, commit):
    hub.fault("HEAD", "resolve", times=1, reset=True)
    assert fetch().read_bytes() == DATA
    hub.clear()
    hub.fault("HEAD", "resolve", reset=True)
    with pytest.warns(UserWarning, match="the cached copy is used"):
        assert fetch().read_bytes() == DATA


def test_connection_reset_at_every_question(hub, commit):
    hub.fault("HEAD", "resolve", reset=True)
    with pytest.raises(WeightsUnavailable, match="exchange with the Hub failed"):
        fetch()


def test_connection_reset_in_the_middle(hub, commit, tmp_path):
    hub.fault("GET", "cdn", times=1, drop_after=1000)
    assert fetch().read_bytes() == DATA
    hub.commit(REPO, {"model.safetensors": DATA[::-1]})
    hub.fault("GET", "cdn", drop_after=1000)
    with pytest.warns(UserWarning, match="the cached copy is used"):
        assert fetch().read_bytes() == DATA  # the older commit's: the newer one cannot be had
    assert leftovers(tmp_path / "cache") == []


def test_connection_reset_every_time(hub, commit, tmp_path):
    hub.fault("GET", "cdn", drop_after=1000)
    with pytest.raises(WeightsUnavailable, match="exchange with the Hub failed"):
        fetch()
    assert leftovers(tmp_path / "cache") == []


def test_a_body_that_stalls(hub, commit):
    hub.fault("GET", "cdn", times=1, stall_after=1000, stall=3)
    assert fetch().read_bytes() == DATA


@pytest.mark.parametrize(
    "fault", [{"truncate": 5000}, {"replace": DATA + b"more"}, {"replace": b""}], ids=["short", "long", "empty"]
)
def test_a_body_of_another_length(hub, commit, tmp_path, fault):
    hub.fault("GET", "cdn", times=1, **fault)
    assert fetch().read_bytes() == DATA
    hub.commit("someone/always", {"model.safetensors": DATA[:-1]})
    hub.fault("GET", "cdn", **fault)
    with pytest.raises(WeightsError):
        fetch("someone/always")
    assert not list((tmp_path / "cache" / "models--someone--always").rglob("snapshots/*/*"))
    assert leftovers(tmp_path / "cache") == []


def test_resuming_a_large_file(hub):
    data = b"0123456789abcdef" * (25 * 65536)  # 25 MiB
    hub.commit(REPO, {"model.safetensors": data})
    hub.fault("GET", "cdn", times=1, drop_after=15 << 20, graceful=True)
    assert fetch().read_bytes() == data
    ranges = [entry["range"] for entry in hub.requests("GET", "cdn")]
    assert ranges[0] is None
    assert int(ranges[1].removeprefix("bytes=").removesuffix("-")) >= 10 << 20


LARGE = b"0123456789abcdef" * (12 * 65536)


@pytest.mark.parametrize(
    ("second", "requests"),
    [
        ({"no_range": True}, 2),  # all of it, as a new answer
        ({"status": 206, "body": LARGE, "headers": {"Content-Range": f"bytes 0-{len(LARGE) - 1}/{len(LARGE)}"}}, 2),
        ({"status": 416}, 3),  # there is less than what is here: from the beginning, then
    ],
    ids=["no ranges", "another range", "no such range"],
)
def test_a_server_that_does_not_go_on_where_it_ended(hub, second, requests):
    hub.commit(REPO, {"model.safetensors": LARGE})
    hub.fault("GET", "cdn", times=1, drop_after=11 << 20, graceful=True)
    hub.fault("GET", "cdn", times=1, **second)
    assert fetch().read_bytes() == LARGE
    assert len(hub.requests("GET", "cdn")) == requests


# -- wrong bytes


def test_a_flipped_bit_is_found_and_the_file_fetched_anew_once(hub, commit):
    hub.fault("GET", "cdn", times=1, corrupt=777)
    assert fetch().read_bytes() == DATA
    assert len(hub.requests("GET", "cdn")) == 2


def test_a_flipped_bit_every_time(hub, commit, tmp_path):
    hub.fault("GET", "cdn", corrupt=777)
    with pytest.raises(WeightsCorrupted, match="another content than its hash states, twice"):
        fetch()
    assert len(hub.requests("GET", "cdn")) == 2
    assert not list((tmp_path / "cache").rglob("snapshots/*/model.safetensors"))
    hub.clear()
    assert fetch().read_bytes() == DATA


def test_a_flipped_bit_in_a_small_file(hub, commit):
    hub.fault("GET", "config.json", times=1, corrupt=0)
    assert fetch(filename="config.json").read_bytes() == b"{}"


def test_another_file_than_the_entry_pins(hub, commit):
    with pytest.raises(WeightsCorrupted, match=r"another content on the Hub .* nothing of it was fetched"):
        fetch(sha256=hashlib.sha256(b"what we trained").hexdigest())
    assert hub.requests("GET") == []


def test_another_small_file_than_the_entry_pins(hub, commit):
    """Of files outside LFS the Hub states the hash of git; they are compared with the pinned one when they come."""
    with pytest.raises(WeightsCorrupted, match="another content"):
        fetch(filename="config.json", sha256=hashlib.sha256(b"what we trained").hexdigest())
    path = fetch(filename="config.json", sha256=hashlib.sha256(b"{}").hexdigest())
    assert path.read_bytes() == b"{}"


@pytest.mark.parametrize("damage", [lambda data: data[:5000], lambda data: b"x" + data[1:]], ids=["cut", "altered"])
@pytest.mark.parametrize("pinned", [True, False])
def test_a_copy_damaged_later(hub, commit, monkeypatch, damage, pinned):
    revision = commit if pinned else None
    path = fetch(revision=revision)
    path.resolve().write_bytes(damage(DATA))
    assert fetch(revision=revision).read_bytes() == DATA
    path.resolve().write_bytes(damage(DATA))
    go_offline(monkeypatch)
    with pytest.raises(WeightsCorrupted, match=r"cut or altered.*go online"):
        fetch(revision=revision)


def test_a_damaged_copy_is_not_used_when_the_network_is_gone(hub, commit, monkeypatch):
    fetch().resolve().write_bytes(DATA[:-1])
    cut_off(monkeypatch)
    with pytest.raises(WeightsUnavailable):  # and no warning, which would be an error
        fetch()


def test_a_link_to_nothing(hub, commit):
    path = fetch(revision=commit)
    path.resolve().unlink()
    assert fetch(revision=commit).read_bytes() == DATA


# -- somebody else's repository


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        (b"not json", WeightsCorrupted, "not JSON"),
        (b"[1]", WeightsCorrupted, "not an object"),
        (b"{}", WeightsCorrupted, "needs architecture"),
        (
            b'{"architecture": "lenet5", "pretrained_cfg": {"input_size": [1, 28, 28], "mean": [0], "std": [0]}}',
            WeightsCorrupted,
            "std",
        ),
        (
            b'{"architecture": "resnet18", "pretrained_cfg": {"input_size": [1, 28, 28], "mean": [0], "std": [1]}}',
            WeightsMismatch,
            "holds weights of resnet18, and lenet5",
        ),
        (
            b'{"architecture": "lenet5", "model_args": {"depth": 3}, "pretrained_cfg": '
            b'{"input_size": [1, 28, 28], "mean": [0], "std": [1]}}',
            WeightsMismatch,
            "depth=3, which lenet5 has no option for",
        ),
    ],
)
def test_a_config_that_does_not_do(hub, tmp_path, config, error, words):
    files = {**files_of(make_folder(tmp_path / "folder")), "config.json": config}
    hub.commit("someone/odd", files)
    with pytest.raises(error, match=words):
        convzoo.create_model("lenet5", pretrained="someone/odd")


def test_no_config(hub, tmp_path):
    hub.commit("someone/bare", {"model.safetensors": DATA})
    with pytest.raises(WeightsNotFound, match=r"config.json"):
        convzoo.create_model("lenet5", pretrained="someone/bare")


def test_pinned_to_a_file_that_was_exchanged(hub, tmp_path):
    """The commit of an entry cannot change, but a mirror may lie: the hash decides."""
    folder = make_folder(tmp_path / "folder")
    commit = put(hub, folder)
    changed = make_folder(tmp_path / "changed", seed=1)
    tree = hub.repo("someone/lenet5.made_up").trees[commit]
    tree["model.safetensors"] = Blob((changed / "model.safetensors").read_bytes(), lfs=True)
    hub.store[tree["model.safetensors"].sha256] = tree["model.safetensors"].data
    with pytest.raises(WeightsCorrupted, match="another content"):
        convzoo.create_model("lenet5", pretrained=f"someone/lenet5.made_up@{commit}")


def test_every_error_is_of_the_one_family():
    kinds = [WeightsCorrupted, WeightsForbidden, WeightsMismatch, WeightsNotFound, WeightsUnavailable]
    assert all(issubclass(kind, WeightsError) for kind in kinds)
    assert all(kind.__doc__ for kind in kinds)
