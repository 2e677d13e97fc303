"""Run the tests of the Hub with several versions of its client, ``huggingface_hub``: the lowest that is promised, the
first and the last with another HTTP library, and the newest.

    python tools/client_versions.py                    # the versions below
    python tools/client_versions.py 0.36.2 1.10.2      # others
    python tools/client_versions.py -- -m slow         # more arguments for pytest

Each version goes into a folder of its own in .cache/clients, with what it requires, and is put before the installed
one on the path: nothing of the environment changes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("0.30.0", "0.36.2", "1.0.1", "1.31.0", "2.0.0", "2.4.0")
TESTS = ("hub", "hub_faults", "hub_hostile", "hub_updates", "find", "push", "processes", "interrupts")


def install(version: str) -> Path:
    """The folder with this version of the client."""
    folder = ROOT / ".cache" / "clients" / version
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        part = folder.with_suffix(".part")
        subprocess.run([*pip, "--upgrade", "--target", str(part), f"huggingface_hub=={version}"], check=True)
        part.rename(folder)
    return folder


def run(version: str, arguments: list[str]) -> bool:
    """True if all tests passed with this version."""
    paths = [str(install(version)), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    found = "import huggingface_hub; print(huggingface_hub.__version__)"
    told = subprocess.run([sys.executable, "-c", found], env=environment, check=True, capture_output=True, text=True)
    if told.stdout.strip() != version:
        raise SystemExit(f"huggingface_hub {told.stdout.strip()} is imported, not {version}; unset PYTHONPATH")
    print(f"== huggingface_hub {version}", flush=True)
    tests = [f"tests/weights/test_{name}.py" for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def main() -> int:
    """The number of versions with which something failed."""
    given = sys.argv[1:]
    at = given.index("--") if "--" in given else len(given)
    versions, arguments = given[:at] or list(VERSIONS), given[at + 1 :]
    failed = [version for version in versions if not run(version, arguments)]
    print(f"failed with {', '.join(failed)}" if failed else f"all passed with {', '.join(versions)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
