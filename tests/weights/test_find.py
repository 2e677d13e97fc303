"""Where weights are looked for: what is said outright, what is guessed, and folders in which something is wrong."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import warnings
from pathlib import Path

import pytest
from helpers.weight_folders import DROP_PRIVILEGES, SOURCE, TESTS, make_folder, put, run_python, same

import convzoo
from convzoo import WeightsCorrupted, WeightsError, WeightsNotFound, WeightsUnavailable, WeightsUnsafe

REPO = "someone/lenet5.made_up"


@pytest.fixture(autouse=True)
def _no_hanging():
    """Whoever waits on a pipe is woken."""

    def wake(*arguments):
        raise TimeoutError("still waiting after 240 s")

    before = signal.signal(signal.SIGALRM, wake)
    signal.alarm(240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("made") / "lenet5.made_up")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- said outright


def test_the_hub_is_meant_whatever_lies_around(hub, here, made):
    commit = put(hub, made)
    other = make_folder(here / REPO, seed=1)
    assert same(convzoo.create_model("lenet5", pretrained=REPO), convzoo.create_model("lenet5", pretrained=other))
    for source in (f"hub:{REPO}", f"hub:{REPO}@main", f"hub:{REPO}@{commit}"):
        model = convzoo.create_model("lenet5", pretrained=source)
        assert same(model, convzoo.create_model("lenet5", pretrained=made))
        assert model.weights.source == f"{REPO}@{commit}"


def test_the_hub_is_meant_not_a_folder_of_repositories(hub, tmp_path, monkeypatch, made):
    put(hub, made)
    other = make_folder(tmp_path / "folder" / REPO, seed=1)
    monkeypatch.setenv("CONVZOO_WEIGHTS", str(tmp_path / "folder"))
    assert same(convzoo.create_model("lenet5", pretrained=REPO), convzoo.create_model("lenet5", pretrained=other))
    model = convzoo.create_model("lenet5", pretrained=f"hub:{REPO}")
    assert same(model, convzoo.create_model("lenet5", pretrained=made))


@pytest.mark.parametrize(
    "source", ["hub:", "hub:lenet5", "hub:a/b/c", "hub:/a/b", "hub:a/b@", "hub:hub:a/b", "hub: a/b"]
)
def test_what_is_no_repository(hub, source):
    with pytest.raises(WeightsNotFound, match="a repository is written 'owner/name'"):
        convzoo.create_model("lenet5", pretrained=source)
    assert hub.requests() == []


def test_a_path_object_is_a_path(here, made, hub):
    folder = make_folder(here / "mnist", seed=1)
    assert same(
        convzoo.create_model("lenet5", pretrained=Path("mnist")), convzoo.create_model("lenet5", pretrained=folder)
    )
    for path in (Path("someone/files"), Path("digits"), Path("hub:someone/files")):
        with pytest.raises(WeightsNotFound, match="no file or folder"):
            convzoo.create_model("lenet5", pretrained=path)
    assert hub.requests() == []


def test_a_repository_called_like_a_pickle(hub, made):
    put(hub, made, "someone/net.bin")
    assert convzoo.create_model("lenet5", pretrained="someone/net.bin").weights.tag == "made_up"
    assert convzoo.create_model("lenet5", pretrained="hub:someone/net.bin").weights.tag == "made_up"
    for source in ("net.bin", "./net.bin", "some/where/net.pth", Path("someone/net.bin")):
        with pytest.raises(WeightsUnsafe):
            convzoo.create_model("lenet5", pretrained=source)


# -- guessed


@pytest.mark.parametrize("name", ["digits", "lenet5.digits", "lenet5", "2026-11", "dig its"])
def test_a_folder_in_the_current_directory(here, name):
    folder = make_folder(here / name)
    model = convzoo.create_model("lenet5", pretrained=name)
    assert same(model, convzoo.create_model("lenet5", pretrained=folder))
    assert model.weights.source == name


def test_a_tag_comes_before_a_folder_of_its_name_and_says_so(here):
    bundled = convzoo.create_model("lenet5", pretrained="mnist")
    (here / "mnist").mkdir()  # of a data set, say
    assert same(convzoo.create_model("lenet5", pretrained="mnist"), bundled)
    folder = make_folder(here / "mnist", seed=1)
    with pytest.warns(UserWarning, match=r"the tag is taken, not the folder.*\./mnist"):
        assert same(convzoo.create_model("lenet5", pretrained="mnist"), bundled)
    assert same(convzoo.create_model("lenet5", pretrained="./mnist"), convzoo.create_model("lenet5", pretrained=folder))


def test_neither_tag_nor_folder(here):
    with pytest.raises(WeightsNotFound, match=r"no weights 'lenet5.digits'.*a folder, a .safetensors file or a repo"):
        convzoo.create_model("lenet5", pretrained="digits")
    (here / "digits").mkdir()
    with pytest.raises(WeightsNotFound, match=r"the folder digits holds no model.safetensors"):
        convzoo.create_model("lenet5", pretrained="digits")


# -- paths that cannot be


@pytest.mark.parametrize(
    "source",
    [
        *("~nouser_of_this_name/x", "./a\0b", "/" + "x" * 5000, "x" * 300 + "/y.safetensors", "./" + "a/" * 3000),
        "/dev/null/x",
    ],
)
def test_paths_that_cannot_be(source):
    for kind in (str, Path):
        with pytest.raises(WeightsNotFound) as caught:
            convzoo.create_model("lenet5", pretrained=kind(source))
        assert len(str(caught.value)) < 600


def test_links_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(WeightsNotFound):
        convzoo.create_model("lenet5", pretrained=tmp_path / "a")


def put_pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def put_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()


def put_dangling(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent / "nothing")


def put_nested(path):
    path.write_text("[" * 200_000)


def put_binary(path):
    path.write_bytes(bytes(range(256)) * 10)


IN_PLACE = [put_pipe, put_folder, put_dangling, put_nested, put_binary]


@pytest.mark.parametrize("wrong", IN_PLACE)
@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
def test_something_else_in_a_files_place(tmp_path, wrong, filename):
    folder = make_folder(tmp_path / "a")
    wrong(folder / filename)
    for source in (folder, folder / filename):
        if not str(source).endswith("json"):
            with pytest.raises((WeightsCorrupted, WeightsNotFound, WeightsUnsafe)):
                convzoo.create_model("lenet5", pretrained=source)


def test_devices_are_not_read():
    for name in ("/dev/zero", "/dev/null", "/dev/stdin"):
        with pytest.raises(WeightsError):
            convzoo.create_model("lenet5", pretrained=name)


# -- folders of repositories


@pytest.mark.parametrize("wrong", IN_PLACE)
@pytest.mark.parametrize("filename", ["config.json", "model.safetensors"])
def test_one_bad_repository_among_good_ones(tmp_path, monkeypatch, wrong, filename):
    make_folder(tmp_path / "lenet5.good", tag="good")
    make_folder(tmp_path / "lenet5.bad", tag="bad")
    wrong(tmp_path / "lenet5.bad" / filename)
    monkeypatch.setenv("CONVZOO_WEIGHTS", str(tmp_path))
    assert convzoo.create_model("lenet5", pretrained=True).weights.source == "package"  # and no warning
    hidden = filename == "model.safetensors" and wrong in (put_nested, put_binary, put_dangling)  # seen when it is used
    if hidden:
        assert "lenet5.good" in convzoo.list_weights()
    else:
        with pytest.warns(UserWarning, match="not all of .* can be read") as caught:
            names = convzoo.list_weights()
        assert len(caught) == 1
        assert "lenet5.good" in names
        assert "lenet5.mnist" in names
        assert "lenet5.bad" not in names
    with pytest.warns(UserWarning, match="not all") if not hidden else contextlib.nullcontext():
        assert convzoo.create_model("lenet5", pretrained="good").weights.tag == "good"


@pytest.mark.parametrize("bad", ["~nouser_of_this_name", "file", "pipe", "dangling", "\x7f" * 300])
def test_one_bad_folder_among_good_ones(tmp_path, monkeypatch, bad):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    make_folder(tmp_path / "good" / "lenet5.good", tag="good")
    bad = bad if bad.startswith("~") else str(tmp_path / bad)
    monkeypatch.setenv("CONVZOO_WEIGHTS", os.pathsep.join([bad, str(tmp_path / "good")]))
    assert convzoo.create_model("lenet5", pretrained=True).weights.source == "package"
    for work in (convzoo.list_weights, lambda: [convzoo.create_model("lenet5", pretrained="good").weights.name]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert "lenet5.good" in work()
        assert len(caught) == (1 if bad.startswith("~") else 0)


def test_folders_that_may_not_be_read(tmp_path):
    """By a process without root's rights."""
    make_folder(tmp_path / "good" / "lenet5.good", tag="good")
    make_folder(tmp_path / "mixed" / "lenet5.mixed", tag="mixed")
    make_folder(tmp_path / "mixed" / "lenet5.closed", tag="closed")
    make_folder(tmp_path / "closed" / "lenet5.other", tag="other")
    code = f"""{DROP_PRIVILEGES}
import os, warnings, convzoo
os.environ["CONVZOO_WEIGHTS"] = os.pathsep.join({str(tmp_path)!r} + "/" + name for name in ("closed", "mixed", "good"))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    names = convzoo.list_weights("lenet5.*")
print(*sorted(set(names) & {{"lenet5.good", "lenet5.mixed", "lenet5.closed", "lenet5.other"}}), len(caught))
warnings.simplefilter("ignore")
print(convzoo.create_model("lenet5", pretrained="good").weights.tag)
print(convzoo.create_model("lenet5", pretrained=True).weights.source)
for source in ({str(tmp_path / "closed" / "lenet5.other")!r}, {str(tmp_path / "mixed" / "lenet5.closed")!r}):
    try:
        convzoo.create_model("lenet5", pretrained=source)
    except convzoo.WeightsError as error:
        print(type(error).__name__)
"""
    closed = [tmp_path / "closed", tmp_path / "mixed" / "lenet5.closed"]
    for folder in closed:
        folder.chmod(0)
    try:
        out = run_python(code)
    finally:
        for folder in closed:
            folder.chmod(0o755)
    assert out.splitlines() == ["lenet5.good lenet5.mixed 2", "good", "package", "WeightsForbidden", "WeightsForbidden"]


