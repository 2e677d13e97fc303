"""A branch that moves while its new commit cannot be had, servers that do not end, and caches without links."""

from __future__ import annotations

import hashlib
import os
import re
import time
import warnings
from pathlib import Path

import pytest
from helpers.hubserver import point_client_at
from helpers.weight_folders import fetch, files_of, leftovers, make_folder, put, same, start_python

import convzoo
from convzoo import WeightsCorrupted, WeightsError, WeightsUnavailable
from convzoo.weights import transfer

REPO = "someone/lenet5.made_up"
DEAD = "http://127.0.0.1:9"


PROMISED = transfer.PROBE_SECONDS  # before a test changes it


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Quick to ask again, and patient with a busy machine wherever silence is not what is tried."""
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    monkeypatch.setattr(transfer, "PROBE_SECONDS", 10)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 10)


@pytest.fixture(scope="module")
def old_folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("made") / "old")


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("made") / "new", seed=1)


def load(**more):
    return convzoo.create_model("lenet5", pretrained=REPO, **more)


def load_copy(**more):
    """The cached copy, and one warning that says so."""
    with pytest.warns(UserWarning, match="the cached copy is used") as caught:
        model = load(**more)
    assert len(caught) == 1
    return model


def exchange(path, data):
    """Put other content in a file's place; a model may have the old one mapped."""
    path.unlink()
    path.write_bytes(data)


def ask_nobody(monkeypatch, way):
    if way == "no network":
        point_client_at(DEAD, monkeypatch)
        return load_copy()
    if way == "HF_HUB_OFFLINE":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        return load()
    return load(local_files_only=True)


def other_hash(files, path="config.json"):
    """A config that states another file than the weights beside it."""
    return re.sub(rb'"sha256": "\w+"', b'"sha256": "' + b"0" * 64 + b'"', files[path])


BROKEN = {  # what becomes of the new commit: files changed, and faults of the server
    "weights not served": ({}, [("HEAD", "model.safetensors", {"status": 503})]),
    "weights' question reset": ({}, [("HEAD", "model.safetensors", {"reset": True})]),
    "weights' question silent": ({}, [("HEAD", "model.safetensors", {"delay": 1.0})]),
    "weights reset": ({}, [("GET", "cdn", {"reset": True})]),
    "weights cut": ({}, [("GET", "cdn", {"drop_after": 1000})]),
    "weights silent": ({}, [("GET", "cdn", {"delay": 1.0})]),
    "weights altered": ({}, [("GET", "cdn", {"corrupt": 5})]),
    "address expired": ({}, [("GET", "cdn", {"status": 403})]),
    "config reset": ({}, [("GET", "config.json", {"reset": True})]),
    "config altered": ({}, [("GET", "config.json", {"corrupt": 5})]),
    "weights removed": ({"model.safetensors": None}, []),
    "config removed": ({"config.json": None}, []),
    "config broken": ({"config.json": lambda files: b"{"}, []),
    "config states other weights": ({"config.json": other_hash}, []),
    "not safetensors": (
        {
            "model.safetensors": lambda files: b"<html>",
            "config.json": lambda files: re.sub(
                rb'"sha256": "\w+"',
                b'"sha256": "' + hashlib.sha256(b"<html>").hexdigest().encode() + b'"',
                files["config.json"],
            ),
        },
        [],
    ),
}


