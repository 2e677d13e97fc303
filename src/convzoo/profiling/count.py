"""Running a model to count it."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn

from .._checks import shorten
from .._wrappers import has_global_hooks, unwrap
from ..models import Classifier
from .hooks import returns_nothing
from .inputs import ADVICE, Inputs, input_dtype, make_inputs
from .recorder import Recorder, compilation_off, is_about_meta
from .result import Profile
from .sparse import stand_in, stored_numbers
from .tally import map_leaves, tensors_in
from .tree import RecordedModel


def count(
    model: nn.Module, given: Any, dtype: torch.dtype | None = None, batch_dim: int | None = 0
) -> tuple[Profile, Inputs]:
    """The profile of ``model``, and the inputs that it is of.

    Hooks act on what is the user's, and are left out; a warning says so where they may change a map. A model that
    depends on them is run with them, on its copy: one that fails without them, or that reads a tensor which is neither
    an input nor a parameter nor a buffer, and so may be what a hook kept of an earlier batch.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"profile takes a module, got {type(model).__name__} {shorten(model)}; "
            "pass the model itself, e.g. create_model('resnet18')"
        )
    with RecordedModel(model) as recorded, torch.inference_mode(False), torch.no_grad():
        inputs = make_inputs(model, given, input_dtype(recorded.parameters.values(), dtype), batch_dim)
        name = model_name(unwrap(model))
        try:
            counted = run(recorded, inputs, name)
        except Exception as error:
            if isinstance(error, TypeError):
                check_arguments(unwrap(model), inputs)
            if recorded.hooked and (with_hooks := run_with_hooks(model, inputs, name)) is not None:
                return with_hooks, inputs
            raise
        if recorded.hooked and recorded.reads_kept_tensors():
            with_hooks = run_with_hooks(model, inputs, name)
            if with_hooks is not None:
                return with_hooks, inputs
        paths = [path or "the model" for path, hooks in recorded.hooked if not all(map(returns_nothing, hooks))]
        paths += ["all modules"] * has_global_hooks()
        if paths:
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            warnings.warn(
                f"hooks are not called while {name} is counted ({', '.join(paths[:3])}{more}): what they change in the "
                "maps is not in the figures; take them off before, or write it into forward",
                stacklevel=3,
            )
        return counted, inputs


def run_with_hooks(model: nn.Module, inputs: Inputs, name: str) -> Profile | None:
    """The profile with all hooks called, on the copy; None if it cannot be made."""
    try:
        with RecordedModel(model, hooks=True) as recorded:
            return run(recorded, inputs, name)
    except Exception:  # whatever the hooks do without values; the error of the run without them says more
        return None


def check_arguments(model: nn.Module, inputs: Inputs) -> None:
    """Say so if the model's forward has not the arguments for these inputs."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*inputs.args, **inputs.kwargs)
    except TypeError as error:
        raise TypeError(f"the inputs do not fit {type(model).__name__}.forward{signature}: {error}; {ADVICE}") from None


def run(recorded: RecordedModel, inputs: Inputs, name: str) -> Profile:
    """Run the copy of the model ``name`` under its recorder, and say what was seen."""
    recorder = recorded.recorder
    args, kwargs = map_leaves(fresh, inputs.args), map_leaves(fresh, inputs.kwargs)
    tensors = [*tensors_in(args), *tensors_in(kwargs)]
    recorder.keep(tensors)
    recorder.sparse |= any(stored_numbers(each) is not None for each in tensors)
    shape = tuple(tensors[0].shape)
    try:
        with compilation_off(), recorder:
            recorded.root(*args, **kwargs)
    except Exception as error:
        if is_about_meta(error) and not isinstance(error, ValueError):
            first_line = str(error).partition("\n")[0]
            raise recorder.cannot_count(
                f"needs the values of a map, and counting from shapes has none ({first_line:.80})"
            ) from error
        add_location(error, recorder, shape)
        raise
    trainable = param_bytes = 0
    for parameter in recorded.parameters.values():
        trainable += parameter.numel() if parameter.requires_grad else 0
        param_bytes += parameter.nbytes if type(parameter) is nn.Parameter else tensor_bytes(parameter)
    return Profile(
        model=name,
        input_shape=shape,
        params=sum(record.own_params for record in recorded.records),
        trainable_params=trainable,
        buffers=recorded.buffer_elements,
        macs=recorder.macs,
        uncounted=tuple(sorted(recorder.uncounted)),
        activations=recorder.activations,
        param_bytes=param_bytes,
        peak_activation_bytes=recorder.peak_bytes,
        layers=tuple(recorded.layers()),
    )


def fresh(value: Any) -> Any:
    """A tensor for one run."""
    return stand_in(value) if isinstance(value, torch.Tensor) else value


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's numbers, also of one that is put together from others, such as a quantized weight."""
    if hasattr(tensor, "__tensor_flatten__") and type(tensor).__name__ != "DTensor":  # that one counts as a whole
        parts = (getattr(tensor, name) for name in tensor.__tensor_flatten__()[0])
        return sum(tensor_bytes(part) for part in parts)
    return (stored_numbers(tensor) or tensor.numel()) * tensor.dtype.itemsize


def model_name(model: nn.Module) -> str:
    """The name in the zoo, or the class's."""
    if isinstance(model, Classifier):
        return model._config.name  # as config has it, which looks at the layers first
    name = getattr(getattr(model, "config", None), "name", None)
    return name if isinstance(name, str) else type(model).__name__


def add_location(error: Exception, recorder: Recorder, shape: tuple[int, ...]) -> None:
    """Say in which module the model's own code raised, where Python can add a note to an exception."""
    record = recorder.failed
    if record is not None and hasattr(error, "add_note"):
        where = f"{record.path} ({record.type})" if record.path else record.type
        error.add_note(f"raised in {where} while counting at an input of shape {shape}")
