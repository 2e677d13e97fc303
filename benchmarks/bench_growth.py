"""What costs more as things grow: time and peak memory against image size, batch and number of classes.

    python benchmarks/bench_growth.py
    python benchmarks/bench_growth.py --models resnet18 --rounds 9

For creating a net, counting it, its logits and its class maps (``cam(model, images, "all")``), of everything else as
little as possible: one image, ten classes, the smallest size. Wall clock, all cores, medians; peak memory is what its
tensors take at most, the model's own apart. The last column is the exponent e of the growth between the two largest:
cost ~ n**e, where n is pixels, images or classes. 1 is linear; below, what does not grow with n prevails.

The relevance of a transformer takes a backward pass for each class, so it is not asked for 21,841 of them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from _common import interleaved, machine, markdown, peak_allocated

import convzoo

# the axis: its values, and how often as much there is of it at a value
AXES: dict[str, tuple[tuple[int, ...], Callable[[int], int]]] = {
    "image size": ((64, 128, 256, 512), lambda side: side * side),
    "batch": ((1, 4, 16, 64), lambda count: count),
    "classes": ((10, 100, 1000, 21841), lambda count: count),
}
LEAST = {axis: values[0] for axis, (values, _) in AXES.items()}


def works(name: str, size: int, batch: int, classes: int) -> dict[str, Callable[[], Any]]:
    """What is measured: by operation, a call."""

    def create() -> torch.nn.Module:
        return convzoo.create_model(name, classes, img_size=size, **options)

    options = {"stem": "imagenet"} if "stem" in convzoo.model_info(name).options else {}
    model = create().eval()
    images = torch.rand(batch, 3, size, size)

    def infer() -> torch.Tensor:
        with torch.inference_mode():
            return model(images)

    calls = {"creating": create, "counting": lambda: convzoo.profile(model, images), "logits": infer}
    if model.cam_method == "cam" or classes == LEAST["classes"]:
        calls["maps of all classes"] = lambda: convzoo.cam(model, images, "all")
    return calls


def exponent(costs: list[float], amounts: list[int]) -> str:
    """e of cost ~ amount**e between the last two; a dash where there is nothing to compare."""
    if min(costs[-2:]) < 0.05:
        return "-"
    return f"{math.log(costs[-1] / costs[-2]) / math.log(amounts[-1] / amounts[-2]):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet18,t2t_vit_7")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{machine()}; {torch.get_num_threads()} threads")
    for name in args.models.split(","):
        table = []
        for axis, (values, amount) in AXES.items():
            times: dict[str, list[float]] = {}
            peaks: dict[str, list[float]] = {}
            for value in values:
                size, batch, classes = (LEAST | {axis: value}).values()
                calls = works(name, size, batch, classes)
                ready = {key: lambda call=call: call for key, call in calls.items()}
                for key, timing in interleaved(ready, args.rounds, clock=time.perf_counter).items():
                    times.setdefault(key, []).append(timing.median)
                    peaks.setdefault(key, []).append(peak_allocated(calls[key]) / 1e6)
            amounts = [amount(value) for value in values]
            for key in [key for key, each in times.items() if len(each) == len(values)]:
                for cost, unit, form in ((times[key], "ms", ".1f"), (peaks[key], "MB", ".1f")):
                    measured = [format(each, form) for each in cost]
                    table.append([f"{key}, {unit}", axis, ", ".join(measured), exponent(cost, amounts)])
        print(f"\n### {name}\n\n{markdown(('', 'against', 'cost at each value', 'e'), table)}")
    told = "; ".join(f"{axis} {', '.join(map(str, values))}" for axis, (values, _) in AXES.items())
    print(f"\nThe values: {told}.")


if __name__ == "__main__":
    main()
