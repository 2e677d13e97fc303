"""Tiny-ImageNet, or any set laid out like it, decoded once into one tensor of bytes.

The set is a number of parquet files, ``train-*.parquet`` and ``valid-*.parquet``, as the Hub's
``zh-plus/tiny-imagenet`` has them: a column ``image`` of encoded images {bytes, path}, grey or in colour, all of one
size, and a column ``label``. At 64x64 pixels the 100,000 training images are 1.23 GB, which fits any device: nothing
is decoded twice, and no worker process is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .augment import normalise


class Split(NamedTuple):
    """Images (N, 3, H, W) uint8, labels (N,) int64, and the name of every label."""

    images: Tensor
    labels: Tensor
    classes: list[str]

    def select(self, index: np.ndarray) -> Split:
        """The images at ``index``."""
        rows = torch.from_numpy(index)
        return Split(self.images[rows], self.labels[rows], self.classes)

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device), self.classes)


def find_files(source: str, split: str) -> list[Path]:
    """The parquet files of a split: of a folder, or of a data set's repository on the Hub.

    Raises:
        FileNotFoundError: there are none.
    """
    folder = Path(source)
    if folder.is_dir():
        files = sorted(folder.glob(f"{split}-*.parquet")) or sorted((folder / "data").glob(f"{split}-*.parquet"))
    elif source.count("/") == 1 and not source.startswith((".", "/")):
        from huggingface_hub import HfApi, hf_hub_download

        try:
            listed = sorted(
                name for name in HfApi().list_repo_files(source, repo_type="dataset") if name.endswith(".parquet")
            )
            names = [name for name in listed if Path(name).name.startswith(f"{split}-")]
            files = [Path(hf_hub_download(source, name, repo_type="dataset")) for name in names]
        except Exception as error:  # which, depends on the client's version
            raise FileNotFoundError(
                f"{source} cannot be fetched from the Hub ({type(error).__name__}); --data takes a folder too"
            ) from error
    else:
        raise FileNotFoundError(
            f"there is no folder {source}; --data takes a folder, or owner/name of a set on the Hub"
        )
    if not files:
        raise FileNotFoundError(
            f"{source} has no file {split}-*.parquet; --data takes a set laid out like Tiny-ImageNet"
        )
    return files


def decode(data: bytes) -> np.ndarray:
    """An encoded image as (H, W, 3) uint8; grey becomes three equal channels."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def decode_files(files: list[Path], limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The first ``limit`` images of the files, (N, 3, H, W) uint8, and their labels (N,).

    Raises:
        ValueError: the images are not all of one size.
    """
    import pyarrow.parquet as pq
    from tqdm import tqdm

    rows = sum(pq.read_metadata(file).num_rows for file in files)
    count = rows if limit is None else min(limit, rows)
    images, labels, done = np.empty((0, 3, 0, 0), np.uint8), np.empty(count, np.int64), 0
    with ThreadPoolExecutor() as pool, tqdm(total=count, desc="decode", unit="img", mininterval=1) as bar:
        for file in files:
            for batch in pq.ParquetFile(file).iter_batches(1024, columns=["image", "label"]):
                rows_here = slice(done, min(done + len(batch), count))
                encoded = batch.column("image").field("bytes").to_pylist()[: rows_here.stop - done]
                decoded = list(pool.map(decode, encoded))
                if not done and decoded:
                    images = np.empty((count, 3, *decoded[0].shape[:2]), np.uint8)
                sizes = {image.shape[:2] for image in decoded} | {images.shape[2:]}
                if len(sizes) > 1:
                    raise ValueError(f"images of {file} are of sizes {sorted(sizes)}; resize them to one size first")
                if decoded:
                    images[rows_here] = np.stack(decoded).transpose(0, 3, 1, 2)
                    labels[rows_here] = batch.column("label").to_numpy()[: len(decoded)]
                bar.update(len(decoded))
                done += len(decoded)
    return images, labels


def read_classes(file: Path) -> list[str]:
    """The names of the labels, as the Hub's ``datasets`` library notes them in a file's schema; else the numbers."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = noted.get("info", {}).get("features", {}).get("label", {}).get("names")
    if names:
        return list(names)
    labels = pq.read_table(file, columns=["label"])["label"].to_numpy()
    return [str(label) for label in range(labels.max() + 1)]


def save_array(path: Path, array: np.ndarray) -> None:
    """Write ``array`` to a temporary name, then move it: a file under ``path`` is always whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)


def load_split(source: str, split: str, *, cache: Path | None = None, limit: int | None = None) -> Split:
    """A split of the set, decoded; with ``cache`` the decoded arrays are kept in that folder for the next time.

    Args:
        source: a folder, or ``owner/name`` of a data set on the Hub.
        split: ``"train"`` or ``"valid"``.
        cache: folder of ``.npy`` files, one pair per set of parquet files (told by their names and sizes).
        limit: the first so many images only.

    Raises:
        FileNotFoundError: there is no such set.
        ValueError: the images differ in size, or a label has no name.
    """
    files = find_files(source, split)
    if cache is None:
        images, labels = decode_files(files, limit)
    else:
        told = json.dumps([[file.name, file.stat().st_size] for file in files] + [limit])
        stem = f"{split}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        pixels_path, labels_path = cache / f"{stem}.images.npy", cache / f"{stem}.labels.npy"
        if not labels_path.exists():  # written last
            cache.mkdir(parents=True, exist_ok=True)
            images, labels = decode_files(files, limit)
            save_array(pixels_path, images)
            save_array(labels_path, labels)
        images, labels = np.load(pixels_path, mmap_mode="c"), np.load(labels_path)
    classes = read_classes(files[0])
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"labels of {source} reach {labels.max()}, but {len(classes)} classes are named; mend the set")
    return Split(torch.from_numpy(images), torch.from_numpy(labels), classes)


def hold_out(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images to train on and of those to choose settings by: a tenth, the same in every run.

    Of Tiny-ImageNet's 100,000 training images, 10,000. The seed is not the run's: runs that differ in their seed are
    compared on the same images.
    """
    order = np.random.default_rng(seed).permutation(count)
    held = count // 10
    return np.sort(order[held:]), np.sort(order[:held])


@torch.inference_mode()
def count_right(
    model: nn.Module,
    split: Split,
    prepare: Callable[[Tensor], Tensor] = normalise,
    *,
    bf16: bool = False,
    batch: int = 500,
) -> tuple[int, int]:
    """How many images have their label among the model's first one, and first five, answers.

    ``prepare`` turns images (N, 3, H, W) uint8 into the model's input.
    """
    device = next(model.parameters()).device
    top1, top5 = torch.zeros(2, dtype=torch.long, device=device)
    for images, labels in zip(split.images.split(batch), split.labels.to(device).split(batch), strict=True):
        x = prepare(images.to(device)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            hits = model(x).topk(min(5, len(split.classes))).indices == labels[:, None]
        top1 += hits[:, 0].sum()
        top5 += hits.sum()
    return int(top1), int(top5)


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, in percent (Wilson 1927)."""
    z, share = 1.959964, right / count
    centre, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return tuple(100 * (centre + sign * spread) / (1 + z * z / count) for sign in (-1, 1))
