"""Creating a model with random weights.

    python benchmarks/bench_create.py

Against torchvision and timm where they can be imported; where torchvision cannot, against this library's own model
built as torchvision builds it: every layer draws its parameters when it is made and the model draws them again,
GoogLeNet from a truncated normal. Wall clock, in turn, with as many threads as the framework uses: ours draws large
weights side by side, the others one after the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from _common import interleaved, machine, markdown
from _peers import THEIR_NAMES, built_as_usual, find
from torch import nn

import convzoo

MODELS = ("vgg19_bn", "resnet152", "resnet18", "googlenet_bn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    print(f"{machine(('torchvision', 'timm'))}; {torch.get_num_threads()} threads\n")
    torchvision, timm = find("torchvision"), find("timm")
    table = []
    for name in MODELS:
        builders: dict[str, Callable[[], nn.Module]] = {"convzoo": lambda name=name: convzoo.create_model(name)}
        builders["built as usual"] = lambda name=name: built_as_usual(name)
        theirs = THEIR_NAMES.get(name, name)
        if torchvision is not None:
            more = {"aux_logits": False} if theirs == "googlenet" else {}
            builders["torchvision"] = lambda theirs=theirs, more=more: (
                torchvision.models.get_model(theirs, weights=None, init_weights=True, **more)
                if theirs == "googlenet"
                else torchvision.models.get_model(theirs, weights=None)
            )
        if timm is not None and timm.is_model(name):
            builders["timm"] = lambda name=name: timm.create_model(name)
        counts = {key: sum(each.numel() for each in build().parameters()) for key, build in builders.items()}
        if len(set(counts.values())) != 1:
            raise SystemExit(f"{name} is not the same net everywhere: {counts}")
        ready = {key: lambda build=build: build for key, build in builders.items()}
        timings = interleaved(ready, args.rounds, clock=time.perf_counter)
        base = "torchvision" if "torchvision" in timings else "built as usual"
        table += [
            [name if key == "convzoo" else "", key, timing, f"{timing.median / timings[base].median:.2f}"]
            for key, timing in timings.items()
        ]
    with torch.device("meta"):
        timing = interleaved({"meta": lambda: lambda: convzoo.create_model("resnet152")}, args.rounds)["meta"]
    print(f"\n### Creation\n\n{markdown(('model', 'built by', 'ms', 'ratio'), table)}")
    print(f"\nresnet152 on the meta device, without numbers: {timing} ms.")


if __name__ == "__main__":
    main()
