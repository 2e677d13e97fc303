"""Ctrl-C at any moment of a download, load or save: one KeyboardInterrupt, nothing half done, the next call works."""

from __future__ import annotations

import linecache
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from helpers.weight_folders import leftovers, make_folder, put, same, start_python

import convzoo
from convzoo.weights.folder import _locked

PACKAGE = str(Path(convzoo.__file__).parent / "weights")

# -- real signals, while the process waits for somebody else

WAITING = {  # a fault of the server, which would last for minutes
    "for an answer": ("HEAD", "config.json", {"delay": 120}),
    "for the first byte": ("GET", "cdn", {"delay": 120}),
    "for the next byte": ("GET", "cdn", {"stall_after": 1000, "stall": 120}),
    "for a slow server": ("GET", "cdn", {"rate": 1000}),
}


def interrupt_when(hub, process, line, method, pattern, fault):
    """Let a process begin what ``line`` says to it, and interrupt it at the fault; when that was."""
    hub.clear()
    hub.fault(method, pattern, times=1, **fault)
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    deadline = time.monotonic() + 120
    while not hub.requests(method, pattern):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"the process never asked: {process.communicate()}")
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    return time.monotonic()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    return [make_folder(place / str(seed), seed=seed) for seed in range(2)]


def test_interrupted_while_it_waits(hub, tmp_path, folders):
    """One process: caught, and the next call works; at last not caught, and there is one traceback."""
    cache = tmp_path / "cache"
    code = """
import convzoo
def load(repo_id):
    print(convzoo.create_model("lenet5", pretrained=repo_id, mmap=False).weights.revision, flush=True)
for repo_id in iter(input, "the last"):
    try:
        load(repo_id)
    except KeyboardInterrupt as error:
        print("interrupted", error.args, error.__cause__, error.__context__, flush=True)
    load(repo_id)
load("someone/last")
"""
    timeouts = {"HF_HUB_ETAG_TIMEOUT": "100", "HF_HUB_DOWNLOAD_TIMEOUT": "100"}
    with start_python(code, hub, cache, stdin=subprocess.PIPE, **timeouts) as process:
        for number, waiting in enumerate(WAITING):
            commit = put(hub, folders[0], f"someone/net{number}")
            sent = interrupt_when(hub, process, f"someone/net{number}", *WAITING[waiting])
            assert process.stdout.readline() == "interrupted () None None\n", (waiting, process.communicate())
            assert time.monotonic() - sent < 20, waiting
            assert process.stdout.readline() == f"{commit}\n", waiting
            assert leftovers(cache) == []
        put(hub, folders[0], "someone/last")
        interrupt_when(hub, process, "the last", *WAITING["for a slow server"])
        _, errors = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGINT
    assert errors.count("Traceback") == 1
    assert errors.endswith("KeyboardInterrupt\n")
    assert leftovers(cache) == []
    assert not (cache / "models--someone--last" / "refs").exists()


# -- at each line of our own code


class Interrupting:
    """Raises KeyboardInterrupt before line number ``at`` of those of ``convzoo.weights`` that this thread runs."""

    def __init__(self, at: int = -1) -> None:
        self.at, self.lines = at, 0

    def __enter__(self) -> Interrupting:
        self.before = sys.gettrace()
        sys.settrace(self._enter_function)
        return self

    def __exit__(self, *problem: object) -> None:
        sys.settrace(self.before)

    def _enter_function(self, frame, event, argument):
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame, event, argument):
        if event == "line" and not is_lock(frame):
            self.lines += 1
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self._line


def is_lock(frame):
    """Whether a line takes or leaves a lock of :mod:`threading`: C code, between which and the block no signal is
    handled. Tracing sees the line once more before the lock is left."""
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("with MAKING:")


def moments(work, prepare, count, seed=0):
    """Interrupts ``work`` at ``count`` of its lines; yields after each, with its number."""
    prepare()
    work()
    prepare()
    with Interrupting() as all_lines:
        work()
    assert all_lines.lines > 10
    lines = range(1, all_lines.lines + 1)
    for at in lines if count >= len(lines) else sorted(random.Random(seed).sample(lines, count)):
        prepare()
        interrupted = False
        with Interrupting(at) as run:
            try:
                work()
            except KeyboardInterrupt:
                interrupted = True
        assert interrupted or run.lines < at, f"the interrupt before line {at} was swallowed"
        yield at


FEW = 25
# between leaving a block and closing its file, as it may happen to any with statement: it is closed when it is freed
pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed file:ResourceWarning", "ignore:.*FileIO")
counts = pytest.mark.parametrize("count", [FEW, pytest.param(10_000, marks=pytest.mark.slow)], ids=["few", "all"])


@counts
def test_an_update_is_interrupted_anywhere(hub, tmp_path, folders, count):
    """The cached commit or the new one is what the branch means, all of it; and nothing stays for ever."""
    models = [convzoo.create_model("lenet5", pretrained=folder, mmap=False) for folder in folders]
    commits, number = [], 0

    def load(**more):
        return convzoo.create_model("lenet5", pretrained=f"someone/net{number}", mmap=False, **more)

    def prepare():
        nonlocal commits, number
        number += 1
        commits = [put(hub, folders[0], f"someone/net{number}")]
        load()
        commits.append(put(hub, folders[1], f"someone/net{number}"))

    for at in moments(load, prepare, count):
        cached = load(local_files_only=True)
        which = commits.index(cached.weights.revision)
        assert same(cached, models[which]), at
        assert same(load(), models[1]), at
        cache = tmp_path / "cache" / f"models--someone--net{number}"
        assert len(leftovers(cache)) <= 1, at  # of a line that removes it, until an hour has passed


@counts
def test_a_save_is_interrupted_anywhere(tmp_path, folders, count):
    torch.manual_seed(1)
    new = convzoo.create_model("lenet5")
    olds = convzoo.create_model("lenet5", pretrained=folders[0], mmap=False)
    folder = tmp_path / "net"

    def save(model=new, tag="new"):
        convzoo.save_pretrained(model, folder, tag=tag, mean=0.13, std=0.31)

    def prepare():
        save(olds, "old")
        assert [path.name for path in tmp_path.iterdir()] == ["net"]  # what an interrupt left is gone

    for at in moments(save, prepare, count):
        found = convzoo.create_model("lenet5", pretrained=folder, mmap=False)
        assert same(found, new if found.weights.tag == "new" else olds), at
    prepare()


@counts
def test_loading_is_interrupted_anywhere(folders, count):
    """Nothing is remembered wrongly: the next load gives what it always does, as a model and into one."""
    right = convzoo.create_model("lenet5", pretrained=folders[0], mmap=False)
    torch.manual_seed(5)
    model = convzoo.create_model("lenet5")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    def load():
        made = convzoo.create_model("lenet5", pretrained=folders[0])
        convzoo.load_weights(model, folders[0])
        return made

    def prepare():
        model.load_state_dict(before)
        model.weights = None

    for at in moments(load, prepare, count):
        state = model.state_dict()
        assert same(model, right) or all(torch.equal(state[key], before[key]) for key in before), at
        assert model.weights is None or same(model, right), at
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = load()
        assert same(made, right), at
        assert same(model, right), at
        assert made.weights == right.weights


def test_a_lock_is_left_wherever_it_is_interrupted(tmp_path):
    def work():
        with _locked(tmp_path, wait=True) as held:
            assert held

    def prepare():
        with _locked(tmp_path) as held:  # does not wait
            assert held

    assert len(list(moments(work, prepare, 10_000))) > 10
    prepare()
