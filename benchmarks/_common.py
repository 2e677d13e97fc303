"""What the benchmarks share: interleaved runs, medians with their spread, the machine, tables.

Every comparison is a ratio taken in one run: round after round each candidate runs once, in rotating order, so that
whatever else the machine is doing falls on all alike. Times are processor time of this process unless a script asks
for the wall clock; on a shared machine the wall clock measures the neighbours too.
"""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Timing(NamedTuple):
    """Milliseconds: the median of the rounds, and the quartiles around it."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.low:.1f}-{self.high:.1f})"


def interleaved(
    candidates: Mapping[str, Callable[[], Callable[[], Any]]],
    rounds: int = 9,
    warmup: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Timing]:
    """Time candidates side by side; as :mod:`timeit` does, with the garbage collector off while the clock runs.

    Args:
        candidates: by name, a function that makes ready (not timed) and returns what is timed.
        rounds: times that each runs.
        warmup: rounds before, not counted.
        clock: ``time.process_time`` or ``time.perf_counter``.
    """
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for index in range(-warmup, rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            work = candidates[name]()
            gc.collect()
            gc.disable()
            start = clock()
            work()
            stop = clock()
            gc.enable()
            if index >= 0:
                taken[name].append(1e3 * (stop - start))
    timings = {}
    for name, times in taken.items():
        low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
        timings[name] = Timing(median, low, high)
    return timings


def peak_growth(work: Callable[[], Any]) -> float:
    """Megabytes that the process's resident memory grows by at most while ``work`` runs (Linux)."""
    gc.collect()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as control:  # noqa: PTH123 - a kernel interface
        control.write("5")  # resets the high-water mark
    before = memory("VmRSS")
    work()
    return (memory("VmHWM") - before) / 1e3


def peak_allocated(work: Callable[[], Any]) -> int:
    """Most bytes of tensors that ``work`` held at once, beyond those before it; memory that is used again counts."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def memory(field: str) -> int:
    """A field of /proc/self/status, in kB."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - a kernel interface
        return next(int(line.split()[1]) for line in status if line.startswith(f"{field}:"))


def machine(packages: Iterable[str] = ()) -> str:
    """One line: processor, cores, and the versions of Python, torch and ``packages``."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # noqa: PTH110 - a kernel interface
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", *packages):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    return f"{model}, {os.cpu_count()} cores; {', '.join(versions)}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; all columns but the first to the right."""
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)
