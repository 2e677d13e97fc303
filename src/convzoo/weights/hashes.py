"""The sha256 of weight files: computed once for each content, and remembered.

Hashing a file takes three times as long as loading it. So a hash that was found to be the stated one is remembered,
together with what the system says of the file: its path, which file of which disk that is, its size, when its content
and when anything of it last changed. While all of this stays, nobody has written to it: the kernel sets the last of
these times at every write, and no program can set it back, as it can the other.

What is remembered can only confirm a hash that is stated elsewhere; a file is always read before it is refused. It is
no more than a way to save time: where it cannot be kept or trusted, files are hashed, and nothing is said.

It does not show what changes beneath the file system (a flipped bit on a disk that checks nothing), nor what a program
writes through a mapping of the file that it has held since before the hashing; ``verify=True`` reads the file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import BinaryIO, NamedTuple

LEAST = 1 << 20  # bytes; smaller files are hashed in less time than it takes to look them up
SETTLED = 60.0  # seconds without a change, within which the kernel has written out what a mapping holds, see below
MOST = 200  # files that are remembered
LONGEST = 1 << 18  # bytes of the file that remembers them
# File systems of this machine whose change times are the kernel's own, for writes through mappings too. Not among
# them: those of other machines and of programs (NFS, FUSE), FAT, which has none, and tmpfs, where mappings leave none.
TRUSTED = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "overlay"})


class State(NamedTuple):
    """What the system says of a file. ``boot`` is there because a crash may lose a time and keep what was written."""

    path: str
    boot: str
    device: int
    inode: int
    size: int
    modified: int
    changed: int


_remembered: dict[State, str] = {}  # by this process, whether or not it can be kept


def sha256_of(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    with path.open("rb") as file:
        return _hash(file)


def sha256_unless_known(path: Path, stated: str, *, verify: bool = False) -> str:
    """The file's sha256: ``stated`` itself if it was that before, and the file has not been changed since.

    Args:
        path: the file.
        stated: the sha256 that it should have.
        verify: read the file, whatever is remembered.
    """
    with path.open("rb") as file:
        state = _state(file)
        if state is not None and not verify and _recall(state) == stated:
            return stated
        settled = state is not None and time.time() - state.changed / 1e9 > SETTLED
        found = _hash(file)
        if state is not None and settled and found == stated and _state(file) == state and _is_trusted(file):
            _remember(state, found)
        return found


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _state(file: BinaryIO) -> State | None:
    """What the system says of an open file; None for a small one, for another user's, and outside Linux."""
    about = os.fstat(file.fileno())
    if about.st_size < LEAST:
        return None
    try:
        path = str(Path(f"/proc/self/fd/{file.fileno()}").readlink())  # without links on the way
        if about.st_uid not in (0, os.geteuid()):
            return None
        times = about.st_mtime_ns, about.st_ctime_ns
        return State(path, _boot(), about.st_dev, about.st_ino, about.st_size, *times)
    except (OSError, AttributeError):
        return None


@functools.cache
def _boot() -> str:
    """Of this run of the kernel, an identifier that no other has."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _is_trusted(file: BinaryIO) -> bool:
    """Whether the file lies in one of the ``TRUSTED`` file systems."""
    with contextlib.suppress(OSError, ValueError):
        about = Path(f"/proc/self/fdinfo/{file.fileno()}").read_text(encoding="ascii").split()
        mount = about[about.index("mnt_id:") + 1]
        for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(f"{mount} "):
                return line.partition(" - ")[2].partition(" ")[0] in TRUSTED
    return False


def _recall(state: State) -> str | None:
    if state not in _remembered:
        _remembered.update(_read())
    return _remembered.get(state)


def _remember(state: State, sha256: str) -> None:
    """Keep it here, and beside what other processes keep; of two that do so at once, one may be forgotten."""
    _remembered[state] = sha256
    others = [(old, hashed) for old, hashed in _read().items() if (old.path, old.boot) != (state.path, state.boot)]
    rows = [[*old, hashed] for old, hashed in [*others[-MOST + 1 :], (state, sha256)]]
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        place = _place()
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".hashes.", dir=place.parent)  # for the owner alone
        temporary = Path(name)
        try:
            os.close(descriptor)
            temporary.write_text(json.dumps(rows), encoding="ascii")
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)


def _read() -> dict[State, str]:
    """What is kept; nothing, if it is not there, not sound, or another user could have written it."""
    try:
        descriptor = os.open(_place(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
                return {}
            rows = json.loads(os.read(descriptor, LONGEST))
        finally:
            os.close(descriptor)
        return {State(*row[:-1]): row[-1] for row in rows}
    except (OSError, ValueError, TypeError, LookupError, RuntimeError):
        return {}


def _place() -> Path:
    """The file that they are kept in, where the Hub's client has a folder for what other libraries keep.

    By the client's own rules, because importing it takes longer than hashing most files.

    Raises:
        RuntimeError: there is no home.
    """
    given = os.environ
    home = given.get("HF_HOME") or f"{given.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    assets = os.path.expandvars(given.get("HF_ASSETS_CACHE") or f"{home}/assets")
    return Path(assets, "convzoo", "hashes.json").expanduser()
