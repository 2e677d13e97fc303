"""Files of a repository of the Hub: from the cache if a sound copy is there, else downloaded and checked.

The client (``huggingface_hub``) does the talking and keeps the cache. What is added here: a pinned file that is
cached costs no request; every file is compared with the hash stated for it, for the client looks at sizes only; no
network is reported in a second, for the client tries for half a minute; whatever goes wrong while a good copy is
cached, the copy is used, with one warning; and errors are ours, with what to do.
"""

from __future__ import annotations

import contextlib
import errno
import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from .errors import (
    WeightsCorrupted,
    WeightsError,
    WeightsForbidden,
    WeightsNotFound,
    WeightsUnavailable,
)
from .files import git_sha1_of, sha256_of

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

    from .find import Access

PROBE_SECONDS = 2.5  # for the first answer; a server that is there but slow is asked again, with more time
ATTEMPTS = 3
PAUSE = 0.4  # seconds before the second attempt, twice that before the third
UNWRITABLE = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EDQUOT, errno.ENOTDIR)


def advice() -> str:
    """What works without the Hub."""
    from .find import bundled_names

    bundled = ", ".join(bundled_names())
    offline = f"these need no network: {bundled}; " if bundled else ""
    return f"{offline}pretrained= also takes a folder or a .safetensors file, and HF_ENDPOINT names another server"


