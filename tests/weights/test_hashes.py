"""Hashes that are remembered: a changed file is found, and what remembers them is never trusted too far nor missed."""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.weight_folders import make_folder, put, run_python, same, start_python

import convzoo
from convzoo import WeightsCorrupted
from convzoo.weights import hashes

REPO = "someone/lenet5.made_up"
REALLY_TRUSTED = hashes._is_trusted


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("made") / "lenet5.made_up")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home of the client, and nothing remembered; files count that are small and new, wherever they lie."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hashes, "LEAST", 0)
    monkeypatch.setattr(hashes, "SETTLED", 0.0)
    monkeypatch.setattr(hashes, "_is_trusted", lambda file: True)
    hashes._remembered.clear()
    yield tmp_path / "home"
    hashes._remembered.clear()


@pytest.fixture
def folder(tmp_path, made):
    folder = Path(shutil.copytree(made, tmp_path / "folder"))
    time.sleep(0.05)  # longer than a tick of the clock that files get their times from
    return folder


@pytest.fixture
def read(monkeypatch):
    """The names of the files that are read to be hashed."""
    names, original = [], hashes._hash

    def hashed(file):
        names.append(Path(file.name).name)
        return original(file)

    monkeypatch.setattr(hashes, "_hash", hashed)
    return names


def load(source, **more):
    return convzoo.create_model("lenet5", pretrained=source, **more)


def kept(home):
    return home / "assets" / "convzoo" / "hashes.json"


def forget():
    """As another process begins."""
    hashes._remembered.clear()


# -- once


def test_a_described_folder_is_hashed_once(folder, read, home):
    model = load(folder)
    assert same(load(folder), model)
    forget()
    assert same(load(folder), model)
    assert read == ["model.safetensors"]
    assert (kept(home).stat().st_mode & 0o777, kept(home).parent.stat().st_mode & 0o777) == (0o600, 0o700)
    convzoo.load_weights(model, folder)
    assert len(read) == 1


def test_verify_hashes_again(folder, read):
    for count in (1, 2, 3):
        load(folder, verify=True)
        assert len(read) == count
    convzoo.load_weights(load(folder), folder, verify=True)
    assert len(read) == 4
    with pytest.raises(TypeError, match="verify must be True or False, got 1"):
        load(folder, verify=1)
    with pytest.raises(TypeError, match="verify must be True or False, got 'no'"):
        convzoo.load_weights(load(folder), folder, verify="no")


@pytest.mark.parametrize("pinned", [True, False])
def test_a_cached_repository_is_hashed_once(hub, made, read, pinned):
    commit = put(hub, made)
    source = f"{REPO}@{commit}" if pinned else REPO
    model = load(source)
    read.clear()
    time.sleep(0.05)
    for _ in range(3):
        assert same(load(source), model)
        forget()
    assert len(read) == 1
    load(source, verify=True)
    assert len(read) == 2


def test_folders_of_repositories_are_hashed_once(folder, read, monkeypatch):
    monkeypatch.setenv("CONVZOO_WEIGHTS", str(folder.parent))
    folder.rename(folder.with_name("lenet5.made_up"))
    time.sleep(0.05)
    for _ in range(3):
        load("made_up")
    assert len(read) == 1  # neither twice in one load
    load("made_up", verify=True)
    assert len(read) == 2


