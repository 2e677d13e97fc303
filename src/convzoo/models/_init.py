"""Drawing initial weights: once, by a rule of each family's.

The framework's layers draw their parameters when they are made. Every family here draws them again by a rule of its
own, so the first draw is wasted time; :class:`without_default_init` leaves it out. The functions below are what the
rules are made of; :mod:`torch.nn.init` is not used in this package, for its functions do not draw side by side.
"""

from __future__ import annotations

import functools
import math
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..registry import build

if TYPE_CHECKING:
    from ._base import Classifier
    from ._config import ModelConfig

Layer = TypeVar("Layer", bound=nn.Conv2d | nn.Linear)
Norm = TypeVar("Norm", bound=nn.BatchNorm2d | nn.LayerNorm)


META = torch.device("meta")
FACTORIES = frozenset({
    torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.arange, torch.range, torch.linspace,
    torch.logspace, torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.tensor,
    torch.as_tensor, torch.scalar_tensor, torch.empty_strided, torch.tril_indices, torch.triu_indices,
    torch.hann_window, torch.hamming_window, torch.empty_like, torch.zeros_like, torch.ones_like,
    torch.full_like, torch.rand_like, torch.randn_like, torch.randint_like, torch.Tensor.new_empty,
    torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_full, torch.Tensor.new_tensor,
})  # fmt: skip
FILLS = frozenset({torch.Tensor.zero_, torch.Tensor.fill_})
STATE = threading.local()


class without_default_init(TorchFunctionMode):  # noqa: N801 - used as a context manager, like torch.no_grad
    """Within it, layers are made without drawing their parameters: the memory is there, its content is not.

    Left out is what the framework's own layers ask of :mod:`torch.nn.init`, in this thread only; other code that calls
    these functions gets what it asks for. :meth:`Classifier.build <convzoo.models.Classifier.build>` opens it, then
    draws by the family's rule, then calls :meth:`make_up` for the parameters that the rule did not touch.

    Example:
        >>> with without_default_init():
        ...     layer = nn.Linear(3, 2)
        >>> he_normal_(layer).weight.shape
        torch.Size([2, 3])
    """

    def __init__(self) -> None:
        super().__init__()
        self._left_out: list[tuple[Tensor, int | None, Callable[[], object]]] = []

    def make_up(self) -> None:
        """Draw what was left out and has not been written since, as the framework would have."""
        for tensor, version, function in self._left_out:
            if _is_untouched(tensor, version):
                function()

    def __enter__(self) -> Any:
        self._before = getattr(STATE, "skipping", False)
        self._needed = not self._before or type(self) is not without_default_init  # each mode is asked at every call
        STATE.skipping = True
        return super().__enter__() if self._needed else self

    def __exit__(self, *exception: Any) -> None:
        STATE.skipping = self._before
        if self._needed:
            super().__exit__(*exception)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init" and _asked_by_a_layer():
            tensor: Tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if not tensor.is_meta and tensor.numel():
                version = None if tensor.is_inference() else tensor._version
                if version is None:  # tensors of inference mode do not count how often they are written
                    tensor.fill_(math.nan)
                self._left_out.append((tensor, version, functools.partial(func, *args, **kwargs)))
            return tensor
        return func(*args, **kwargs)


def _is_untouched(tensor: Tensor, version: int | None) -> bool:
    return bool(tensor.view(-1)[0].isnan()) if version is None else tensor._version == version


def _asked_by_a_layer() -> bool:
    """Whether the function of :mod:`torch.nn.init` that is running was called by one of the framework's layers."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") != "torch.nn.init":
        frame = frame.f_back
    while frame is not None and frame.f_globals.get("__name__") == "torch.nn.init":
        frame = frame.f_back
    return frame is not None and frame.f_globals.get("__name__", "").startswith("torch.nn.modules.")


class on_meta(without_default_init):  # noqa: N801
    """Within it, modules are made on the meta device, and nothing is filled in: their shapes, at the least cost.

    Example:
        >>> with on_meta():
        ...     layer = nn.BatchNorm2d(3)
        >>> layer.running_mean.device
        device(type='meta')
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in FACTORIES and (kwargs is None or kwargs.get("device") is None):
            return func(*args, **{**(kwargs or {}), "device": META})
        if func in FILLS:
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)


def build_empty(config: ModelConfig) -> Classifier:
    """The model of a row on the meta device, without numbers: its shapes, in milliseconds."""
    with on_meta():
        return build(config)


LARGE = 2**17  # numbers; fewer are drawn before a thread has begun


def draw(weight: Tensor, function: Callable[..., Tensor], *between: float) -> None:
    """``function(weight, *between)``, from the default generator; a large one by :class:`drawing_in_parallel`."""
    deferred = getattr(STATE, "deferred", None)
    if deferred is None or weight.numel() < LARGE or weight.device.type != "cpu" or type(weight.detach()) is not Tensor:
        function(weight, *between)
    else:
        deferred.append((weight, function, between, int(torch.empty((), dtype=torch.int64, device="cpu").random_())))