def explain(error: BaseException, what: str, otherwise: str = "") -> WeightsError:
    """The error of our family that says what the client's ``error`` means for ``what`` was asked.

    ``otherwise`` is what to do instead if nothing helps: by default, what works without the Hub.
    """
    from huggingface_hub import errors as hub

    if isinstance(error, WeightsError):
        return error
    if type(error) is RuntimeError and error.__cause__ is not None:  # the client wraps what goes wrong in an upload
        return explain(error.__cause__, what, otherwise)
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    # some of these derive from others: LocalEntryNotFoundError from EntryNotFoundError, GatedRepoError from
    # RepositoryNotFoundError, HfHubHTTPError and FileMetadataError from OSError
    if isinstance(error, (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled)):
        return WeightsUnavailable(f"{what} is not in the cache and the Hub cannot be asked ({reason}); {advice()}")
    if isinstance(error, hub.HFValidationError):
        return WeightsNotFound(f"{what}: the repository id is malformed; write 'owner/name' ({reason})")
    if isinstance(error, (hub.GatedRepoError, hub.DisabledRepoError)):
        return WeightsForbidden(
            f"{what} is closed to you ({reason}); ask for access on its page, then pass token= or log in with "
            "'hf auth login'"
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        return WeightsNotFound(
            f"{what}: there is no such repository, or it is private; check the name, or pass token= of an account "
            "that may read it"
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return WeightsNotFound(f"{what}: there is no such revision; name a branch, a tag or a commit of it")
    if isinstance(error, hub.EntryNotFoundError):
        return WeightsNotFound(
            f"{what}: there is no such file; weights are read from a repository with config.json and "
            "model.safetensors, and pickles (.bin, .pth) never"
        )
    if status in (401, 403):
        return WeightsForbidden(f"{what}: the server refused ({status}); check token=, HF_TOKEN or 'hf auth login'")
    if isinstance(error, hub.FileMetadataError):
        return WeightsUnavailable(
            f"{what}: what answered is not the Hub ({reason}), perhaps a log-in page of the network; {advice()}"
        )
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return WeightsUnavailable(
            f"{what} cannot be written to the cache ({reason}); free some space, or set HF_HOME to a folder that can "
            "be written"
        )
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return WeightsCorrupted(f"{what} arrives with another length than announced, twice; try again later")
    return WeightsUnavailable(
        f"{what}: the exchange with the Hub failed ({reason}); try again later, or: {otherwise or advice()}"
    )


class Repository:
    """One repository at one revision; its files come from one commit.

    Attributes:
        commit: the commit that the files come from, known once one is fetched.
    """

    def __init__(self, repo_id: str, revision: str | None, access: Access) -> None:
        self.repo_id = repo_id
        self.revision = revision or "main"
        self.access = access
        self.commit: str | None = self.revision if re.fullmatch(r"[0-9a-f]{40}", self.revision) else None

    def fetch(self, filename: str, sha256: str | None = None) -> Path:
        """The path of a file whose content is what the Hub, or ``sha256``, states.

        Raises:
            WeightsError: each kind of it, see :mod:`convzoo.weights.errors`.
        """
        from huggingface_hub import constants

        what = f"{filename} of {self.repo_id}@{self.revision}"
        cached = self._cached(filename)
        sound = cached is not None and is_sound(cached, sha256)
        if constants.HF_HUB_OFFLINE or self.access.local_files_only:
            return self._offline(what, cached, sound)
        if cached and sound and self.commit:
            return cached
        try:
            stated = self._ask(filename, what)
            if cached and sound and commit_of(cached) == stated.commit_hash:
                path = cached
            else:
                path = self._download(filename, what, stated, sha256, damaged=cached is not None and not sound)
        except WeightsError as error:
            if not cached or not sound:
                raise
            path = cached
            _warn(what, error)
        else:
            if cached and sound and path == cached and commit_of(path) != stated.commit_hash:
                _warn(what, "the client could not fetch the newer one")
        self.commit = commit_of(path)
        return path

    def _cached(self, filename: str) -> Path | None:
        """The cached file of this revision; sound or not."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(
                self.repo_id, filename, cache_dir=self.access.cache_dir, revision=self.commit or self.revision
            )
        except HFValidationError as error:
            raise explain(error, f"{filename} of {self.repo_id}") from error
        return Path(found) if isinstance(found, str) else None

    def _offline(self, what: str, cached: Path | None, sound: bool) -> Path:
        if cached is None:
            raise WeightsUnavailable(
                f"{what} is not in the cache, and asking the Hub is switched off (HF_HUB_OFFLINE or "
                f"local_files_only); {advice()}"
            )
        if not sound:
            raise WeightsCorrupted(
                f"{what}: the cached copy {cached} was cut or altered; go online once and it is fetched anew"
            )
        self.commit = commit_of(cached)
        return cached

    def _ask(self, filename: str, what: str) -> HfFileMetadata:
        """What the Hub states of a file: one request, a few if the server stumbles."""
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        seconds = min(PROBE_SECONDS, constants.HF_HUB_ETAG_TIMEOUT)
        attempt = 0
        while True:
            attempt += 1
            try:
                stated = get_hf_file_metadata(
                    hf_hub_url(self.repo_id, filename, revision=self.commit or self.revision),
                    token=self.access.token,
                    timeout=seconds,
                    library_name="convzoo",
                    library_version=__version__,
                )
            except (HFValidationError, LocalEntryNotFoundError) as error:
                raise explain(error, what) from error
            except Exception as error:  # the client lets errors of its HTTP library through, whichever it is
                if attempt == ATTEMPTS or not is_passing(error):
                    raise explain(error, what) from error
                if type(error).__name__ == "ReadTimeout":  # connected, but slow
                    seconds = constants.HF_HUB_ETAG_TIMEOUT
                time.sleep(PAUSE * attempt)
            else:
                if not stated.commit_hash or not stated.etag:
                    raise WeightsUnavailable(
                        f"{what}: what answered is not the Hub (no commit in its answer), perhaps a log-in page of "
                        f"the network; {advice()}"
                    )
                return stated

    def _download(self, filename: str, what: str, stated: HfFileMetadata, sha256: str | None, *, damaged: bool) -> Path:
        """Have the client fetch a file; anew, once, if what came is not what was stated."""
        for last in (False, True):
            path = self._transfer(filename, what, force=damaged or last)
            if is_sound(path, sha256 or stated.etag):
                return path
        with contextlib.suppress(OSError):
            remove_copy(path)
        raise WeightsCorrupted(
            f"{what} arrives with another content than its hash states, twice; nothing of it was kept: try again "
            "later, or from another network"
        )

    def _transfer(self, filename: str, what: str, *, force: bool) -> Path:
        from huggingface_hub import hf_hub_download

        arguments: dict[str, Any] = {
            "revision": self.commit or self.revision,
            "token": self.access.token,
            "cache_dir": self.access.cache_dir,
            "library_name": "convzoo",
            "library_version": __version__,
        }
        attempt = 0
        while True:
            attempt += 1
            try:
                return Path(hf_hub_download(self.repo_id, filename, force_download=force, **arguments))
            except Exception as error:  # see _ask
                explained = explain(error, what)
                # what the client itself has tried again is not tried again here
                spent = type(error).__name__ in ("ReadTimeout", "RemoteProtocolError", "LocalEntryNotFoundError")
                again = is_passing(error) or (isinstance(explained, WeightsCorrupted) and attempt == 1)
                if attempt == ATTEMPTS or spent or not again:
                    raise explained from error
                time.sleep(PAUSE * attempt)


def is_passing(error: Exception) -> bool:
    """True for what may be gone a second later: a busy server, a cut connection; not for a network that is not there.

    The HTTP library's errors are told by name, because which library it is depends on the client's version.
    """
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in (408, 429) or status >= 500
    return type(error).__name__ in ("ReadError", "WriteError", "ReadTimeout", "RemoteProtocolError")


def commit_of(path: Path) -> str:
    """The commit of a cached file: ``.../snapshots/COMMIT/FILE``."""
    return path.parent.name


def is_sound(path: Path, stated: str | None = None) -> bool:
    """True if the content is what ``stated`` says: a sha256, or git's hash; by default the name of the cached blob."""
    if stated is None:
        try:
            stated = path.readlink().name
        except OSError:  # no symbolic links here; the content was checked when it came
            return path.is_file()
    if not path.is_file():
        return False
    if re.fullmatch(r"[0-9a-f]{64}", stated):
        return sha256_of(path) == stated
    if re.fullmatch(r"[0-9a-f]{40}", stated):
        return git_sha1_of(path) == stated
    return True


def remove_copy(path: Path) -> None:
    """Remove a cached file: the link in the snapshot and the blob it points to."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def _warn(what: str, reason: object) -> None:
    warnings.warn(f"{what}: the cached copy is used, for {reason}", stacklevel=2)
