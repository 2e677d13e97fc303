"""Running a private copy of a model: once, with its layers' outputs kept, and the gradients from the logits to them.

Everything that looks into a model runs it here: on a copy of its modules, so that nothing of the user's model changes
and other threads can use it meanwhile. A pass runs without a graph up to the first layer that is asked for. There the
output is cut off and made a leaf; from there to the logits a graph is built, of the layers' gradients alone, because no
parameter of the copy requires one.
"""

from __future__ import annotations

import cmath
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._checks import shorten
from .._inert import copy_inert, is_inert
from .._modules import is_autocast_on, private_copy
from ..models import Classifier
from .layers import Reader, calls_head_of_features, check_model, checked, find_layer, is_pooled, name_of, reader, walk

Hook = Callable[[nn.Module, Any, Any], Any]


def model_input(model: nn.Module, images: Any, prepare: bool | Literal["auto"] = False) -> Tensor:
    """Tensors (C, H, W) or (N, C, H, W) as a batch; pictures as the model's transform makes them.

    Raises:
        TypeError: pictures, and the model has no transform.
    """
    if isinstance(images, Tensor):
        return images[None] if images.ndim == 3 and not images.is_nested else images
    if not isinstance(model, Classifier) or model.transform is None:
        raise TypeError(
            f"images must be a tensor (N, C, H, W), got {type(images).__name__}, and the model has no transform that "
            "says how pictures become its input; convert them, or set model.transform = convzoo.transform(...)"
        )
    return model.preprocess(images, prepare=prepare)


def check_images(model: nn.Module, images: object) -> Tensor:
    """``images`` if ``model`` can be run on them.

    Raises:
        TypeError: not a tensor, or of a kind, a dtype or a device that the model cannot read.
        ValueError: of the wrong shape, none at all, or not finite.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a tensor (N, C, H, W), got {type(images).__name__}; convert it first "
            "(model.preprocess(pictures) does)"
        )
    for wrong, kind, remedy in (
        (images.is_nested, "a nested tensor", "stack images of one size"),
        (images.is_quantized, "a quantised tensor", "pass images.dequantize()"),
        (images.is_meta, "a meta tensor, which has no values", "pass images on the model's device"),
        (images.layout is not torch.strided, f"a tensor of layout {images.layout}", "pass images.to_dense()"),
    ):
        if wrong:
            raise TypeError(f"images are {kind}; {name_of(model)} reads dense tensors of numbers; {remedy}")
    if any(name is not None for name in getattr(images, "names", ())):
        raise TypeError("images are a tensor with named dimensions; pass images.rename(None)")
    if isinstance(model, Classifier):
        model.check_input(images)
    if images.ndim == 0 or images.numel() == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}, which holds none; pass at least one image")
    if not is_finite(images):
        bad = [n for n, image in enumerate(images) if not bool(image.isfinite().all())]
        raise ValueError(f"{len(bad)} of {len(images)} images hold NaN or infinity, first number {bad[0]}; clean them")
    return images


def is_finite(numbers: Tensor) -> bool:
    """Whether none of the numbers is NaN or infinite. Their sum is, if one of them is; it may also overflow."""
    numbers = numbers.detach()
    return cmath.isfinite(numbers.sum().item()) or bool(numbers.isfinite().all())


def mismatch(model: nn.Module, images: Tensor) -> str:
    """How ``images`` differ from what the model's parameters can be used with; empty if they fit."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    chans = first.in_channels if first is not None else 0
    if images.ndim != 4 or (chans and images.shape[1] != chans):
        wanted = chans or "C"
        return f"{name_of(model)} reads images (N, {wanted}, H, W), got {tuple(images.shape)}; convert or stack them"
    parameters = [each for each in model.parameters() if each.is_floating_point()]
    if not parameters:
        return ""
    device = parameters[0].device
    if device.type == "meta":
        return f"{name_of(model)} is on the meta device and has no numbers; load weights, or model.to_empty(device=...)"
    if images.device != device:
        return f"images are on {images.device}, {name_of(model)} is on {device}; pass images.to({str(device)!r})"
    dtypes = {parameter.dtype for parameter in parameters}
    if images.dtype in dtypes or (is_autocast_on(device) and images.dtype in (torch.float16, torch.bfloat16)):
        return ""
    dtype = parameters[0].dtype
    scale = " / 255" if images.dtype == torch.uint8 else ""
    return f"images are {images.dtype}, the parameters of {name_of(model)} {dtype}; pass images.to({dtype}){scale}"


