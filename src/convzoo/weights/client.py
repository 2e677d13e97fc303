"""The Hub's client, ``huggingface_hub``: what differs between its versions, and its errors in our words.

The client sits on ``requests`` before 1.0, on ``httpx`` from 1.0 and on ``httpx2`` from 2.0, and lets the errors of
that library through. None of them is imported here: its classes are found from the session that the client makes.
A token is checked before the client sees it, and masked in whatever the client or its HTTP library says.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

from .._checks import shorten
from .errors import WeightsError, WeightsForbidden, WeightsNotFound, WeightsUnavailable
from .package import bundled_names

Result = TypeVar("Result")

CHUNK = 1 << 16  # bytes
UNWRITABLE = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EDQUOT, errno.ENOTDIR)
REFUSED, BUSY = (401, 403), (408, 429)
REDIRECTS = 5
LONGEST = 20_000  # characters of a traceback
MAKING = threading.RLock()  # held while a session is made


def check_token(token: object) -> str | bool | None:
    """``token`` without white space around it; its text is never shown.

    Raises:
        TypeError: neither a string nor True, False or None.
        ValueError: empty, or with characters that no token has.
    """
    if token is None or isinstance(token, bool):
        return token
    if not isinstance(token, str):
        raise TypeError(f"token must be a string, True, False or None, got {type(token).__name__}; pass a str")
    token = token.strip()
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError(
            "token is empty or holds white space, control or non-ASCII characters, which no token has (it is not "
            "shown here); pass the token alone, as its page shows it"
        )
    return token


def check_stored_token(token: str | bool | None) -> None:
    """Look at the token of the environment or of ``hf auth login``, where that is the one that ``token`` means.

    Raises:
        WeightsForbidden: it holds characters that no token has.
    """
    from huggingface_hub import get_token

    if isinstance(token, str) or token is False:
        return
    try:
        check_token(get_token())
    except ValueError:
        raise WeightsForbidden(
            "the token in HF_TOKEN, or the one stored by 'hf auth login', holds characters that no token has (it is "
            "not shown here); set it again, or pass token=False to go without"
        ) from None


def mask(text: str, token: str | None) -> str:
    """``text`` without the token, anything else that looks like one, and the passwords and signatures in addresses."""
    if token:
        text = text.replace(token, "***")
    text = re.sub(r"\bhf_\w{8,}", "hf_***", text)
    text = re.sub(r"(?i)\bbearer\s+[^\s'\"]+", "Bearer ***", text)
    text = re.sub(r"//[^\s/@'\"]+@", "//***@", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?***", text)


def shorten_name(name: str) -> str:
    """A name as it stands in messages, without quotes where it is short."""
    return name if len(name) <= 100 and name.isprintable() else shorten(name)


def advice() -> str:
    """What works without the Hub."""
    bundled = ", ".join(bundled_names())
    offline = f"these need no network: {bundled}; " if bundled else ""
    return f"{offline}pretrained= also takes a folder or a .safetensors file, and HF_ENDPOINT names another server"


def through_proxy() -> str:
    """Says in an error that the Hub is asked through a proxy, which may be what is wrong; nothing if it is not."""
    from urllib import request

    from huggingface_hub import constants

    with contextlib.suppress(ValueError):  # HF_ENDPOINT is no address
        endpoint, proxies = urlsplit(constants.ENDPOINT), request.getproxies_environment()
        for kind in (endpoint.scheme, "all"):
            # typeshed leaves the second function out
            if kind in proxies and not request.proxy_bypass_environment(endpoint.netloc):  # type: ignore[attr-defined]
                return f" through the proxy that {kind.upper()}_PROXY names"
    return ""


class _Meaning(NamedTuple):
    """What a kind of error means; ``text`` is filled with what :func:`explain` knows."""

    applies: Callable[[BaseException], bool]
    kind: type[WeightsError]
    text: str


def _meanings() -> list[_Meaning]:
    """The first that applies holds: some of the client's errors derive from others, GatedRepoError from
    RepositoryNotFoundError, LocalEntryNotFoundError from EntryNotFoundError, most of them from OSError."""
    from huggingface_hub import errors as hub

    def of(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
        return lambda error: isinstance(error, kinds)

    return [
        _Meaning(
            of(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled),
            WeightsUnavailable,
            "{what} is not in the cache and the Hub cannot be asked ({reason}); {otherwise}",
        ),
        _Meaning(
            of(hub.HFValidationError),
            WeightsNotFound,
            "{what}: the repository id is malformed; write 'owner/name' ({reason})",
        ),
        _Meaning(
            of(hub.GatedRepoError, hub.DisabledRepoError),
            WeightsForbidden,
            "{what} is closed to you ({reason}); ask for access on its page, then pass token= or log in with "
            "'hf auth login'",
        ),
        _Meaning(
            of(hub.RepositoryNotFoundError),
            WeightsNotFound,
            "{what}: there is no such repository, or it is private; check the name, or pass token= of an account "
            "that may read it",
        ),
        _Meaning(
            of(hub.RevisionNotFoundError),
            WeightsNotFound,
            "{what}: there is no such revision; name a branch, a tag or a commit of it",
        ),
        _Meaning(
            of(hub.EntryNotFoundError),
            WeightsNotFound,
            "{what}: there is no such file; weights are read from a repository with config.json and "
            "model.safetensors, and pickles (.bin, .pth) never",
        ),
        _Meaning(
            lambda error: status_of(error) in REFUSED,
            WeightsForbidden,
            "{what}: the server refused ({status}){proxy}; check token=, HF_TOKEN or 'hf auth login'",
        ),
        _Meaning(
            of(hub.FileMetadataError),
            WeightsUnavailable,
            "{what}: what answered is not the Hub ({reason}), perhaps a log-in page of the network; {otherwise}",
        ),
        _Meaning(
            lambda error: isinstance(error, OSError) and (error.errno in UNWRITABLE or error.filename is not None),
            WeightsUnavailable,
            "{what} cannot be written to the cache ({reason}); free some space, or set HF_HOME to a folder that can "
            "be written",
        ),
        _Meaning(
            lambda error: True,
            WeightsUnavailable,
            "{what}: the exchange with the Hub failed ({reason}){proxy}; try again later, or: {otherwise}",
        ),
    ]


def translate_error(
    error: BaseException, what: str, token: str | bool | None = None, otherwise: str = ""
) -> WeightsError:
    """The error of our family that says what ``error`` means for ``what`` was asked.

    Raise it outside the ``except`` clause: it has ``error`` as its cause only where that does not show the token
    and is not endless.

    Args:
        error: the client's, its HTTP library's or the system's.
        what: was asked for.
        token: that was given; the stored one counts as given if it is None or True.
        otherwise: what to do instead if nothing helps; by default, what works without the Hub.
    """
    if isinstance(error, WeightsError):
        return error
    hidden = secret(token)
    told = error
    while type(told) is RuntimeError and told.__cause__ is not None:  # the client wraps what goes wrong in an upload
        told = told.__cause__
    meaning = next(meaning for meaning in _meanings() if meaning.applies(told))
    problem = meaning.kind(
        meaning.text.format(
            what=what,
            reason=_reason(told, hidden),
            status=status_of(told),
            proxy=through_proxy(),
            otherwise=otherwise or advice(),
        )
    )
    shown = "".join(traceback.format_exception(error))
    if len(shown) < LONGEST and mask(shown, hidden) == shown:
        problem.__cause__ = error
    return problem


def in_our_words(work: Callable[[], Result], what: str, token: str | bool | None) -> Result:
    """What ``work`` returns; what it raises becomes an error of our family, see :func:`translate_error`."""
    try:
        return work()
    except Exception as error:  # the client lets errors of its HTTP library through
        problem = translate_error(error, what, token)
    raise problem


def secret(token: str | bool | None) -> str | None:
    """The token that a request with ``token`` carries: the stored one for None and True."""
    from huggingface_hub import get_token

    if isinstance(token, str):
        return token
    with contextlib.suppress(Exception):  # another error is being told
        return get_token()
    return None


def _reason(error: BaseException, secret: str | None) -> str:
    lines = mask(str(error), secret).strip().splitlines()
    status = status_of(error)
    text = f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
    return text if status is None or str(status) in text else f"{status}, {text}"


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error, if there is one."""
    return getattr(getattr(error, "response", None), "status_code", None)


