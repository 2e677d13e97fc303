"""Exact counts of parameters, multiply-accumulates and memory, in milliseconds, without touching the model.

The model's own ``forward`` is run on maps that have a shape and no content. A *meter* answers every call of a torch
function from a table of rules (:mod:`~convzoo.profiling.rules`), so no arithmetic is done; a *shadow* of the modules
(:mod:`~convzoo.profiling.shadow`) takes whatever the run leaves behind, so the model is only read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .inputs import Inputs, Source, default_dtype, one_image
from .meter import Meter, like
from .result import Layer, Profile
from .shadow import Shadow

__all__ = ["Layer", "Profile", "profile", "summary"]

COUNTERS = ("convzoo", "thop")


def profile(
    model: nn.Module,
    input_size: Any,
    *,
    dtype: torch.dtype | None = None,
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
    ours, inputs = take(model, input_size, dtype)
    if counter == "convzoo":
        return ours
    from .peers import thop_profile

    with torch.inference_mode(False), torch.no_grad():
        return thop_profile(ours, model, inputs)


def summary(model: nn.Module, input_size: Any, *, dtype: torch.dtype | None = None, **options: Any) -> Any:
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

    ours, inputs = take(model, input_size, dtype)
    with torch.inference_mode(False), torch.no_grad():
        return torchinfo_summary(ours, model, inputs, options)


def take(model: nn.Module, input_size: Any, dtype: torch.dtype | None) -> tuple[Profile, Inputs]:
    """Our profile of ``model``, and the inputs it was taken at."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"profile takes a module, got {model!r:.60} ({type(model).__name__}); "
            "pass the model itself, e.g. create_model('resnet18')"
        )
    shadow = Shadow(model)
    try:
        with torch.inference_mode(False), torch.no_grad():
            source = Source(model, one_image(input_size, default_dtype(shadow.parameters.values(), dtype)))
            return replace(measure(shadow, source.inputs), _source=source), source.inputs
    finally:
        shadow.release()


def measure(shadow: Shadow, inputs: Inputs) -> Profile:
    """Run the shadow under its meter, and say what was seen."""
    meter, (args, kwargs) = shadow.meter, inputs
    args, kwargs = tuple(map(like, args)), {name: like(tensor) for name, tensor in kwargs.items()}
    every = [*args, *kwargs.values()]
    meter.keep(every)
    shape = tuple(every[0].shape)
    try:
        with meter:
            shadow.root(*args, **kwargs)
    except Exception as error:
        explain(error, meter, shape)
        raise
    parameters = shadow.parameters.values()
    return Profile(
        model=model_name(shadow.root),
        input_shape=shape,
        params=sum(parameter.numel() for parameter in parameters),
        trainable_params=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        buffers=sum(buffer.numel() for buffer in shadow.buffers.values()),
        macs=meter.macs,
        activations=meter.activations,
        param_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        peak_activation_bytes=meter.peak_bytes,
        layers=tuple(shadow.layers()),
    )


def model_name(model: nn.Module) -> str:
    """The name in the zoo, or the class's."""
    name = getattr(getattr(model, "config", None), "name", None)
    return name if isinstance(name, str) else type(model).__name__


def explain(error: Exception, meter: Meter, shape: tuple[int, ...]) -> None:
    """Say in which module the model's own code raised, where Python can add a note to an exception."""
    node = meter.failed
    if node is not None and hasattr(error, "add_note"):
        where = f"{node.path} ({node.module})" if node.path else node.module
        error.add_note(f"raised in {where} while counting at an input of shape {shape}")
