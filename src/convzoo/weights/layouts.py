"""Other people's names for the tensors of the same nets, made ours.

Ours are the names that torchvision and the T2T-ViT authors use, so most files need nothing. timm's ResNets agree;
its VGGs keep the hidden linear layers as convolutions under other names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

State = dict[str, Tensor]

# timm's VGG head: its first two layers are convolutions of 7x7 and 1x1
TIMM_VGG = {"pre_logits.fc1.": "classifier.0.", "pre_logits.fc2.": "classifier.3.", "head.fc.": "classifier.6."}
# what training puts around a model: DistributedDataParallel, torch.compile
WRAPPERS = ("module.", "_orig_mod.")


def _same(state: State, model: nn.Module) -> State:
    return state


def _torchvision(state: State, model: nn.Module) -> State:
    """GoogLeNet's and Inception v3's files hold auxiliary heads; a model built without has no use for them."""
    has = {key.split(".")[0] for key in model.state_dict()}
    return {
        key: tensor
        for key, tensor in state.items()
        if key.split(".")[0] in has or key.split(".")[0] not in ("aux1", "aux2", "AuxLogits")
    }


def _timm(state: State, model: nn.Module) -> State:
    """VGG: three renames, and the hidden layers' kernels laid flat; the rest as it is."""
    renamed: State = {}
    for key, tensor in state.items():
        for theirs, ours in TIMM_VGG.items():
            if key.startswith(theirs):
                key = ours + key.removeprefix(theirs)
                tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        renamed[key] = tensor
    return renamed


LAYOUTS: dict[str, Callable[[State, nn.Module], State]] = {
    "convzoo": _same,
    "torchvision": _torchvision,
    "t2t-official": _same,
    "timm": _timm,
}


def detect(state: State) -> str:
    """Whose names these are, as far as they differ from ours."""
    if any(key.startswith(theirs) for key in state for theirs in TIMM_VGG):
        return "timm"
    return "torchvision"


def convert(state: Mapping[str, Tensor], model: nn.Module, layout: str | None = None) -> State:
    """The tensors under our names.

    Args:
        state: tensors by name.
        model: the model they are for.
        layout: whose names they have; None: found out.

    Raises:
        ValueError: no such layout.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; it is one of {', '.join(LAYOUTS)}, or None to find out")
    plain: State = dict(state)
    for wrapper in WRAPPERS:
        if plain and all(key.startswith(wrapper) for key in plain):
            plain = {key.removeprefix(wrapper): tensor for key, tensor in plain.items()}
    return LAYOUTS[layout or detect(plain)](plain, model)
