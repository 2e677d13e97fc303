"""A server, a revision, a token or a cache that means harm: nothing outside the repository's folder is touched."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import traceback
import warnings

import pytest
from helpers.weight_folders import fetch, make_folder, put, same

import convzoo
from convzoo import WeightsError, WeightsNotFound, WeightsUnavailable
from convzoo.weights import client, transfer
from convzoo.weights.cache import RepositoryCache, check_revision

REPO = "someone/lenet5.made_up"
PRECIOUS = "what the user wrote"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSE", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("made") / "folder")


@pytest.fixture
def precious(tmp_path):
    """A file of the user's, outside the cache."""
    path = tmp_path / "home" / ".bashrc"
    path.parent.mkdir()
    path.write_text(PRECIOUS)
    return path


def outside(tmp_path):
    """All that lies outside the cache, with what is in it."""
    return {
        str(path): path.read_bytes() if path.is_file() else b""
        for path in tmp_path.rglob("*")
        if not path.is_relative_to(tmp_path / "cache")
    }


def names(tmp_path, precious):
    """Names that a malicious server may give a blob or a commit; most would be paths."""
    up = os.path.relpath(precious, tmp_path / "cache" / "models--someone--lenet5.made_up" / "blobs")
    new = str(tmp_path / "home" / "new")
    sha = hashlib.sha256(PRECIOUS.encode()).hexdigest()
    return [
        str(precious),
        up,
        new,
        "../../../..",
        "..",
        ".",
        f"{sha[:-1]}/",
        sha.upper(),
        f"{sha}\0",
        "0" * 39,
        "",
        "x",
    ]


# -- names from the server


