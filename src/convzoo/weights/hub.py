"""Files of a repository of the Hub: from the cache if a sound copy is there, else downloaded and checked.

The client (``huggingface_hub``) asks, and its cache is used as it is laid out (:mod:`convzoo.weights.cache`). What is
added here: the files of one load come from one commit; a pinned file that is cached costs no request; every file is
compared with the hash stated for it, when it comes and whenever it is used; a branch's cached commit is given up only
when all of the newer one is here and checked; and whatever goes wrong while a good copy is cached, the copy is used,
with one warning. What cannot be had raises a :class:`WeightsError <convzoo.weights.errors.WeightsError>` of the kind
that says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from . import client, transfer
from .cache import RepositoryCache, check_revision, has_hash, is_commit
from .errors import WeightsCorrupted, WeightsError, WeightsUnavailable

if TYPE_CHECKING:
    from .find import Access

Result = TypeVar("Result")


class Repository:
    """A repository at one revision.

    Raises:
        WeightsNotFound: no repository or revision can have this name.
    """

    def __init__(self, repo_id: str, revision: str | None, access: Access) -> None:
        from huggingface_hub.utils import validate_repo_id

        self.repo_id, self.revision = repo_id, check_revision(revision or "main")
        self.name = f"{client.shorten_name(repo_id)}@{client.shorten_name(self.revision)}"
        self.access = access
        client.in_our_words(lambda: validate_repo_id(repo_id), self.name, access.token)
        self.cache = RepositoryCache(repo_id, access.cache_dir)

    def read(self, use: Callable[[Snapshot], Result]) -> Result:
        """What ``use`` makes of the newest commit; of the cached one, with one warning, if that cannot be had.

        Args:
            use: takes a commit's files, by :meth:`Snapshot.fetch`, and looks whether they are what they should be.
        """
        from huggingface_hub import constants

        commit = self.cache.commit(self.revision)
        copy = None if commit is None else Snapshot(self, commit, None)
        if constants.HF_HUB_OFFLINE or self.access.local_files_only:
            return use(copy or Snapshot(self, None, None))
        asker = transfer.Asker(self.access.token, patient=copy is None)
        try:
            return self._update(use, asker)
        except WeightsError as error:
            problem = error
        if copy is None:
            raise problem
        try:
            result = use(copy)
        except WeightsError:
            if isinstance(problem, WeightsUnavailable):  # the copy is no help: a slow server gets its time
                return self._update(use, transfer.Asker(self.access.token))
            raise problem from problem.__cause__
        reason = str(problem).partition("; ")[0]  # without what to do instead
        warnings.warn(f"{self.name}: the cached copy is used, for {reason}", stacklevel=2)
        return result

    def _update(self, use: Callable[[Snapshot], Result], asker: transfer.Asker) -> Result:
        """Use the newest commit; then, all of it being here, it is what the revision means from now on."""
        newest = Snapshot(self, self.revision if is_commit(self.revision) else None, asker)
        result = use(newest)
        if newest.commit is not None:
            self.cache.move_reference(self.revision, newest.commit)
        return result


class Snapshot:
    """The files of one commit.

    Attributes:
        commit: None until the first file of a branch is asked for.
        is_new: True if the branch meant another commit, or none, when all of it was last here.
    """

    def __init__(self, repository: Repository, commit: str | None, asker: transfer.Asker | None) -> None:
        self.repository, self.cache = repository, repository.cache
        self.commit = commit
        self.asker = asker  # None: nobody is asked

    @property
    def is_new(self) -> bool:
        return self.commit != self.cache.commit(self.repository.revision)

    def fetch(self, filename: str, sha256: str | None = None) -> Path:
        """The path of a file whose content is what the Hub, or ``sha256``, states."""
        what = f"{filename} of {self.repository.name}"
        asker, stated = self.asker, None
        if asker is not None and self.commit is None:
            stated = self._ask(filename, asker, what)
            self.commit = stated.commit
        path = None if self.commit is None else self.cache.find(self.commit, filename)
        if path is not None:
            known = sha256 or self.cache.stated_hash(path)
            if asker is not None and known is None:  # fetched by the client where there are no links
                stated = stated or self._ask(filename, asker, what)
                known = stated.etag
            if known is None or has_hash(path, known, verify=self.repository.access.verify):
                return path
        if asker is None:
            raise self._missing(what, path)
        return self._download(filename, stated or self._ask(filename, asker, what), sha256, asker, what)

    def _ask(self, filename: str, asker: transfer.Asker, what: str) -> transfer.Stated:
        repository = self.repository
        return transfer.ask(repository.repo_id, filename, self.commit or repository.revision, asker, what)

    def _missing(self, what: str, path: Path | None) -> WeightsError:
        if path is None:
            return WeightsUnavailable(
                f"{what} is not in the cache, and asking the Hub is switched off (HF_HUB_OFFLINE or "
                f"local_files_only); {client.advice()}"
            )
        return WeightsCorrupted(
            f"{what}: the cached copy {path} was cut or altered; go online once and it is fetched anew"
        )

    def _download(
        self, filename: str, stated: transfer.Stated, sha256: str | None, asker: transfer.Asker, what: str
    ) -> Path:
        """Fetch a file into the cache; anew, once, if what came is not what was stated."""
        wrong = WeightsCorrupted(
            f"{what} arrives with another content than its hash states, twice; nothing of it was kept: try again "
            "later, or from another network"
        )
        if sha256 is not None and len(stated.etag) == len(sha256) and stated.etag != sha256:
            raise WeightsCorrupted(
                f"{what} has another content on the Hub (sha256 {stated.etag[:12]}...) than is stated for it "
                f"({sha256[:12]}...); nothing of it was fetched: report it to its owner"
            )

        def write(path: Path) -> None:
            for _ in range(2):
                path.unlink(missing_ok=True)
                transfer.download(stated, path, asker, what)
                if has_hash(path, stated.etag):
                    return
            raise wrong

        add = partial(self.cache.add, stated.commit, filename, stated.etag, write)
        path = client.in_our_words(add, what, asker.token)
        if sha256 not in (None, stated.etag) and not has_hash(path, sha256):
            raise wrong
        return path
