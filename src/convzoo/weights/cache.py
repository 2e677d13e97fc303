"""One repository's folder in the cache of the Hub's client.

The layout is the client's own, so that each reads what the other fetched::

    models--OWNER--NAME/blobs/HASH             a file's content, named by its hash
    models--OWNER--NAME/snapshots/COMMIT/FILE  a link to it
    models--OWNER--NAME/refs/REVISION          the commit that a branch or tag meant when it was last asked

Without symbolic links the file itself stands in ``snapshots``; its hash is then kept in ``hashes/COMMIT/FILE``, a
folder that the client does not look at. Every name that comes from a server is checked to be a hash before it is part
of a path, and what a link leads to outside the folders above is neither read nor written.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .._checks import shorten
from .errors import WeightsNotFound
from .files import git_sha1_of
from .hashes import sha256_unless_known

ORPHANED = 3600  # seconds after which a partial download that nobody holds a lock on is removed


def is_commit(text: str | None) -> bool:
    """True for the full hash of a commit."""
    return text is not None and re.fullmatch(r"[0-9a-f]{40}", text) is not None


def is_hash(text: str | None) -> bool:
    """True for the hash of a file: git's, or a sha256."""
    return text is not None and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) is not None


def check_revision(revision: str) -> str:
    """A branch, a tag or a commit, by git's rules for their names; they keep it from being a path to elsewhere.

    Raises:
        WeightsNotFound: no revision can have this name.
    """
    parts = revision.split("/")
    wrong = len(revision) > 200 or re.search(r"[^!-~]|[~^:?*\[\\]|\.\.|@\{", revision)
    if wrong or any(not part or part.startswith((".", "-")) or part.endswith((".", ".lock")) for part in parts):
        raise WeightsNotFound(
            f"no revision can be called {shorten(revision)}; name a branch, a tag or a commit of the repository"
        )
    return revision


def has_hash(path: Path, stated: str, *, verify: bool = True) -> bool:
    """True if ``path`` is a file whose content has the hash ``stated``: a sha256, or git's.

    Without ``verify``, one that had it before and has not been changed since is not read.
    """
    try:
        if not path.is_file():
            return False
        if len(stated) == 64:
            return sha256_unless_known(path, stated, verify=verify) == stated
        return git_sha1_of(path) == stated
    except OSError:
        return False


