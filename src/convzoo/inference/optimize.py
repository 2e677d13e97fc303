"""The same function of the images, faster: copy the model, rewrite the copy, and check it against the original."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .._checks import check_bool, check_choice
from .._modules import ModuleCopier, private_copy
from .._spread import gather_first, is_spread
from .._wrappers import has_global_hooks
from ..models import Classifier
from .compare import TOLERANCES, is_close
from .fuse import Fuser, Part
from .layers import is_plain, pack
from .packed import BFLOAT16
from .slices import Slices
from .trace import Trace, Value, record, replace

SMALL_IMAGES = 96  # pixels a side; a multiple of 16, as T2T-ViT needs


def optimize_for_inference(
    model: nn.Module,
    *,
    example: Tensor | tuple[Any, ...] | None = None,
    memory_format: Literal["channels_last", "contiguous"] = "channels_last",
    dtype: torch.dtype | None = None,
    compile: bool = False,
) -> nn.Module:
    """The same function of the images, faster; ``model`` itself is left as it is.

    Batch norm is folded into the convolution before it, activations and residual additions are done inside the
    convolutions, 1x1 convolutions that read the same maps become one, dropout and auxiliary heads are left out, and of
    T2T-ViT's last block only the class token's row is computed. On the CPU a net of the zoo goes through a large batch
    a few images at a time, where nobody can see it. In float32 on the CPU the weights are laid out once as
    its matrix kernels want them, beside the parameters: the first batch of every new shape takes longer, and the
    weights take twice their memory, those of wide 3x3 convolutions up to six times. Elsewhere the layers are ordinary
    ones.

    Only parts are rewritten of which everything that runs is known: layers of exactly torch's classes without hooks,
    pruning or parametrisations, which ``model`` uses in one place and once. What it uses how is seen by running it on
    an example, on which every rewritten part is also compared with the original. Everything else stays as it is.

    Args:
        model: a model of the zoo, or any other module.
        example: what ``model`` takes: a tensor, or a tuple of arguments. A model of the zoo needs none, random images
            serve. Without an example, of any other module each convolution and linear layer is made faster
            by itself, and nothing that depends on how they are called is rewritten.
        memory_format: in which order maps are kept in memory: ``"channels_last"``, which the kernels of CPUs and GPUs
            prefer, or ``"contiguous"``.
        dtype: ``torch.bfloat16`` for a copy that computes in bfloat16, and takes images and gives logits of that type
            (``fast(images.bfloat16()).float()``; ``fast.preprocess`` makes such images). Logits keep two to three
            digits. The copy is made in the type of ``model``, compared with it, and converted at the end.
        compile: compile the whole graph with :func:`torch.compile` too; the first call then takes a minute or so.

    Returns:
        A copy in evaluation mode, without gradients, whose outputs are those of ``model`` in evaluation mode up to
        rounding. It is of the same class, takes the same arguments, and can be saved, copied, exported, profiled and
        explained as ``model`` can. State-dict keys of batch norm are gone, those of merged convolutions have new names;
        it is marked by the attribute ``optimized_for_inference``.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: an unknown memory format, an example that ``model`` does not take, weights on the meta device or
            spread over processes, or a wrapper such as :func:`torch.compile` makes whose call is not that of the module
            inside (it has hooks, say). With ``dtype``: another type, a processor or GPU that has no instructions for it
            and would be slower, a model that cannot be run on its own kind of images and comes without an example, or
            one whose outputs in bfloat16 are others.

    Warns:
        UserWarning: parts were rewritten, differed from the original on the example, and were put back; or a model of
            the zoo could not be run on its own kind of images.

    Example:
        >>> import convzoo, torch
        >>> model = convzoo.create_model("resnet18").eval()
        >>> fast = convzoo.optimize_for_inference(model)
        >>> images = torch.rand(2, 3, 64, 64)
        >>> torch.allclose(fast(images), model(images), rtol=1e-4, atol=1e-4)
        True
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"optimize_for_inference takes a torch.nn.Module, got {type(model).__name__}; create_model(name) makes one"
        )
    check_choice("memory_format", memory_format, ("channels_last", "contiguous"))
    compile = check_bool("compile", compile)
    check_choice("dtype", dtype, (None, torch.bfloat16))
    if dtype is not None:
        check_bfloat16(model)
    if any(is_lazy(tensor) or tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "optimize_for_inference takes a model with weights, got one whose tensors are on the meta device or wait "
            "for a first batch; load weights into it, or run it once"
        )
    if is_spread(model):
        raise ValueError(gather_first("the model", "optimise"))
    with torch.inference_mode(False), torch.no_grad():
        original = independent_copy(model)
        optimizer = Optimizer(original, memory_format == "channels_last")
        fast = optimizer.run(example)
        if dtype is not None:
            fast = optimizer.convert(fast, dtype)
    for text in optimizer.warnings:
        warnings.warn(f"optimize_for_inference: {text}", stacklevel=2)
    fast.optimized_for_inference = True  # type: ignore[assignment] # attributes of modules are typed as tensors
    if compile:
        fast.compile(fullgraph=True, options={"freezing": True})
    return fast