# -- the cache of the Hub


@pytest.mark.parametrize("wrong", [put_pipe, put_folder])
@pytest.mark.parametrize("place", ["refs", "snapshots", "blobs", "hashes", ".locks"])
def test_something_else_in_the_cache(hub, tmp_path, monkeypatch, made, wrong, place):
    """It is put right, or it is said what cannot be written."""

    def refuse(*arguments):
        raise OSError("symbolic link privilege not held")

    if place == "hashes":  # they are kept where there are no links
        monkeypatch.setattr(Path, "symlink_to", refuse)
    commit = put(hub, made)
    model = convzoo.create_model("lenet5", pretrained=REPO, mmap=False)
    root = tmp_path / "cache" / "models--someone--lenet5.made_up"
    config = root / "snapshots" / commit / "config.json"
    blob = config.resolve()
    places = {
        "refs": root / "refs" / "main",
        "snapshots": config,
        "blobs": blob,
        "hashes": root / "hashes" / commit / "config.json",
        ".locks": tmp_path / "cache" / ".locks" / root.name / f"{blob.name}.lock",
    }
    assert places[place].is_file()
    wrong(places[place])
    if place == ".locks":
        blob.unlink()
    with contextlib.suppress(WeightsUnavailable):  # or the copy is whole
        assert same(convzoo.create_model("lenet5", pretrained=REPO, mmap=False, local_files_only=True), model)
    if wrong is put_folder and place in ("blobs", ".locks"):
        with pytest.raises(WeightsUnavailable, match="cannot be written to the cache"):
            convzoo.create_model("lenet5", pretrained=REPO)
    else:
        assert same(convzoo.create_model("lenet5", pretrained=REPO), model)


