"""For maintainers, in a checkout: put trained weights into the package, and publish the package's weights.

    python tools/bundle.py add weights/hub/lenet5.mnist     # the file, its log, and its entry in entries.json
    python tools/bundle.py add --entry-only weights/hub/resnet18.tiny_imagenet
    python tools/bundle.py publish lenet5.mnist weights/hub/resnet18.tiny_imagenet

``publish`` uploads folders, or weights of the package, to the owner's account, and pins their entries to the commits.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import convzoo
from convzoo import WeightInfo, WeightsNotFound
from convzoo.weights import entries
from convzoo.weights.entries import FILE_NAME, OWNER, bundled_path, read_table
from convzoo.weights.files import replacing, write_text
from convzoo.weights.find import CONFIG_NAME, find_path
from convzoo.weights.hashes import sha256_of
from convzoo.weights.publish import LOG_NAME, write_repository

PACKAGE_LIMIT = 16_000_000  # bytes of weights that travel in the package


def write_table(table: Mapping[str, WeightInfo], defaults: Mapping[str, str]) -> None:
    """Write ``entries.json`` anew, in one step."""
    content = {
        "schema": 1,
        "defaults": dict(sorted(defaults.items())),
        "weights": {name: table[name].to_json() for name in sorted(table)},
    }
    write_text(entries.ENTRIES, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def bundle(folder: str | os.PathLike[str], *, default: bool | None = None, copy: bool = True) -> WeightInfo:
    """Put a folder that ``save_pretrained`` wrote into the package: its file, its log, its entry in the table.

    The weights are loaded once first, so that what does not load does not get in.

    Args:
        folder: with ``model.safetensors`` and ``config.json``, and the training's ``log.json`` if there is one.
        default: make these what ``pretrained=True`` means; None: if the architecture has no default yet.
        copy: False writes the entry alone, for weights that live on the Hub or in ``weights/hub``.

    Returns:
        The entry.

    Raises:
        WeightsError: the folder is not sound, or does not fit its architecture.
        ValueError: the package would outgrow its limit.
    """
    folder = Path(folder)
    info = find_path(folder).info
    if info is None or not info.tag:
        raise WeightsNotFound(f"the folder {folder} has no {CONFIG_NAME} with a tag; write it with save_pretrained")
    convzoo.create_model(info.architecture, pretrained=folder)
    source, target = folder / FILE_NAME, bundled_path(info.name)
    table, defaults = (dict(part) for part in read_table())
    before = table.get(info.name)
    sha256 = sha256_of(source)
    info = replace(
        info,
        repo_id=f"{OWNER}/{info.name}",
        sha256=sha256,
        size=source.stat().st_size,
        revision=before.revision if before and before.sha256 == sha256 else None,
        source="",
    )
    if copy:
        total = source.stat().st_size
        total += sum(path.stat().st_size for path in target.parent.glob("*.safetensors") if path != target)
        if total > PACKAGE_LIMIT:
            raise ValueError(
                f"the package's weights would take {total:,} bytes, {PACKAGE_LIMIT:,} are allowed; keep these on the "
                "Hub (--entry-only)"
            )
        target.parent.mkdir(exist_ok=True)
        for origin, place in ((source, target), (folder / LOG_NAME, target.with_suffix(".json"))):
            if origin.is_file():
                with replacing(place) as temporary:
                    shutil.copyfile(origin, temporary)
    table[info.name] = info
    if default or (default is None and info.architecture not in defaults):
        defaults[info.architecture] = info.tag
    write_table(table, defaults)
    return info


def pin(name: str, commit: str) -> None:
    """Write into the table that the weights ``name`` are published as ``commit``."""
    table, defaults = read_table()
    write_table({**table, name: replace(table[name], revision=commit)}, defaults)


def export_bundled(name: str, folder: str | os.PathLike[str]) -> Path:
    """Write weights of the package as a repository, the file byte for byte as the entry pins it.

    Raises:
        WeightsNotFound: the package has none of that name.
    """
    info = convzoo.weight_info(name)
    source = bundled_path(name)
    if not source.is_file():
        raise WeightsNotFound(f"the weights {name} do not travel in the package; download them from {info.repo_id}")
    model = convzoo.create_model(name, pretrained=True)
    return write_repository(Path(folder), model, info, lambda path: shutil.copyfile(source, path))


def publish(source: str, owner: str = OWNER, *, private: bool = False) -> str:
    """Upload a folder, or weights of the package; the entry of the table is pinned if it is the same file.

    Returns:
        ``owner/name@commit``.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(source) if Path(source).is_dir() else export_bundled(source, Path(temporary) / source)
        found = find_path(folder).info
        name = found.name if found else folder.name
        commit = convzoo.push_to_hub(folder, f"{owner}/{name}", private=private)
    entry = read_table()[0].get(name)
    if owner == OWNER and found and entry and entry.sha256 == found.sha256:
        pin(name, commit)
    return f"{owner}/{name}@{commit}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="put trained weights into the package")
    add.add_argument("sources", nargs="+", metavar="FOLDER", help="a folder that save_pretrained wrote")
    add.add_argument("--default", action="store_true", default=None, help="make them what pretrained=True means")
    add.add_argument("--entry-only", action="store_true", help="write the entry, leave the file where it is")
    upload = commands.add_parser("publish", help="upload weights to the Hub and pin their entries")
    upload.add_argument("sources", nargs="+", metavar="SOURCE", help="such a folder, or weights of the package")
    upload.add_argument("--owner", default=OWNER, help=f"account or organisation (default {OWNER})")
    upload.add_argument("--private", action="store_true", help="make new repositories private")
    args = parser.parse_args(argv)
    for source in args.sources:
        if args.command == "add":
            info = bundle(source, default=args.default, copy=not args.entry_only)
            print(f"{info.name}: {info.size:,} bytes, sha256 {info.sha256}")
        else:
            print(publish(source, args.owner, private=args.private))


if __name__ == "__main__":
    main()
