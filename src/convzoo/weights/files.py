"""Weight files: read without trust, written in one step.

Only safetensors is read: a header of names, shapes and offsets, then plain numbers. A pickle is recognised by its
name or its first bytes and refused before anything opens it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .errors import WeightsCorrupted, WeightsNotFound, WeightsUnsafe

SMALL = 1 << 16  # bytes
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
PICKLES = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".tar")


def sha256_of(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def git_sha1_of(path: Path) -> str:
    """The name that git gives the file's content: what the Hub states for files it does not keep in LFS."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def check_hash(path: Path, sha256: str | None, remedy: str) -> None:
    """Refuse a file whose hash is not the one stated for it.

    Raises:
        WeightsCorrupted: another hash.
    """
    if sha256 is None:
        return
    found = sha256_of(path)
    if found != sha256:
        raise WeightsCorrupted(f"{path} has sha256 {found[:12]}..., it should be {sha256[:12]}...; {remedy}")


def refuse_pickle_name(path: Path) -> None:
    """Refuse a file by its ending.

    Raises:
        WeightsUnsafe: a pickle's.
    """
    if path.suffix.lower() in PICKLES:
        raise WeightsUnsafe(
            f"{path} is a pickle by its name, and opening a pickle can run code; only .safetensors files are read: "
            "convert it where you trust it (torch.load, then safetensors.torch.save_file)"
        )


def _explain(path: Path, error: object) -> WeightsCorrupted | WeightsUnsafe:
    """What a file that is not safetensors looks like, from its first bytes."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[:1] == b"\x80" or start[:4] == b"PK\x03\x04":
        return WeightsUnsafe(
            f"{path} is a pickle or a zip of pickles, whatever its name; opening one can run code, so it is refused: "
            "get the .safetensors file"
        )
    if not start:
        what = "it is empty"
    elif start.startswith(b"version https://git-lfs"):
        what = "it is a git-lfs pointer; fetch the content with: git lfs pull"
    elif start.lstrip()[:1] == b"<":
        what = "it is a web page"
    else:
        what = str(error)
    return WeightsCorrupted(f"{path} is not a sound safetensors file ({what}); fetch or write it again")


@contextlib.contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Turn whatever a malformed file provokes into WeightsCorrupted."""
    refuse_pickle_name(path)
    if not path.is_file():
        raise WeightsNotFound(f"there is no file {path}; give a .safetensors file, or a folder that holds one")
    from safetensors import SafetensorError

    try:
        yield
    except (WeightsCorrupted, WeightsUnsafe):
        raise
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError) as error:
        raise _explain(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The file's metadata: text by name.

    Raises:
        WeightsCorrupted: not a sound safetensors file.
        WeightsUnsafe: a pickle.
        WeightsNotFound: no such file.
    """
    from safetensors import safe_open

    with _checked(path), safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def read_tensors(path: Path, *, mmap: bool = True) -> dict[str, Tensor]:
    """The file's tensors by name.

    Args:
        path: the file.
        mmap: map the file, so that its pages are read when they are used; else read it whole. Writing into a
            mapped tensor does not reach the file, and replacing the file by renaming does not reach the tensor,
            but a file cut short while it is mapped ends the process.

    Raises:
        WeightsCorrupted: not a sound safetensors file.
        WeightsUnsafe: a pickle.
        WeightsNotFound: no such file.
    """
    from safetensors import safe_open
    from safetensors.torch import load

    with _checked(path):
        if not mmap:
            return load(path.read_bytes())
        with path.open("rb") as raw, safe_open(path, framework="pt") as file:
            small = {}
            if os.path.samestat(os.fstat(raw.fileno()), path.stat()):  # not replaced between the two openings
                small = _read_small(raw)
            return {key: small[key] if key in small else file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _read_small(raw: BinaryIO) -> dict[str, Tensor]:
    """The small tensors of a sound file, copied: mapping one costs ten times as much, and a deep net has hundreds."""
    header = json.loads(raw.read(int.from_bytes(raw.read(8), "little")))
    header.pop("__metadata__", None)
    data, small = raw.tell(), {}
    for key, entry in header.items():
        dtype, (begin, end) = DTYPES.get(entry["dtype"]), entry["data_offsets"]
        if dtype is not None and 0 < end - begin <= SMALL:
            raw.seek(data + begin)
            small[key] = torch.frombuffer(bytearray(raw.read(end - begin)), dtype=dtype).view(entry["shape"])
    return small


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, moved onto it if all went well and removed if not."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp and safetensors write for the owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file in one step; the metadata's values become JSON unless they are text.

    Tensors are stored contiguous, and those that share memory each on its own, as the format wants.
    """
    from safetensors.torch import save_file

    stored: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        stored[key] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    with replacing(path) as temporary:
        save_file(stored, temporary, metadata=texts)
