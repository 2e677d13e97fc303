"""A training step, forward and backward, batch 16 of 64x64: time and peak memory.

    python benchmarks/bench_training_step.py

The baseline of a convolutional net is torchvision's, with the same weights, where torchvision can be imported, else
this library's plain model, whose graph is the same: then the first ratio is 1 by construction and says nothing, and the
others say what checkpointing (``set_grad_checkpointing``) and channels-last cost and bring. The baseline of T2T-ViT is
the straight formulation (``_peers.StraightT2T``). Losses are compared before anything is timed. Processor time,
in turn.

"Peak" is the most memory that tensors take during a step beyond parameters and images, gradients included;
"activations" what the graph holds between forward and backward.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _common import interleaved, machine, markdown
from _peers import THEIR_NAMES, StraightT2T, find
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import convzoo

MODELS = ("resnet18", "resnet50", "resnet152", "vgg16_bn", "googlenet_bn", "t2t_vit_14", "t2t_vit_t_14")


def step(model: nn.Module, x: Tensor, target: Tensor) -> float:
    """Forward and backward; the loss."""
    model.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(x), target)
    loss.backward()
    return loss.item()


def memory(model: nn.Module, x: Tensor, target: Tensor) -> tuple[float, float]:
    """MB: the peak of a step, and what is held between forward and backward."""
    model.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        loss = F.cross_entropy(model(x), target)
    held = allocations(record)[1]
    loss.backward()
    del loss
    model.zero_grad(set_to_none=True)  # memory from before is not seen to be given back
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step(model, x, target)
    return allocations(record)[0] / 1e6, held / 1e6


def allocations(record: profile) -> tuple[int, int]:
    """The highest and the last sum of bytes taken and given back while ``record`` was made."""
    now = most = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most, now


def candidates(name: str, library: object | None) -> dict[str, nn.Module]:
    """The baseline first, then ours; all with the same weights, in training mode without dropout."""
    torch.manual_seed(0)
    no_dropout = {"drop_rate": 0.0} if "drop_rate" in convzoo.model_info(name).options else {}
    model = convzoo.create_model(name, 200, img_size=64, **no_dropout)
    models: dict[str, nn.Module] = {}
    if name.startswith("t2t"):
        models["straight"] = StraightT2T(copy.deepcopy(model))
    elif library is not None:
        more = {"aux_logits": False, "init_weights": False} if name == "googlenet_bn" else {}
        theirs = library.models.get_model(THEIR_NAMES.get(name, name), weights=None, num_classes=200, **more)  # type: ignore[attr-defined]
        theirs.load_state_dict(model.state_dict())
        models["torchvision"] = theirs
    models["plain"] = model
    if model.can_checkpoint:
        models["checkpointed"] = copy.deepcopy(model)
        models["checkpointed"].set_grad_checkpointing()  # type: ignore[operator]
    if not name.startswith("t2t"):
        models["channels-last"] = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for each in models.values():
        each.train()
        for module in each.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", default=",".join(MODELS))
    args = parser.parse_args()
    print(f"{machine(('torchvision', 'timm'))}; {torch.get_num_threads()} threads\n")
    library = find("torchvision")
    x, target = torch.randn(16, 3, 64, 64), torch.randint(200, (16,))
    table = []
    for name in args.models.split(","):
        models = candidates(name, library)
        losses = {key: step(model, x, target) for key, model in models.items()}
        first = next(iter(losses.values()))
        if any(abs(loss - first) > 1e-3 * abs(first) for loss in losses.values()):
            raise SystemExit(f"{name}: the losses differ: {losses}")
        used = {key: memory(model, x, target) for key, model in models.items()}
        work: dict[str, Callable[[], Callable[[], float]]] = {
            key: lambda model=model: lambda: step(model, x, target) for key, model in models.items()
        }
        timings = interleaved(work, args.rounds)
        base = next(iter(models))
        for key, timing in timings.items():
            peak, held = (mine / other for mine, other in zip(used[key], used[base], strict=True))
            ratio = timing.median / timings[base].median
            figures = [f"{ratio:.2f}", f"{used[key][0]:.0f}", f"{peak:.2f}", f"{used[key][1]:.0f}", f"{held:.2f}"]
            table.append([name if key == base else "", key, timing, *figures])
    head = ("model", "", "ms", "ratio", "peak, MB", "ratio", "activations, MB", "ratio")
    print(f"\n### Training step\n\n{markdown(head, table)}")


if __name__ == "__main__":
    main()
