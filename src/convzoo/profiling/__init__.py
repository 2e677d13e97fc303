"""Exact counts of parameters, multiply-accumulates and memory, in milliseconds, without touching the model.

The model's own ``forward`` is run on meta tensors, which have shapes and no data. A *recorder*
(:mod:`~convzoo.profiling.recorder`) answers every call of a torch function: by a rule
(:mod:`~convzoo.profiling.rules`), or by what torch says on the meta device and the formulas of
:mod:`~convzoo.profiling.operators`. What runs is a private copy of the tree of modules
(:mod:`~convzoo.profiling.tree`), so the model is only read.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from .._checks import check_choice
from .compare_thop import Source, thop_profile
from .count import count
from .operators import register_formula
from .result import Layer, Profile
from .torchinfo_table import check_options, torchinfo_summary

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
    an exception. Hooks are not called, unless the model depends on them.

    Args:
        model: any module. On any device, in any precision, compiled, pruned or parametrised.
        input_size: (C, H, W), or (N, C, H, W), or a tensor, or a tuple or dict of tensors for a model of several
            inputs. Where all inputs have the same first dimension it is the batch, and one image of it is counted.
        dtype: of the input, when a size is given; None means that of the model's parameters.
        batch_dim: the dimension along which the inputs hold images; 1 for sequence first, None where there is none.
        counter: ``"convzoo"``, or ``"thop"`` for what thop reports, run on an empty copy.

    Returns:
        The figures; ``print`` shows a table.

    Raises:
        TypeError: not a module, a scripted module, or an input that is neither a size nor tensors.
        ValueError: a size out of range, an uninitialised lazy module, or a model that decides by the values of maps.
        ImportError: the other counter is not installed.

    Warns:
        UserWarning: there are hooks that may change a map and were not called, or operators that nothing is known of.

    Example:
        >>> import convzoo
        >>> p = convzoo.profile(convzoo.create_model("resnet50"), (3, 224, 224))
        >>> p.params, p.macs
        (25557032, 4089184256)
    """
    check_choice("counter", counter, COUNTERS)
    ours, inputs = count(model, input_size, dtype, batch_dim)
    if counter == "thop":
        return thop_profile(ours, model, inputs)
    if ours.uncounted:
        warnings.warn(
            f"{ours.model} uses {', '.join(ours.uncounted)}, of which no formula is known: macs is too low by what "
            "they compute; convzoo.profiling.register_formula adds one",
            stacklevel=2,
        )
    object.__setattr__(ours, "_source", Source(model, inputs))  # nobody else has it yet
    return ours


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
        batch_dim: as in :func:`profile`.
        **options: those of ``torchinfo.summary`` that shape the table: ``depth``, ``col_names``, ``col_width``,
            ``row_settings``.

    Returns:
        A ``torchinfo.ModelStatistics``; ``print`` shows the table.

    Raises:
        TypeError, ValueError: as in :func:`profile`, an option that is not one of these, or a model that torchinfo has
            no table for, such as one that returns no tensor.
        ImportError: torchinfo is not installed.

    Example:
        >>> import convzoo
        >>> table = convzoo.summary(convzoo.create_model("lenet5"), (1, 28, 28), depth=1)
        >>> table.total_params
        61706
    """
    check_options(options)
    ours, inputs = count(model, input_size, dtype, batch_dim)
    return torchinfo_summary(ours, model, inputs, options)
