"""Which ways out of PyTorch work for which family: the table in docs/howto/export.md, tried net by net.

    python tools/export_table.py                    # prints the table; ONNX and OpenVINO need their packages
    python tools/export_table.py --one              # the smallest net of each family
    python tools/export_table.py --family resnet

Every net is tried as it is and optimised for inference, at a small image size; what comes out must give the logits of
the model within 1e-4 of the largest. Between the rows the legacy exporter prints the graphs that it cannot do.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

import convzoo

Way = Callable[[nn.Module, Tensor], Tensor]


def export(model: nn.Module, x: Tensor) -> Tensor:
    """With a dynamic batch, saved and loaded."""
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()(x)


def onnx(model: nn.Module, x: Tensor) -> Tensor:
    """By the exporter that is built on torch.export, run by ONNX Runtime."""
    import onnxruntime

    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def onnx_legacy(model: nn.Module, x: Tensor) -> Tensor:
    """By the exporter that is built on tracing."""
    import onnxruntime

    with TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        torch.onnx.export(model, (x,), path, dynamo=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def openvino(model: nn.Module, x: Tensor) -> Tensor:
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else it computes in bfloat16 where the processor can
    compiled = openvino.compile_model(openvino.convert_model(model, example_input=x), "CPU", exact)
    return torch.from_numpy(compiled(x.numpy())[0])


def trace(model: nn.Module, x: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, x), file)
    file.seek(0)
    return torch.jit.load(file)(x)


def symbolic(model: nn.Module, x: Tensor) -> Tensor:
    return torch.fx.symbolic_trace(model)(x)


def compiled(model: nn.Module, x: Tensor) -> Tensor:
    torch.compiler.reset()
    return torch.compile(model, backend="aot_eager", fullgraph=True)(x)


# way: the function, and the packages it needs beside torch
WAYS: dict[str, tuple[Way, tuple[str, ...]]] = {
    "export": (export, ()),
    "ONNX": (onnx, ("onnx", "onnxscript", "onnxruntime")),
    "ONNX legacy": (onnx_legacy, ("onnx", "onnxruntime")),
    "OpenVINO": (openvino, ("openvino",)),
    "trace": (trace, ()),
    "fx": (symbolic, ()),
    "compile": (compiled, ()),
}


def small(name: str, **options: object) -> tuple[convzoo.Classifier, Tensor]:
    """The net with few classes, at about the least size it takes, in evaluation mode, and two images."""
    info = convzoo.model_info(name)
    side = info.img_size[0] if max(info.img_size) <= 64 else max(32, info.min_size + 8)
    torch.manual_seed(0)
    model = convzoo.create_model(name, num_classes=7, img_size=-(-side // 16) * 16, **options).eval()
    return model, torch.rand(2, info.in_chans, *model.img_size)


@torch.no_grad()
def attempt(way: Way, model: nn.Module, x: Tensor) -> str:
    """Empty where ``way`` gives the model's logits, else what is wrong."""
    wanted = model(x)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            got = way(model, x)
    except Exception as error:  # whatever a tool raises is the answer
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    off = ((got - wanted).abs().max() / wanted.abs().max()).item()
    return "" if off <= 1e-4 else f"off by {off:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = sorted({convzoo.model_info(name).family for name in convzoo.list_models()})
    parser.add_argument("--family", choices=known, help="one family only")
    parser.add_argument("--one", action="store_true", help="the smallest net of each family")
    parser.add_argument("--ways", default=",".join(WAYS), help="some of them, by commas")
    args = parser.parse_args()
    ways = {way: WAYS[way] for way in args.ways.split(",")}
    for way, (_, packages) in list(ways.items()):
        absent = [package for package in packages if importlib.util.find_spec(package) is None]
        if absent:
            print(f"{way} is left out: no package {', '.join(absent)}")
            del ways[way]
    families: dict[str, list[str]] = {}
    for name in convzoo.list_models():
        family = convzoo.model_info(name).family
        if args.family in (None, family):
            families.setdefault(family, []).append(name)
    wrongs: list[str] = []
    print("| family | nets | " + " | ".join(ways) + " |")
    print("| --- | ---: |" + " ---: |" * len(ways), flush=True)
    for family, names in sorted(families.items()):
        if args.one:
            names = [min(names, key=lambda name: convzoo.model_info(name).params)]
        counts: collections.Counter[tuple[str, str]] = collections.Counter()
        for name in names:
            model, x = small(name)
            for kind, net in (("plain", model), ("optimised", convzoo.optimize_for_inference(model))):
                for way, (function, _) in ways.items():
                    wrong = attempt(function, net, x)
                    counts[way, kind] += not wrong
                    if wrong:
                        wrongs.append(f"{name}, {kind}, {way}: {wrong[:150]}")
        cells = (f"{counts[way, 'plain']}, {counts[way, 'optimised']}" for way in ways)
        print(f"| {family} | {len(names)} | " + " | ".join(cells) + " |", flush=True)
    print("\n" + "\n".join(wrongs))


if __name__ == "__main__":
    main()
