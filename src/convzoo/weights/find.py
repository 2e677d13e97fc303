"""Where weights come from, in this order: a path, the package, a folder of repositories, the cache, the Hub.

What cannot be had raises a :class:`WeightsError <convzoo.weights.errors.WeightsError>` of the kind that says why.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

from .._checks import check_bool, check_path, check_text, shorten
from . import package
from .client import check_token, shorten_name
from .entries import FILE_NAME, OWNER, WeightInfo, all_entries, bundled_path, read_table, unknown
from .errors import WeightsCorrupted, WeightsError, WeightsForbidden, WeightsNotFound
from .files import PICKLES, check_hash, read_metadata, refuse_pickle_name
from .hashes import sha256_unless_known
from .schema import parse_config, read_config, read_info

CONFIG_NAME = "config.json"
HUB = "hub:"  # before what is a repository of the Hub and nothing else
REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@(.+))?", re.S)


@dataclass(frozen=True)
class Access:
    """How the Hub is asked: the client's own arguments, with their usual meaning; and whether files are hashed anew."""

    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False
    cache_dir: str | os.PathLike[str] | None = None
    revision: str | None = None
    verify: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", check_token(self.token))
        check_bool("local_files_only", self.local_files_only)
        check_bool("verify", self.verify)
        if self.cache_dir is not None:
            object.__setattr__(self, "cache_dir", check_path("cache_dir", self.cache_dir))
        if self.revision is not None:
            check_text("revision", self.revision, empty=False)


@dataclass(frozen=True)
class Found:
    """A checked weight file and what is known of it; nothing for a bare file without a description."""

    path: Path
    info: WeightInfo | None


def hub_folders() -> list[Path]:
    """The folders of repositories, in the Hub's layout, that are there: those that ``CONVZOO_WEIGHTS`` names, and the
    package's own ``large``, which the wheel leaves out and a checkout links to its ``weights/hub``."""
    named = [*os.environ.get("CONVZOO_WEIGHTS", "").split(os.pathsep), str(package.LARGE)]
    return [Path(os.path.expanduser(name)) for name in named if name and os.path.isdir(os.path.expanduser(name))]  # noqa: PTH111, PTH112 - pathlib's raise


def folder_entries() -> dict[str, WeightInfo]:
    """The weights in :func:`hub_folders` by name; one warning for each folder in which something cannot be read."""
    found: dict[str, WeightInfo] = {}
    for name in os.environ.get("CONVZOO_WEIGHTS", "").split(os.pathsep):
        if name.startswith("~") and os.path.expanduser(name) == name:  # noqa: PTH111
            _warn(name, ["there is no such user"])
    for folder in hub_folders():
        problems: list[object] = []
        try:
            repositories = sorted(folder.iterdir())
        except OSError as error:
            _warn(str(folder), [error])
            continue
        for repository in repositories:
            try:
                if look_at(repository) == FOLDER and (info := _described(repository)) is not None:
                    found.setdefault(info.name, info)
            except (WeightsError, OSError, ValueError, RecursionError) as error:
                problems.append(error)
        if problems:
            _warn(str(folder), problems)
    return found


def _described(repository: Path) -> WeightInfo | None:
    """What a folder says of weights of its own name; None if it holds none."""
    if look_at(repository / FILE_NAME) == NOTHING or not os.path.lexists(repository / CONFIG_NAME):
        return None
    _check_file(repository / FILE_NAME)
    info = _read_description(repository, repo_id=f"{OWNER}/{repository.name}")
    return info if info.name == repository.name else None


def _warn(folder: str, problems: list[object]) -> None:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    warnings.warn(f"not all of the folder of weights {shorten(folder)} can be read{more}: {problems[0]}", stacklevel=2)


NOTHING, FILE, FOLDER, OTHER = "nothing", "file", "folder", "other"


def look_at(path: Path) -> str:
    """What stands at ``path``, links followed: one of the four words above; OTHER is a pipe, a socket or a device.

    Raises:
        WeightsForbidden: a folder above may not be entered.
    """
    try:
        mode = path.stat().st_mode
    except ValueError:  # a null character
        return NOTHING
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise WeightsForbidden(
                f"{shorten(str(path))} may not be looked at ({error.strerror}); change its permissions or pass another"
            ) from error
        return NOTHING
    return FOLDER if stat.S_ISDIR(mode) else FILE if stat.S_ISREG(mode) else OTHER