def is_optimized(model: nn.Module) -> bool:
    """Whether ``model``, or a part of it, was made by :func:`optimize_for_inference`.

    Such a part has the attribute ``optimized_for_inference``. Its state dict is not that of its class any more.

    Example:
        >>> import convzoo
        >>> from convzoo.inference import is_optimized
        >>> model = convzoo.create_model("lenet5")
        >>> is_optimized(model), is_optimized(convzoo.optimize_for_inference(model))
        (False, True)
    """
    return any(getattr(module, "optimized_for_inference", False) for module in model.modules())


class Optimizer:
    """Rewrites copies of ``original`` until one does the same on the example."""

    def __init__(self, original: nn.Module, channels_last: bool) -> None:
        self.original, self.channels_last = original, channels_last
        self.put_back: dict[str, str] = {}
        self.warnings: list[str] = []
        self.args: tuple[Any, ...] | None = None

    def run(self, example: Any) -> nn.Module:
        """The fastest copy that does what the original does."""
        if has_global_hooks():
            self.warnings.append("hooks are registered for all modules, so nothing is rewritten; remove them first")
            return self.original
        args = self.args = self.arguments(example)
        if args is None:
            return pack(private_copy(self.original), self.channels_last)
        fast = self.rewrite(args)
        if self.put_back:
            parts = ", ".join(f"{path or 'the whole model'} ({text})" for path, text in self.put_back.items())
            self.warnings.append(f"what differed from the original on the example was put back: {parts}")
        return fast

    def convert(self, fast: nn.Module, dtype: torch.dtype) -> nn.Module:
        """``fast`` in ``dtype``, if its outputs are then still the original's up to the rounding of that type."""
        if self.args is None:
            raise ValueError(
                "whether a model computes the same in bfloat16 is seen on an example, and this one was run on none; "
                "pass example=, what the model takes"
            )
        fast = fast.to(dtype)
        try:
            actual = run(private_copy(fast), convert_floats(self.args, dtype))
        except Exception as reason:  # whatever the model's code raises
            raise ValueError(f"the model does not run in bfloat16: {reason}; leave dtype out") from reason
        if not is_close(actual, convert_floats(self.expected, dtype)):
            raise ValueError(
                f"the model's outputs in bfloat16 differ by more than {TOLERANCES[dtype]:.0%} of the largest from "
                "those that it should give; leave dtype out"
            )
        forget_kernels(fast)
        return fast

    def arguments(self, example: Any) -> tuple[Any, ...] | None:
        """What to run the model on; None if nothing is known that it takes."""
        if example is not None:
            candidates = [example if isinstance(example, tuple) else (example,)]
        else:
            candidates = [(images,) for images in make_images(self.original)]
        error: Exception | None = None
        for args in candidates:
            try:
                self.expected = run(private_copy(self.original), args)
                return args
            except Exception as reason:  # whatever the model's code raises
                error = reason
        if example is not None:
            raise ValueError(
                f"optimize_for_inference could not run the model on the example: {error}; pass what the model takes, a "
                "tensor or a tuple of arguments"
            ) from error
        if error is not None:
            self.warnings.append(
                f"the model does not take images of shape {tuple(args[0].shape)} ({error}), so that only single layers "
                "were made faster; pass an example= that it takes"
            )
        return None

    def rewrite(self, args: tuple[Any, ...]) -> nn.Module:
        """The fastest copy that gives on ``args`` what the original gives."""
        with autocast_off(args):
            trace, _ = record(private_copy(self.original), args)
        while True:
            fast = pack(private_copy(self.original), self.channels_last)
            leave_out_auxiliary_heads(fast, trace)
            fuser = Fuser(fast, trace, self.put_back)
            wrong = self.find_wrong(fuser.parts, args)
            if not wrong:
                break
            self.put_back |= wrong
        candidates = (lambda: fuser.model, lambda: pack(private_copy(self.original), self.channels_last))
        for make in candidates:
            fast = make()
            if self.is_same(fast, args):
                forget_kernels(fast)
                if isinstance(fast, Classifier) and isinstance(args[0], Tensor) and args[0].ndim == 4:
                    fast.in_slices = Slices.of(trace, args[0])
                return fast
            self.put_back = {"": type(self.original).__name__}
        return self.original

    def find_wrong(self, parts: Collection[Part], args: tuple[Any, ...]) -> dict[str, str]:
        """The parts that give something else than the original's do, by path, in words."""
        right: set[int] = set()
        sources: dict[int, Tensor] = {}

        def compare(value: Value, tensor: Tensor) -> None:
            for index, part in enumerate(parts):
                if part.output == value and index in sources:
                    expected = tensor if part.maps is None else tensor.narrow(1, *part.maps)
                    try:
                        same = is_close(part.module(sources.pop(index)), expected)
                    except Exception:  # whatever it is, the part cannot stay
                        same = False
                    right.update([index] * same)
                if part.source == value:
                    sources[index] = tensor.clone()

        with autocast_off(args):
            record(private_copy(self.original), args, compare)
        return {part.path: part.text for index, part in enumerate(parts) if index not in right}

    def is_same(self, fast: nn.Module, args: tuple[Any, ...]) -> bool:
        """Whether ``fast`` gives on ``args`` what the original gives."""
        try:
            return is_close(run(private_copy(fast), args), self.expected)
        except Exception:  # of code that looks for a layer that is not there, say
            return False