def run(
    model: nn.Module,
    images: Tensor,
    hooks: Sequence[tuple[str, Hook]],
    forward: Callable[[Any, Tensor], Any] = lambda copied, images: copied(images),
    *,
    private: bool = True,
) -> Any:
    """What ``forward`` makes of a private copy of ``model``, with ``hooks`` behind its layers, and ``images``.

    Gradients are off in the beginning; a hook may turn them on for what follows it. A model that a run leaves as it is
    (:func:`~convzoo._inert.is_inert`) needs no such copy: for hooks one that shares the most, else none.
    """
    copied = model
    if private and hooks and is_inert(model):
        copied = copy_inert(model, {id(model.get_submodule(path)) for path, _ in hooks})
    elif private:
        copied = private_copy(model)
    for path, hook in hooks:
        copied.get_submodule(path).register_forward_hook(hook)
    with torch.inference_mode(False), torch.no_grad():  # which both come to an end, whatever the hooks turned on
        images = images.clone() if images.is_inference() else images.detach()
        try:
            return forward(copied, images)
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(model, Classifier) or isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            shown = f"{tuple(images.shape)} of {images.dtype}"
            reason = mismatch(model, images) or f"{shorten(str(error), 200)}; pass what the model takes"
            raise ValueError(f"{name_of(model)} fails on images {shown}: {reason}") from error


class Pass:
    """One forward pass of ``model`` on ``images``, open at ``layers``.

    Attributes:
        logits: (N, classes), with a graph to the layers.
        outputs: of each layer, by its path; what the rest of the pass was computed from.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        layers: tuple[str, ...],
        reshape: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.outputs: dict[str, Tensor] = {}
        self._grid: tuple[int, int] | None = None  # of the last maps of a convolution
        grids: dict[str, tuple[int, int] | None] = {}

        def open_layer(path: str) -> Hook:
            def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor:
                if not isinstance(output, Tensor):
                    raise TypeError(f"layer {path!r} returns a {type(output).__name__}; pick one that returns a tensor")
                if not output.is_floating_point():
                    raise TypeError(f"layer {path!r} returns {output.dtype}; pick one that returns fractions")
                follows = output.requires_grad and len(layers) > 1  # another of the layers, whose gradient passes here
                self.outputs[path] = output if follows else output.detach().requires_grad_()
                grids[path] = self._grid
                torch.set_grad_enabled(True)
                return self.outputs[path].clone()  # whatever follows may overwrite its input

            return hook

        hooks: list[tuple[str, Hook]] = []
        if not isinstance(model, Classifier):
            hooks = [(path, self._see) for path, module in walk(model) if isinstance(module, nn.Conv2d)]
        hooks += [(path, open_layer(path)) for path in layers]

        def forward(copied: Any, images: Tensor) -> Any:
            self.outputs[layers[0]] = copied.forward_features(images).detach().requires_grad_()
            grids[layers[0]] = None
            torch.set_grad_enabled(True)
            return copied.forward_head(self.outputs[layers[0]].clone())

        if is_pooled(model, layers) and is_inert(model):  # the layer is where features end, so that no hook is needed
            logits = run(model, images, [], forward, private=False)
        else:
            logits = run(model, images, hooks)
        self.logits = check_logits(logits, len(images))
        for path in layers:
            if path not in self.outputs:
                raise ValueError(f"layer {path!r} takes no part in the forward pass; pick one that does")
        self._readers: dict[str, Reader] = {
            path: reader(model, path, self.outputs[path].detach(), images, grids[path])
            if reshape is None
            else checked(reshape, path, len(images))
            for path in layers
        }

    def _see(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._grid = (output.shape[-2], output.shape[-1])

    def activations(self, path: str) -> Tensor:
        """The maps (N, C, h, w) of a layer, float32 at least."""
        maps = self._readers[path](self.outputs[path].detach())
        return maps.to(torch.promote_types(maps.dtype, torch.float32))

    def gradients(self, scores: Tensor) -> Iterator[dict[str, Tensor]]:
        """For each column of ``scores`` (N, K) its gradient at the maps of each layer."""
        for found in gradients(scores, list(self.outputs.values())):
            pairs = zip(self.outputs, found, strict=True)
            yield {path: self._readers[path](gradient) for path, gradient in pairs}


def run_pooled(model: Classifier, images: Tensor) -> tuple[Any, Tensor]:
    """The last maps of one of the zoo's nets, and its logits (N, classes), without a graph."""

    def forward(copied: Any, images: Tensor) -> Any:
        features = copied.forward_features(images)
        # whatever follows may overwrite its input
        return features, copied.forward_head(features.clone() if isinstance(features, Tensor) else features)

    features, logits = run(model, images, [], forward, private=not is_inert(model))
    return features, check_logits(logits, len(images))