def _holds(folder: Path) -> bool:
    """True if there are weights in a folder, as far as one may look."""
    try:
        return look_at(folder / FILE_NAME) != NOTHING
    except WeightsForbidden:
        return False


def _check_file(path: Path) -> None:
    """Refuse what is no regular file: reading a pipe may wait for ever."""
    if look_at(path) != FILE:
        raise WeightsCorrupted(
            f"{shorten(str(path))} is no regular file but a folder, a pipe or a link to nothing; put the file there"
        )


def _expand(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    try:
        return path.expanduser()
    except (RuntimeError, ValueError) as error:  # there is no such user, or no such name
        raise WeightsNotFound(f"{shorten(str(source))} names no folder ({error}); write the path out") from error


def looks_like_path(source: str) -> bool:
    """True for what names a file or folder rather than a tag or a repository."""
    path = Path(source)
    if path.suffix.lower() == ".safetensors" or source.startswith((".", "~", os.sep)) or path.is_absolute():
        return True
    if "/" in source or os.sep in source:
        if look_at(path) != NOTHING:
            return True
        return path.suffix.lower() in PICKLES and not REPOSITORY.fullmatch(source)
    return path.suffix.lower() in PICKLES


def find_source(source: str | os.PathLike[str], architecture: str, access: Access) -> Found:
    """The weights that ``pretrained=source`` means for ``architecture``.

    A path object is a file or folder, ``"hub:owner/name"`` a repository of the Hub. Any other text is taken for a
    path if it is written like one or, with a slash in it, if it is there; else with a slash for a repository, in the
    folders of ``CONVZOO_WEIGHTS`` first; else for a tag, and where there is no such tag for a folder of that name.
    """
    found = find_outright(source, access)
    if found is not None:
        return found
    source = os.fspath(source)
    name = source if source.startswith(f"{architecture}.") else f"{architecture}.{source}"
    table, here = read_table()[0], look_at(Path(source))
    entries = table if name in table else all_entries()
    if name not in entries:
        if here != NOTHING:
            return _find_given_path(Path(source), access)
        raise unknown(name, entries)
    if here == FOLDER and _holds(Path(source)):
        warnings.warn(
            f"pretrained={source!r}: the tag is taken, not the folder of that name in the current directory; write "
            f"Path({source!r}) or './{source}' for the folder",
            stacklevel=2,
        )
    return find_entry(entries[name], access)


def find_outright(source: str | os.PathLike[str], access: Access) -> Found | None:
    """The weights of a path or a repository; None for a text that is first of all taken for a tag."""
    if isinstance(source, str) and source.startswith(HUB):
        return find_repository(*_split(source.removeprefix(HUB), access), access)
    if not isinstance(source, str) or looks_like_path(source):
        return _find_given_path(Path(source), access)
    if "/" in source:
        repo_id, revision = _split(source, access)
        return find_in_folders(repo_id, revision, access) or find_repository(repo_id, revision, access)
    return None


def _find_given_path(path: Path, access: Access) -> Found:
    if access.revision is not None:
        raise ValueError(
            f"revision={shorten(access.revision)} names a version of a repository of the Hub, and pretrained= the path "
            f"{shorten(str(path))}; leave revision out, or write 'hub:owner/name'"
        )
    return find_path(path, verify=access.verify)


def _split(source: str, access: Access) -> tuple[str, str | None]:
    """``owner/name[@revision]`` as repository id and revision, which may be given in ``access`` instead.

    Raises:
        WeightsNotFound: it is not of that form.
        ValueError: two different revisions.
    """
    match = REPOSITORY.fullmatch(source)
    if not match:
        raise WeightsNotFound(
            f"pretrained={shorten(source)} names neither a tag, a folder, a .safetensors file nor a repository of the "
            "Hub; a repository is written 'owner/name' or 'owner/name@revision', with 'hub:' before it where a folder "
            "is called the same"
        )
    repo_id, revision = match[1], match[2]
    if access.revision is not None and revision not in (None, access.revision):
        raise ValueError(
            f"pretrained={shorten(source)} and revision={shorten(access.revision)} name two versions; leave one out"
        )
    return repo_id, access.revision or revision


def find_path(path: Path, *, verify: bool = False) -> Found:
    """A folder in a repository's layout, or a ``.safetensors`` file.

    Args:
        path: of the folder or the file.
        verify: read the file to hash it, also where its hash is remembered.

    Raises:
        WeightsNotFound: nothing there.
        WeightsForbidden: it may not be looked at.
        WeightsUnsafe: a pickle.
        WeightsCorrupted: not the file its ``config.json`` states, or not sound.
    """
    path = _expand(path)
    shown = shorten_name(str(path))
    kind = look_at(path)
    if kind == FOLDER:
        file = path / FILE_NAME
        if look_at(file) == NOTHING:
            raise WeightsNotFound(
                f"the folder {shown} holds no {FILE_NAME}; only safetensors weights are read: pass a folder that holds "
                "one, or 'hub:owner/name' for a repository of the Hub"
            )
        _check_file(file)
        if not os.path.lexists(path / CONFIG_NAME):
            return _bare(file, verify)
        info = _read_description(path)
        remedy = f"its {CONFIG_NAME} states another file: get the two of one version"
        check_hash(file, info.sha256, remedy, verify=verify)
        return Found(file, replace(info, source=str(path)))
    refuse_pickle_name(path)
    if kind == NOTHING:
        raise WeightsNotFound(
            f"there is no file or folder {shown}; give a .safetensors file or a folder that holds one"
        )
    _check_file(path)
    return _bare(path, verify)


def _read_description(folder: Path, repo_id: str = "") -> WeightInfo:
    path = folder / CONFIG_NAME
    _check_file(path)
    return read_info(read_config(path), str(path), repo_id=repo_id)


def _bare(path: Path, verify: bool) -> Found:
    """A file on its own: ours carries its description in its metadata."""
    described = read_metadata(path).get("convzoo")
    if not described:
        return Found(path, None)
    info = read_info(parse_config(described, f"the metadata of {path}"), f"the metadata of {path}")
    entry = read_table()[0].get(info.name)
    if entry is not None and entry.sha256 and sha256_unless_known(path, entry.sha256, verify=verify) == entry.sha256:
        info = entry  # the very file that the table describes, and more fully
    return Found(path, replace(info, source=str(path)))


def find_entry(info: WeightInfo, access: Access) -> Found:
    """The weights that an entry of the table, or of the folders of ``CONVZOO_WEIGHTS``, describes."""
    name = info.name
    if access.revision is not None:
        return find_repository(info.repo_id, access.revision, access)  # as that version describes itself
    inside = bundled_path(name)
    if name in read_table()[0] and inside.is_file():
        check_hash(inside, info.sha256, "the package is damaged: install convzoo again", verify=access.verify)
        return Found(inside, replace(info, source="package"))
    for folder in hub_folders():
        if _holds(folder / name):
            found = find_path(folder / name, verify=access.verify)
            if found.info is None or found.info.sha256 != info.sha256:  # else find_path has compared it
                remedy = f"remove the folder {found.path.parent}, or get its right version"
                check_hash(found.path, info.sha256, remedy, verify=access.verify)
            return Found(found.path, replace(info, source=str(folder / name)))
    return find_repository(info.repo_id, info.revision, access, info)


def find_in_folders(repo_id: str, revision: str | None, access: Access) -> Found | None:
    """A repository in the folders of ``CONVZOO_WEIGHTS``, which hold one state of each."""
    owned = [repo_id.removeprefix(f"{OWNER}/")] if repo_id.startswith(f"{OWNER}/") else []
    for folder in hub_folders() if revision is None else []:
        for place in (folder / name for name in (repo_id, *owned)):
            if _holds(place):
                return find_path(place, verify=access.verify)
    return None


def find_repository(repo_id: str, revision: str | None, access: Access, info: WeightInfo | None = None) -> Found:
    """A repository in the cache or on the Hub; ``info`` where an entry describes it."""
    from .hub import Repository, Snapshot

    def use(files: Snapshot) -> Found:
        config_path = files.fetch(CONFIG_NAME)  # first: the Hub counts downloads by it
        described = info or read_info(read_config(config_path), f"{CONFIG_NAME} of {repo_id}", repo_id=repo_id)
        path = files.fetch(FILE_NAME, described.sha256)
        if files.is_new:
            read_metadata(path)  # a branch does not move to what is no safetensors file at all
        return Found(path, replace(described, revision=files.commit, source=f"{repo_id}@{files.commit}"))

    return Repository(repo_id, revision, access).read(use)
