"""Exact counts of parameters, multiply-accumulates and memory, in milliseconds, without touching the model.

The model's own ``forward`` is run on maps that have a shape and no content. A *recorder* answers every call of a torch
function from a table of rules (:mod:`~convzoo.profiling.rules`), so no arithmetic is done; a *shadow* of the modules
(:mod:`~convzoo.profiling.shadow`) takes whatever the run leaves behind, so the model is only read.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .inputs import Inputs, input_dtype, make_inputs
from .operators import register_formula
from .peers import Source
from .recorder import Recorder, compilation_off, is_about_meta
from .result import Layer, Profile
from .sparse import stand_in, stored_numbers
from .tally import map_leaves, tensors_in
from .tree import RecordedModel

__all__ = ["Layer", "Profile", "profile", "register_formula", "summary"]

COUNTERS = ("convzoo", "thop")


def profile(
    model: nn.Module,
    input_size: Any = None,
    *,
    dtype: torch.dtype | None = None,
    batch_dim: int | None = 0,
    counter: str = "convzoo",
) -> Profile:
    """Count what ``model`` costs for one image.

    One MAC is one multiply-accumulate in a convolution (grouped, dilated, transposed), a linear layer, a matrix
    product, an einsum, an attention or a recurrent layer, wherever it is called, as a module or as a function. Bias,
    normalisation, activation, pooling and element-wise work are not counted. That is the convention of the papers
    (He et al. 2015, arXiv:1512.03385, section 3.3: "FLOPs (multiply-adds)"), of fvcore's
    ``FlopCountAnalysis`` for these operators, and of :mod:`torch.utils.flop_counter`, whose figure is twice ours.

    The pass that is counted is an inference pass, whatever mode the model is in. The model is only read: its
    parameters, buffers, flags, hooks and attributes, the random state and the gradients are as before, also after
    an exception. Hooks are not called.

    Args:
        model: any module. On any device, in any precision, compiled, pruned or parametrised.
        input_size: (C, H, W), or (N, C, H, W), or a tensor, or a tuple or dict of tensors for a model of several
            inputs. Where all inputs have the same first dimension it is the batch, and one image of it is counted.
        dtype: of the input, when a size is given; None means that of the model's parameters.
        counter: ``"convzoo"``, or ``"thop"`` for what thop reports, run on an empty copy.

    Returns:
        The figures; ``print`` shows a table.

    Raises:
        TypeError: not a module, a scripted module, or an input that is neither a size nor tensors.
        ValueError: a size out of range, an uninitialised lazy module, or a model that decides by the values of maps.
        ImportError: the other counter is not installed.

    Example:
        >>> import convzoo
        >>> p = convzoo.profile(convzoo.create_model("resnet50"), (3, 224, 224))
        >>> p.params, p.macs
        (25557032, 4089184256)
    """
    if counter not in COUNTERS:
        raise ValueError(f"unknown counter {counter!r}; the counters are {', '.join(COUNTERS)}; pass one of these")
    ours, inputs = profile_with_inputs(model, input_size, dtype, batch_dim)
    if counter == "convzoo":
        return ours
    from .peers import thop_profile

    with torch.inference_mode(False), torch.no_grad():
        return thop_profile(ours, model, inputs)


def summary(
    model: nn.Module,
    input_size: Any = None,
    *,
    dtype: torch.dtype | None = None,
    batch_dim: int | None = 0,
    **options: Any,
) -> Any:
    """torchinfo's table of layers, with our counts in it, made on an empty copy of the model.

    Args:
        model: as in :func:`profile`.
        input_size: as in :func:`profile`.
        dtype: as in :func:`profile`.
        **options: those of ``torchinfo.summary`` that shape the table: ``depth``, ``col_names``, ``col_width``,
            ``row_settings``.

    Returns:
        A ``torchinfo.ModelStatistics``; ``print`` shows the table.

    Raises:
        TypeError, ValueError: as in :func:`profile`, or an option that is not one of these.
        ImportError: torchinfo is not installed.

    Example:
        >>> import convzoo
        >>> table = convzoo.summary(convzoo.create_model("lenet5"), (1, 28, 28), depth=1)
        >>> table.total_params
        61706
    """
    from .table import torchinfo_summary

    ours, inputs = profile_with_inputs(model, input_size, dtype, batch_dim)
    with torch.inference_mode(False), torch.no_grad():
        return torchinfo_summary(ours, model, inputs, options)


def profile_with_inputs(
    model: nn.Module, input_size: Any, dtype: torch.dtype | None, batch_dim: int | None
) -> tuple[Profile, Inputs]:
    """Our profile of ``model``, and the inputs that it is of."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"profile takes a module, got {type(model).__name__} {model!r:.60}; "
            "pass the model itself, e.g. create_model('resnet18')"
        )
    recorded = RecordedModel(model)
    try:
        with torch.inference_mode(False), torch.no_grad():
            inputs = make_inputs(model, input_size, input_dtype(recorded.parameters.values(), dtype), batch_dim)
            result = replace(run(recorded, inputs), _source=Source(model, inputs))
    finally:
        recorded.release()
    if result.uncounted:
        warnings.warn(
            f"{result.model} uses {', '.join(result.uncounted)}, of which no formula is known: macs is too low by what "
            "they compute; convzoo.profiling.register_formula adds one",
            stacklevel=3,
        )
    return result, inputs


def run(recorded: RecordedModel, inputs: Inputs) -> Profile:
    """Run the copy of the model under its recorder, and say what was seen."""
    recorder = recorded.recorder
    args, kwargs = map_leaves(fresh, inputs[0]), map_leaves(fresh, inputs[1])
    recorder.keep((args, kwargs))
    recorder.sparse |= any(stored_numbers(each) is not None for each in tensors_in((args, kwargs)))
    shape = next(tuple(each.shape) for each in tensors_in((args, kwargs)))
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
        model=model_name(recorded.root),
        input_shape=shape,
        params=sum(record.own_params for record in recorded.records),
        trainable_params=trainable,
        buffers=sum(buffer.numel() for buffer in recorded.buffers.values()),
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
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return (stored_numbers(tensor) or tensor.numel()) * tensor.dtype.itemsize


def model_name(model: nn.Module) -> str:
    """The name in the zoo, or the class's."""
    name = getattr(getattr(model, "config", None), "name", None)
    return name if isinstance(name, str) else type(model).__name__


def add_location(error: Exception, recorder: Recorder, shape: tuple[int, ...]) -> None:
    """Say in which module the model's own code raised, where Python can add a note to an exception."""
    record = recorder.failed
    if record is not None and hasattr(error, "add_note"):
        where = f"{record.path} ({record.type})" if record.path else record.type
        error.add_note(f"raised in {where} while counting at an input of shape {shape}")
