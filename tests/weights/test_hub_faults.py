"""Each fault at each request, in a state of the cache drawn at random: the right weights come, or the right error.

A draw takes a state (nothing cached, a copy, an older copy, a damaged one, a pinned commit), one of the four requests
of a load, a fault and how often it strikes. Whatever comes of it is held against what must: weights are those of one
commit, bit by bit; a good copy means that the load never fails; a fault that passes is overcome; nothing is left over;
and once the server is well the newest weights come, without a word.
"""

from __future__ import annotations

import contextlib
import random
import socketserver
import threading
import time
import traceback
import warnings

import huggingface_hub.utils
import pytest
from helpers.hubserver import point_client_at
from helpers.weight_folders import leftovers, make_folder, put, same

import convzoo
from convzoo import WeightsError, WeightsForbidden, WeightsUnavailable
from convzoo.weights import transfer

REQUESTS = (("HEAD", "config.json"), ("GET", "config.json"), ("HEAD", "model.safetensors"), ("GET", "cdn"))
STATES = ("nothing", "copy", "older copy", "damaged copy", "pinned")
ALWAYS = 1 << 30
PAGE = b"<html>Welcome to the hotel</html>"

PASSING = {  # what must be overcome if it strikes once
    "reset": {"reset": True},
    "408": {"status": 408},
    "429": {"status": 429, "headers": {"Retry-After": "1"}},
    "500": {"status": 500},
    "502": {"status": 502, "body": PAGE},
    "503": {"status": 503},
    "504": {"status": 504},
    "not HTTP": {"raw": b"220 mail.example ESMTP\r\n"},
    "nothing at all": {"raw": b""},
}
LASTING = {  # what may be taken at its word
    "401": {"status": 401},
    "403": {"status": 403, "body": PAGE},
    "404": {"status": 404},
    "gone": {"status": 410},
    "451": {"status": 451},
    "private": {"status": 401, "headers": {"X-Error-Code": "RepoNotFound"}},
    "removed": {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}},
    "no revision": {"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}},
    "no file": {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}},
    "gated": {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}},
    "disabled": {"status": 403, "headers": {"X-Error-Message": "Access to this resource is disabled."}},
    "log-in page": {"status": 200, "body": PAGE, "headers": {"Content-Type": "text/html"}},
    "no content": {"status": 204},
    "half a header": {"raw": b"HTTP/1.1 200 OK\r\nETa"},  # which requests takes for an answer
    "redirect to itself": {"status": 307, "headers": {"Location": ""}},
    "redirect to nowhere": {"status": 302, "headers": {"Location": "http://127.0.0.1:9/x"}},
    "redirect to a file": {"status": 302, "headers": {"Location": "file:///etc/passwd"}},
    "redirect to no address": {"status": 302, "headers": {"Location": "http://[::1"}},
}
HEADERS = {  # of a question
    "no commit": {"set": {"X-Repo-Commit": None}},
    "another commit": {"set": {"X-Repo-Commit": "1" * 40}},
    "a branch for a commit": {"set": {"X-Repo-Commit": "main"}},
    "no hash": {"set": {"ETag": None, "X-Linked-ETag": None}},
    "a weak hash": {"set": {"ETag": 'W/"1"', "X-Linked-ETag": 'W/"1"'}},
    "another hash": {"set": {"ETag": f'"{"1" * 40}"', "X-Linked-ETag": f'"{"1" * 64}"'}},
    "a path for a hash": {"set": {"ETag": '"../../x"', "X-Linked-ETag": '"/x"'}},
    "too small": {"set": {"X-Linked-Size": "7", "Content-Length": "7"}},
    "too large": {"set": {"X-Linked-Size": "99999999", "Content-Length": "99999999"}},
}
BODY = {  # of an answer with a file
    "cut": {"drop_after": 300},
    "cut at once": {"drop_after": 0},
    "ended early": {"drop_after": 300, "graceful": True},
    "ended late": {"drop_after": 100_000, "graceful": True},
    "ended late, no ranges": {"drop_after": 100_000, "graceful": True, "no_range": True},
    "a bit flipped": {"corrupt": 200},
    "shorter": {"truncate": 100},
    "empty": {"replace": b""},
    "longer": {"replace": b"x" * 300_000},
    "a page": {"replace": PAGE},
    "never ends": {"endless": True},
}
HARMLESS = {"compressed": {"gzip": True}, "no ranges": {"no_range": True}, "slow": {"delay": 0.02}}
SILENT = {"silent": {"delay": 2.0}, "drips": {"drip": 0.01}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    return [make_folder(place / str(seed), seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def models(folders):
    return [convzoo.create_model("lenet5", pretrained=folder, mmap=False) for folder in folders]


def faults_at(method):
    """The faults that a request of this kind can meet, by name."""
    return {**PASSING, **LASTING, **HARMLESS, **SILENT, **(HEADERS if method == "HEAD" else BODY)}


EVERY = [(method, pattern, name) for method, pattern in REQUESTS for name in faults_at(method)]


def draw(seed):
    """A state, a request, a fault's name and how often it strikes; each fault at each request in turn."""
    choose = random.Random(seed)
    method, pattern, name = EVERY[seed % len(EVERY)]
    return choose.choice(STATES), method, pattern, name, choose.choice([1, 1, ALWAYS])


def must_pass(method, pattern, name, times):
    """True if a fault may not be seen by whoever loads, a copy or not."""
    if name in HARMLESS:
        return True
    expired = pattern == "cdn" and name in ("401", "403", "404", "gone", "451", "private", "removed", "no revision")
    expired = expired or (pattern == "cdn" and name in ("no file", "gated", "disabled"))
    return times == 1 and (name in PASSING or name in BODY or expired)


def load(source):
    """The model or the error, the warnings, the seconds."""
    started = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            outcome = convzoo.create_model("lenet5", pretrained=source, mmap=False)
        except WeightsError as error:
            outcome = error
    return outcome, [str(warning.message) for warning in caught], time.monotonic() - started


def allow(seconds, monkeypatch):
    """How long a server may be silent; long enough for a busy machine unless silence is what is tried."""
    monkeypatch.setattr(transfer, "PROBE_SECONDS", seconds)
    for setting in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(f"huggingface_hub.constants.{setting}", seconds)


def try_draw(seed, hub, tmp_path, monkeypatch, folders, models):
    state, method, pattern, name, times = draw(seed)
    fault = faults_at(method)[name]
    context = f"seed {seed}: {state}, {method} {pattern}, {name}, {'always' if times == ALWAYS else 'once'}"
    allow(10, monkeypatch)
    hub.clear()
    repo_id = f"someone/draw{seed}"
    cache = tmp_path / "cache" / f"models--someone--draw{seed}"
    before = None
    if state in ("copy", "older copy", "damaged copy"):
        before = put(hub, folders[0 if state == "older copy" else 1], repo_id)
        convzoo.create_model("lenet5", pretrained=repo_id, mmap=False)
    if state == "damaged copy":
        (blob,) = [path for path in (cache / "blobs").iterdir() if len(path.name) == 64]
        blob.write_bytes(b"damaged")
    commit = put(hub, folders[1], repo_id)
    source = f"{repo_id}@{commit}" if state == "pinned" else repo_id
    hub.fault(method, pattern, times=times, **fault)
    if name in SILENT:
        allow(0.4, monkeypatch)
    outcome, said, seconds = load(source)
    good = state in ("copy", "older copy")
    assert seconds < 60, context
    assert leftovers(cache) == [], context
    assert all(path.resolve().is_relative_to(cache.resolve()) for path in cache.rglob("*")), context
    reference = cache / "refs" / "main"
    meant = reference.read_text() if reference.exists() else None
    if isinstance(outcome, WeightsError):
        assert not good, context
        assert not must_pass(method, pattern, name, times), (context, outcome)
        assert not said, context
        assert meant == before, context
    else:
        newest = same(outcome, models[1])
        assert newest or (state == "older copy" and same(outcome, models[0])), context
        assert len(said) <= 1, context
        assert newest or len(said) == 1, context
        assert not (must_pass(method, pattern, name, times) and (said or not newest)), (context, said)
        assert outcome.weights.revision == (commit if newest and not (said and before) else before), context
        assert state == "pinned" or meant == outcome.weights.revision, context
        assert all("the cached copy is used" in line for line in said), context

    allow(10, monkeypatch)
    hub.clear()
    outcome, said, _ = load(source)
    assert not isinstance(outcome, WeightsError), (context, outcome)
    assert same(outcome, models[1]), context
    assert said == [], context
    assert same(convzoo.create_model("lenet5", pretrained=source, local_files_only=True), models[1]), context


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE", 0.001)
    monkeypatch.setattr(transfer, "STALL_SECONDS", 3.0)
    return monkeypatch


def test_each_fault_at_each_request(hub, tmp_path, patient, folders, models):
    for seed, (_, _, name) in enumerate(EVERY):
        if name not in SILENT:  # which cost their time; test_hub_updates has each of them
            try_draw(seed, hub, tmp_path, patient, folders, models)


@pytest.mark.slow
def test_many_faults_drawn_at_random(hub, tmp_path, patient, folders, models):
    for seed in range(10_000, 16_000):
        try_draw(seed, hub, tmp_path, patient, folders, models)


@pytest.mark.slow
def test_every_fault_at_every_request_in_every_state(hub, tmp_path, patient, folders, models):
    cases = [(state, *where, times) for state in STATES for where in EVERY for times in (1, ALWAYS)]
    assert len(cases) > 1500
    patient.setitem(globals(), "draw", lambda number: cases[number])
    for number in range(len(cases)):
        try_draw(number, hub, tmp_path, patient, folders, models)


@pytest.mark.parametrize(
    "url", ["http://no-such-host.invalid", "http://127.0.0.1:9", "http://[::1]:9", "http://0.0.0.0:1"]
)
def test_a_hub_that_is_not_there(hub, tmp_path, patient, folders, models, url):
    commit = put(hub, folders[1], "someone/net")
    point_client_at(url, patient)
    outcome, said, seconds = load("someone/net")
    assert isinstance(outcome, WeightsUnavailable)
    assert said == []
    assert seconds < 10
    point_client_at(hub.url, patient)
    load("someone/net")
    point_client_at(url, patient)
    outcome, said, seconds = load("someone/net")
    assert same(outcome, models[1])
    assert len(said) == 1
    outcome, said, _ = load(f"someone/net@{commit}")
    assert same(outcome, models[1])
    assert said == []


@pytest.mark.parametrize("closed", [{"private": True}, {"gated": ()}, {"disabled": True}])
def test_closed_after_it_was_cached(hub, patient, folders, models, closed):
    put(hub, folders[1], "someone/net")
    load("someone/net")
    hub.repo("someone/net", **closed)
    outcome, said, _ = load("someone/net")
    assert same(outcome, models[1])
    assert len(said) == 1


# -- proxies

PROXY_SECRET = "SecretOfTheProxy"
PROXIES = {  # what it answers; None: nothing, and the connection stays open
    "silent": None,
    "hangs up": b"",
    "wants a password": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "refuses": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\n<a/>",
    "has no way": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\n<a/>",
    "speaks no HTTP": b"220 mail.example ESMTP\r\n",
}
NO_PROXIES = {
    "not there": f"http://me:{PROXY_SECRET}@127.0.0.1:9",
    "no such host": f"http://me:{PROXY_SECRET}@no-such-host.invalid:3128",
    "needs a library": f"socks5://me:{PROXY_SECRET}@127.0.0.1:9",
    "no address": f"http://me:{PROXY_SECRET}@[::1",
    "not for HTTP": f"ftp://me:{PROXY_SECRET}@127.0.0.1:9",
}


@contextlib.contextmanager
def proxy_that_answers(answer):
    """The address of a server that says the same to each request."""

    class Proxy(socketserver.BaseRequestHandler):
        def handle(self):
            if answer is None:
                ended.wait(60)
            else:
                self.request.recv(1 << 16)
                self.request.sendall(answer)

    ended = threading.Event()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://me:{PROXY_SECRET}@127.0.0.1:{server.server_address[1]}"
        ended.set()
        server.shutdown()


def forget_the_session():
    """The client's newer versions look at the proxies once."""
    getattr(huggingface_hub.utils, "close_session", lambda: None)()


@pytest.fixture
def proxied(monkeypatch):
    """A function that sends all requests to a proxy; they go their own ways afterwards."""

    def through(address):
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, address)
        forget_the_session()

    forget_the_session()
    yield through
    monkeypatch.undo()
    forget_the_session()


@pytest.mark.parametrize("kind", [*PROXIES, *NO_PROXIES])
@pytest.mark.parametrize("endpoint", ["http://hub.invalid", "https://hub.invalid"])
def test_a_dead_proxy(hub, tmp_path, patient, proxied, folders, models, kind, endpoint):
    """The copy with one warning, or one error that names the proxy; soon, and without its password."""
    put(hub, folders[1], "someone/net")
    load("someone/net")
    point_client_at(endpoint, patient)
    allow(0.25, patient)
    answering = proxy_that_answers(PROXIES[kind]) if kind in PROXIES else contextlib.nullcontext(NO_PROXIES[kind])
    with answering as address:
        proxied(address)
        copy, said, seconds = load("someone/net")
        assert same(copy, models[1])
        assert len(said) == 1
        assert "the cached copy is used" in said[0]
        assert seconds < 10
        error, nothing, seconds = load("someone/other")
    assert isinstance(
        error, WeightsForbidden if kind == "refuses" and endpoint.startswith("http:") else WeightsUnavailable
    )
    assert f"through the proxy that {endpoint.partition(':')[0].upper()}_PROXY names" in str(error)
    assert nothing == []
    assert seconds < 20
    shown = "".join([*traceback.format_exception(error), *said])
    assert PROXY_SECRET not in shown
    assert not (tmp_path / "cache" / "models--someone--other").exists()
