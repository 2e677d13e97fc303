"""A folder is written as one: the old content or the new is there, whoever is killed, and errors are in words."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from helpers.weight_folders import make_folder, same, start_python

import convzoo
from convzoo.weights import folder as folder_module
from convzoo.weights.folder import write_folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def finish(process):
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors


def put(text):
    def write(staging):
        for name in ("first", "second", "last"):
            (staging / name).write_text(text)

    return write


def test_a_new_folder_appears_whole_and_others_files_stay(tmp_path):
    folder = tmp_path / "x"
    write_folder(folder, put("old"), "first", "last")
    (folder / "other").write_text("mine")
    write_folder(folder, put("new"), "first", "last")
    assert names(folder) == ["first", "last", "other", "second"]
    assert {(folder / name).read_text() for name in ("first", "second", "last")} == {"new"}
    assert names(tmp_path) == ["x"]
    mask = os.umask(0)
    os.umask(mask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~mask


def test_a_failure_changes_nothing(tmp_path):
    def fails(staging):
        (staging / "first").write_text("new")
        raise ZeroDivisionError

    folder = tmp_path / "x"
    with pytest.raises(ZeroDivisionError):
        write_folder(folder, fails, "first", "last")
    assert names(tmp_path) == []
    write_folder(folder, put("old"), "first", "last")
    with pytest.raises(ZeroDivisionError):
        write_folder(folder, fails, "first", "last")
    assert {path.read_text() for path in folder.iterdir()} == {"old"}
    assert names(tmp_path) == ["x"]


# For each line "STEP FOLDER" that it reads: a fork saves a model, and kills itself at that step of moving the files.
KILLED = """
import os, pathlib, signal, sys, torch, convzoo
step, done, parents = 0, 0, ()
def counted(original):
    def call(self, *args, **options):
        global done
        if self.parent in parents or self.parent.parent in parents:
            done += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **options)
    return call
for name in ("rename", "replace", "unlink"):
    setattr(pathlib.Path, name, counted(getattr(pathlib.Path, name)))
torch.manual_seed(1)
model = convzoo.create_model("lenet5")
print("ready", flush=True)
for line in sys.stdin:
    step, folder = int(line.split()[0]), line.split()[1]
    child = os.fork()
    if not child:
        parents = (pathlib.Path(folder).parent,)
        convzoo.save_pretrained(model, folder, tag="new", mean=0.2, std=0.3)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killer():
    """Makes a process of its own save a model into a folder, and die at a step; its exit status."""
    process = start_python(KILLED, stdin=subprocess.PIPE)
    assert process.stdout.readline().strip() == "ready", process.stderr.read()

    def kill(step, folder):
        process.stdin.write(f"{step} {folder}\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield kill
    process.communicate(timeout=60)


def numbers(folder):
    """Which of the two models a folder holds, as it loads."""
    model = convzoo.create_model("lenet5", pretrained=folder)
    assert model.weights.tag in ("made_up", "new")
    assert model.weights.mean == ((0.13,) if model.weights.tag == "made_up" else (0.2,))
    torch.manual_seed(0 if model.weights.tag == "made_up" else 1)
    assert same(model, convzoo.create_model("lenet5"))
    return model.weights.tag


@pytest.mark.parametrize("there", [False, True])
def test_whenever_a_writer_is_killed_there_is_the_old_or_the_new(tmp_path, killer, there):
    found = []
    for step in range(1, 30):
        folder = tmp_path / str(step) / "net"
        folder.parent.mkdir()
        if there:
            make_folder(folder)
        status = killer(step, folder)
        assert status in (0, -signal.SIGKILL)
        found.append(numbers(folder) if folder.exists() else "none")
        if status:
            assert [name for name in names(folder.parent) if name.endswith(".part")]
        make_folder(folder)  # the next one clears what was left
        assert names(folder.parent) == ["net"]
        assert numbers(folder) == "made_up"
        if status == 0:
            break
    before = "made_up" if there else "none"
    assert found == sorted(found, key=[before, "new"].index)
    assert found[0] == before
    assert found[-1] == "new"
    assert len(found) > 4


def test_what_a_living_writer_writes_is_not_cleared(tmp_path):
    code = f"""
import pathlib, time
from convzoo.weights import folder as folder_module
from convzoo.weights.folder import write_folder
def slowly(staging):
    (staging / "first").write_text("slow")
    print("writing", flush=True)
    while not pathlib.Path({str(tmp_path / "go")!r}).exists():
        time.sleep(0.01)
write_folder(pathlib.Path({str(tmp_path / "x")!r}), slowly, "first", "last")
"""
    process = start_python(code)
    assert process.stdout.readline().strip() == "writing"
    write_folder(tmp_path / "x", put("quick"), "first", "last")
    assert (tmp_path / "x" / "first").read_text() == "quick"
    (tmp_path / "go").touch()
    finish(process)
    assert (tmp_path / "x" / "first").read_text() == "slow"
    assert names(tmp_path) == ["go", "x"]


def test_a_writer_that_never_ends_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "LONGEST_MOVE", 0.1)
    write_folder(tmp_path / "x", put("old"), "first", "last")
    with (
        folder_module._locked(tmp_path),
        pytest.raises(BlockingIOError, match=r"another program is writing there"),
    ):
        write_folder(tmp_path / "x", put("new"), "first", "last")
    assert {(tmp_path / "x" / name).read_text() for name in ("first", "second", "last")} == {"old"}
    assert names(tmp_path) == ["x"]
    write_folder(tmp_path / "x", put("new"), "first", "last")
    assert (tmp_path / "x" / "first").read_text() == "new"


