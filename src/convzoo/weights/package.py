"""The weights that travel in the package, and where its files are."""

from __future__ import annotations

import atexit
import importlib.resources
import shutil
import tempfile
from pathlib import Path


def _package() -> Path:
    """This package's folder; of a package imported from a zip archive, a copy that is kept until the process ends."""
    here = Path(__file__).parent
    if here.is_dir():
        return here
    folder = Path(tempfile.mkdtemp(prefix="convzoo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    packed = importlib.resources.files(__package__)
    (folder / "bundled").mkdir()
    for item in [packed / "entries.json", *(packed / "bundled").iterdir()]:
        place = folder if item.name == "entries.json" else folder / "bundled"
        (place / item.name).write_bytes(item.read_bytes())
    return folder


PACKAGE = _package()
ENTRIES = PACKAGE / "entries.json"
BUNDLED = PACKAGE / "bundled"
LARGE = PACKAGE / "large"


def bundled_names() -> list[str]:
    """Names of the weights that travel in the package."""
    return sorted(path.name.removesuffix(".safetensors") for path in BUNDLED.glob("*.safetensors"))