@pytest.mark.parametrize("way", ["local_files_only", "HF_HUB_OFFLINE", "no network"])
@pytest.mark.parametrize("broken", BROKEN)
def test_half_an_update_leaves_the_cached_commit(hub, monkeypatch, tmp_path, old_folder, new_folder, broken, way):
    monkeypatch.setattr(transfer, "PROBE_SECONDS", 0.3)
    commit = put(hub, old_folder)
    old = load()
    files, (changes, faults) = files_of(new_folder), BROKEN[broken]
    new = {name: change(files) for name, change in changes.items() if change}
    gone = tuple(name for name, change in changes.items() if not change)
    hub.commit(REPO, {name: data for name, data in {**files, **new}.items() if name not in gone}, delete=gone)
    for method, pattern, options in faults:
        hub.fault(method, pattern, **options)
    for _ in range(2):
        model = load_copy()
        assert same(model, old)
        assert model.weights.revision == commit
    assert (tmp_path / "cache" / "models--someone--lenet5.made_up" / "refs" / "main").read_text() == commit
    assert leftovers(tmp_path / "cache") == []
    assert same(ask_nobody(monkeypatch, way), old)
    monkeypatch.undo()  # and once the server is well again
    hub.clear()
    point_client_at(hub.url, monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    put(hub, new_folder)
    assert same(load(), convzoo.create_model("lenet5", pretrained=new_folder))


def test_killed_in_the_middle_of_an_update(hub, tmp_path, old_folder, new_folder):
    put(hub, old_folder)
    old = load()
    put(hub, new_folder)
    hub.fault("GET", "cdn", times=1, rate=100_000)
    code = f"import convzoo\nconvzoo.create_model('lenet5', pretrained={REPO!r})"
    process = start_python(code, hub, tmp_path / "cache")
    deadline = time.monotonic() + 120
    while not (hub.requests("GET", "cdn") and leftovers(tmp_path / "cache")):
        assert time.monotonic() < deadline, "the update never began"
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -9
    assert same(load(local_files_only=True), old)
    assert same(load(), convzoo.create_model("lenet5", pretrained=new_folder))


def test_what_a_killed_process_left_is_cleared_after_an_hour(hub, tmp_path, old_folder):
    put(hub, old_folder)
    sha256 = hashlib.sha256((old_folder / "model.safetensors").read_bytes()).hexdigest()
    blobs = tmp_path / "cache" / "models--someone--lenet5.made_up" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{sha256}.0000aaaa.incomplete").write_bytes(b"left by a killed process")
    (blobs / f"{sha256}.0000bbbb.incomplete").write_bytes(b"of a process at work")
    os.utime(blobs / f"{sha256}.0000aaaa.incomplete", (time.time() - 7200,) * 2)
    load()
    assert [Path(name).name for name in leftovers(tmp_path / "cache")] == [f"{sha256}.0000bbbb.incomplete"]


@pytest.mark.parametrize("cached", [False, True])
def test_the_files_of_one_load_come_from_one_commit(hub, old_folder, new_folder, cached):
    """The branch moves between the two questions."""
    if cached:
        put(hub, make_folder(old_folder.parent / "oldest", seed=2))
        load()
    commit = put(hub, old_folder)
    hub.fault("GET", "config.json", times=1, call=lambda: put(hub, new_folder))
    model = load()
    assert same(model, convzoo.create_model("lenet5", pretrained=old_folder))
    assert model.weights.revision == commit
    assert same(load(), convzoo.create_model("lenet5", pretrained=new_folder))


def test_a_new_commit_with_the_same_weights_downloads_the_config_alone(hub, old_folder):
    put(hub, old_folder)
    load()
    hub.clear()
    config = (old_folder / "config.json").read_bytes() + b"\n"
    commit = hub.commit(REPO, {"config.json": config})
    assert load().weights.revision == commit
    assert [entry["path"].split("/")[-1] for entry in hub.requests("GET")] == ["config.json"]
    assert load(local_files_only=True).weights.revision == commit


# -- addresses that expire


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_expired_address_is_asked_for_again_once(hub, old_folder, status):
    put(hub, old_folder)
    hub.fault("GET", "cdn", times=1, status=status)
    assert same(load(), convzoo.create_model("lenet5", pretrained=old_folder))
    assert len(hub.requests("HEAD", "model.safetensors")) == 2
    assert len(hub.requests("GET", "cdn")) == 2


def test_an_address_that_always_expires_is_no_matter_of_the_token(hub, old_folder):
    put(hub, old_folder)
    hub.fault("GET", "cdn", status=403)
    with pytest.raises(WeightsUnavailable, match=r"the download host refuses .*\(403\), twice") as caught:
        load()
    assert "token" not in str(caught.value)
    assert len(hub.requests("GET", "cdn")) == 2


# -- servers that do not end


def seconds(work):
    started = time.monotonic()
    work()
    return time.monotonic() - started


SILENT = {
    "silent": ("HEAD", "resolve", {"delay": 12.0}),
    "one byte now and then": ("HEAD", "resolve", {"drip": 0.03}),
}


def test_three_seconds_are_promised():
    assert PROMISED < 3


# below, a tenth of them: machines that run tests are busy


@pytest.mark.parametrize("kind", SILENT)
def test_a_silent_server_costs_three_seconds_if_a_good_copy_is_cached(hub, monkeypatch, old_folder, kind):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 10)  # as it is by default
    monkeypatch.setattr(transfer, "PROBE_SECONDS", PROMISED / 10)
    put(hub, old_folder)
    old = load()
    method, pattern, options = SILENT[kind]
    hub.fault(method, pattern, **options)
    models = []
    assert seconds(lambda: models.append(load_copy())) < 5
    assert same(models[0], old)


