"""What all tests share: a Hub of our own on this machine, and none other within reach.

The Hub's client reads its settings when it is imported, so they are set here, before anything imports it.
"""

from __future__ import annotations

import os
import signal
import tempfile

HOME = tempfile.TemporaryDirectory(prefix="convzoo-tests-")
os.environ |= {
    "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing answers there: a test without the fixture reaches nobody
    "HF_HOME": HOME.name,
    "HF_HUB_DISABLE_XET": "1",  # the server speaks plain HTTP
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_ETAG_TIMEOUT": "2",
    "HF_HUB_DOWNLOAD_TIMEOUT": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "CONVZOO_WEIGHTS"):
    os.environ.pop(name, None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job; processes that tests start inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import gc  # noqa: E402
import random  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from helpers.hubserver import HubServer, point_client_at  # noqa: E402

# torch's half a million objects stay: looking through them for garbage, again and again, took a tenth of the time
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Before any fixture: what a test draws is the same in every run, whichever tests came before it.

    A net of random weights may, for one draw in some thousands, leave an empty map or a tie, and warn.
    """
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def hub_server():
    """The server, one for all tests of a process."""
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """A Hub without repositories, and a client with an empty cache that knows no other."""
    from huggingface_hub import constants

    hub_server.repos.clear()
    hub_server.clear()
    point_client_at(hub_server.url, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield hub_server
    hub_server.clear()
