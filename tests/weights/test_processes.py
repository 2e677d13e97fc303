"""Several processes, killed processes, full disks and read-only caches: nothing broken is left behind."""

from __future__ import annotations

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.weight_folders import (
    DROP_PRIVILEGES,
    fetch,
    leftovers,
    make_folder,
    put,
    run_python,
    same,
    start_python,
)

import convzoo
from convzoo.weights import transfer

REPO = "someone/files"
DATA = bytes(range(256)) * 8000  # 2 MB that no test parses
FETCH = "from helpers.weight_folders import fetch\nprint(len(fetch(token=False).read_bytes()))"
PATIENT = "import convzoo.weights.transfer\nconvzoo.weights.transfer.PROBE_SECONDS = 60"


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """With a busy machine: silence is not what is tried here."""
    monkeypatch.setattr(transfer, "PROBE_SECONDS", 60)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 60)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 60)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "60")  # of the processes that are started
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "60")


@pytest.fixture(autouse=True)
def commit(hub):
    return hub.commit(REPO, {"model.safetensors": DATA})


def test_two_processes_at_once_download_once(hub, tmp_path):
    hub.fault("GET", "cdn", rate=4_000_000)  # long enough for both to want it
    both = [start_python(FETCH, hub, tmp_path / "cache") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=240)
        assert (out.strip(), err) == (str(len(DATA)), "")
    assert len(hub.requests("GET", "cdn")) == 1


@pytest.fixture
def nets(hub, tmp_path):
    """Three repositories of weights, and the models in them."""
    folders = [make_folder(tmp_path / str(seed), seed=seed) for seed in range(3)]
    commits = [put(hub, folder, f"someone/net{seed}") for seed, folder in enumerate(folders)]
    models = [convzoo.create_model("lenet5", pretrained=folder, mmap=False) for folder in folders]
    return [f"someone/net{seed}@{commit}" for seed, commit in enumerate(commits)], models


def test_96_loads_from_threads_download_once(hub, tmp_path, nets):
    """Of three repositories, by branch and by commit, while another cache is filled beside it."""
    pinned, models = nets
    hub.fault("GET", "cdn", rate=4_000_000)

    def load(number):
        source = pinned[number % 3] if number % 2 else pinned[number % 3].partition("@")[0]
        cache = tmp_path / "cache" / ("one" if number < 80 else "other")
        return same(convzoo.create_model("lenet5", pretrained=source, cache_dir=cache, mmap=False), models[number % 3])

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(load, range(96)))
    assert len(hub.requests("GET")) == 12  # two files of three repositories, in two caches
    assert leftovers(tmp_path / "cache") == []


def test_forked_workers_ask_on_their_own(hub, tmp_path, nets):
    """A process that has asked the Hub forks: its connections are not its children's."""
    pinned, _ = nets
    code = f"""{PATIENT}
import multiprocessing, sys, warnings
import convzoo
def load(repo_id):
    return convzoo.create_model("lenet5", pretrained=repo_id, mmap=False).weights.source
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # of a process with threads
names = ["someone/net0", "someone/net1", "someone/net2"] * 4
before = load(names[0])
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(sorted(set(pool.map(load, names, chunksize=1))) == sorted({{before, *map(load, names)}}))
print(before)
"""
    assert run_python(code, hub, tmp_path / "cache").split() == ["True", pinned[0]]
    assert leftovers(tmp_path / "cache") == []


def test_a_forked_process_has_a_session_of_its_own(hub, tmp_path, nets):
    """Whichever client is installed; and the parent's goes on."""
    pinned, _ = nets
    code = f"""{PATIENT}
import os, warnings
import convzoo
from convzoo.weights import client
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # of a process with threads
load = lambda name: convzoo.create_model("lenet5", pretrained=name, mmap=False).weights.source
load("someone/net0")
before = client.session()
child = os.fork()
if child == 0:
    os._exit(client.session() is before)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), client.session() is before, load("someone/net1"))
"""
    assert run_python(code, hub, tmp_path / "cache").split() == ["0", "True", pinned[1]]


def test_after_a_process_was_killed_half_way_the_next_one_succeeds(hub, tmp_path):
    hub.fault("GET", "cdn", times=1, rate=400_000)
    process = start_python(FETCH, hub, tmp_path / "cache")
    deadline = time.monotonic() + 240
    while not (hub.requests("GET", "cdn") and leftovers(tmp_path / "cache")):
        assert time.monotonic() < deadline, "the download never began"
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    assert process.returncode == -9
    assert fetch(token=False).read_bytes() == DATA


def test_a_full_disk(hub, tmp_path):
    """A process that may write no more than 1 MB to a file: the write fails half-way, as on a full disk."""
    code = """
import resource
from convzoo import WeightsUnavailable
from helpers.weight_folders import fetch
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
try:
    fetch()
except WeightsUnavailable as error:
    print(error)
"""
    assert "cannot be written to the cache" in run_python(code, hub, tmp_path / "cache")
    assert leftovers(tmp_path / "cache") == []
    assert not list((tmp_path / "cache").rglob("snapshots/*/*"))
    assert fetch().read_bytes() == DATA


@pytest.mark.xfail(not hasattr(ctypes.CDLL(None), "capset"), reason="only Linux can take root's rights away")
def test_a_read_only_cache(hub, tmp_path):
    """What is cached is used; what is not is refused in words, and nothing is left."""
    path = fetch()
    hub.commit("someone/other", {"model.safetensors": DATA[:-1]})
    cache = tmp_path / "cache"
    code = f"""{DROP_PRIVILEGES}
from convzoo import WeightsUnavailable
from helpers.weight_folders import fetch
print(fetch(token=False) == __import__("pathlib").Path({str(path)!r}))
try:
    fetch("someone/other", token=False)
except WeightsUnavailable as error:
    print(error)
"""
    folders = [cache, *(folder for folder in cache.rglob("*") if folder.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        out = run_python(code, hub, cache)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert out.splitlines()[0] == "True"
    assert "cannot be written to the cache" in out
    assert "set HF_HOME" in out
    assert not (cache / "models--someone--other").exists()
