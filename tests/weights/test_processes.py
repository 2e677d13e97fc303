"""Several processes, killed processes, full disks and read-only caches: nothing broken is left behind."""

from __future__ import annotations

import ctypes
import time

import pytest
from helpers.weight_folders import DROP_PRIVILEGES, fetch, leftovers, run_python, start_python

REPO = "someone/files"
DATA = bytes(range(256)) * 8000  # 2 MB that no test parses
FETCH = "from helpers.weight_folders import fetch\nprint(len(fetch(token=False).read_bytes()))"


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
