"""Questions to the Hub and the bytes of its files: bounded in size and in time, whatever the other side does.

A file is asked about once. What is said then, its commit, hash, size and address, is checked and holds; should the
address have to be asked for again, nothing but the address is taken from the second answer.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urljoin

from . import client
from .cache import is_commit, is_hash
from .errors import WeightsCorrupted, WeightsUnavailable

PROBE_SECONDS = 2.5  # for an answer while a good copy is cached, and for the first one in any case
ATTEMPTS = 3
PAUSE = 0.4  # seconds before the second attempt, twice that before the third
STALL_SECONDS = 60.0  # a body that brings less than one CHUNK in this time is given up
SMALL = 1 << 20  # bytes; no progress bar below
LARGEST_UNSTATED = 1 << 30  # bytes that are read of a file whose size is not stated

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Asker:
    """Who asks, and how long.

    Attributes:
        token: as the client takes it; None: the stored one.
        patient: False while a good copy is cached: a silent server is then left after ``PROBE_SECONDS``.
    """

    token: str | bool | None = dataclasses.field(default=None, repr=False)
    patient: bool = True

    def headers(self) -> dict[str, str]:
        """Of a request to the Hub."""
        from huggingface_hub.utils import build_hf_headers

        client.check_stored_token(self.token)
        return build_hf_headers(token=self.token, **user_agent())


@dataclasses.dataclass(frozen=True)
class Stated:
    """What the Hub states of a file.

    Attributes:
        commit: the file's, 40 hexadecimal digits.
        etag: the hash of its content, git's or a sha256.
        size: in bytes; None where it is not said.
        question: the address to ask at, of this commit.
        location: the address of the bytes, on another host for large files.
    """

    commit: str
    etag: str
    size: int | None
    question: str
    location: str

    @property
    def elsewhere(self) -> bool:
        """True if another host has the bytes: it must not see the token."""
        return not client.same_host(self.location, self.question)


@functools.cache
def user_agent() -> dict[str, Any]:
    """Who we are, in the client's arguments."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"library_name": "convzoo", "library_version": version("convzoo")}
    except PackageNotFoundError:  # run from its sources
        return {"library_name": "convzoo", "library_version": "source"}


def ask(repo_id: str, filename: str, revision: str, asker: Asker, what: str) -> Stated:
    """What the Hub states of a file: one request, a few if the server stumbles.

    Raises:
        WeightsError: it cannot be asked, or refuses, or answers what no Hub would.
    """
    from huggingface_hub import constants, hf_hub_url

    question = hf_hub_url(repo_id, filename, revision=revision)
    probe = min(PROBE_SECONDS, constants.HF_HUB_ETAG_TIMEOUT)
    longest = ATTEMPTS * (constants.HF_HUB_ETAG_TIMEOUT + 2) if asker.patient else probe

    def asked() -> Stated:
        client.session()  # which takes its time, once, and not the server's
        stated = _read(watch(lambda beat: _ask(question, probe, asker), longest), revision, what)
        pinned = hf_hub_url(repo_id, filename, revision=stated.commit)  # the branch may move any time
        location = pinned if stated.location == question else stated.location
        return dataclasses.replace(stated, question=pinned, location=location)

    return client.in_our_words(asked, what, asker.token)


def _ask(question: str, probe: float, asker: Asker) -> Any:
    from huggingface_hub import constants

    headers = {**asker.headers(), "Accept-Encoding": "identity"}  # for the size of the file itself
    started, seconds, attempt = time.monotonic(), probe, 0
    while True:
        attempt += 1
        try:
            return client.head(question, headers, seconds)
        except Exception as error:  # the client lets errors of its HTTP library through, whichever it is
            slow = client.is_transport(error, "ReadTimeout")
            passing = client.is_busy(error) or client.is_transport(error)
            spent = time.monotonic() - started
            if not passing or attempt == ATTEMPTS or (spent > probe * 0.9 and not (slow and asker.patient)):
                raise
            if slow:  # connected: it is there, and has earned more time
                seconds = constants.HF_HUB_ETAG_TIMEOUT
        time.sleep(PAUSE * attempt)


