"""Many calls at once, over and over, in workers and in odd surroundings: the same answers, and nothing grows."""

from __future__ import annotations

import gc
import random
import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.answers import QUICK, answer, answers, command
from helpers.weight_folders import run_python


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def expected(place):
    return answers(place)


@pytest.mark.parametrize("calls", [100, pytest.param(4_000, marks=pytest.mark.slow)])
def test_eight_threads(place, expected, calls):
    order = random.Random(0).choices(list(expected), k=calls)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # that they meet more often
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda name: answer(name, place), order))
    finally:
        sys.setswitchinterval(switch)
    assert [(name, text) for name, text in zip(order, found, strict=True) if text != expected[name]] == []


def held():
    """What a process may run out of: memory in pages, objects, files, mappings, threads."""
    gc.collect()
    memory = int(Path("/proc/self/statm").read_text().split()[1])
    mappings = Path("/proc/self/maps").read_text().count("\n")
    return memory, len(gc.get_objects()), len(list(Path("/proc/self/fd").iterdir())), mappings, threading.active_count()


@pytest.mark.parametrize("repeats", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_nothing_grows(place, expected, repeats):
    """Each repeat is of all calls."""
    most = 0  # of memory, which the allocator hands back now and then
    for _ in range(5):
        answers(place)
        most = max(most, held()[0])
    before = (most, *held()[1:])
    for _ in range(repeats):
        assert answers(place) == expected
    memory, objects, files, mappings, threads = (after - was for after, was in zip(held(), before, strict=True))
    assert memory * resource.getpagesize() < 16 << 20
    assert objects < 500
    assert (files, threads) == (0, 0)
    assert mappings < 20


WORKERS = """
import multiprocessing, pathlib, sys, warnings
from functools import partial
import torch
from torch.utils.data import DataLoader
from helpers.answers import QUICK, Prepared, answer, answers
if __name__ == "__main__":
    warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)  # of a process with threads
    place = pathlib.Path(PLACE)
    expected, prepared = answers(place), torch.stack([Prepared()[index] for index in range(6)])
    names = [call.__name__ for call in QUICK]
    for method, workers in (("fork", 3), ("spawn", 1)):
        context = multiprocessing.get_context(method)
        with context.Pool(workers) as pool:
            found = pool.map(partial(answer, place=place), names)
        if dict(zip(names, found)) != expected:
            raise RuntimeError(f"{method}: {found} instead of {expected}")
        loader = DataLoader(Prepared(), batch_size=2, num_workers=1, multiprocessing_context=method)
        if not torch.equal(torch.cat(list(loader)), prepared):
            raise RuntimeError(f"{method}: the data loader's workers prepare otherwise")
    print(expected)
"""


def test_workers_that_are_forked_and_spawned(place, expected):
    code = WORKERS.replace("PLACE", repr(str(place)))
    assert run_python(code) == str(expected)


SURROUNDINGS = {
    "-O": ({"PYTHONOPTIMIZE": "1"}, ()),
    "-OO": ({"PYTHONOPTIMIZE": "2"}, ()),
    "-X dev": ({"PYTHONDEVMODE": "1"}, ()),
    "locale C": ({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, ()),
    "no HOME": ({}, ("HOME", "HF_HOME", "XDG_CACHE_HOME")),
    "HOME that is not there": ({"HOME": "/nonexistent/home"}, ("HF_HOME",)),
    "all": (
        {"PYTHONOPTIMIZE": "2", "LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ("HOME", "HF_HOME", "XDG_CACHE_HOME"),
    ),
}
ASKED = """
import os, sys
for name in GONE:
    os.environ.pop(name, None)
import pathlib
from helpers.answers import QUICK, answers, command
from convzoo.__main__ import main
found = answers(pathlib.Path(PLACE), [*QUICK, command])
main(["weights", "--info", "lenet5.mnist"])
sys.stdout.buffer.write(b"\\n" + str(found).encode())
"""


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=() if kind in ("all", "-X dev") else pytest.mark.slow, id=kind.replace(" ", "_"))
        for kind in SURROUNDINGS
    ],
)
def test_odd_surroundings(tmp_path, kind):
    """Always with -W error; under -O the refusals must not be gone, in locale C names are not only ASCII."""
    environment, gone = SURROUNDINGS[kind]
    code = ASKED.replace("GONE", repr(gone)).replace("PLACE", repr(str(tmp_path)))
    found = run_python(code, **environment).splitlines()[-1]
    assert found == str(answers(tmp_path, [*QUICK, command]))
