"""A folder that holds one folder of pictures per class."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import convzoo


def split(folder: Path) -> tuple[list[str], list[Path], list[Path]]:
    """The classes, the pictures to train on, and those to measure on: every fifth of a fixed shuffle."""
    classes = sorted(each.name for each in folder.glob("*/") if each.is_dir())
    files = sorted(file for file in folder.glob("*/*") if file.suffix.lower() in Image.registered_extensions())
    if len(classes) < 2 or len(files) < 10:
        raise SystemExit(f"{folder} holds {len(classes)} folders with {len(files)} pictures; it needs 2 and 10")
    random.Random(0).shuffle(files)
    return classes, [file for number, file in enumerate(files) if number % 5], files[::5]


class Pictures(Dataset[tuple[Tensor, int]]):
    """Files as a net reads them, with the numbers of their classes; read once, and kept."""

    def __init__(self, files: list[Path], classes: list[str], transform: convzoo.Transform) -> None:
        self.items = [(self.read(file, transform), classes.index(file.parent.name)) for file in files]

    @staticmethod
    def read(file: Path, transform: convzoo.Transform) -> Tensor:
        try:
            with Image.open(file) as picture:
                return transform(picture)
        except OSError as error:
            raise SystemExit(f"{file} is no picture that can be read: {error}") from None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.items[index]
