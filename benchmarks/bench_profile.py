"""Counters side by side: time, memory, and whether the figures are right.

Run from the repository with the peers installed (those that are not are named and left out):

    pip install -e ".[benchmark]"
    python benchmarks/bench_profile.py > profile.md

Each peer runs in every mode it has, on the CPU and on the meta device, always on a fresh copy of the model, because
some leave hooks behind; making the copy is not timed. One thread.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import inspect
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _common import interleaved, machine, markdown, peak_growth
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convzoo

FIXTURE = Path(__file__).parent.parent / "tests" / "fixtures" / "macs.csv"
Counter = Callable[[nn.Module, torch.Tensor], tuple[int | None, int | None]]  # MACs, parameters


def ours(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    result = convzoo.profile(model, x)
    return result.macs, result.params


def operators(model: nn.Module, x: torch.Tensor) -> tuple[int, None]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2, None


def thop_counter() -> Counter:
    import thop

    def count(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
        macs, params = thop.profile(model, (x,), verbose=False)
        return round(macs), round(params)

    return count


def torchinfo_counter() -> Counter:
    import torchinfo

    def count(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
        statistics = torchinfo.summary(model, input_data=x, device=x.device, verbose=0, cache_forward_pass=False)
        return statistics.total_mult_adds, statistics.total_params

    return count


def fvcore_counter() -> Counter:
    from fvcore.nn import FlopCountAnalysis, parameter_count

    logging.getLogger("fvcore").setLevel(logging.ERROR)

    def count(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
        analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return round(analysis.total()), parameter_count(model)[""]

    return count


def ptflops_counter(backend: str) -> Counter:
    from ptflops import get_model_complexity_info

    def count(model: nn.Module, x: torch.Tensor) -> tuple[int | None, int | None]:
        name = next(iter(inspect.signature(model.forward).parameters))
        macs, params = get_model_complexity_info(
            model, tuple(x.shape[1:]), as_strings=False, print_per_layer_stat=False, verbose=False, backend=backend,
            input_constructor=lambda _: {name: x},
        )  # fmt: skip
        return (None if macs is None else round(macs)), (None if params is None else round(params))

    return count


def calflops_counter() -> Counter:
    from calflops import calculate_flops

    def count(model: nn.Module, x: torch.Tensor) -> tuple[int, int]:
        _, macs, params = calculate_flops(model, args=[x], print_results=False, output_as_string=False)
        return round(macs), round(params)

    return count


PEERS: dict[str, tuple[str, Callable[[], Counter]]] = {
    "thop": ("thop", thop_counter),
    "torchinfo": ("torchinfo", torchinfo_counter),
    "fvcore": ("fvcore", fvcore_counter),
    "ptflops": ("ptflops", lambda: ptflops_counter("pytorch")),
    "ptflops (aten)": ("ptflops", lambda: ptflops_counter("aten")),
    "calflops": ("calflops", calflops_counter),
    "FlopCounterMode": ("torch", lambda: operators),
}


def find_peers() -> dict[str, Counter]:
    """The counters that can run here; a line for each that cannot."""
    found: dict[str, Counter] = {}
    for name, (_, make) in PEERS.items():
        try:
            found[name] = make()
        except Exception as error:
            print(f"- {name} cannot run here: {type(error).__name__}: {str(error).splitlines()[0]}")
    return found


def quietly(count: Counter, model: nn.Module, x: torch.Tensor) -> tuple[int | None, int | None] | str:
    """What a counter says, or why it says nothing; what it prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return count(model, x)
        except Exception as error:
            return type(error).__name__


def build(name: str, device: str, **options: Any) -> nn.Module:
    """A model of the zoo in evaluation mode, which several of the peers do not see to."""
    with torch.device(device):
        return convzoo.create_model(name, **options).eval()


def times(peers: dict[str, Counter], name: str, rounds: int) -> None:
    """Print the table of times of one model at 224 pixels."""
    models = {device: build(name, device) for device in ("cpu", "meta")}
    inputs = {device: torch.empty(1, 3, 224, 224, device=device) for device in ("cpu", "meta")}
    inputs["cpu"].zero_()
    candidates: dict[str, Callable[[], Callable[[], Any]]] = {
        "convzoo": lambda: lambda: convzoo.profile(models["cpu"], (3, 224, 224)),
        "the forward pass": lambda: torch.no_grad()(lambda: models["cpu"](inputs["cpu"])),
    }
    for peer, count in peers.items():
        for device in ("cpu", "meta"):
            answer = quietly(count, copy.deepcopy(models[device]), inputs[device])
            if isinstance(answer, str) or answer[0] is None:
                print(f"- {peer} on {device} fails on {name}: {answer if isinstance(answer, str) else 'no figure'}")
                continue

            def make(count: Counter = count, device: str = device) -> Callable[[], Any]:
                model = copy.deepcopy(models[device])
                return lambda: quietly(count, model, inputs[device])

            candidates[f"{peer}, {'real' if device == 'cpu' else 'meta'}"] = make
    timings = interleaved(candidates, rounds)
    base = timings["convzoo"].median
    rows = sorted(((key, timing, f"{timing.median / base:.1f}x") for key, timing in timings.items()),
                  key=lambda row: row[1].median)  # fmt: skip
    print(f"\n### {name} at 224, ms\n\n{markdown(('counter', 'median (quartiles)', 'to convzoo'), rows)}\n")


