"""A folder of files, written as one: a reader finds the old content or the new, whenever the writer is stopped."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .._checks import shorten

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment] # as on Windows

LONGEST_MOVE = 60.0  # seconds that another writer is waited for while it moves its files
LEFT_OVER = 24 * 3600.0  # seconds after which an unfinished copy is nobody's, where locks cannot tell


def write_folder(folder: Path, write: Callable[[Path], None], first: str, last: str) -> None:
    """Put what ``write`` writes into an empty folder into ``folder``: all of it, or nothing; other files there stay.

    The files are written beside ``folder`` and moved there. A folder that is not there yet appears whole. In one that
    is, the file ``last`` is removed, ``first`` replaced, then the others and ``last``: ``first`` must be complete
    without the others, and ``last`` must say which ``first`` it belongs to. What a writer that was killed left beside
    ``folder`` is removed.

    Raises:
        OSError: something cannot be written; ``folder`` is as it was.
    """
    place = folder.absolute()
    try:
        if place.exists() and not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        place.parent.mkdir(parents=True, exist_ok=True)
        _clear(place)
        with _staging(place) as staging:
            write(staging)
            with _locked(place.parent, wait=True):  # one writer after the other
                _move(staging, place, first, last)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise OSError(
            error.errno or errno.EIO,
            f"{shorten(str(folder), 300)} cannot be written ({reason}); what was there is as it was: make room, or "
            "choose another folder",
        ) from error


def _move(staging: Path, folder: Path, first: str, last: str) -> None:
    mask = os.umask(0)
    os.umask(mask)
    staging.chmod(0o777 & ~mask)
    if not folder.exists():
        with contextlib.suppress(OSError):  # somebody made it meanwhile
            staging.rename(folder)
            return
    names = sorted(path.name for path in staging.iterdir())
    for name in names:
        if (folder / name).is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{name} in it is a folder")
    old = staging / f"{last}.old"
    with contextlib.suppress(FileNotFoundError):
        (folder / last).rename(old)
    try:
        (staging / first).replace(folder / first)
    except OSError:  # as on Windows, where a program has it mapped
        with contextlib.suppress(FileNotFoundError):
            old.rename(folder / last)
        raise
    for name in sorted(names, key=lambda name: name == last):
        if name != first:
            (staging / name).replace(folder / name)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, with a lock that ends with this process, so that others see it is in use."""
    with contextlib.ExitStack() as stack:
        while True:
            staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
            with contextlib.suppress(BlockingIOError):  # another writer takes it for left over before it is locked
                stack.enter_context(_locked(staging))
                if staging.exists():
                    break
        yield staging


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    """A lock on a folder; False where the system or the file system has none.

    Raises:
        BlockingIOError: another has it, and we do not ``wait``, or have for ``LONGEST_MOVE``; or the folder is gone.
    """
    opened: list[int] = []
    try:
        try:
            yield _lock(folder, opened, LONGEST_MOVE if wait else 0)
        finally:
            _close(opened)
    finally:  # should Ctrl-C have come before the line above: a lock left behind stops every later writer
        _close(opened)


def _lock(folder: Path, opened: list[int], seconds: float) -> bool:
    """Lock a folder through a descriptor that is put into ``opened``; whether it could be."""
    if fcntl is None:
        return False
    with contextlib.suppress(PermissionError):
        try:
            opened.append(os.open(folder, os.O_RDONLY))
        except FileNotFoundError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, "it is gone") from error
    deadline = time.monotonic() + seconds
    while opened:
        try:
            fcntl.flock(opened[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise BlockingIOError(errno.EWOULDBLOCK, "another program is writing there") from None
            time.sleep(0.01)
        except OSError:  # a file system without locks, as some of the network are
            break
    return False


def _close(opened: list[int]) -> None:
    while opened:
        os.close(opened.pop())


def _clear(folder: Path) -> None:
    """Remove the copies that killed writers of ``folder`` left beside it; where locks cannot tell, only old ones."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
        with contextlib.suppress(OSError), _locked(path) as held:
            if held or time.time() - path.stat().st_mtime > LEFT_OVER:
                shutil.rmtree(path, ignore_errors=True)
