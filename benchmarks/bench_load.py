"""Loading a pretrained model from a local file, against the usual way: construct, read, copy.

    python benchmarks/bench_load.py                    # resnet152 and vgg19_bn
    python benchmarks/bench_load.py --models resnet50 --rounds 15

The usual way is what every library does: build the model with random weights (the layers draw them, and the model
draws them again), read the file, copy its tensors in. "Drawn once" is the same over this library's own construction,
which leaves the first draw out. Ours builds the model without numbers and hands it the mapped file's tensors. All give
the same model, which is checked first. The rounds take turns, all in this process; medians are compared. Peak memory
is measured in a fresh process each, by the growth of its largest resident size while it loads and then reads every
number once.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _peers import built_as_usual
from safetensors.torch import load_file

import convzoo


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
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(*args.child)
    results = {}
    print("| model | file, MB | usual, s | drawn once, s | ours, s | ours / usual | ours / drawn once", end=" | ")
    print("usual, peak / file | ours, peak / file |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            results[name] = measure(name, args.rounds, Path(folder))
            print(f"| {name} | " + " | ".join(f"{figure:.3g}" for figure in results[name].values()) + " |")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