class RepositoryCache:
    """The folder of one repository."""

    def __init__(self, repo_id: str, cache_dir: str | os.PathLike[str] | None = None) -> None:
        from huggingface_hub import constants

        self.cache = Path(cache_dir or constants.HF_HUB_CACHE)
        self.name = "--".join(["models", *repo_id.split("/")])
        self.root = self.cache / self.name
        self.blobs = self.root / "blobs"
        self._resolved: dict[str, Path] = {}

    def commit(self, revision: str) -> str | None:
        """The commit that a revision meant when all of it was last here."""
        if is_commit(revision):
            return revision
        path = self.root / "refs" / revision
        with contextlib.suppress(OSError, ValueError):
            if path.is_file() and path.resolve().is_relative_to(self.root.resolve()):
                text = path.read_text(encoding="utf-8").strip()
                return text if is_commit(text) else None
        return None

    def find(self, commit: str, filename: str) -> Path | None:
        """The cached file of a commit, sound or not; None too where its link leads out of the cache."""
        path = self.root / "snapshots" / commit / filename
        try:
            real = Path(os.path.realpath(path, strict=True))
        except OSError:
            return None
        if not real.is_file():
            return None
        if is_hash(real.name) and (real.parent == self._real("blobs") or self._is_shared(real)):
            return path
        return path if real == self._real("snapshots") / commit / filename else None

    def _real(self, folder: str) -> Path:
        """One of the repository's folders, without links on the way."""
        if folder not in self._resolved:
            self._resolved[folder] = Path(os.path.realpath(self.root / folder))
        return self._resolved[folder]

    def _is_shared(self, real: Path) -> bool:
        """True for a blob of several repositories: the client's newest versions keep such in the cache's blobs/xx."""
        return real.parent.parent == Path(os.path.realpath(self.cache / "blobs"))

    def stated_hash(self, path: Path) -> str | None:
        """The hash that the Hub stated for a cached file when it came; None if nobody kept it."""
        with contextlib.suppress(OSError, ValueError):
            if path.is_symlink():
                name = path.readlink().name
            else:
                name = self._record(path).read_text(encoding="ascii") if self._record(path).is_file() else ""
            return name if is_hash(name) else None
        return None

    def _record(self, path: Path) -> Path:
        """Where the hash of a file is kept that is no link."""
        return self.root / "hashes" / path.parent.name / path.name

    def add(self, commit: str, filename: str, etag: str, write: Callable[[Path], None]) -> Path:
        """The file of a commit with the hash ``etag``, fetched by ``write`` if no sound copy of it is here.

        Args:
            commit: of the file.
            filename: its name.
            etag: the hash stated for it.
            write: is given a new path and leaves there what has that hash, or raises.

        Raises:
            OSError: the cache cannot be written.
        """
        blob, path = self.blobs / etag, self.root / "snapshots" / commit / filename
        if not self._is_own(blob, etag):
            with self._locked(etag):
                if not self._is_own(blob, etag):  # another process may have been faster
                    with self._temporary(etag) as partial:
                        write(partial)
                        return self._link(partial, blob, path)
        return self._link(None, blob, path)

    def _is_own(self, blob: Path, etag: str) -> bool:
        """True if a blob is here, sound, and no link to elsewhere."""
        return (not blob.is_symlink() or self._is_shared(Path(os.path.realpath(blob)))) and has_hash(blob, etag)

    def _link(self, partial: Path | None, blob: Path, path: Path) -> Path:
        """Put the blob in its place and the link to it; where links cannot be made, the file itself."""
        if partial is not None:
            partial.replace(blob)
        if path.is_symlink() and self.stated_hash(path) == blob.name and self.find(path.parent.name, path.name):
            return path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._temporary(blob.name) as temporary:
                try:
                    temporary.symlink_to(os.path.relpath(blob, path.parent))
                except (OSError, NotImplementedError):
                    self.write_text(self._record(path), blob.name)
                    temporary = blob
                temporary.replace(path)
        except OSError:
            if partial is not None:
                raise
            return blob  # a cache that cannot be written, with the content in it
        return path

    @contextlib.contextmanager
    def _locked(self, etag: str) -> Iterator[None]:
        """While one process fetches a blob, others that want it wait; the client's own lock."""
        from huggingface_hub.utils import WeakFileLock

        self.blobs.mkdir(parents=True, exist_ok=True)
        folder = self.cache / ".locks" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / f"{etag}.lock"):
            yield

    @contextlib.contextmanager
    def _temporary(self, name: str) -> Iterator[Path]:
        """A new path beside the blobs, gone afterwards; what processes that were killed left for ``name`` goes too."""
        for old in self.blobs.glob(f"{name}.*.incomplete"):
            with contextlib.suppress(OSError):
                if time.time() - old.lstat().st_mtime > ORPHANED:
                    old.unlink()
        temporary = self.blobs / f"{name}.{secrets.token_hex(4)}.incomplete"
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def move_reference(self, revision: str, commit: str) -> None:
        """Note what a branch or tag means now; in a cache that cannot be written, nothing happens."""
        if self.commit(revision) == commit:
            return
        with contextlib.suppress(OSError):
            self.write_text(self.root / "refs" / revision, commit)

    def write_text(self, path: Path, text: str) -> None:
        """Write a small file in one step; never through a folder that leads out of the repository's."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.blobs.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(self.root.resolve()):
            raise OSError(f"{path.parent} leads out of {self.root}")
        with self._temporary(path.name) as temporary:
            temporary.write_text(text, encoding="ascii")
            temporary.replace(path)