def run_attention(model: nn.Module, images: Tensor, *, differentiable: bool) -> tuple[Tensor, list[Tensor]]:
    """The logits (N, classes) of a transformer of the zoo, and each block's attention (N, heads, 1 + L, 1 + L) before
    them, with a graph between where ``differentiable``."""
    probabilities: list[Tensor] = []

    def cut(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].detach().requires_grad_(differentiable), *inputs[1:])  # the graph needs nothing before it

    def forward(copied: Any, images: Tensor) -> Any:
        copied.blocks[0].register_forward_pre_hook(cut)
        usual = copied.forward_features
        with torch.set_grad_enabled(differentiable):
            if calls_head_of_features(copied):
                return copied.forward_head(usual(images, probabilities))
            copied.forward_features = lambda images: usual(images, probabilities)
            return copied(images)

    logits = check_logits(run(model, images, [], forward), len(images))
    if not probabilities:
        raise ValueError(
            f"{name_of(model)} does not call its forward_features, which tell the attention; pass method='hires_cam'"
        )
    return logits, probabilities


def gradients(scores: Tensor, at: list[Tensor]) -> Iterator[list[Tensor]]:
    """For each column of ``scores`` (N, K), its gradient at some tensors; zeros where it has none."""
    with torch.enable_grad():
        totals = scores.sum(0).unbind()  # images do not mix, so the gradient of the sum is each one's
    for k, total in enumerate(totals):
        if total.requires_grad:
            more = k + 1 < len(totals)
            yield list(torch.autograd.grad(total, at, retain_graph=more, materialize_grads=True))
        else:
            yield [torch.zeros_like(each) for each in at]


def check_logits(logits: object, images: int) -> Tensor:
    """``logits`` if they are (N, classes) and finite.

    Raises:
        TypeError, ValueError: they are not.
    """
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the model returns a {type(logits).__name__}, cam explains logits (N, classes); "
            "wrap the model in one that returns the logits alone"
        )
    if logits.ndim != 2 or logits.shape[0] != images or logits.shape[1] == 0 or not logits.is_floating_point():
        raise ValueError(
            f"the model returns {tuple(logits.shape)} for {images} images, cam explains logits (N, classes); "
            "wrap the model in one that returns them"
        )
    if not is_finite(logits):
        raise ValueError(
            "the model's logits for these images are NaN or infinite, so there is nothing to explain; look at its "
            "weights, and at the range of the images"
        )
    return logits


def feature_maps(model: nn.Module, images: Tensor, layers: Sequence[str] | str | None = None) -> dict[str, Tensor]:
    """The outputs of named layers for a batch of images, in the order in which they are computed.

    As with :func:`convzoo.cam`, the model is only read: nothing of it changes, and the maps are those of evaluation
    mode. Each tensor is a copy of its own, so that an activation in place behind the layer does not show in it.

    Args:
        model: any module; ``images`` is what it takes.
        images: (N, C, H, W).
        layers: paths of modules, or names of the zoo's stages (``"stem"``, ``"stage1"``, ...). None: all stages, or of
            a model that is not the zoo's all its direct children.

    Returns:
        By the name asked for, what the layer returned at its last call, without gradient: (N, C, h, w) mostly.

    Raises:
        ValueError: there is no such layer, or it takes no part in the forward pass; the images are none or not finite.
        TypeError: the layer does not return a tensor; the images are of another dtype or device than the model.

    Example:
        >>> import convzoo, torch
        >>> maps = convzoo.feature_maps(convzoo.create_model("resnet18"), torch.rand(1, 3, 64, 64))
        >>> maps["stage4"].shape
        torch.Size([1, 512, 2, 2])
    """
    model = check_model(model)
    images = check_images(model, images)
    stages = dict(model.stages) if isinstance(model, Classifier) else {}
    automatic = layers is None
    if layers is None:
        layers = list(stages) or [name for name, _ in model.named_children()]
    names: Sequence[object] = layers if isinstance(layers, (list, tuple)) else [layers]
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found.pop(name, None)
                found[name] = output.detach().clone()
            elif not automatic:
                raise TypeError(f"layer {name!r} returns a {type(output).__name__}; pick one that returns a tensor")

        return hook

    paths = {name: stages[name] if name in stages else find_layer(model, name) for name in map(_as_name, names)}
    run(model, images, [(path, keep(name)) for name, path in paths.items()])
    missing = [name for name in paths if name not in found]
    if missing and not automatic:
        raise ValueError(f"layer {missing[0]!r} takes no part in the forward pass; pick one that does")
    return found


def _as_name(layer: object) -> str:
    if not isinstance(layer, str):
        raise TypeError(f"layers are paths of modules, got {shorten(layer)}; pass e.g. ['stage1', 'conv2']")
    return layer