def test_many_writers_of_one_folder(tmp_path):
    torch.manual_seed(0)
    model = convzoo.create_model("lenet5")
    with ThreadPoolExecutor(4) as pool:
        jobs = [
            pool.submit(convzoo.save_pretrained, model, tmp_path / "x", tag="made_up", mean=0.13, std=0.31)
            for _ in range(16)
        ]
        for job in jobs:
            job.result()
    assert names(tmp_path) == ["x"]
    assert numbers(tmp_path / "x") == "made_up"


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path):
    folder = make_folder(tmp_path / "net")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in (0, 1000, 100_000, 250_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                with pytest.raises(OSError, match=r"net' cannot be written \(.*what was there is as it was") as error:
                    make_folder(folder, seed=1, recipe={"note": ["x" * 100] * 5000})
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert error.value.errno == errno.EFBIG
            assert numbers(folder) == "made_up"
            assert names(tmp_path) == ["net"]
    finally:
        signal.signal(signal.SIGXFSZ, old)


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "net", tmp_path / ("x" * 300), "/proc/no/such"):
        with pytest.raises(OSError, match="cannot be written"):
            make_folder(place)
    with pytest.raises(OSError, match=r"xxx\.\.\.xxx.*cannot be written") as error:
        make_folder(tmp_path / ("x" * 100_000))
    assert len(str(error.value)) < 1000
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_a_folder_in_a_files_place(tmp_path, name):
    """Nothing else is moved, so that what the message says is true."""
    folder = make_folder(tmp_path / "net")
    (folder / name).unlink()
    (folder / name).mkdir()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(OSError, match=f"{name} in it is a folder.*what was there is as it was"):
        make_folder(folder, seed=1)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before
    assert names(tmp_path) == ["net"]


@pytest.mark.parametrize("name", ["README.md", "config.json", "model.safetensors"])
def test_a_pipe_in_a_files_place(tmp_path, name):
    folder = make_folder(tmp_path / "net")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert numbers(make_folder(folder)) == "made_up"


def test_weights_that_cannot_be_replaced(tmp_path, monkeypatch):
    """As on Windows, where a program has them mapped."""
    folder = make_folder(tmp_path / "net")
    original = Path.replace

    def replace(self, target):
        if Path(target) == folder / "model.safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="what was there is as it was"):
        make_folder(folder, seed=1)
    assert names(folder) == ["README.md", "config.json", "model.safetensors"]
    assert numbers(folder) == "made_up"
    assert names(tmp_path) == ["net"]


def test_a_folder_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert make_folder("~/net") == tmp_path / "home" / "net"
    assert convzoo.create_model("lenet5", pretrained="~/net").weights.tag == "made_up"
    assert names(tmp_path) == ["home"]


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    folder = make_folder(tmp_path / "net")
    code = f"""
import convzoo, torch
torch.manual_seed(1)
new = convzoo.create_model("lenet5")
print("go", flush=True)
while True:
    convzoo.save_pretrained(new, {str(folder)!r}, tag="new", mean=0.2, std=0.3)
"""
    for index in range(15):
        process = start_python(code)
        process.stdout.readline()
        time.sleep(0.006 * index)
        process.kill()
        process.communicate()
        assert numbers(folder) in ("made_up", "new")
    make_folder(folder)
    assert names(tmp_path) == ["net"]
