"""Loading a pretrained model from a local file, against the usual way: construct, read, copy.

    python benchmarks/bench_load.py                    # resnet152 and vgg19_bn
    python benchmarks/bench_load.py --models resnet50 --rounds 15
    python benchmarks/bench_load.py --only sources     # a bare file, a described folder, a cached repository

The usual way is what every library does: build the model with random weights (the layers draw them, and the model
draws them again), read the file, copy its tensors in. "Drawn once" is the same over this library's own construction,
which leaves the first draw out. Ours builds the model without numbers and hands it the mapped file's tensors. All give
the same model, which is checked first. The rounds take turns, all in this process; medians are compared. Peak memory
is measured in a fresh process each, by the growth of its largest resident size while it loads and then reads every
number once.

What people load states its hash: a folder with a ``config.json``, a repository in the Hub's cache. The second table has
these, each load in a fresh process, the processes in turn: first, when the file is hashed, and afterwards, when that is
remembered. All processes have loaded a small net in the same way before the clock starts.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from _common import Timing, markdown
from _peers import built_as_usual
from safetensors.torch import load_file, save_file

import convzoo
from convzoo.weights import hashes
from convzoo.weights.cache import RepositoryCache

COMMIT = "0" * 40


def usual(name: str, path: Path) -> torch.nn.Module:
    """Construct as other libraries do, then read and copy."""
    model = built_as_usual(name)
    model.load_state_dict(load_file(path))
    return model.eval()


def drawn_once(name: str, path: Path) -> torch.nn.Module:
    """Construct with random weights the faster way, then read and copy."""
    model = convzoo.create_model(name)
    model.load_state_dict(load_file(path))
    return model.eval()


def ours(name: str, path: Path) -> torch.nn.Module:
    """Construct empty, and hand over the mapped tensors."""
    return convzoo.create_model(name, pretrained=path)


WAYS = {"usual": usual, "drawn once": drawn_once, "ours": ours}


def read_all(model: torch.nn.Module) -> float:
    """The sum of all numbers: every page of a mapped file is read."""
    return sum(float(tensor.sum()) for tensor in model.state_dict().values())


def peak(way: str, name: str, path: Path) -> float:
    """Growth of the largest resident size of a fresh process, in bytes."""
    command = [sys.executable, __file__, "--child", way, name, str(path)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def largest_resident_size() -> int:
    """Of this process so far, in bytes. (Linux; getrusage would count what the parent had before it forked.)"""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def child(way: str, name: str, path: str) -> None:
    """What :func:`peak` runs: first a small model, so that what any loading needs is there before."""
    with tempfile.TemporaryDirectory() as folder:
        small = convzoo.save_pretrained(convzoo.create_model("lenet5"), folder, tag="small", mean=0.0, std=1.0)
        read_all(WAYS[way]("lenet5", small / "model.safetensors"))
    before = largest_resident_size()
    model = WAYS[way](name, Path(path))
    with torch.inference_mode():
        read_all(model)
    print(largest_resident_size() - before)


def folder_of(name: str, place: Path) -> Path:
    """A described folder of random weights, made if need be."""
    folder = place / name
    if not folder.exists():
        convzoo.save_pretrained(convzoo.create_model(name), folder, tag="random", mean=0.0, std=1.0)
    return folder


def load_from(source: str, name: str, place: Path) -> torch.nn.Module:
    """``name`` from one of the ``SOURCES``."""
    kind, _, when = source.partition(", ")
    verify = when == "first"
    if kind == "usual":
        return usual(name, place / name / "model.safetensors")
    if kind == "bare file":
        return ours(name, place / "bare" / f"{name}.safetensors")
    if kind == "folder":
        return convzoo.create_model(name, pretrained=place / name, verify=verify)
    repository = f"hub:someone/{name}@{COMMIT}"
    return convzoo.create_model(name, pretrained=repository, cache_dir=place / "cache", verify=verify)


SOURCES = ("usual", "bare file", "folder, first", "folder, again", "repository, first", "repository, again")


def put_in_place(name: str, place: Path) -> None:
    """The same weights as a folder, as a file without a description, and as a cached repository."""
    folder = folder_of(name, place)
    (place / "bare").mkdir(exist_ok=True)
    bare = {key: tensor.clone() for key, tensor in load_file(folder / "model.safetensors").items()}
    save_file(bare, place / "bare" / f"{name}.safetensors")
    cache = RepositoryCache(f"someone/{name}", place / "cache")
    for filename in ("config.json", "model.safetensors"):
        source = folder / filename
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        cache.add(COMMIT, filename, sha256, partial(shutil.copyfile, source))


def load_child(source: str, name: str, place: str) -> None:
    """What :func:`compare_sources` runs: milliseconds of one load, by the clock and of the processor."""
    hashes.SETTLED = 0.0  # these files were made just now
    load_from(source, "lenet5", Path(place))
    started = time.perf_counter(), time.process_time()
    load_from(source, name, Path(place))
    print(1e3 * (time.perf_counter() - started[0]), 1e3 * (time.process_time() - started[1]))


def compare_sources(name: str, rounds: int, place: Path) -> list[list[object]]:
    """A row for each of the ``SOURCES``: wall and processor time of fresh processes, and both to the usual way's."""
    for each in ("lenet5", name):
        put_in_place(each, place)
    taken: dict[str, list[list[float]]] = {source: [] for source in SOURCES}
    environment = {**os.environ, "HF_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1"}
    for index in range(-1, rounds):
        for source in SOURCES:
            command = [sys.executable, __file__, "--load-child", source, name, str(place)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            if index >= 0:
                taken[source].append([float(number) for number in done.stdout.split()])
    table = []
    for source in SOURCES:
        row: list[object] = [name if source == "usual" else "", source]
        for clock in (0, 1):
            mine, other = ([each[clock] for each in taken[which]] for which in (source, "usual"))
            low, median, high = statistics.quantiles(mine, n=4)
            ratio = statistics.median(a / b for a, b in zip(mine, other, strict=True))
            row += [Timing(median, low, high), f"{ratio:.3f}"]
        table.append(row)
    return table


def measure(name: str, rounds: int, folder: Path) -> dict[str, float]:
    """Medians of the seconds each way takes, and their peaks in memory relative to the file."""
    model = convzoo.create_model(name).eval()
    path = convzoo.save_pretrained(model, folder / name, tag="random", mean=0.0, std=1.0) / "model.safetensors"
    states = [way(name, path).state_dict().values() for way in WAYS.values()]
    if not all(torch.equal(a, c) and torch.equal(b, c) for a, b, c in zip(*states, strict=True)):
        raise RuntimeError(f"the ways of loading {name} disagree")
    del model, states
    seconds: dict[str, list[float]] = {label: [] for label in WAYS}
    for _ in range(rounds):
        for label, way in WAYS.items():
            started = time.perf_counter()
            model = way(name, path)
            seconds[label].append(time.perf_counter() - started)
            del model
    medians = {label: statistics.median(values) for label, values in seconds.items()}
    size = path.stat().st_size
    memory = {label: peak(label, name, path) / size for label in ("usual", "ours")}
    return {
        "file_mb": size / 1e6,
        "usual_s": medians["usual"],
        "drawn_once_s": medians["drawn once"],
        "ours_s": medians["ours"],
        "time_ratio": medians["ours"] / medians["usual"],
        "drawn_once_ratio": medians["ours"] / medians["drawn once"],
        "usual_peak": memory["usual"],
        "ours_peak": memory["ours"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet152", "vgg19_bn"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--only", choices=("ways", "sources"), help="one of the two tables")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--load-child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    if args.load_child:
        return load_child(*args.load_child)
    if args.only != "sources":
        compare_ways(args.models, args.rounds, args.json)
    if args.only != "ways":
        with tempfile.TemporaryDirectory() as folder:
            table = [row for name in args.models for row in compare_sources(name, args.rounds, Path(folder))]
        head = ("model", "from", "ms", "to usual", "processor, ms", "to usual")
        print(f"\n### Where the weights are\n\n{markdown(head, table)}")
    return None


def compare_ways(names: list[str], rounds: int, output: Path | None) -> None:
    """The first table."""
    results = {}
    print("| model | file, MB | usual, s | drawn once, s | ours, s | ours / usual | ours / drawn once", end=" | ")
    print("usual, peak / file | ours, peak / file |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            results[name] = measure(name, rounds, Path(folder))
            print(f"| {name} | " + " | ".join(f"{figure:.3g}" for figure in results[name].values()) + " |")
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
