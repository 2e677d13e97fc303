"""Inference in float32: ``optimize_for_inference`` against the plain model, T2T-ViT against the straight formulation,
and against what people export to for speed, ONNX Runtime and OpenVINO.

    python benchmarks/bench_inference.py
    python benchmarks/bench_inference.py --compile resnet18,resnet50,vgg16_bn,googlenet_bn,resnext50_32x4d

The baseline of a convolutional net is torchvision's, with the same weights, where torchvision can be imported, else
this library's plain model in eager mode, whose graph is the same. That of T2T-ViT is the authors' formulation in words
of our own (``_peers.StraightT2T``). Same weights, same images; outputs are compared before anything is timed. Wall
clock, all cores, in turn.

For the runtimes the plain net is exported (by the dynamo exporter) for each batch size by itself, so that they know
every shape; they run in float32 on as many threads as PyTorch. The last table holds the fastest of ours against the
faster of the two.

"Share of peak" is the multiply-adds of the plain net, per second, over those of the fastest matrix product that this
machine does. Above 1 is possible: Winograd's convolutions do with a quarter of the multiplications.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from _common import interleaved, machine, markdown
from _peers import RUNTIMES, THEIR_NAMES, StraightT2T, exported, fill_statistics, find, matrix_peak
from torch import Tensor, nn

import convzoo

CONVOLUTIONAL = ("resnet18", "resnet50", "vgg16_bn", "googlenet_bn", "resnext50_32x4d")
TRANSFORMERS = ("t2t_vit_t_14", "t2t_vit_14")
OURS = ("plain", "optimised", "optimised, compiled")


def calls(models: dict[str, nn.Module], x: Tensor) -> dict[str, Callable[[], Callable[[], Tensor]]]:
    """What :func:`interleaved` times: each model on ``x``."""
    return {key: lambda model=model: lambda: model(x) for key, model in models.items()}


def check(models: dict[str, nn.Module], x: Tensor, name: str) -> None:
    """Refuse to time nets that do not agree within 1e-4 of the largest logit."""
    outputs = {key: model(x) for key, model in models.items()}
    expected = next(iter(outputs.values()))
    for key, logits in outputs.items():
        error = ((logits - expected).abs().max() / expected.abs().max()).item()
        if not error <= 1e-4:
            raise SystemExit(f"{name}: {key} differs by {error:.1e}")


def candidates(name: str, library: object | None, compiled: bool) -> dict[str, nn.Module]:
    """The baseline first, then ours; all with the same weights."""
    torch.manual_seed(0)
    model = convzoo.create_model(name).eval()
    fill_statistics(model)
    models: dict[str, nn.Module] = {}
    if name in TRANSFORMERS:
        models["straight"] = StraightT2T(model).eval()
    elif library is not None:
        more = {"aux_logits": False, "init_weights": False} if name == "googlenet_bn" else {}
        theirs = library.models.get_model(THEIR_NAMES.get(name, name), weights=None, **more)  # type: ignore[attr-defined]
        theirs.load_state_dict(model.state_dict())
        models["torchvision"] = theirs.eval()
    models["plain"] = model
    models["optimised"] = convzoo.optimize_for_inference(model)
    if compiled:
        models["optimised, compiled"] = convzoo.optimize_for_inference(model, compile=True)
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default=",".join(CONVOLUTIONAL + TRANSFORMERS))
    parser.add_argument("--compile", default="resnet18", help="models that are compiled too (minutes), or none")
    parser.add_argument("--batches", default="1,16", help="batch sizes")
    args = parser.parse_args()
    print(f"{machine(('torchvision', 'timm', 'onnxruntime', 'openvino'))}; {torch.get_num_threads()} threads\n")
    library = find("torchvision")
    writer = find("onnxscript")
    found = {name: find(module) for name, (module, _) in RUNTIMES.items()} if writer is not None else {}
    libraries = {name: module for name, module in found.items() if module is not None}
    peak = matrix_peak()
    table, ahead = [], []
    with torch.inference_mode():
        for name in args.models.split(","):
            models = candidates(name, library, name in args.compile.split(","))
            macs = convzoo.profile(models["plain"], (3, 224, 224)).macs
            for batch in map(int, args.batches.split(",")):
                x = torch.randn(batch, 3, 224, 224)
                everybody = models | exported(models["plain"], x, libraries)
                check(everybody, x, name)
                start = time.perf_counter()
                models["plain"](x)
                rounds = args.rounds if time.perf_counter() - start > 0.3 else 3 * args.rounds
                timings = interleaved(calls(everybody, x), rounds, clock=time.perf_counter)
                base = next(iter(timings.values())).median
                for key, timing in timings.items():
                    share = 2 * macs * batch / timing.median / 1e6 / peak
                    table.append([f"{name}, {batch}", key, timing, f"{timing.median / base:.2f}", f"{share:.2f}"])
                if libraries:
                    ours = min((key for key in OURS if key in timings), key=lambda key: timings[key].median)
                    theirs = min(libraries, key=lambda key: timings[key].median)
                    ratio = timings[ours].median / timings[theirs].median
                    ahead.append([f"{name}, {batch}", ours, theirs, f"{ratio:.2f}"])
            torch.compiler.reset()
    peak = max(peak, matrix_peak())
    print(f"\n### Inference at 224\n\n{markdown(('model, batch', '', 'ms', 'ratio', 'share of peak'), table)}")
    if ahead:
        head = ("model, batch", "the fastest of ours", "the faster runtime", "ratio")
        print(f"\n### Beside the runtimes\n\n{markdown(head, ahead)}")
    print(f"\nThe peak: {peak:.0f} GFLOP/s, the fastest of several 2048 x 2048 products before and after.")


if __name__ == "__main__":
    main()
