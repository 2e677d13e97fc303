"""Where weights come from, in this order: a path, the package, a folder of repositories, the cache, the Hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import entries
from .client import check_token
from .entries import FILE_NAME, OWNER, WeightInfo, bundled_path, read_table, weight_info
from .errors import WeightsError, WeightsNotFound
from .files import check_hash, read_metadata, refuse_pickle_name
from .schema import parse_config, read_config, read_info

CONFIG_NAME = "config.json"


@dataclass(frozen=True)
class Access:
    """How the Hub is asked: the client's own arguments, with their usual meaning."""

    token: str | bool | None = field(default=None, repr=False)
    local_files_only: bool = False
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", check_token(self.token))


@dataclass(frozen=True)
class Found:
    """A checked weight file and what is known of it; nothing for a bare file without a description."""

    path: Path
    info: WeightInfo | None


def bundled_names() -> list[str]:
    """Names of the weights that travel in the package."""
    return sorted(path.name.removesuffix(".safetensors") for path in entries.BUNDLED.glob("*.safetensors"))


def hub_folders() -> list[Path]:
    """Folders of repositories in the Hub's layout: those in ``CONVZOO_WEIGHTS``, and ``weights/hub`` of a checkout."""
    folders = [Path(name).expanduser() for name in os.environ.get("CONVZOO_WEIGHTS", "").split(os.pathsep) if name]
    checkout = Path(__file__).parents[3]
    if (checkout / "pyproject.toml").is_file() and (checkout / "src" / "convzoo").is_dir():
        folders.append(checkout / "weights" / "hub")
    return [folder for folder in folders if folder.is_dir()]


def folder_entries() -> dict[str, WeightInfo]:
    """The weights in :func:`hub_folders` by name; what cannot be read is left out."""
    found: dict[str, WeightInfo] = {}
    for folder in hub_folders():
        for path in sorted(folder.glob(f"*/{CONFIG_NAME}")):
            try:
                info = read_info(read_config(path), str(path), repo_id=f"{OWNER}/{path.parent.name}")
            except WeightsError:
                continue
            if info.name == path.parent.name and (path.parent / FILE_NAME).is_file():
                found.setdefault(info.name, info)
    return found


def looks_like_path(source: str) -> bool:
    """True for what names a file or folder rather than a tag or a repository."""
    path = Path(source).expanduser()
    if path.suffix.lower() == ".safetensors" or source.startswith((".", "~", os.sep)) or path.is_absolute():
        return True
    if path.exists() and "/" in source:
        return True
    try:
        refuse_pickle_name(path)
    except WeightsError:
        return True
    return False


def find_path(path: Path) -> Found:
    """A folder in a repository's layout, or a ``.safetensors`` file.

    Raises:
        WeightsNotFound: nothing there.
        WeightsUnsafe: a pickle.
        WeightsCorrupted: not the file its ``config.json`` states, or not sound.
    """
    path = path.expanduser()
    if path.is_dir():
        config_path, file = path / CONFIG_NAME, path / FILE_NAME
        if not file.is_file():
            raise WeightsNotFound(f"the folder {path} holds no {FILE_NAME}; only safetensors weights are read")
        if not config_path.is_file():
            return _bare(file)
        info = read_info(read_config(config_path), str(config_path))
        check_hash(file, info.sha256, f"its {CONFIG_NAME} states another file: get the two of one version")
        return Found(file, replace(info, source=str(path)))
    refuse_pickle_name(path)
    if not path.is_file():
        raise WeightsNotFound(f"there is no file or folder {path}; give a .safetensors file or a folder that holds one")
    return _bare(path)


def _bare(path: Path) -> Found:
    """A file on its own: ours carries its description in its metadata."""
    described = read_metadata(path).get("convzoo")
    if not described:
        return Found(path, None)
    info = read_info(parse_config(described, f"the metadata of {path}"), f"the metadata of {path}")
    return Found(path, replace(info, source=str(path)))


def find_tag(name: str, access: Access) -> Found:
    """The weights ``architecture.tag``.

    Raises:
        WeightsError: each kind of it, see :mod:`convzoo.weights.errors`.
    """
    info = weight_info(name)
    inside = bundled_path(name)
    if name in read_table()[0] and inside.is_file():
        check_hash(inside, info.sha256, "the package is damaged: install convzoo again")
        return Found(inside, replace(info, source="package"))
    for folder in hub_folders():
        if (folder / name / FILE_NAME).is_file():
            found = find_path(folder / name)
            check_hash(found.path, info.sha256, f"remove the folder {found.path.parent}, or get its right version")
            return Found(found.path, replace(info, source=str(folder / name)))
    return find_repository(info.repo_id, info.revision, access, info)


def find_repository(repo_id: str, revision: str | None, access: Access, info: WeightInfo | None = None) -> Found:
    """A repository in a folder of them, in the cache or on the Hub; ``info`` where an entry describes it.

    Raises:
        WeightsError: each kind of it, see :mod:`convzoo.weights.errors`.
    """
    if info is None and revision is None:
        for folder in hub_folders():
            owned = [repo_id.removeprefix(f"{OWNER}/")] if repo_id.startswith(f"{OWNER}/") else []
            for place in (folder / name for name in (repo_id, *owned)):
                if (place / FILE_NAME).is_file():
                    return find_path(place)
    from .hub import Repository, Snapshot

    def use(files: Snapshot) -> Found:
        config_path = files.fetch(CONFIG_NAME)  # first: the Hub counts downloads by it
        described = info or read_info(read_config(config_path), f"{CONFIG_NAME} of {repo_id}", repo_id=repo_id)
        path = files.fetch(FILE_NAME, described.sha256)
        read_metadata(path)  # what is not safetensors at all is not used
        return Found(path, replace(described, revision=files.commit, source=f"{repo_id}@{files.commit}"))

    return Repository(repo_id, revision, access).read(use)


def split_repository(source: str) -> tuple[str, str | None]:
    """``owner/name[@revision]`` as repository id and revision.

    Raises:
        WeightsNotFound: it is not of that form.
    """
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@(.+))?", source)
    if not match:
        raise WeightsNotFound(
            f"pretrained={source!r} names neither a tag, a folder, a .safetensors file nor a repository of the Hub; "
            "a repository is written 'owner/name' or 'owner/name@revision'"
        )
    return match[1], match[2]