def test_a_real_file_system_is_told_by_its_name(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    with (tmp_path / "file").open("rb") as file:
        types = {line.split()[4]: line.partition(" - ")[2].split()[0] for line in mounts}
        lies_on = max((place for place in types if tmp_path.is_relative_to(place)), key=len)
        assert REALLY_TRUSTED(file) == (types[lies_on] in hashes.TRUSTED)
    with Path("/proc/self/mountinfo").open("rb") as file:
        assert not REALLY_TRUSTED(file)


# -- changed


def flip(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


def in_place(path):
    with path.open("r+b") as file:
        data = file.read()
        file.seek(0)
        file.write(flip(data))


def by_replacing(path):
    other = path.with_suffix(".new")
    other.write_bytes(flip(path.read_bytes()))
    os.utime(other, ns=(0, path.stat().st_mtime_ns))
    other.replace(path)


def by_removing(path):
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(flip(data))


def through_a_mapping(path):
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[-5] ^= 1
        if not REALLY_TRUSTED(file):  # such as tmpfs, which keeps no time of this: nothing there is remembered
            os.utime(path)


@pytest.mark.parametrize("change", [in_place, by_replacing, by_removing, through_a_mapping])
@pytest.mark.parametrize("in_memory", [True, False])
def test_another_content_of_the_same_size_and_modification_time(folder, change, in_memory):
    path = folder / "model.safetensors"
    load(folder, mmap=False)
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    if not in_memory:
        forget()
    for _ in range(2):
        with pytest.raises(WeightsCorrupted, match=r"its config\.json states another file"):
            load(folder)


def test_a_changed_blob_is_fetched_anew(hub, made, tmp_path):
    put(hub, made)
    load(REPO, mmap=False)
    time.sleep(0.05)
    model = load(REPO, mmap=False)
    (blob,) = (path for path in (tmp_path / "cache").rglob("blobs/*") if path.stat().st_size > 10_000)
    before = blob.stat()
    in_place(blob)
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    hub.clear()
    assert same(load(REPO), model)
    assert len(hub.requests("GET", "cdn")) == 1


def test_a_file_that_was_just_written_is_not_remembered(folder, read, home, monkeypatch):
    monkeypatch.setattr(hashes, "SETTLED", 60.0)
    load(folder)
    load(folder)
    assert len(read) == 2
    assert not home.exists()
    os.utime(folder / "model.safetensors", (1, 1))  # does not make it look older
    load(folder)
    assert len(read) == 3
    later = time.time() + 61
    monkeypatch.setattr(time, "time", lambda: later)
    load(folder)
    load(folder)
    assert len(read) == 4


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(folder, read, monkeypatch):
    original = hashes._hash

    def slow(file):
        found = original(file)
        in_place(folder / "model.safetensors")
        return found

    monkeypatch.setattr(hashes, "_hash", slow)
    with (folder / "model.safetensors").open("rb") as file:
        stated = original(file)
    assert hashes.sha256_unless_known(folder / "model.safetensors", stated) == stated
    assert hashes._remembered == {}


def test_after_a_restart_of_the_machine_all_is_hashed_again(folder, read, monkeypatch):
    load(folder)
    forget()
    monkeypatch.setattr(hashes, "_boot", lambda: "another")
    load(folder)
    assert len(read) == 2


def test_a_flipped_bit_below_the_file_system_is_found_when_asked(folder, monkeypatch):
    """What the page on what can go wrong says: it leaves no trace that can be seen without reading."""
    path = folder / "model.safetensors"
    load(folder, mmap=False)
    with path.open("rb") as file:
        state = hashes._state(file)
    in_place(path)
    monkeypatch.setattr(hashes, "_state", lambda file: state)  # as if nothing had been written
    assert load(folder, mmap=False).weights is not None
    with pytest.raises(WeightsCorrupted, match=r"its config\.json states another file"):
        load(folder, verify=True)


# -- what remembers


def test_small_files_leave_no_trace(folder, read, home, monkeypatch):
    monkeypatch.setattr(hashes, "LEAST", 1 << 20)
    load(folder)
    load(folder)
    assert len(read) == 2
    assert not home.exists()


def garbage(text):
    return lambda place: place.write_bytes(text)


def as_folder(place):
    place.unlink()
    place.mkdir()


def as_pipe(place):
    place.unlink()
    os.mkfifo(place, 0o600)


def as_link(place):
    place.rename(place.with_name("elsewhere"))
    place.symlink_to(place.with_name("elsewhere"))


BROKEN = {
    "empty": garbage(b""),
    "cut": lambda place: place.write_bytes(place.read_bytes()[:-9]),
    "no JSON": garbage(b"\x80\xff\0"),
    "nested": garbage(b"[" * 200_000),
    "too long": lambda place: place.write_bytes(place.read_bytes()[:-1] + b" " * (1 << 18) + b"]"),
    **{text: garbage(text.encode()) for text in ("3", "null", "{}", '{"a": [1]}', "[3]", "[[]]", "[[1, 2]]", '["x"]',
       "[[[], [], [], [], [], [], [], []]]", "[[" + "9" * 5000 + "]]", '[{"a": 1}]', "[null]")},
    "a folder": as_folder,
    "a pipe": as_pipe,
    "a link": as_link,
    "others may write": lambda place: place.chmod(0o666),
    "the group may write": lambda place: place.chmod(0o660),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.filterwarnings("error")
def test_a_memory_that_is_broken_is_no_matter(folder, read, home, kind):
    model = load(folder)
    BROKEN[kind](kept(home))
    for count in (2, 3):
        forget()
        assert same(load(folder), model)
        assert len(read) == (count if kind == "a folder" else 2)  # anything else is replaced
    assert [path.name for path in kept(home).parent.iterdir() if path.name.startswith(".")] == []


def test_what_another_user_wrote_is_not_believed(folder, home, monkeypatch):
    load(folder)
    assert len(hashes._read()) == 1
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    assert hashes._read() == {}


def test_a_file_of_another_user_is_hashed_every_time(folder, monkeypatch):
    path, status = folder / "model.safetensors", os.stat_result
    original = os.fstat
    monkeypatch.setattr(os, "fstat", lambda number: status([*original(number)[:4], 4242, *original(number)[5:]]))
    with path.open("rb") as file:
        assert hashes._state(file) is None


def test_it_can_confirm_and_not_refuse(folder, read, home):
    load(folder)
    rows = json.loads(kept(home).read_text())
    kept(home).write_text(json.dumps([[*rows[0][:-1], "0" * 64]]))
    forget()
    assert load(folder).weights is not None  # read, and right
    assert len(read) == 2


def nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", "/dev/null/home")


def no_home(monkeypatch, tmp_path):
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null/home")


def no_user(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", "~nouser_of_this_name/cache")


def full_disk(monkeypatch, tmp_path):
    def write(*arguments, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write)


@pytest.mark.parametrize("obstacle", [nowhere, no_home, no_user, full_disk])
@pytest.mark.filterwarnings("error")
def test_where_nothing_can_be_kept_the_process_still_remembers(folder, read, tmp_path, monkeypatch, obstacle):
    obstacle(monkeypatch, tmp_path)
    for _ in range(3):
        load(folder)
    assert len(read) == 1
    forget()
    load(folder)
    assert len(read) == 2
    assert [path.name for path in tmp_path.rglob("*") if "hashes" in path.name or "nouser" in path.name] == []


def test_where_it_lies(monkeypatch, tmp_path):
    from huggingface_hub import cached_assets_path

    folder = cached_assets_path("convzoo", assets_dir=tmp_path / "home" / "assets")
    assert hashes._place() == folder.parents[1] / "hashes.json"
    monkeypatch.setenv("HF_ASSETS_CACHE", "$HOME/elsewhere")
    assert hashes._place() == Path(os.environ["HOME"], "elsewhere", "convzoo", "hashes.json")
    for name in ("HF_ASSETS_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert hashes._place() == Path("/xdg/huggingface/assets/convzoo/hashes.json")


def test_it_stays_small(tmp_path, home, monkeypatch):
    monkeypatch.setattr(hashes, "MOST", 5)
    for number in range(9):
        path = tmp_path / f"{number}"
        path.write_bytes(b"x" * number)
        time.sleep(0.01)
        hashes.sha256_unless_known(path, hashes.sha256_of(path))
    assert [Path(row[0]).name for row in json.loads(kept(home).read_text())] == ["4", "5", "6", "7", "8"]


# -- many at once


def test_threads(folder, home):
    def work(number):
        return load(folder, verify=number % 5 == 0, mmap=False).weights.tag

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(80))) == {"made_up"}
    assert len(json.loads(kept(home).read_text())) == 1


PROCESS = """
import sys
from pathlib import Path
import convzoo
from convzoo.weights import hashes
hashes.LEAST, hashes.SETTLED, hashes._is_trusted = 0, 0.0, lambda file: True
for _ in range(10):
    for folder in sys.argv[1:]:
        hashes._remembered.clear()
        convzoo.load_weights(convzoo.create_model("lenet5"), Path(folder), mmap=False)
"""


def test_processes(tmp_path, home, folder, made):
    code = PROCESS.replace("sys.argv[1:]", repr([str(folder), str(made)]))
    several = [start_python(code) for _ in range(2)]
    for process in several:
        out, err = process.communicate(timeout=240)
        assert (out, err, process.returncode) == ("", "", 0)
    rows = json.loads(kept(home).read_text())
    assert {row[0] for row in rows} <= {str(each / "model.safetensors") for each in (folder, made)}
    assert [path.name for path in kept(home).parent.iterdir()] == ["hashes.json"]


def test_an_import_writes_nothing(home):
    run_python("import convzoo\nconvzoo.create_model('lenet5', pretrained=True)\nconvzoo.list_weights()")
    assert not home.exists()
