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

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

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
            _move(staging, place, first, last)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise OSError(
            error.errno or errno.EIO,
            f"{folder} cannot be written ({reason}); what was there is as it was: make room, or choose another folder",
        ) from error


def _move(staging: Path, folder: Path, first: str, last: str) -> None:
    mask = os.umask(0)
    os.umask(mask)
    staging.chmod(0o777 & ~mask)
    if not folder.exists():
        with contextlib.suppress(OSError):  # somebody made it meanwhile
            staging.rename(folder)
            return
    (folder / last).unlink(missing_ok=True)
    names = sorted(path.name for path in staging.iterdir())
    for name in sorted(names, key=lambda name: (name == last) - (name == first)):
        (staging / name).replace(folder / name)


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, with a lock that ends with this process, so that others see it is in use."""
    while True:
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
        with _locked(staging):
            if not staging.exists():  # another writer took it for left over before it was locked
                continue
            try:
                yield staging
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            return


@contextlib.contextmanager
def _locked(staging: Path, *, must: bool = False) -> Iterator[None]:
    """A lock on a folder; OSError if another has it and we ``must`` have it."""
    if fcntl is None:
        if must and time.time() - staging.stat().st_mtime < LEFT_OVER:
            raise OSError(errno.EWOULDBLOCK, "it may be in use")
        yield
        return
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        with contextlib.nullcontext() if must else contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    """Remove the copies that killed writers of ``folder`` left beside it."""
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
        with contextlib.suppress(OSError), _locked(path, must=True):
            shutil.rmtree(path, ignore_errors=True)
