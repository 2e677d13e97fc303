"""A module's ``forward`` as a list of steps, which can do what Python code that calls layers one by one cannot.

A residual addition happens inside the convolution before it, and convolutions that read the same maps are one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .packed import Announcing

# By name, so that a block can be pickled: local functions of torch.nn.functional cannot be.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cat": torch.cat,
    "split": torch.split,
    "add": torch.add,
    "add_": Tensor.add_,
    "relu": F.relu,
    "relu_": torch.relu_,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "silu": F.silu,
    "max_pool2d": F.max_pool2d,
    "avg_pool2d": F.avg_pool2d,
    "adaptive_avg_pool2d": F.adaptive_avg_pool2d,
}


class Step(NamedTuple):
    """A call of the module at ``path``, or of ``function``, that reads and makes numbered tensors.

    ``listed``: the tensors are given as one list. ``dead``: tensors that no later step reads.
    """

    path: str
    function: str
    tensors: tuple[int, ...]
    outputs: tuple[int, ...]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    listed: bool = False
    dead: tuple[int, ...] = ()


class FusedBlock(Announcing, nn.Module):
    """Steps from one tensor, whose number is ``source``, to the output of the last of them.

    ``kind`` names the class whose ``forward`` the steps are; its modules keep their paths.
    """

    def __init__(self, kind: str, source: int, steps: list[Step], modules: dict[str, nn.Module]) -> None:
        super().__init__()
        self.kind, self.source, self.steps = kind, int(source), with_last_reads(steps)
        for path, module in modules.items():
            *parents, name = path.split(".")
            owner: nn.Module = self
            for parent in parents:
                if parent not in owner._modules:
                    owner.add_module(parent, nn.Module())
                owner = owner.get_submodule(parent)
            owner.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        tensors = {self.source: x}
        for path, function, numbers, outputs, args, kwargs, listed, dead in self.steps:
            given = [tensors[number] for number in numbers]
            call: Any = self._find(path) if path else FUNCTIONS[function]
            x = call(given, *args, **kwargs) if listed else call(*given, *args, **kwargs)
            for number in dead:
                del tensors[number]
            if len(outputs) == 1:
                tensors[outputs[0]] = x
            else:
                tensors.update((number, x[index]) for index, number in enumerate(outputs))
        return x

    def _find(self, path: str) -> nn.Module:
        """As ``get_submodule``, in a tenth of the time."""
        module: Any = self
        for name in path.split("."):
            module = module._modules[name]
        return module

    def extra_repr(self) -> str:
        return f"computes {self.kind}"


def with_last_reads(steps: list[Step]) -> list[Step]:
    """``steps``, each told which tensors it is the last to read; numbers as plain ints, as compilers of torch before
    2.7 want them."""
    seen: set[int] = set()
    done = []
    for step in reversed(steps):
        tensors, outputs = tuple(map(int, step.tensors)), tuple(map(int, step.outputs))
        done.append(step._replace(tensors=tensors, outputs=outputs, dead=tuple(set(tensors) - seen)))
        seen.update(tensors)
    return done[::-1]