def test_a_silent_download_costs_three_seconds_if_a_good_copy_is_cached(hub, monkeypatch, old_folder, new_folder):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 10)
    monkeypatch.setattr(transfer, "PROBE_SECONDS", PROMISED / 10)
    put(hub, old_folder)
    old = load()
    put(hub, new_folder)
    hub.clear()
    hub.fault("GET", "cdn", stall_after=1000, stall=12)
    models = []
    assert seconds(lambda: models.append(load_copy())) < 5
    assert same(models[0], old)
    assert len(hub.requests("GET", "cdn")) == 1


def test_a_slow_server_gets_its_time_if_the_copy_is_no_help(hub, monkeypatch, tmp_path, old_folder):
    monkeypatch.setattr(transfer, "PROBE_SECONDS", 0.2)
    put(hub, old_folder)
    old = load()
    for path in (tmp_path / "cache").rglob("blobs/*"):
        exchange(path, b"damaged")
    hub.fault("HEAD", "resolve", delay=0.5)
    assert same(load(), old)


ENDLESS = {
    "never ends": {"endless": True},
    "cut and begun again for ever": {"drop_after": 200_000, "graceful": True, "no_range": True},
    "cut at once for ever": {"drop_after": 0, "graceful": True},
    "reset for ever": {"drop_after": 1},
    "slower than anything": {"rate": 200},
    "shorter for ever": {"truncate": 100},
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_body_is_bounded_by_its_size_and_in_time(hub, monkeypatch, tmp_path, old_folder, kind):
    usual = transfer.STALL_SECONDS
    monkeypatch.setattr(transfer, "STALL_SECONDS", 0.5)
    put(hub, old_folder)
    hub.fault("GET", "cdn", **ENDLESS[kind])
    largest = 0

    def fail():
        with pytest.raises((WeightsCorrupted, WeightsUnavailable)):
            load()

    original = transfer.client.stream
    size = (old_folder / "model.safetensors").stat().st_size

    def watched(*arguments):
        nonlocal largest
        largest = max([largest, *(path.stat().st_size for path in (tmp_path / "cache").rglob("*.incomplete"))])
        return original(*arguments)

    monkeypatch.setattr(transfer.client, "stream", watched)
    assert seconds(fail) < 15
    assert largest <= size
    assert leftovers(tmp_path / "cache") == []
    hub.clear()
    monkeypatch.setattr(transfer, "STALL_SECONDS", usual)
    assert load().weights.tag == "made_up"


def test_a_body_that_comes_piece_by_piece_is_put_together(hub):
    data = bytes(range(256)) * 4000  # 1 MB, in pieces of 200 kB
    hub.commit("someone/files", {"model.safetensors": data})
    hub.fault("GET", "cdn", drop_after=200_000, graceful=True)
    assert fetch().read_bytes() == data
    assert 5 <= len(hub.requests("GET", "cdn")) <= 9


@pytest.mark.parametrize("size", ["12", "999999999999", "-1", "x", None])
def test_a_wrong_or_missing_size(hub, tmp_path, old_folder, size):
    put(hub, old_folder)
    hub.fault("HEAD", "model.safetensors", set={"X-Linked-Size": size})
    if size in ("12", "999999999999"):
        with pytest.raises(WeightsCorrupted, match=r"longer than|ends after"):
            load()
    else:
        assert same(load(), convzoo.create_model("lenet5", pretrained=old_folder))
    assert leftovers(tmp_path / "cache") == []


def test_a_file_whose_size_nobody_states_is_bounded_too(hub, tmp_path, monkeypatch, old_folder):
    monkeypatch.setattr(transfer, "LARGEST_UNSTATED", 1_000_000)
    put(hub, old_folder)
    hub.fault("HEAD", "model.safetensors", set={"X-Linked-Size": None})
    hub.fault("GET", "cdn", endless=True)
    with pytest.raises(WeightsCorrupted, match="longer than"):
        load()
    assert leftovers(tmp_path / "cache") == []


# -- without symbolic links, as on Windows


@pytest.fixture
def no_links(monkeypatch):
    def refuse(*arguments, **more):
        raise OSError("symbolic link privilege not held")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    monkeypatch.setattr("os.symlink", refuse)


@pytest.mark.parametrize("damage", [lambda data: data[:99], lambda data: data[:-1] + b"?"], ids=["cut", "altered"])
@pytest.mark.parametrize("filename", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("pinned", [False, True])
def test_without_links_what_was_altered_is_found(hub, no_links, tmp_path, old_folder, filename, damage, pinned):
    commit = put(hub, old_folder)
    source = f"{REPO}@{commit}" if pinned else REPO
    model = convzoo.create_model("lenet5", pretrained=source)
    path = tmp_path / "cache" / "models--someone--lenet5.made_up" / "snapshots" / commit / filename
    assert not path.is_symlink()
    right = path.read_bytes()
    exchange(path, damage(right))
    with pytest.raises(WeightsCorrupted, match=r"cut or altered.*go online"):
        convzoo.create_model("lenet5", pretrained=source, local_files_only=True)
    assert same(convzoo.create_model("lenet5", pretrained=source), model)
    assert path.read_bytes() == right
    hub.clear()
    assert same(convzoo.create_model("lenet5", pretrained=f"{REPO}@{commit}"), model)
    assert hub.requests() == []


def test_without_links_half_an_update(hub, no_links, old_folder, new_folder):
    put(hub, old_folder)
    old = load()
    put(hub, new_folder)
    hub.fault("GET", "cdn", status=500)
    assert same(load_copy(), old)
    hub.clear()
    assert same(load(), convzoo.create_model("lenet5", pretrained=new_folder))
    assert same(load(local_files_only=True), convzoo.create_model("lenet5", pretrained=new_folder))


@pytest.mark.parametrize("links", [True, False])
def test_what_the_client_alone_fetched_is_used(hub, tmp_path, monkeypatch, old_folder, links):
    """By ``huggingface_hub`` itself, with links and without them."""
    from huggingface_hub import file_download, hf_hub_download

    if not links:
        monkeypatch.setattr(file_download, "are_symlinks_supported", lambda *arguments: False)
    commit = put(hub, old_folder)
    for filename in ("config.json", "model.safetensors"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the client's, of caches without links
            path = Path(hf_hub_download(REPO, filename, cache_dir=tmp_path / "cache"))
        assert path.is_symlink() is links
    hub.clear()
    model = load(local_files_only=True)
    assert same(model, convzoo.create_model("lenet5", pretrained=old_folder))
    assert same(load(), model)
    assert hub.requests("GET") == []
    exchange(path.resolve(), b"altered" + path.read_bytes()[7:])
    assert same(convzoo.create_model("lenet5", pretrained=f"{REPO}@{commit}"), model)


def test_the_client_alone_finds_what_was_fetched_here(hub, tmp_path, old_folder):
    from huggingface_hub import hf_hub_download, scan_cache_dir

    commit = put(hub, old_folder)
    load()
    hub.clear()
    path = hf_hub_download(REPO, "model.safetensors", cache_dir=tmp_path / "cache", local_files_only=True)
    assert Path(path).parent.name == commit
    assert hub.requests() == []
    seen = scan_cache_dir(tmp_path / "cache")
    assert seen.warnings == []
    assert [repo.repo_id for repo in seen.repos] == [REPO]
    assert {file.file_name for repo in seen.repos for revision in repo.revisions for file in revision.files} == {
        "config.json",
        "model.safetensors",
    }


def test_errors_stay_in_the_family(hub, old_folder):
    put(hub, old_folder)
    for status in range(400, 600, 7):
        hub.clear()
        hub.fault("*", "resolve", status=status)
        with pytest.raises(WeightsError):
            load()