class Fn(nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def small_cases() -> list[tuple[str, nn.Module, torch.Tensor, int, int]]:
    """Name, model, input, MACs and parameters by hand."""
    maps, tokens, heads = torch.rand(1, 8, 6, 6), torch.rand(1, 10, 8), torch.rand(1, 2, 10, 4)
    tied = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    tied[1].weight = tied[0].weight
    weight = nn.Parameter
    return [
        ("F.conv2d", Fn(lambda m, x: F.conv2d(x, m.w), w=weight(torch.rand(4, 8, 3, 3))), maps, 4 * 16 * 72, 288),
        ("`@`", Fn(lambda m, x: x @ m.w, w=weight(torch.rand(8, 3))), tokens, 240, 24),
        ("einsum", Fn(lambda m, x: torch.einsum("bld,dm->blm", x, m.w), w=weight(torch.rand(8, 3))), tokens, 240, 24),
        ("attention (SDPA)", Fn(lambda m, x: F.scaled_dot_product_attention(x, x, x)), heads, 1600, 0),
        ("nn.MultiheadAttention", Fn(lambda m, x: m.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)),
         tokens, 4 * 640 + 2 * 800, 288),
        ("nn.LSTM", nn.LSTM(8, 5, batch_first=True), tokens, 10 * 20 * 13, 300),
        ("transposed, grouped", nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), maps, 36 * 8 * 8, 68),
        ("linear over tokens", nn.Linear(8, 3), tokens, 240, 27),
        ("tied weights", tied, tokens, 1280, 64),
    ]  # fmt: skip


def net_cases() -> list[tuple[str, nn.Module, torch.Tensor, int, int]]:
    """Nets with the figures of the table that the tests hold."""
    wanted = {("resnet18", 224), ("resnet50", 224), ("resnet152", 224), ("resnext50_32x4d", 224), ("vgg19_bn", 224),
              ("alexnet", 224), ("googlenet_bn", 224), ("inception_v3", 224), ("t2t_vit_14", 224)}  # fmt: skip
    cases = []
    with FIXTURE.open(encoding="utf-8") as lines:
        for row in csv.DictReader(line for line in lines if not line.startswith("#")):
            name, side = row["model"], int(row["height"])
            if (name, side) in wanted:
                model, x = build(name, "cpu"), torch.rand(1, 3, side, side)
                cases.append((name, model, x, int(row["macs"]), int(row["params"])))
    return cases


def difference(given: int | None, truth: int) -> str:
    """A figure against the truth, in words."""
    if given is None:
        return "none"
    if given == truth:
        return "="
    return f"{100 * (given - truth) / truth:+.3g} %" if truth else f"{given:+,}"


def figures(peers: dict[str, Counter]) -> None:
    """Print the table of figures: ``=`` where a counter says what the hand says."""
    counters: dict[str, Counter] = {"convzoo": ours, **peers}
    rows = []
    for name, model, x, macs, params in [*net_cases(), *small_cases()]:
        cells = []
        for count in counters.values():
            answer = quietly(count, copy.deepcopy(model), x)
            if isinstance(answer, str):
                cells.append(answer)
                continue
            cell = difference(answer[0], macs)
            if answer[1] is not None and answer[1] != params:
                cell += f"; params {difference(answer[1], params)}"
            cells.append(cell)
        rows.append((name, f"{macs:,}", f"{params:,}", *cells))
    table = markdown(("case", "MACs", "params", *counters), rows)
    print(f"\n### Figures, on a real model in evaluation mode\n\n{table}\n")


def extra_memory() -> None:
    """Print what one profile of each model of the zoo takes beside the model."""
    convzoo.profile(build("t2t_vit_7", "meta"), (3, 224, 224))  # code and caches
    convzoo.profile(build("googlenet", "meta"), (3, 224, 224))
    growth = {}
    for name in convzoo.list_models():
        model = build(name, "meta").to_empty(device="cpu")
        size = (model.in_chans, *model.img_size)
        growth[name] = peak_growth(lambda model=model, size=size: convzoo.profile(model, size))
    worst = max(growth, key=lambda name: growth[name])
    print(f"\n### Memory\n\nLargest growth of resident memory over the {len(growth)} models of the zoo: "
          f"{growth[worst]:.1f} MB ({worst}).\n")  # fmt: skip


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("times", "figures", "memory"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{machine(('thop', 'torchinfo', 'fvcore', 'ptflops', 'calflops'))}\n")
    if args.only in (None, "memory"):
        extra_memory()
    peers = find_peers() if args.only != "memory" else {}
    if args.only in (None, "times"):
        for name in ("resnet152", "t2t_vit_14"):
            times(peers, name, args.rounds)
    if args.only in (None, "figures"):
        figures(peers)


if __name__ == "__main__":
    main()