@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("header", ["ETag", "X-Linked-ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("cached", [False, True])
def test_a_name_that_is_a_path_is_refused(hub, tmp_path, folder, precious, filename, header, cached):
    put(hub, folder)
    if cached:
        model = convzoo.create_model("lenet5", pretrained=REPO)
    before = outside(tmp_path)
    for name in names(tmp_path, precious):
        headers = {header: f'"{name}"' if "ETag" in header else name}
        if header == "ETag":
            headers["X-Linked-ETag"] = None
        hub.clear()
        hub.fault("HEAD", filename, set={key: value and value.replace("\0", "%00") for key, value in headers.items()})
        if cached and filename == "config.json":
            with pytest.warns(UserWarning, match="the cached copy is used, for .*not the Hub"):
                assert same(convzoo.create_model("lenet5", pretrained=REPO), model)
        elif cached:
            assert same(convzoo.create_model("lenet5", pretrained=REPO), model)  # nobody was asked
        else:
            with pytest.raises(WeightsUnavailable, match="not the Hub"):
                convzoo.create_model("lenet5", pretrained=REPO)
        assert outside(tmp_path) == before


def lies(seed, tmp_path, precious):
    """What a server says at each of its answers: true, or one of the names, in any header."""
    draw = random.Random(seed)
    possible = names(tmp_path, precious)
    return [
        {draw.choice(["ETag", "X-Linked-ETag", "X-Repo-Commit"]): draw.choice(possible).replace("\0", "%00")}
        if draw.random() < 0.5
        else {}
        for _ in range(8)
    ]


def lie_in_turn(hub, tmp_path, folder, precious, seeds):
    for seed in seeds:
        repo_id = f"someone/lies{seed}"
        put(hub, folder, repo_id)
        before = outside(tmp_path)
        hub.clear()
        for said in lies(seed, tmp_path, precious):
            hub.fault("HEAD", "resolve", times=1, set=said)
        hub.fault("GET", "cdn", times=seed % 3, corrupt=seed)  # so that files are fetched again, too
        hub.fault("GET", "cdn", times=1, status=403)  # and asked for again
        for _ in range(3):
            with contextlib.suppress(WeightsError), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*the cached copy is used")
                convzoo.create_model("lenet5", pretrained=repo_id)
            assert outside(tmp_path) == before, seed
        cache = tmp_path / "cache" / f"models--someone--lies{seed}"
        for path in cache.rglob("*"):
            assert path.resolve().is_relative_to(cache.resolve()), (seed, path)
        hub.clear()
        assert convzoo.create_model("lenet5", pretrained=repo_id).weights.tag == "made_up"
        shutil.rmtree(cache)  # all that is there is looked at after each call


def test_servers_that_lie_now_and_then(hub, tmp_path, folder, precious):
    lie_in_turn(hub, tmp_path, folder, precious, range(25))


@pytest.mark.slow
def test_servers_that_lie_now_and_then_at_length(hub, tmp_path, folder, precious):
    lie_in_turn(hub, tmp_path, folder, precious, range(1000, 2500))


def test_what_is_said_at_the_second_question_does_not_count(hub, folder, tmp_path, precious):
    """The address of the bytes is asked for again when it has expired; commit and hash are those of the first time."""
    commit = put(hub, folder)
    hub.fault("GET", "cdn", times=1, status=403)
    hub.fault(
        "HEAD", "model.safetensors", skip=1, set={"X-Linked-ETag": f'"{precious}"', "X-Repo-Commit": "../../elsewhere"}
    )
    assert convzoo.create_model("lenet5", pretrained=REPO).weights.revision == commit
    assert precious.read_text() == PRECIOUS


def test_a_mirror_that_answers_with_another_commit(hub, folder, tmp_path):
    commit = put(hub, folder)
    hub.fault("HEAD", "resolve", set={"X-Repo-Commit": "0" * 40})
    with pytest.raises(WeightsUnavailable, match="another commit"):
        convzoo.create_model("lenet5", pretrained=f"{REPO}@{commit}")


# -- links in the cache


@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("place", ["snapshots", "blobs"])
def test_a_link_out_of_the_cache_is_not_followed(hub, tmp_path, folder, precious, filename, place):
    """As the client alone makes it, for a server that gives a path as the hash."""
    commit = put(hub, folder)
    model = convzoo.create_model("lenet5", pretrained=REPO)
    path = tmp_path / "cache" / "models--someone--lenet5.made_up" / "snapshots" / commit / filename
    blob = path.resolve()
    copy = precious.parent / "copy"
    copy.write_bytes(blob.read_bytes())  # even with the right content
    for target in (precious, copy):
        link = path if place == "snapshots" else blob
        link.unlink()
        link.symlink_to(target)
        before = outside(tmp_path)
        with pytest.raises(WeightsUnavailable, match="not in the cache"):
            convzoo.create_model("lenet5", pretrained=REPO, local_files_only=True)
        assert same(convzoo.create_model("lenet5", pretrained=REPO), model)
        assert path.resolve() == blob
        assert not blob.is_symlink()
        assert outside(tmp_path) == before


def test_a_link_to_what_is_no_blob_is_not_followed(hub, tmp_path, folder):
    """Inside the cache, but without a hash to compare it with: a blob of another name, the file of another commit."""
    commit = put(hub, folder)
    convzoo.create_model("lenet5", pretrained=REPO)
    cache = RepositoryCache(REPO, tmp_path / "cache")
    path = cache.find(commit, "config.json")
    content = path.read_bytes()
    for target in (cache.blobs / "config", cache.root / "snapshots" / ("0" * 40) / "config.json"):
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
        path.unlink()
        path.symlink_to(target)
        assert cache.find(commit, "config.json") is None


def test_a_blob_shared_between_repositories_is_read(hub, tmp_path, folder):
    """The client's newest versions keep some blobs in the cache's own blobs/xx/HASH and link to them."""
    commit = put(hub, folder)
    model = convzoo.create_model("lenet5", pretrained=REPO)
    path = tmp_path / "cache" / "models--someone--lenet5.made_up" / "snapshots" / commit / "model.safetensors"
    blob = path.resolve()
    shared = tmp_path / "cache" / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    assert same(convzoo.create_model("lenet5", pretrained=REPO, local_files_only=True), model)


def test_a_reference_that_is_no_commit(hub, tmp_path, folder):
    put(hub, folder)
    model = convzoo.create_model("lenet5", pretrained=REPO)
    reference = tmp_path / "cache" / "models--someone--lenet5.made_up" / "refs" / "main"
    for text in ("../../..", "", "x" * 40, "\udc80"):
        reference.write_text(text, errors="surrogateescape")
        assert RepositoryCache(REPO, tmp_path / "cache").commit("main") is None
        with pytest.raises(WeightsUnavailable, match="not in the cache"):
            convzoo.create_model("lenet5", pretrained=REPO, local_files_only=True)
        assert same(convzoo.create_model("lenet5", pretrained=REPO), model)


def test_a_reference_is_not_read_through_a_link(hub, tmp_path, folder, precious):
    precious.write_text(put(hub, folder))
    model = convzoo.create_model("lenet5", pretrained=REPO)
    reference = tmp_path / "cache" / "models--someone--lenet5.made_up" / "refs" / "main"
    reference.unlink()
    reference.symlink_to(precious)
    before = outside(tmp_path)
    with pytest.raises(WeightsUnavailable, match="not in the cache"):
        convzoo.create_model("lenet5", pretrained=REPO, local_files_only=True)
    assert same(convzoo.create_model("lenet5", pretrained=REPO), model)
    assert not reference.is_symlink()
    assert outside(tmp_path) == before


# -- revisions


@pytest.mark.parametrize(
    "revision",
    [
        *("/home/u/.bashrc", "../../x", "..", ".", "a/../b", "a/", "/", "a//b", ".hidden", "x.lock", "a b", "a\n"),
        *("a\0b", "-x", "a~1", "a^", "a:b", "C:\\x", "a?", "a*", "a[b", "@{u}", "a@{1}", "é", "x" * 100_000),
    ],
)
def test_a_revision_that_no_branch_can_have(hub, tmp_path, folder, revision):
    put(hub, folder)
    hub.clear()
    for given in ({"pretrained": f"{REPO}@{revision}"}, {"pretrained": f"hub:{REPO}", "revision": revision}):
        with pytest.raises(WeightsNotFound, match="no revision can be called") as caught:
            convzoo.create_model("lenet5", **given)
        assert len(str(caught.value)) < 300
    assert hub.requests() == []
    assert not (tmp_path / "cache").exists()


def test_a_revision_names_an_existing_file(hub, tmp_path, folder, precious):
    commit = put(hub, folder)
    hub.repo(REPO).tags[str(precious)] = commit
    with pytest.raises(WeightsNotFound):
        convzoo.create_model("lenet5", pretrained=f"{REPO}@{precious}")
    assert precious.read_text() == PRECIOUS


@pytest.mark.parametrize("revision", ["main", "v1.0", "feature/a-b", "refs/pr/1", "release_2+x", "0" * 40, "a@b"])
def test_revisions_that_are_taken(hub, folder, revision):
    assert check_revision(revision) == revision
    commit = put(hub, folder)
    hub.repo(REPO).tags[revision] = commit
    if revision != "0" * 40:
        assert convzoo.create_model("lenet5", pretrained=f"{REPO}@{revision}").weights.revision == commit
        cached = convzoo.create_model("lenet5", pretrained=f"{REPO}@{revision}", local_files_only=True)
        assert cached.weights.revision == commit


def test_a_reference_is_not_written_through_a_link(hub, tmp_path, folder):
    commit = put(hub, folder)
    hub.repo(REPO).tags["feature/a"] = commit
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    refs = tmp_path / "cache" / "models--someone--lenet5.made_up" / "refs"
    refs.mkdir(parents=True)
    (refs / "feature").symlink_to(elsewhere)
    assert convzoo.create_model("lenet5", pretrained=f"{REPO}@feature/a").weights.revision == commit
    assert list(elsewhere.iterdir()) == []


# -- tokens

TOKEN = "hf_ThisIsTheSecretOne"


def told(error):
    """All that a traceback, or whoever walks through an error's causes, would show of it."""
    seen = "".join(traceback.format_exception(error))
    while error is not None:
        seen += str(error) + repr(error.args)
        error = error.__cause__ or error.__context__
    return seen


def try_with(token, folder):
    """The errors of reading and of publishing with a token."""
    for work in (
        lambda: convzoo.create_model("lenet5", pretrained=REPO, token=token),
        lambda: convzoo.create_model("lenet5", pretrained=REPO, token=token, local_files_only=True),
        lambda: convzoo.push_to_hub(folder, REPO, token=token),
    ):
        with pytest.raises((WeightsError, ValueError, TypeError)) as caught:
            work()
        yield caught.value


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\t", " ", "\0", "\x1b[31m", "é", " x", "\nX-Evil: 1"])
@pytest.mark.parametrize("begin", ["", " ", "\n"])
def test_a_token_is_never_shown(hub, folder, begin, end):
    put(hub, folder)
    hub.repo(REPO, private=True)
    hub.clear()
    for error in try_with(f"{begin}{TOKEN}{end}", folder):
        assert "Secret" not in told(error)
    good = end.strip() == ""
    assert {entry["token"] for entry in hub.requests()} <= ({f"Bearer {TOKEN}"} if good else set())


def test_a_token_read_from_a_file_works(hub, folder):
    put(hub, folder)
    hub.repo(REPO, private=True)
    assert convzoo.create_model("lenet5", pretrained=REPO, token=" hf_good\n").weights.tag == "made_up"
    assert convzoo.push_to_hub(folder, REPO, token="hf_good\r\n")


@pytest.mark.parametrize("token", ["", " \n", 3, b"hf_x", ["hf_x"]])
def test_what_is_no_token(hub, folder, token):
    for error in try_with(token, folder):
        assert isinstance(error, (TypeError, ValueError))
        assert "hf_x" not in told(error)
    assert hub.requests() == []


def test_a_token_in_the_environment(hub, folder, monkeypatch):
    put(hub, folder)
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\tx")
    for error in try_with(None, folder):
        assert "Secret" not in told(error)
    assert hub.requests() == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repo(REPO, private=True)
    for error in try_with(None, folder):
        assert "Secret" not in told(error)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("kind", [RuntimeError, ValueError, OSError, UnicodeEncodeError])
def test_whatever_another_library_says_is_masked(hub, folder, monkeypatch, kind, given):
    """Its message, its arguments and its causes."""
    put(hub, folder)
    secret = "s3cr3t-of-a-strange-form"

    def fail(*args, **kwargs):
        if kind is UnicodeEncodeError:
            f"Bearer {secret}é".encode("ascii")
        try:
            raise KeyError(f"Authorization: Bearer {secret}")
        except KeyError as cause:
            raise kind(f"cannot send {secret!r}") from cause

    monkeypatch.setattr(client, "head", fail)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", fail)
    if not given:
        monkeypatch.setenv("HF_TOKEN", secret)
    for error in try_with(secret if given else None, folder):
        assert "s3cr3t" not in told(error)


def test_a_cause_without_the_token_is_kept(hub, folder):
    put(hub, folder)
    hub.fault("HEAD", "resolve", reset=True)
    with pytest.raises(WeightsUnavailable) as caught:
        convzoo.create_model("lenet5", pretrained=REPO, token=TOKEN)
    assert caught.value.__cause__ is not None


def test_signatures_of_addresses_are_masked():
    text = client.mask(
        "403 for url https://host/path?X-Signature=abc&Key=d', Authorization: Bearer xyz hf_abcdefghij, "
        "through http://me:word@proxy:3128 or //you:%40too@proxy",
        "",
    )
    assert not any(part in text for part in ("abc&", "Key=d", "xyz", "abcdefghij", "me:", "word", "you", "too"))
    assert "https://host/path" in text
    assert "@proxy:3128" in text


def test_settings_do_not_show_the_token():
    from convzoo.weights.find import Access

    assert TOKEN not in repr(Access(TOKEN)) + repr(transfer.Asker(TOKEN))


# -- names of any length


LONG = "x" * 1_000_000


@pytest.mark.parametrize(
    "name",
    [LONG, f"a/{LONG}", f"a/b@{LONG}", f"./{LONG}", f"hub:{LONG}", f"{LONG}.safetensors", f"~{LONG}", f"{LONG}.bin"],
    ids=["tag", "repository", "revision", "path", "hub", "file", "user", "pickle"],
)
def test_long_names_are_shortened(hub, name):
    with pytest.raises(WeightsError) as caught:
        convzoo.create_model("lenet5", pretrained=name)
    assert len(told(caught.value)) < 20_000
    assert len(str(caught.value)) < 2_000


def test_long_names_from_a_server_are_shortened(hub, folder):
    put(hub, folder)
    hub.fault("HEAD", "resolve", status=404, headers={"X-Error-Message": "y" * 30_000})
    with pytest.raises(WeightsError) as caught:
        convzoo.create_model("lenet5", pretrained=REPO)
    assert len(str(caught.value)) < 2_000


def test_a_cache_folder_may_be_a_link_itself(hub, tmp_path, folder):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    put(hub, folder)
    model = convzoo.create_model("lenet5", pretrained=REPO, cache_dir=tmp_path / "link")
    again = convzoo.create_model("lenet5", pretrained=REPO, cache_dir=tmp_path / "link", local_files_only=True)
    assert same(model, again)
    assert RepositoryCache(REPO, tmp_path / "link").commit("main") == model.weights.revision
    assert fetch(REPO, cache_dir=tmp_path / "link").resolve().is_relative_to(tmp_path / "disk")
