"""All benchmarks, and the page they make: docs/notes/benchmarks.md.

    python benchmarks/run.py            # all of them
    python benchmarks/run.py --only inference,create --rounds 5

Each script runs in a process of its own; what it prints is its part of the page. One that fails leaves a line that says
so, and the page is written all the same. With ``--only``, the other parts of a page that is there stay as they are, if
they come from the same machine and versions.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import subprocess
import sys
import time
from pathlib import Path

from _common import machine

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "notes" / "benchmarks.md"
COMPILED = "resnet18,resnet50"
# script: title, and the arguments that keep the whole at under thirty minutes on two cores
PARTS = {
    "start": ("Starting", ("--rounds", "5")),
    "create": ("Creating", ()),
    "inference": ("Inference", ("--rounds", "5", "--compile", COMPILED)),
    "training_step": ("A training step", ()),
    "load": ("Loading weights", ("--rounds", "5")),
    "profile": ("Counting", ()),
    "cam": ("Class activation maps", ("threads", "memory", "speed", "--rounds", "7")),
    "growth": ("Cost that grows", ()),
}
INTRODUCTION = """---
hide: [toc]
---

# All benchmarks

Written by `make benchmark` (`python benchmarks/run.py`), which runs every script in `benchmarks/` and puts down what it
prints; [How fast it is](../speed.md) has the figures that help to choose. All figures are ratios from one run, the
candidates taking turns: of medians, or, of whole processes, the median of the rounds' ratios; in brackets the
quartiles. Figures of another machine are others: run it on yours. Libraries that could not be imported here are named
and left out.

Where torchvision could be imported it is the baseline, with the same weights. Where not, the tables say "plain" or
"built as usual": its nets have the same graphs, so its stand-in is this library's plain model, run operator by
operator.
"""


def run(name: str, arguments: tuple[str, ...], limit: float) -> str:
    """What a script prints; or a line that tells why it does not."""
    command = [sys.executable, str(HERE / f"bench_{name}.py"), *arguments]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=limit, cwd=HERE.parent, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"(stopped after {limit:.0f} s)"
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return f"{done.stdout.strip()}\n\n(failed: {last})"
    printed = done.stdout.strip()
    return printed if "| ---" in printed else f"```text\n{printed}\n```"


def sections(page: Path, heading: str) -> dict[str, str]:
    """The parts of a page by their titles; none of a page with another heading."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if heading not in text:
        return {}
    parts = text.split("\n## ")[1:]
    return {part.splitlines()[0]: f"## {part.strip()}" for part in parts}


def write(page: Path, text: str) -> None:
    """``text`` into ``page``, by way of a temporary name."""
    fresh = page.with_suffix(".tmp")
    try:
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(page)
    finally:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="names of scripts, without bench_")
    parser.add_argument("--rounds", help="rounds of each, instead of its own")
    parser.add_argument("--limit", type=float, default=1500.0, help="seconds that a script may take")
    parser.add_argument("--output", type=Path, default=PAGE)
    args = parser.parse_args()
    unknown = set(args.only.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"unknown benchmark {min(unknown)!r}; they are {', '.join(PARTS)}")
    today = datetime.datetime.now(datetime.timezone.utc).date()
    heading = f"{machine()}."
    parts = [INTRODUCTION, heading]
    before = sections(args.output, heading)
    for name, (title, arguments) in PARTS.items():
        if name not in args.only.split(","):
            if title in before:
                parts.append(before[title])
            continue
        if args.rounds and name != "cam":
            arguments = ("--rounds", args.rounds)
        start = time.perf_counter()
        parts.append(f"## {title}\n\nRun on {today}.\n\n{run(name, arguments, args.limit)}")
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    write(args.output, "\n\n".join(parts) + "\n")
    print(f"{args.output} written")


if __name__ == "__main__":
    main()
