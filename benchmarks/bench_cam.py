"""Class activation maps side by side with pytorch-grad-cam, torchcam and captum: time, memory, threads.

Every figure is a ratio to the same model's bare forward pass under ``no_grad``, measured right before in the same
process; contenders take turns, and the median over the rounds is printed, in processor time, which other programs on
the machine disturb less than the clock on the wall. A library that cannot be imported is named and left out.

The libraries belong into an environment of the benchmark's own: ``pip install -e ".[benchmark]"``.

``python benchmarks/bench_cam.py [speed] [memory] [threads] [--models ...] [--rounds 15] [--threads 1] [--quick]``
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import statistics
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _common import peak_allocated
from torch import nn

import convzoo

Call = Callable[[], object]


def import_peers() -> dict[str, Any]:
    """The libraries that can be imported, by the names in the tables."""
    if importlib.util.find_spec("torchvision") is None:
        # pytorch-grad-cam imports these names for parts that are not measured here
        for name, attributes in (
            ("torchvision", ()),
            ("torchvision.transforms", ("Compose", "Normalize", "ToTensor")),
            ("torchvision.transforms.functional", ("resize",)),
        ):
            stub = types.ModuleType(name)
            for attribute in attributes:
                setattr(stub, attribute, None)
            sys.modules.setdefault(name, stub)
    found: dict[str, Any] = {}
    for name, module in (("grad-cam", "pytorch_grad_cam"), ("torchcam", "torchcam.methods"), ("captum", "captum.attr")):
        try:
            found[name] = importlib.import_module(module)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return found


def contenders(
    peers: dict[str, Any], model: nn.Module, x: torch.Tensor, layer: str, targets: list[int], pooled: bool
) -> dict[str, Call]:
    """What is measured: each name's maps of ``targets``, one an image, or several of one image."""
    several = len(x) == 1 and len(targets) > 1
    ours: Any = [targets] if several else targets
    calls: dict[str, Call] = {}
    if pooled:
        calls["convzoo cam"] = lambda: convzoo.cam(model, x, ours).maps
        calls["convzoo cam, all classes"] = lambda: convzoo.cam(model, x, "all").maps
        calls["convzoo grad_cam, all classes"] = lambda: convzoo.cam(model, x, "all", method="grad_cam").maps
    calls["convzoo grad_cam"] = lambda: convzoo.cam(model, x, ours, method="grad_cam").maps
    module = model.get_submodule(layer)
    tokens = layer.startswith("blocks")

    if "grad-cam" in peers:
        library = peers["grad-cam"]
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        def grid(output: torch.Tensor) -> torch.Tensor:
            side = int((output.shape[1] - 1) ** 0.5)
            return output[:, 1:].transpose(1, 2).unflatten(2, (side, side))

        def grad_cam_library() -> object:
            options = {"reshape_transform": grid} if tokens else {}
            with library.GradCAM(model=model, target_layers=[module], **options) as explain:
                if several:
                    return [explain(input_tensor=x, targets=[ClassifierOutputTarget(c)])[0] for c in targets]
                return explain(input_tensor=x, targets=[ClassifierOutputTarget(c) for c in targets])

        calls["grad-cam GradCAM"] = grad_cam_library
    if "torchcam" in peers and not tokens:
        library_t = peers["torchcam"]

        def torchcam_gradient() -> object:
            with library_t.GradCAM(model, module, enable_hooks=True) as explain:
                scores = model(x)
                if several:
                    return [explain(c, scores, retain_graph=True) for c in targets]
                return explain(targets, scores)

        calls["torchcam GradCAM"] = torchcam_gradient

        def torchcam_weights() -> object:
            with torch.inference_mode(), library_t.CAM(model, module, "fc") as explain:
                model(x)
                if several:
                    return [explain(c) for c in targets]
                return explain(targets)

        if pooled:
            calls["torchcam CAM"] = torchcam_weights
    if "captum" in peers and not tokens:
        explain_c = peers["captum"].LayerGradCam(model, module)

        def captum_library() -> object:
            if several:
                return [explain_c.attribute(x, target=c) for c in targets]
            return explain_c.attribute(x, target=torch.tensor(targets))

        calls["captum LayerGradCam"] = captum_library
    return calls