def _read(answer: Any, revision: str, what: str) -> Stated:
    """The headers of an answer, checked to say what the Hub says of a file."""
    headers, asked = answer.headers, str(answer.request.url)
    commit = headers.get("X-Repo-Commit")
    etag = (headers.get("X-Linked-ETag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
    if not is_commit(commit) or not is_hash(etag):
        raise WeightsUnavailable(
            f"{what}: what answered is not the Hub (no commit and hash in its answer), perhaps a log-in page of the "
            f"network; {client.advice()}"
        )
    if is_commit(revision) and commit != revision:
        raise WeightsUnavailable(f"{what}: the server answers with another commit, {commit}; {client.advice()}")
    redirected = 300 <= answer.status_code < 400
    size = headers.get("X-Linked-Size") or ("" if redirected else headers.get("Content-Length", ""))
    return Stated(
        commit=commit,
        etag=etag,
        size=int(size) if re.fullmatch(r"[0-9]{1,15}", size) else None,
        question=asked,
        location=urljoin(asked, headers["Location"]) if redirected and "Location" in headers else asked,
    )


def download(stated: Stated, path: Path, asker: Asker, what: str) -> None:
    """Write a file's bytes to ``path``, which is new; its content is for the caller to check.

    A cut connection is taken up where it ended. No more is written than was stated; and what brings nothing new,
    three times, or almost nothing for a minute, is given up; while a good copy is cached, sooner.

    Raises:
        WeightsError: the bytes cannot be had.
    """
    from huggingface_hub import constants

    limit = LARGEST_UNSTATED if stated.size is None else stated.size
    seconds, longest = min(PROBE_SECONDS, constants.HF_HUB_DOWNLOAD_TIMEOUT), 4 * PROBE_SECONDS
    if asker.patient:
        seconds = constants.HF_HUB_DOWNLOAD_TIMEOUT
        longest = max(STALL_SECONDS, ATTEMPTS * seconds)

    def fetch() -> None:
        with path.open("xb") as file:
            watch(lambda beat: _Transfer(stated, limit, seconds, file, asker, what, beat).run(), longest)

    client.in_our_words(fetch, what, asker.token)


class _Transfer:
    """One file on its way into ``file``; ``beat`` is called with each piece."""

    def __init__(
        self,
        stated: Stated,
        limit: int,
        seconds: float,
        file: BinaryIO,
        asker: Asker,
        what: str,
        beat: Callable[[], None],
    ) -> None:
        self.stated, self.limit, self.seconds = stated, limit, seconds
        self.file, self.asker, self.what, self.beat = file, asker, what, beat
        self.received = 0  # bytes of the file that are there
        self.furthest = 0  # that ever were: a server that knows no ranges begins again
        self.renewed = False  # the address, once
        self.last = time.monotonic()  # when something came
        self.bar: Any = None

    def run(self) -> None:
        from huggingface_hub.utils import tqdm

        quiet = True if self.limit < SMALL else None  # None: shown on a terminal
        with tqdm(total=self.limit, unit="B", unit_scale=True, desc=self.what[:40], disable=quiet) as self.bar:
            failures = 0
            while not self.is_complete():
                before = self.furthest
                try:
                    self.attempt()
                    if self.stated.size is None or self.is_complete():
                        return
                    problem: Exception = WeightsCorrupted(
                        f"{self.what} ends after {self.received:,} of {self.limit:,} bytes; try again later"
                    )
                except Exception as error:  # see _ask
                    problem = error
                if not self.renew(problem):
                    failures = 0 if self.furthest - before >= client.CHUNK else failures + 1
                    if failures == ATTEMPTS or not self.is_passing(problem):
                        raise problem
                if failures:
                    time.sleep(PAUSE * failures)

    def is_complete(self) -> bool:
        return self.received == self.stated.size

    def attempt(self) -> None:
        """One request for what is missing."""
        headers = {**self.asker.headers(), "Accept-Encoding": "identity"}
        if self.stated.elsewhere:
            headers = {key: value for key, value in headers.items() if key.lower() != "authorization"}
        if self.received:
            headers["Range"] = f"bytes={self.received}-"
        self.last = time.monotonic()
        with client.stream(self.stated.location, headers, self.seconds) as (answer, pieces):
            self.last = time.monotonic()
            continued = answer.headers.get("Content-Range", "").startswith(f"bytes {self.received}-")
            if self.received and not (answer.status_code == 206 and continued):
                self.begin_again()
            for piece in pieces:
                self.beat()
                self.last = time.monotonic()
                if self.received + len(piece) > self.limit:
                    raise WeightsCorrupted(
                        f"{self.what} is longer than the {self.limit:,} bytes stated; try again later, or from another "
                        "network"
                    )
                self.file.write(piece)
                self.received += len(piece)
                self.furthest = max(self.furthest, self.received)
                self.bar.update(len(piece))

    def begin_again(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.bar.update(-self.received)
        self.received = 0

    def is_passing(self, error: Exception) -> bool:
        """True for what may be gone a moment later."""
        if isinstance(error, WeightsCorrupted):  # another length than stated
            self.begin_again()
            return True
        if client.status_of(error) == 416:  # the server has less than what is here
            self.begin_again()
            return True
        silent = time.monotonic() - self.last > 0.9 * self.seconds  # requests has no class of its own for this
        return client.is_busy(error) or (client.is_transport(error) and (self.asker.patient or not silent))

    def renew(self, error: Exception) -> bool:
        """Ask for the address anew, once: those of the download host are good for some minutes only."""
        status = client.status_of(error)
        if status is None or not 400 <= status < 500 or status in (*client.BUSY, 416) or not self.stated.elsewhere:
            return False
        if self.renewed:
            raise WeightsUnavailable(
                f"{self.what}: the download host refuses the address that the Hub gave ({status}), twice; try again "
                f"later, or: {client.advice()}"
            )
        self.renewed = True
        answer = _ask(self.stated.question, PROBE_SECONDS, self.asker)
        location = urljoin(self.stated.question, answer.headers.get("Location", ""))
        self.stated = dataclasses.replace(self.stated, location=location)
        return True


class _GivenUp(Exception):
    """Ends a thread that nobody waits for any more."""


def watch(work: Callable[[Callable[[], None]], Result], seconds: float) -> Result:
    """What ``work`` returns, unless for ``seconds`` it neither ends nor calls the function it is given.

    It runs in a thread of its own: looking up a name, connecting to several addresses of one name and reading single
    bytes each have time limits of their own or none, whatever limit the HTTP library is told.

    Raises:
        WeightsUnavailable: given up.
        Exception: whatever ``work`` raises.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []
    alive, given_up = threading.Event(), threading.Event()
    ended = False

    def beat() -> None:
        if given_up.is_set():
            raise _GivenUp
        alive.set()

    def run() -> None:
        nonlocal ended
        try:
            outcome.append(work(beat))
        except BaseException as error:
            failure.append(error)
        ended = True
        alive.set()

    try:
        threading.Thread(target=run, daemon=True, name="convzoo-hub").start()
        while not ended:
            alive.clear()
            if not ended and not alive.wait(seconds):
                raise WeightsUnavailable(
                    f"the server is there but silent: nothing came for {seconds:.2g} s{client.through_proxy()}; try "
                    f"again later, or: {client.advice()}"
                )
    finally:
        given_up.set()
    if failure:
        raise failure[0]
    return outcome[0]