def make_images(model: nn.Module) -> list[Tensor]:
    """Random images that a model of the zoo should take: small ones, which cost less, and ones of its own size."""
    like = next((each for each in model.parameters() if each.is_floating_point()), None)
    if not isinstance(model, Classifier) or like is None:
        return []
    small = max(SMALL_IMAGES, model.min_size)
    sizes = [model.img_size] if min(model.img_size) <= small or model.fixed_size else [(small, small), model.img_size]
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, model.in_chans, *size, generator=generator).to(like) for size in sizes]


def independent_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode, without gradients, that shares no memory with it."""
    copier = IndependentCopier()
    fresh: nn.Module = copier.module(model)
    copier.finish()
    return fresh


class IndependentCopier(ModuleCopier):
    """Copies the memory of parameters too, also of those that a module keeps in a list, say."""

    def tensor(self, tensor: Tensor) -> Tensor:
        """The copy of a tensor, with memory of its own."""
        if id(tensor) in self._copies:
            return self._copies[id(tensor)]
        fresh = super().tensor(tensor)
        if isinstance(tensor, nn.Parameter):
            fresh = self.remember(tensor, nn.Parameter(fresh.detach().clone(), requires_grad=False))
        return fresh


def leave_out_auxiliary_heads(model: nn.Module, trace: Trace) -> None:
    """Take out the heads that the zoo's nets use in training only; of a net whose heads, or layers of them, ran in
    ``trace`` after all, none."""
    ran = [call.path for call in trace.calls + trace.modules]
    for path, module in list(model.named_modules()):
        names = [name for name in getattr(module, "auxiliary_heads", ()) if name in module._modules]
        heads = tuple(f"{path}.{name}." if path else f"{name}." for name in names)
        used = any(f"{each}.".startswith(heads) for each in ran)
        if names and isinstance(module, Classifier) and is_plain(module) and not used:
            for name in names:
                module._modules.pop(name)
            module.config = module.config.changed(aux=False)


def forget_kernels(model: nn.Module) -> None:
    """Drop the weights laid out for the shape of the example."""
    for module in model.modules():
        vars(module).pop("_cache", None)


def autocast_off(args: tuple[Any, ...]) -> Any:
    """No autocast where the tensors of ``args`` are."""
    devices = ["cpu"]
    replace(args, Tensor, lambda tensor: devices.append(tensor.device.type))
    return torch.autocast(devices[-1], enabled=False)


def run(model: nn.Module, args: tuple[Any, ...]) -> Any:
    """What ``model`` gives for ``args``, which it may change."""
    with autocast_off(args):
        return model(*replace(args, Tensor, torch.clone))


def convert_floats(values: Any, dtype: torch.dtype) -> Any:
    """``values``, tensors or nested, with those of floating point in ``dtype``."""
    return replace(values, Tensor, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def check_bfloat16(model: nn.Module) -> None:
    """Refuse bfloat16 where the device of ``model`` would have to emulate it."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_it = BFLOAT16 if device.type == "cpu" else True
    if not has_it:
        raise ValueError(
            f"bfloat16 would be slower than float32 on this {'processor' if device.type == 'cpu' else 'GPU'}, which "
            "has no instructions for it as far as torch can tell; leave dtype out"
        )
