"""Weight files: read without trust, written in one step.

By default only safetensors is read: a header of names, shapes and offsets, then plain numbers. A pickle is recognised
by its name or its first bytes and refused before anything opens it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import pickle
import re
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .errors import (
    WeightsCorrupted,
    WeightsForbidden,
    WeightsMismatch,
    WeightsNotFound,
    WeightsUnavailable,
    WeightsUnsafe,
)
from .hashes import sha256_unless_known

SMALL = 1 << 16  # bytes
MAX_HEADER = 16 << 20  # bytes; a header of 10,000 tensors takes one million
MAX_TENSORS = 20_000
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
PICKLES = (".bin", ".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".tar")
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR, errno.EINVAL)
SAFE_PICKLES = (2, 6)  # the torch whose weights_only=True runs no code of the file's (CVE-2025-32434)


def git_sha1_of(path: Path) -> str:
    """The name that git gives the file's content: what the Hub states for files it does not keep in LFS."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def check_hash(path: Path, sha256: str | None, remedy: str, *, verify: bool = False) -> None:
    """Refuse a file whose hash is not the one stated for it; ``verify`` as in :func:`sha256_unless_known`.

    Raises:
        WeightsCorrupted: another hash.
        WeightsError: the file cannot be read, see :func:`reading`.
    """
    if sha256 is None:
        return
    with reading(path):
        found = sha256_unless_known(path, sha256, verify=verify)
    if found != sha256:
        raise WeightsCorrupted(f"{_short(path)} has sha256 {found[:12]}..., it should be {sha256[:12]}...; {remedy}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the file system says about ``path`` into an error of our family.

    Raises:
        WeightsNotFound: there is no such file, or there cannot be one.
        WeightsForbidden: it may not be read.
        WeightsUnavailable: reading fails.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error, PermissionError):
            raise WeightsForbidden(f"{_short(path)} may not be read ({reason}); change its permissions") from error
        if error.errno in NOT_THERE:
            raise WeightsNotFound(
                f"{_short(path)} cannot be found ({reason}); give a .safetensors file or a folder that holds one"
            ) from error
        raise WeightsUnavailable(f"{_short(path)} cannot be read now ({reason}); try again, or copy it") from error


def _check_regular(path: Path) -> None:
    """Refuse a folder, a pipe (which may never end), a device, or a name that no file can have."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a null character
        raise WeightsNotFound(f"{_short(path)!r} is no name of a file ({error}); give a .safetensors file") from error
    if not stat.S_ISREG(mode):
        raise WeightsNotFound(f"{_short(path)} is no regular file but a folder, a pipe or a device; give a file")


def _short(what: object) -> str:
    """A path or a message, without the middle of a long one."""
    text = str(what)
    return text if len(text) <= 300 else f"{text[:140]}...{text[-140:]}"


def refuse_pickle_name(path: Path) -> None:
    """Refuse a file by its ending.

    Raises:
        WeightsUnsafe: a pickle's.
    """
    if path.suffix.lower() in PICKLES:
        raise WeightsUnsafe(
            f"{_short(path)} is a pickle by its name, and opening a pickle can run code; only .safetensors files are "
            "read: get or make one (safetensors.torch.save_file), or, for a file of tensors alone, "
            "load_weights(model, path, unsafe_format=True)"
        )


def _diagnose(path: Path, error: object) -> WeightsCorrupted | WeightsUnsafe:
    """What a file that is not safetensors looks like, from its first bytes."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[:4] == b"PK\x03\x04" or _starts_a_pickle(start):
        return WeightsUnsafe(
            f"{_short(path)} is a pickle or a zip of pickles, whatever its name; opening one can run code, so it is "
            "refused: get the .safetensors file, or, for a file of tensors alone, load_weights(model, path, "
            "unsafe_format=True)"
        )
    if not start:
        what = "it is empty"
    elif start.startswith(b"version https://git-lfs"):
        what = "it is a git-lfs pointer; fetch the content with: git lfs pull"
    elif start.lstrip()[:1] == b"<":
        what = "it is a web page"
    else:
        what = _short(error)
    return WeightsCorrupted(f"{_short(path)} is not a sound safetensors file ({what}); fetch or write it again")


