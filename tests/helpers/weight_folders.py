"""Small helpers of the weights' tests: made-up weights, in folders and on the local Hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

import convzoo
from convzoo.weights.find import Access
from convzoo.weights.hub import Repository

TESTS = Path(__file__).resolve().parents[1]
SOURCE = TESTS.parent / "src"
DROP_PRIVILEGES = """
import ctypes
# the rights by which root writes where it is not allowed to: a header (version 3, this process) and no rights at all
header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
if ctypes.CDLL(None).capset(header, none):
    raise OSError("capset")
"""

NAMES = [f"digit {digit}" for digit in range(10)]


def make_folder(folder: Path, name: str = "lenet5", *, tag: str = "made_up", seed: int = 0, **saved) -> Path:
    """A repository of random weights, as ``save_pretrained`` writes it."""
    torch.manual_seed(seed)
    options = saved.pop("options", {})
    model = convzoo.create_model(name, **options)
    saved = {"mean": 0.13, "std": 0.31, **saved}
    return convzoo.save_pretrained(model, folder, tag=tag, **saved)


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder's files, ready to be committed."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def put(hub, folder: Path, repo_id: str = "someone/lenet5.made_up", **where) -> str:
    """Commit a folder to the local Hub; the commit's hash."""
    return hub.commit(repo_id, files_of(folder), **where)


def fetch(repo_id: str = "someone/files", filename: str = "model.safetensors", revision=None, sha256=None, **access):
    """One file of a repository."""
    return Repository(repo_id, revision, Access(**access)).read(lambda files: files.fetch(filename, sha256))


def same(model, other) -> bool:
    """True if two models hold exactly the same numbers."""
    ours, theirs = model.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def leftovers(cache: Path) -> list[str]:
    """What in a cache is neither a finished file nor bookkeeping: unfinished downloads."""
    return [str(path) for path in cache.rglob("*") if path.is_file() and path.name.endswith(".incomplete")]


def start_python(code: str, hub=None, cache: Path | None = None, stdin=None, **more) -> subprocess.Popen:
    """A fresh process that runs ``code`` against the local Hub."""
    paths = [str(SOURCE), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"HF_HUB_CACHE": str(cache)} if cache else {}
    environment |= {"HF_ENDPOINT": hub.url} if hub else {}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        env={**environment, **more},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(code: str, hub=None, cache: Path | None = None, **more) -> str:
    """What a fresh process that runs ``code`` prints; fails with its errors."""
    process = start_python(code, hub, cache, **more)
    out, err = process.communicate(timeout=240)
    if process.returncode:
        raise AssertionError(f"exit status {process.returncode}:\n{err}")
    return out.strip()


def edit_json(path: Path, change) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