def is_busy(error: BaseException) -> bool:
    """True for an answer that may be another one a second later: too many requests, a server in trouble."""
    status = status_of(error)
    return status is not None and (status in BUSY or status >= 500)


def is_transport(error: BaseException, kind: str = "") -> bool:
    """True for errors of the HTTP library itself, such as a cut connection; ``kind`` names one of its classes."""
    if status_of(error) is not None:
        return False
    library = sys.modules[_library()]
    if kind:
        return isinstance(error, getattr(library, kind))
    base = library.exceptions.RequestException if _library() == "requests" else library.TransportError
    return isinstance(error, base)


def session() -> Any:
    """The session of the client, one for all threads and for this process alone."""
    from huggingface_hub.utils import get_session

    close_in_forks()
    with MAKING:  # or some versions make one for each thread that asks at once, and close the last one only
        return get_session()


@functools.cache
def close_in_forks() -> None:
    """Have forked processes begin without this one's session: on connections that they share, each gets answers to
    what the other asked.

    Before 1.0 the client has sessions for each process; from 1.0 on one for all, which not every version closes in
    forked ones. Closing it there leaves the connections of this process open, and closing it twice does nothing.
    """
    import huggingface_hub

    close = getattr(huggingface_hub, "close_session", None)
    if close is not None and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=MAKING.acquire, after_in_parent=MAKING.release, after_in_child=MAKING.release)
        os.register_at_fork(after_in_child=close)


