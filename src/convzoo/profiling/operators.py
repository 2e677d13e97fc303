"""What the operators cost that a function of torch comes down to, for functions without a rule of their own.

An operator is counted by a formula of :mod:`torch.utils.flop_counter`, one of :data:`FORMULAS`, or not at all because
it only moves, compares or scales numbers (:data:`FREE`). Every other one is named in the result.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .._checks import shorten
from .tally import Tally

Shape = tuple[int, ...]


def batched_product(shapes: list[Shape], result: Shape) -> int:
    """(..., n, k) by (..., k, m), the last two arguments."""
    return math.prod(shapes[-2]) * shapes[-1][-1]


def matrix_by_vector(shapes: list[Shape], result: Shape) -> int:
    """(n, k) by (k), the last two arguments; or (k) by (k)."""
    return math.prod(shapes[-2])


def bilinear(shapes: list[Shape], result: Shape) -> int:
    """Of (N, I), (out, I, J) and (N, J): the weight by the second input, then the result by the first."""
    rows, (out, first, second) = shapes[0][0], shapes[1]
    return rows * out * first * (second + 1)


def pairwise_distance(shapes: list[Shape], result: Shape) -> int:
    """The length of the vectors, for each distance."""
    return math.prod(result) * shapes[0][-1]


def convolution_over_time(shapes: list[Shape], result: Shape) -> int:
    """The weight (kernel, in, out) at every output step."""
    return math.prod(result) * shapes[1][0] * shapes[1][1]


# Operators that torch.utils.flop_counter leaves out: from the shapes of the tensors among the arguments to MACs.
FORMULAS: dict[str, Callable[[list[Shape], Shape], int]] = {
    **dict.fromkeys(("aten::mv", "aten::addmv", "aten::dot", "aten::vdot"), matrix_by_vector),
    **dict.fromkeys(("aten::addbmm", "aten::_int_mm"), batched_product),
    "aten::_trilinear": bilinear,
    "aten::_cdist_forward": pairwise_distance,
    "aten::_pdist_forward": pairwise_distance,
    "aten::conv_tbc": convolution_over_time,
}
# By the convention these cost nothing: they move and select numbers, draw them, or are normalisation, activation,
# pooling, resampling, a loss, or one operation an element. Names without underscores at the ends, and without the
# ends that mean a variant of the same: _copy, _forward, _backward, ...
FREE = frozenset(
    """
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d addr affine_grid_generator alias
    argsort as_strided as_strided_scatter avg_pool1d avg_pool2d avg_pool3d batch_norm_with_update bernoulli
    binary_cross_entropy binary_cross_entropy_with_logits block_diag bucketize cat cauchy channel_shuffle chunk_cat
    clone col2im complex constant_pad_nd copy cummax cummin cumprod cumsum cumulative_trapezoid detach diag_embed
    diagonal diagonal_scatter dist embedding embedding_bag embedding_bag_forward_only embedding_dense
    embedding_renorm empty empty_like expand exponential fill flip floor_divide fractional_max_pool2d
    fractional_max_pool3d full full_like fused_dropout fused_moving_avg_obs_fq_helper fused_rms_norm gather
    geometric glu grid_sampler_2d grid_sampler_3d hardswish hash_tensor histc huber_loss im2col index index_add
    index_copy index_fill index_put index_reduce index_select isin kthvalue lift lift_fresh linalg_check_errors
    linalg_cross linspace log_normal log_sigmoid log_softmax logcumsumexp logspace masked_fill masked_scatter
    masked_select max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d median mode mse_loss
    multi_margin_loss multilabel_margin_loss multinomial nanmedian narrow native_batch_norm native_batch_norm_legit
    native_batch_norm_legit_no_training native_channel_shuffle native_dropout native_group_norm native_layer_norm
    new_empty new_empty_strided new_full new_ones new_zeros nll_loss nll_loss2d nonzero nonzero_static normal ones
    ones_like pad_enum permute pin_memory pixel_shuffle pixel_unshuffle polar prelu_kernel put rand_like
    randint_like randn_like random reflection_pad1d reflection_pad2d reflection_pad3d renorm repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape_alias resize resize_as roll
    rot90 rrelu_with_noise rsub safe_softmax scatter scatter_add scatter_reduce searchsorted segment_reduce
    select_scatter set slice_scatter smooth_l1_loss soft_margin_loss softmax sort split split_with_sizes squeeze
    stack t take to to_copy topk trace transpose tril triu triu_indices unbind unfold uniform unique2 unsafe_index
    unsafe_index_put unsafe_masked_index unsafe_masked_index_put_accumulate unsafe_split unsafe_split_with_sizes
    unsafe_view unsqueeze upsample_bicubic2d upsample_bicubic2d_aa upsample_bilinear2d upsample_bilinear2d_aa
    upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_nearest_exact1d
    upsample_nearest_exact2d upsample_nearest_exact3d upsample_trilinear3d view view_as_complex view_as_real zero
    zeros_like
    """.split()
)
VARIANT = re.compile(r"(_copy|_forward|_backward|_backward_data)?_*$")
BY_TAG = tuple(getattr(torch.Tag, name) for name in ("pointwise", "reduction") if hasattr(torch.Tag, name))
BY_VALUE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


@functools.cache
def is_free(operator: Any) -> bool:
    """Whether the operator costs nothing by the convention."""
    namespace, _, name = operator._schema.name.partition("::")
    if any(tag in operator.tags for tag in BY_TAG) or operator.is_view or namespace in ("prim", "prims"):
        return True
    if namespace != "aten":
        return False
    makes = not any("Tensor" in str(argument.type) for argument in operator._schema.arguments)
    return makes or VARIANT.sub("", name).lstrip("_") in FREE or name.startswith("_assert")


Formula = Callable[..., int]
CUSTOM: dict[Any, Formula] = {}


def register_formula(function: Any) -> Callable[[Formula], Formula]:
    """Say how many multiply-accumulates a function of torch or a custom operator takes.

    The decorated function is called with the arguments of each call and its result as ``out``, all tensors among them
    without memory: it may read shapes and types. Its count takes the place of any other. A formula of
    ``torch.utils.flop_counter.register_flop_formula`` is used too; that one returns operations, two per
    multiply-accumulate.

    Args:
        function: a function of torch, an operator (``torch.ops.name.operator``), or what ``torch.library.custom_op``
            makes. An operator of one's own needs a shape rule for meta tensors (its ``register_fake``).

    Raises:
        TypeError: ``function`` is not one of these.

    Example:
        >>> from convzoo.profiling import profile, register_formula
        >>> @register_formula(torch.fft.fft)
        ... def fft_macs(input, *args, out, **kwargs):
        ...     length = input.shape[-1]
        ...     return 2 * input.numel() * max(1, length.bit_length() - 1)
        >>> class Spectrum(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.fft.fft(x).abs()
        >>> profile(Spectrum(), torch.rand(1, 8)).macs
        48
    """
    if not callable(function) or isinstance(function, type):
        raise TypeError(
            f"a formula is registered for a function of torch or an operator, got {shorten(function)}; "
            "pass e.g. torch.ops.my_library.my_operator"
        )

    def enter(formula: Formula) -> Formula:
        CUSTOM[getattr(function, "_opoverload", function)] = formula
        return formula

    return enter


def custom_formula(function: Any) -> Formula | None:
    """The formula that was registered for a function or an operator."""
    if not CUSTOM:
        return None
    return CUSTOM.get(function) or CUSTOM.get(getattr(function, "_overloadpacket", None))


class OperatorCounter(TorchDispatchMode):
    """Counts the operators that a function of torch comes down to; one thread's, unlike ``FlopCounterMode``.

    ``failed`` is the operator that raised, if one did.
    """

    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally
        self.failed: Any = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        formula = flop_registry.get(func._overloadpacket)
        ours = FORMULAS.get(name)
        custom = custom_formula(func)
        try:
            if formula is ours is custom is None:
                with self:  # an operator made of others, such as einsum, shows what it is made of
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            result = func(*args, **kwargs)
        except Exception:
            self.failed = self.failed or func
            raise
        elements = result.numel() if isinstance(result, Tensor) else 0
        if custom is not None:
            self.tally.count(custom(*args, out=result, **kwargs), elements)
        elif formula is not None:
            self.tally.count(formula(*args, **kwargs, out_val=result) // 2, elements)
        elif ours is not None:
            shapes = [tuple(each.shape) for each in args if isinstance(each, Tensor)]
            self.tally.count(ours(shapes, tuple(result.shape)), elements)
        elif not is_free(func):
            self.tally.note_uncounted(name)
        return result
