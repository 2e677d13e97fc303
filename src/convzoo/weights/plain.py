"""A model as :func:`convzoo.create_model` makes it: the tensors of a user's, if they are all that is different.

A user may have replaced layers, pruned, parametrised, compiled or extended them. What is saved is loaded into a freshly
built model, so it is held against one before anything is written: the same names and shapes, and the same answers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from .._modules import private_copy
from ..inference.compare import is_close_tensor
from ..inference.optimize import is_optimized
from ..models import Classifier
from ..models._init import build_empty
from .fit import differences, fill_tables, hand_over
from .layouts import State

REMEDY = (
    "undo what was put into its layers (torch.nn.utils.prune.remove, parametrize.remove_parametrizations, PEFT's "
    "merge_and_unload), save the model that it was optimised from, and change the classes with "
    "reset_classifier(num_classes) and channels with create_model(in_chans=...)"
)


def as_built(model: Classifier) -> Classifier:
    """A model built from ``model.config`` that shares the tensors of ``model`` and is the same function.

    Wrappers of parts are left out, and parametrised tensors taken as they are computed now.

    Raises:
        TypeError: a part of the model is a scripted module.
        ValueError: the model has been changed in another way, and how to undo it.
    """
    name = model.config.name
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise ValueError(f"{name} is on the meta device and has no numbers to save; load or draw some first")
    if is_optimized(model):
        raise ValueError(
            f"this {name} is optimised for inference, and its tensors are no longer those of {name}; save the model "
            "that it was made from"
        )
    private = private_copy(model)
    plain = build_empty(model.config)
    state = _computed(private, plain.state_dict())
    missing, unexpected, other = differences(plain.state_dict(), state)
    wrong = [*missing, *unexpected, *other]
    if wrong:
        raise ValueError(
            f"this {name} cannot be saved, since create_model could not load it: {len(wrong)} of its tensors are not "
            f"those of {name} with {plain.num_classes} classes and {plain.in_chans} channels "
            f"({', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}); {REMEDY}"
        )
    hand_over(plain, state)
    fill_tables(plain)
    like = next(iter(state.values()))
    plain.to(like.device).eval()
    _compare(private, plain)
    return plain


def _computed(model: Classifier, own: State) -> State:
    """The state dict, with parametrised tensors (:mod:`torch.nn.utils.parametrize`) under their own names."""
    state = dict(model.state_dict())
    for path, module in model.named_modules():
        if parametrize.is_parametrized(module):
            before = f"{path}." if path else ""
            for name in module.parametrizations:
                if before + name in own:
                    state = {k: v for k, v in state.items() if not k.startswith(f"{before}parametrizations.{name}.")}
                    state[before + name] = getattr(module, name).detach()
    return state


@torch.no_grad()
def _compare(model: Classifier, plain: Classifier) -> None:
    """Refuse a model that does not answer a random image as ``plain`` does.

    Raises:
        ValueError: it does not, or it cannot be run.
    """
    name, (height, width) = model.config.name, model.img_size
    if not model.fixed_size:  # any size will do, a small one costs less
        height, width = (min(side, max(model.min_size, 64)) for side in (height, width))
    like = next(iter(plain.parameters()))
    images = torch.randn(2, plain.in_chans, height, width, generator=torch.Generator().manual_seed(0))
    images = images.to(like.device, like.dtype)
    with torch.autocast(like.device.type, enabled=False):
        expected = plain(images)
        try:
            found = model(images)
        except Exception as error:  # code of the user's
            raise ValueError(
                f"this {name} cannot be saved, since it cannot be tried: on images of {height}x{width} it raises "
                f"{type(error).__name__}: {error}; {REMEDY}"
            ) from error
    rounding = min(0.05, 2000 * torch.finfo(expected.dtype).eps)  # of a deep net
    if not (isinstance(found, Tensor) and is_close_tensor(found.to(expected), expected, rounding)):
        raise ValueError(
            f"this {name} cannot be saved, since create_model could not make it again: its tensors are those of "
            f"{name}, but its layers compute something else with them; {REMEDY}"
        )
