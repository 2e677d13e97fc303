"""Models whose parameters are spread over processes: how they are known, and what is said of them."""

from __future__ import annotations

import sys

from torch import nn

from ._modules import list_modules

SPREAD = frozenset({"DTensor", "FlatParameter"})  # tensors of which each process has a part
# where torch spreads parameters; of what was never imported there is no object
SPREADERS = ("torch.distributed.fsdp", "torch.distributed.tensor", "torch.distributed._tensor")


def is_spread(model: nn.Module) -> bool:
    """Whether each process has but a part of the parameters of ``model``, or of a part of it: FSDP, DTensor.

    By the classes of FSDP's modules too, whose parameters are whole for a while after each run.
    """
    if not any(name in sys.modules for name in SPREADERS):
        return False
    for module in list_modules(model):
        kind = type(module)
        if kind.__name__ == "FullyShardedDataParallel" or kind.__mro__[1].__name__ == "FSDPModule":
            return True
        for tensor in module._parameters.values():
            if type(tensor) is not nn.Parameter and type(tensor).__name__ in SPREAD:
                return True
    return False


def gather_first(name: str, deed: str) -> str:
    """The text for a model that :func:`is_spread`."""
    return (
        f"the parameters of {name} are spread over processes (FSDP, DTensor), one process cannot {deed} it; gather "
        "them (torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True) and load them "
        "into an ordinary copy of the model"
    )