@pytest.mark.parametrize("cache_dir", ["pipe", "file/x", "x" * 300, "/dev/null", "/proc/no/such"])
def test_a_cache_that_cannot_be_written(hub, tmp_path, made, cache_dir):
    put(hub, made)
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsUnavailable, match="cannot be written to the cache"):
        convzoo.create_model("lenet5", pretrained=REPO, cache_dir=tmp_path / cache_dir)
    with pytest.raises(WeightsUnavailable, match="not in the cache"):
        convzoo.create_model("lenet5", pretrained=REPO, cache_dir=tmp_path / cache_dir, local_files_only=True)


@pytest.mark.parametrize("cache_dir", ["~nouser_of_this_name/x", "a\0b", ""])
def test_a_cache_that_no_folder_can_be(hub, made, cache_dir):
    put(hub, made)
    hub.clear()
    with pytest.raises(ValueError, match=r"cache_dir (is no path|must not be empty)"):
        convzoo.create_model("lenet5", pretrained=REPO, cache_dir=cache_dir)
    assert hub.requests() == []


# -- from a zip


def test_imported_from_a_zip(tmp_path):
    """``convzoo`` inside an archive on the path: the weights of the package work, or it is said why not."""
    archive = shutil.make_archive(str(tmp_path / "convzoo"), "zip", SOURCE, "convzoo")
    code = """
import convzoo
assert ".zip" in convzoo.__file__, convzoo.__file__
model = convzoo.create_model("lenet5", pretrained=True)
print(model.weights.source, "lenet5.mnist" in convzoo.list_weights())
"""
    out = run_python(code, PYTHONPATH=os.pathsep.join([archive, str(TESTS), os.environ.get("PYTHONPATH", "")]))
    assert out == "package True"


def test_a_zip_is_no_weights(tmp_path, made):
    archive = shutil.make_archive(str(tmp_path / "weights"), "zip", made)
    with pytest.raises(WeightsUnsafe, match="zip"):
        convzoo.create_model("lenet5", pretrained=archive)