def _starts_a_pickle(start: bytes) -> bool:
    """Whether these are 0x80, a protocol of 2 to 5, an instruction, and more. Where a safetensors file has a header of
    such a length, a brace stands behind its eight bytes, if it was not cut there; a short length has zeros in them."""
    if start[:1] != b"\x80" or start[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05") or start[2:3] <= b"\0":
        return False
    return start[8:9] != b"{" if len(start) > 8 else start.endswith(b".")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file; whatever a malformed or unreadable one provokes becomes an error of our family."""
    refuse_pickle_name(path)
    from safetensors import SafetensorError

    with reading(path):
        _check_regular(path)
        try:
            with path.open("rb") as raw:
                yield raw
        except (
            SafetensorError,
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise _diagnose(path, error) from error


def _read_header(raw: BinaryIO) -> dict[str, Any]:
    """The header: for each tensor its dtype, shape and offsets, and ``__metadata__``; ``raw`` is left at its end."""
    length = int.from_bytes(raw.read(8), "little")
    if not 2 <= length <= MAX_HEADER:
        raise ValueError(f"a header of {length:,} bytes, where 2 to {MAX_HEADER:,} are allowed")
    return _parse_header(raw.read(length))


@functools.lru_cache(maxsize=1)  # a file's is read for its metadata, then for its tensors
def _parse_header(text: bytes) -> dict[str, Any]:
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError(f"a header that is no object but a {type(header).__name__}")
    if len(header) > MAX_TENSORS:
        raise ValueError(f"{len(header):,} tensors, where at most {MAX_TENSORS:,} are allowed")
    return header


def read_metadata(path: Path) -> dict[str, str]:
    """The file's metadata: text by name.

    Raises:
        WeightsCorrupted: not a sound safetensors file.
        WeightsUnsafe: a pickle.
        WeightsError: the file cannot be read, see :func:`reading`.
    """
    with _opened(path) as raw:
        metadata = _read_header(raw).get("__metadata__") or {}
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata that is not text by name")
        return dict(metadata)


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
        WeightsError: the file cannot be read, see :func:`reading`.
    """
    from safetensors import safe_open
    from safetensors.torch import load

    with _opened(path) as raw:
        header = _read_header(raw)
        if not mmap:
            raw.seek(0)
            return load(raw.read())
        with safe_open(path, framework="pt") as file:  # this checks the whole header
            if not os.path.samestat(os.fstat(raw.fileno()), path.stat()):
                header = {}  # replaced between the two openings
            small = _read_small(raw, header)
            return {key: small[key] if key in small else file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _read_small(raw: BinaryIO, header: Mapping[str, Any]) -> dict[str, Tensor]:
    """The small tensors of a sound file, copied: mapping one costs ten times as much, and a deep net has hundreds."""
    data, small = raw.tell(), {}
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        dtype, (begin, end) = DTYPES.get(entry["dtype"]), entry["data_offsets"]
        if dtype is not None and 0 < end - begin <= SMALL:
            raw.seek(data + begin)
            small[key] = torch.frombuffer(bytearray(raw.read(end - begin)), dtype=dtype).view(entry["shape"])
    return small


def read_pickle(path: Path) -> Mapping[str, Any]:
    """What a file of ``torch.save`` holds, read with ``weights_only=True``: tensors and plain values, no other objects.

    Raises:
        WeightsUnsafe: the file holds other objects, or this torch cannot keep their code from running.
        WeightsCorrupted: it is not such a file.
        WeightsMismatch: it holds no mapping.
        WeightsError: the file cannot be read, see :func:`reading`.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_PICKLES:
        raise WeightsUnsafe(
            f"torch {torch.__version__} can be made to run code that is in a pickle even with weights_only=True "
            "(CVE-2025-32434); update to torch 2.6 or later"
        )
    with reading(path):
        _check_regular(path)
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).strip().partition("\n")[0]
            raise WeightsUnsafe(
                f"{path} holds more than tensors and plain values, so it is not opened ({_short(reason)}); ask for a "
                "file of the state dict alone, or open it where you trust it and pass the state dict"
            ) from error
        except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise WeightsCorrupted(
                f"{path} is no file that torch.save wrote ({_short(error)}); get another copy"
            ) from error
    if not isinstance(loaded, Mapping):
        raise WeightsMismatch(f"{path} holds one {type(loaded).__name__}, not tensors by name; save a state dict")
    return loaded


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, moved onto it if all went well and removed if not."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        error.filename = str(path)  # the name that the caller knows
        raise
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        share(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def share(path: Path) -> None:
    """Give a file the permissions that a new file has; ``mkstemp`` and safetensors write for the owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a safetensors file in one step; the metadata's values become JSON unless they are text.

    Tensors are stored contiguous, and those that share memory each on its own, as the format wants.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors import SafetensorError
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
        try:
            save_file(stored, temporary, metadata=texts)
        except SafetensorError as error:  # its word for whatever the file system says
            found = re.search(r"os error (\d+)", str(error))
            code = int(found[1]) if found else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from error