def working(calls: dict[str, Call]) -> dict[str, Call]:
    """Those that run; what does not is named."""
    good = {}
    for name, call in calls.items():
        try:
            with quiet():
                call()
            good[name] = call
        except Exception as error:  # whatever a library raises, it is the result
            print(f"  {name} fails: {type(error).__name__}: {str(error).splitlines()[0][:90]}")
    return good


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def seconds(call: Call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def compare(calls: dict[str, Call], bare: Call, rounds: int) -> dict[str, tuple[float, float]]:
    """Each call's median ratio to ``bare``, and the spread of its middle half; taking turns."""
    ratios: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            with quiet():
                bare()  # so that the caches and the allocator do not remember the contender before
                reference = seconds(bare)
                ratios[name].append(seconds(call) / reference)
    found = {}
    for name, values in ratios.items():
        low, _, high = statistics.quantiles(values, n=4)
        found[name] = (statistics.median(values), high - low)
    return found


# name, model, images, layer, classes, whether it has class activation maps
CASES = (
    ("ResNet-50, a class each of 16 images", "resnet50", 16, "layer4", range(16), True),
    ("ResNet-18, ten classes of one image", "resnet18", 1, "layer4", range(10), True),
    ("VGG-16, one image", "vgg16", 1, "features.29", (3,), False),
    ("T2T-ViT-14, one image", "t2t_vit_14", 1, "blocks.13.norm1", (3,), False),
)


def build(name: str, count: int) -> tuple[nn.Module, torch.Tensor, Call]:
    torch.manual_seed(0)
    model, x = convzoo.create_model(name).eval(), torch.rand(count, 3, 224, 224)

    def bare() -> object:
        with torch.no_grad():
            return model(x)

    return model, x, bare


def measure_speed(peers: dict[str, Any], models: list[str], rounds: int, quick: bool) -> None:
    for title, name, count, layer, targets, pooled in CASES:
        if models and name not in models:
            continue
        model, x, bare = build(name, 2 if quick and count > 2 else count)
        chosen = list(targets)[: len(x)] if count > 1 else list(targets)
        print(f"\n{title} ({len(x)}x3x224x224): processor time over a bare forward pass, median of {rounds}")
        calls = working({"bare again": bare, **contenders(peers, model, x, layer, chosen, pooled)})
        if name.startswith("t2t"):
            calls["convzoo attention"] = lambda m=model, x=x: convzoo.cam(m, x, 3).maps
        for contender, (ratio, spread) in compare(calls, bare, rounds).items():
            print(f"  {contender:32} {ratio:6.3f}  (middle half within {spread:.3f})", flush=True)


def measure_memory(peers: dict[str, Any], quick: bool) -> None:
    for title, name, count, layer, targets, pooled in CASES[:2]:
        model, x, bare = build(name, 2 if quick and count > 2 else count)
        chosen = list(targets)[: len(x)] if count > 1 else list(targets)
        with quiet():
            reference = peak_allocated(bare)
        print(f"\n{title} ({len(x)}x3x224x224): peak of allocated memory over a bare forward pass's")
        print(f"  {'bare':32} {reference / 2**20:8.1f} MiB")
        for contender, call in working(contenders(peers, model, x, layer, chosen, pooled)).items():
            with quiet():
                most = peak_allocated(call)
            print(f"  {contender:32} {most / 2**20:8.1f} MiB  {most / reference:6.3f}", flush=True)


def measure_threads(peers: dict[str, Any], only: str | None) -> None:
    """Wrong or failed of 80 calls, 40 from each of two threads on one model; each contender in a process of its own,
    since a race can end in a crash."""
    torch.manual_seed(0)
    model = convzoo.create_model("resnet18").eval()
    batches = [torch.rand(1, 3, 96, 96) for _ in range(8)]
    if only is None:
        print("\nresnet18, 96 pixels: wrong or failed of 80 calls from two threads on one model")
        for contender in working(contenders(peers, model, batches[0], "layer4", [3], True)):
            if "all classes" not in contender:
                command = [sys.executable, __file__, "threads", "--only", contender]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                answer = f"crashed (exit status {done.returncode})" if done.returncode else done.stdout.splitlines()[-1]
                print(f"  {contender:32} {answer}", flush=True)
        return
    calls = [contenders(peers, model, x, "layer4", [3], True)[only] for x in batches]

    def answer(index: int) -> torch.Tensor:
        found: Any = calls[index]()
        return torch.as_tensor(found[0] if isinstance(found, list) else found).detach().clone()

    with quiet():
        wanted = [answer(index) for index in range(8)]
    wrong: list[str] = []

    def work(order: list[int]) -> None:
        for index in order:
            try:
                got = answer(index)
                if got.shape != wanted[index].shape or not torch.allclose(got, wanted[index], atol=1e-4):
                    wrong.append("wrong")
            except Exception as error:  # counted, whatever it is
                wrong.append(type(error).__name__)

    orders = [[(step * stride) % 8 for step in range(40)] for stride in (1, 3)]
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    with quiet():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    kinds = {kind: wrong.count(kind) for kind in dict.fromkeys(wrong)}
    print(f"{len(wrong):3} {kinds or ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], "speed", "memory", "threads"], help="all of them by default")
    parser.add_argument(
        "--models", nargs="*", default=[], help="of the speed table: resnet50 resnet18 vgg16 t2t_vit_14"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1, help="of the processor, for each pass")
    parser.add_argument("--quick", action="store_true", help="two images instead of sixteen")
    parser.add_argument("--only", help="threads of this contender alone, in this process")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peers = import_peers()
    print(f"torch {torch.__version__}, {args.threads} thread(s), convzoo {convzoo.__version__}, {', '.join(peers)}")
    parts = args.parts or ["threads", "memory", "speed"]
    if "threads" in parts:
        measure_threads(peers, args.only)
    if "memory" in parts:
        measure_memory(peers, args.quick)
    if "speed" in parts:
        measure_speed(peers, args.models, args.rounds, args.quick)


if __name__ == "__main__":
    main()