def _library() -> str:
    """The name of the HTTP library under the client."""
    return type(session()).__module__.partition(".")[0]


def head(address: str, headers: dict[str, str], seconds: float) -> Any:
    """The answer to a HEAD; redirects are followed as long as they stay on the same host.

    Raises:
        Exception: the client's for a status of 400 and above, else of its HTTP library.
    """
    from huggingface_hub.utils import hf_raise_for_status

    follow = "allow_redirects" if _library() == "requests" else "follow_redirects"
    for _ in range(REDIRECTS):
        answer = session().request("HEAD", address, headers=headers, timeout=seconds, **{follow: False})
        hf_raise_for_status(answer)
        target = urljoin(address, answer.headers.get("Location") or address)
        if not 300 <= answer.status_code < 400 or target == address or not same_host(target, address):
            break
        address = target
    return answer


def same_host(address: str, other: str) -> bool:
    """True if two addresses have the scheme, the host and the port in common."""
    return urlsplit(address)[:2] == urlsplit(other)[:2]


@contextlib.contextmanager
def stream(address: str, headers: dict[str, str], seconds: float) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """The answer to a GET, and its body in pieces; ``seconds`` may pass without a byte.

    Raises:
        Exception: the client's for a status of 400 and above, else of its HTTP library.
    """
    from huggingface_hub.utils import hf_raise_for_status

    if _library() == "requests":
        with session().get(address, headers=headers, timeout=seconds, stream=True) as answer:
            hf_raise_for_status(answer)
            yield answer, answer.iter_content(CHUNK)
    else:
        asked = session().stream("GET", address, headers=headers, timeout=seconds, follow_redirects=True)
        with asked as answer:
            hf_raise_for_status(answer)
            yield answer, answer.iter_bytes(CHUNK)
