"""Convolutions and linear layers whose weights lie as the CPU's matrix kernels want them, with what follows built in.

oneDNN multiplies in an order of its own. An ordinary layer hands it the weights as they are stored, and they are
rearranged in every call; here they are rearranged once. An activation, and an addition before it, are done while the
results are still in the registers instead of in passes over memory of their own.

The rearranged weights are a cache: the layer's parameters stay what they are, state dict and copies know nothing of it,
and it is made anew when the parameters or the shape of the input change. Wherever the kernels do not apply (another
device or dtype, a gradient asked for, autocast, a compiler, exporter or counter at work) the layer computes the same
function with torch's own operators. The kernels are private to torch: where they are missing, that is everywhere.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .winograd import Winograd, count_tiles, is_faster


class Activation(NamedTuple):
    """An activation by the name that the kernels know: "none", "relu", "leaky_relu", "sigmoid" or "gelu"."""

    name: str = "none"
    scalars: tuple[float, ...] = ()
    algorithm: str = ""


def activate(activation: Activation, x: Tensor, *, inplace: bool = False) -> Tensor:
    """``x`` through ``activation``; a function, for compilers of torch before 2.7 call no tuples."""
    if activation.name == "none":
        return x
    if activation.name == "relu":
        return F.relu(x, inplace)
    if activation.name == "leaky_relu":
        return F.leaky_relu(x, activation.scalars[0], inplace)
    return torch.sigmoid(x) if activation.name == "sigmoid" else F.gelu(x)


NONE, RELU, GELU = Activation(), Activation("relu"), Activation("gelu", (), "none")


def activation_of(module: nn.Module | None) -> Activation | None:
    """``module`` as the kernels know it; None if it is no activation of theirs."""
    if type(module) is nn.ReLU:
        return RELU
    if type(module) is nn.Sigmoid:
        return Activation("sigmoid")
    if type(module) is nn.LeakyReLU:
        return Activation("leaky_relu", (module.negative_slope,))
    return GELU if type(module) is nn.GELU and module.approximate == "none" else None


def find_kernels() -> bool:
    """Whether this torch has the kernels, and a way to see whether somebody looks at the operators."""
    kernels = torch.ops.mkldnn
    needed = (
        (kernels, "_reorder_convolution_weight"),
        (kernels, "_reorder_linear_weight"),
        (getattr(kernels, "_convolution_pointwise", None), "binary"),
        (getattr(kernels, "_convolution_pointwise_", None), "binary"),
        (getattr(kernels, "_linear_pointwise", None), "binary"),
        (torch._C, "_len_torch_dispatch_stack"),
    )
    return all(hasattr(owner, name) for owner, name in needed)


def has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16; without them it is emulated, and slower than float32."""
    find: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # older torch cannot tell
    return any(find().get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


KERNELS, BFLOAT16 = find_kernels(), has_bfloat16()


def can_use_kernels(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels apply to ``x``: plain float32 on the CPU, or bfloat16 where it has instructions for it,
    and nobody looks at the operators."""
    return bool(
        KERNELS
        and not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.is_cpu
        and weight.is_cpu
        and x.dtype is weight.dtype
        and (x.dtype is torch.float32 or (BFLOAT16 and x.dtype is torch.bfloat16))
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not weight.is_inference()  # counts no changes, so that a cache could not know of them
        and not torch._C._len_torch_dispatch_stack()
        and torch.backends.mkldnn.enabled
        and x.numel() > 0
    )


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library of Linux keep up to 64 MB of what is freed, once and for this process.

    At first it gives all but a little back to the kernel, which clears every page anew when the next call asks for it:
    a tenth of T2T-ViT's time. Freeing one block of almost 32 MB, which is never touched, raises its limits.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


class Announcing:
    """A module that gives what others behind it gave. ``absorbed`` names these others."""

    absorbed: tuple[str, ...] = ()

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
        """As ever, but with a warning where the hook will see something else than this layer's own output."""
        tensors = (*self._parameters.values(), *self._buffers.values())  # type: ignore[attr-defined] # beside a module
        if self.absorbed and not any(tensor is not None and tensor.is_meta for tensor in tensors):
            warnings.warn(
                f"this layer of an optimised model does the work of what followed it too ({', '.join(self.absorbed)}), "
                "and that is what the hook will see; hook the original model instead",
                stacklevel=2,
            )
        return super().register_forward_hook(*args, **kwargs)  # type: ignore[misc] # likewise


class StandIn(Announcing, nn.Identity):
    """Stands where a layer was whose work is done by another."""


class _Packed(Announcing):
    """What the two layers share: the cache, and that copies and files leave it out."""

    _cache: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_cache"}

    def _key(self, weight: Tensor, bias: Tensor | None, *shape: int) -> tuple[int, ...]:
        """Changes with the parameters and with the shape of the input."""
        moved = (0, 0) if bias is None else (bias.data_ptr(), bias._version)
        return (weight.data_ptr(), weight._version, *moved, *shape)


def like(cls: Any, layer: nn.Module) -> Any:
    """A layer of class ``cls`` with the settings and the parameters of ``layer``."""
    fresh = cls.__new__(cls)
    fresh.__dict__ = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(layer).items()}
    return fresh


class PackedConv2d(_Packed, nn.Conv2d):
    """A convolution, then ``activation``: maps (N, C, H, W) to (N, C', H', W').

    With ``add``, maps of the output's shape, these are added before the activation; ``overwrite`` says that their
    memory may be used for the output. ``channels_last``: in which order the maps are handed on.
    """

    activation: Activation = NONE
    channels_last: bool = True

    @classmethod
    def of(cls, conv: nn.Conv2d, activation: Activation = NONE, *, channels_last: bool = True) -> PackedConv2d:
        """``conv`` as a packed layer with the same parameters."""
        packed = like(cls, conv)
        packed.activation, packed.channels_last = activation, channels_last
        if channels_last:
            packed.weight.data = packed.weight.data.contiguous(memory_format=torch.channels_last)
        return packed

    def forward(self, x: Tensor, add: Tensor | None = None, overwrite: bool = False) -> Tensor:
        weight = self.weight
        if (
            not can_use_kernels(x, weight)
            or x.ndim != 4
            or self.padding_mode != "zeros"
            or isinstance(self.padding, str)
        ):
            out = super().forward(x)
            return activate(self.activation, out if add is None else out + add)
        if add is not None and add.shape != self._shape_for(x):
            return activate(self.activation, super().forward(x) + add)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        x = x.contiguous(memory_format=layout)
        key = self._key(weight, self.bias, *x.shape)
        cache = self._cache
        if cache is None or cache[0] != key:
            keep_freed_memory()
            cache = self._cache = key, self._prepare(x.shape)
        name, scalars, algorithm = self.activation
        if isinstance(cache[1], Winograd):
            out = cache[1](x)
            return activate(self.activation, out if add is None else out.add_(add), inplace=True)
        where = (cache[1], self.bias, self.padding, self.stride, self.dilation, self.groups)
        if add is None:
            return torch.ops.mkldnn._convolution_pointwise(x, *where, name, scalars, algorithm)
        how = ("add", 1.0, None if name == "none" else name, scalars, algorithm)
        add = add.contiguous(memory_format=layout)
        if overwrite:
            return torch.ops.mkldnn._convolution_pointwise_.binary(add, x, *where, *how)
        return torch.ops.mkldnn._convolution_pointwise.binary(x, add, *where, *how)

    def _shape_for(self, x: Tensor) -> tuple[int, ...]:
        """The shape of what the convolution makes of ``x``."""
        sides: list[int] = []
        for side, kernel, stride, padding, dilation in zip(
            x.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True
        ):
            # torch's stubs take a padding for a word, which it is not here
            sides.append((side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)  # type: ignore[operator]
        return (x.shape[0], self.out_channels, *sides)

    def _prepare(self, shape: torch.Size) -> Tensor | Winograd:
        """What the kernels want for maps of ``shape``."""
        geometry: Any = (self.padding, self.stride, self.dilation, self.groups)
        if (self.kernel_size, self.stride, self.dilation, self.groups) == ((3, 3), (1, 1), (1, 1), 1):
            rows, columns = count_tiles(shape, geometry[0])
            if (
                self.weight.dtype is torch.float32
                and self.channels_last
                and is_faster(self.in_channels, self.out_channels, shape[0] * rows * columns)
            ):
                return Winograd(self.weight, self.bias, geometry[0], shape)
        return torch.ops.mkldnn._reorder_convolution_weight(self.weight, *geometry, shape)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", activation={self.activation.name}" if self.activation != NONE else "")


class PackedLinear(_Packed, nn.Linear):
    """A linear layer, then ``activation``: (..., C) to (..., C'). With ``add``, of the output's shape, this is added;
    then there is no activation."""

    activation: Activation = NONE

    @classmethod
    def of(cls, linear: nn.Linear, activation: Activation = NONE) -> PackedLinear:
        """``linear`` as a packed layer with the same parameters."""
        packed = like(cls, linear)
        packed.activation = activation
        return packed

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        weight = self.weight
        if not can_use_kernels(x, weight) or x.shape[-1] != self.in_features:
            out = super().forward(x)
            return activate(self.activation, out) if add is None else out + add
        rows = x.numel() // x.shape[-1]
        key = self._key(weight, None, rows)
        cache = self._cache
        if cache is None or cache[0] != key:
            keep_freed_memory()
            cache = self._cache = key, torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        if add is None:
            return torch.ops.mkldnn._linear_pointwise(x, cache[1], self.bias, *self.activation)
        return torch.ops.mkldnn._linear_pointwise.binary(x, add, cache[1], self.bias, "add")

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", activation={self.activation.name}" if self.activation != NONE else "")