class drawing_in_parallel:  # noqa: N801
    """Within it, :func:`normal_` and :func:`uniform_` put the large weights of the CPU off; at its end they are drawn
    side by side, on as many threads as the framework uses.

    Each has a generator of its own, whose seed comes from the default one where the weights would have been drawn: the
    same seed gives the same numbers on any number of threads.

    Example:
        >>> with drawing_in_parallel():
        ...     layer = he_normal_(nn.Linear(400, 400))
    """

    def __enter__(self) -> None:
        STATE.deferred = []

    def __exit__(self, *exception: Any) -> None:
        deferred: list[tuple[Tensor, Callable[..., Tensor], tuple[float, ...], int]] = STATE.deferred
        STATE.deferred = None
        if exception[0] is not None:
            return
        inference = torch.is_inference_mode_enabled()

        def catch_up(weight: Tensor, function: Callable[..., Tensor], between: tuple[float, ...], seed: int) -> None:
            with torch.inference_mode(inference), torch.no_grad():  # both hold for one thread
                function(weight, *between, generator=torch.Generator().manual_seed(seed))

        deferred.sort(key=lambda job: -job[0].numel())  # the largest first, so that the threads end together
        threads = min(torch.get_num_threads(), len(deferred))
        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(catch_up, *zip(*deferred, strict=True)))
        else:
            for job in deferred:
                catch_up(*job)


def fans(weight: Tensor) -> tuple[int, int]:
    """Inputs per output unit and outputs per input unit of a linear or convolution weight (out, in, ...)."""
    receptive = math.prod(weight.shape[2:])
    return weight.shape[1] * receptive, weight.shape[0] * receptive


@torch.no_grad()
def normal_(layer: Layer, std: float) -> Layer:
    """Weights from N(0, std^2), biases zero."""
    draw(layer.weight, Tensor.normal_, 0.0, std)
    if layer.bias is not None:
        layer.bias.zero_()
    return layer


def he_normal_(layer: Layer, *, fan_out: bool = False) -> Layer:
    """Keep the variance through a ReLU (He et al. 2015, arXiv:1502.01852): std = sqrt(2 / fan), biases zero.

    ``fan_out`` keeps the variance of the gradient instead of the activation's.
    """
    return normal_(layer, math.sqrt(2.0 / fans(layer.weight)[fan_out]))


@torch.no_grad()
def copy_(tensor: Tensor, values: Tensor) -> None:
    """Fill ``tensor``, which may be sharded over processes, with ``values``; where each has its own, the first's."""
    if hasattr(tensor, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        sharded: Any = tensor
        values = distribute_tensor(values.to(tensor.device), sharded.device_mesh, sharded.placements)
    tensor.copy_(values)


def orthogonal(rows: int, columns: int) -> Tensor:
    """A random matrix (rows, columns) of rows, or columns if there are more rows, that are orthonormal: Q of the QR
    decomposition of a normal matrix with the signs of R's diagonal, which makes it uniform (Mezzadri 2006,
    arXiv:math-ph/0609050); in float32 on the CPU, since not every type and device has the decomposition."""
    normal = torch.empty(rows, columns, dtype=torch.float32, device="cpu").normal_()
    q, r = torch.linalg.qr(normal.t() if rows < columns else normal)
    q = q * r.diagonal().sign()
    return q.t() if rows < columns else q


@torch.no_grad()
def uniform_(layer: Layer, bound: float) -> Layer:
    """Weights and biases from U(-bound, bound)."""
    draw(layer.weight, Tensor.uniform_, -bound, bound)
    if layer.bias is not None:
        layer.bias.uniform_(-bound, bound)
    return layer


@torch.no_grad()
def centred_sigmoid_(layer: Layer, *, after_sigmoid: bool) -> Layer:
    """Keep a sigmoid net alive: std = 4 / sqrt(fan_in), and a bias that cancels the mean of the inputs.

    The slope of a sigmoid at zero is 1/4, so a gain of 4 keeps the variance. Its outputs average 1/2, not 0,
    which under random weights pushes the next units into saturation; a bias of minus half the sum of a unit's
    weights puts them back on the slope (``after_sigmoid``: the inputs are outputs of a sigmoid).
    """
    layer.weight.normal_(0.0, 4.0 / math.sqrt(fans(layer.weight)[0]))
    if layer.bias is not None:
        layer.bias.copy_(layer.weight.flatten(1).sum(1) * (-0.5 if after_sigmoid else 0.0))
    return layer


@torch.no_grad()
def identity_(norm: Norm) -> Norm:
    """A normalisation layer that starts as one: gain 1, shift 0, running mean 0 and variance 1."""
    norm.weight.fill_(1.0)
    norm.bias.zero_()
    if isinstance(norm, nn.BatchNorm2d):
        norm.reset_running_stats()
    return norm
