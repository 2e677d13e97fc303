"""Putting a model together anew: what :func:`optimize_for_inference` does, step by step."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn

from .._modules import unwrap
from ..models import ablation, googlenet, inception_v3, lenet, mnist, mnist_gap, resnet
from .blocks import REWRITES as CONVOLUTIONAL
from .folding import affine_of, fold
from .packed import NONE, PackedConv2d, PackedLinear, activation_of
from .tokens import REWRITES as TRANSFORMERS

# what follows what where a module calls its children by name: layer, batch norm, activation
CHAINS: dict[type[nn.Module], tuple[tuple[str, str, str], ...]] = {
    resnet.ResNet: (("conv1", "bn1", "relu"),),
    resnet.BasicBlock: (("conv1", "bn1", ""), ("conv2", "bn2", "")),
    resnet.Bottleneck: (("conv1", "bn1", ""), ("conv2", "bn2", ""), ("conv3", "bn3", "")),
    googlenet.ConvUnit: (("conv", "bn", "relu"),),
    inception_v3.ConvUnit: (("conv", "bn", "relu"),),
    lenet.LeNet5: (("conv1", "", "relu1"), ("conv2", "", "relu2"), ("fc1", "", "relu3"), ("fc2", "", "relu4")),
    lenet.LeNetSigmoid: (
        *(("conv1", "", "sigmoid1"), ("conv2", "", "sigmoid2")),
        *(("conv3", "", "sigmoid3"), ("fc1", "", "sigmoid4")),
    ),
    mnist.MnistNet: (("fc1", "", "relu3"),),
    mnist.InceptionCNN: (("fc1", "", "relu3"),),
    ablation.AblationCNN: (("fc1", "", "activation"),),
    mnist_gap.FcnGap: (("conv1", "bn1", "relu1"), ("conv2", "bn2", "relu2"), ("conv3", "bn3", "relu3")),
    mnist_gap.MnistResNet: (("conv1", "bn1", "relu1"), ("conv2", "bn2", "relu2")),
    mnist_gap.NormedResidualBlock: (("conv1", "bn1", ""), ("conv2", "bn2", ""), ("conv3", "bn3", "")),
}
REWRITES = {**CONVOLUTIONAL, **TRANSFORMERS}
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def optimize_for_inference(
    model: nn.Module,
    *,
    memory_format: Literal["channels_last", "contiguous"] = "channels_last",
    compile: bool = False,
) -> nn.Module:
    """The same function of the images, faster; ``model`` itself is left as it is.

    Batch norm is folded into the convolution before it, activations and residual additions are done inside the
    convolutions, 1x1 convolutions that read the same maps become one, dropout and auxiliary heads are left out, and of
    T2T-ViT's last block only the class token's row is computed. In float32 on the CPU the weights are laid out once as
    its matrix kernels want them, beside the parameters: the first batch of every new shape takes longer, and the
    weights take twice their memory, those of wide 3x3 convolutions up to six times. Elsewhere the layers are ordinary
    ones.

    Args:
        model: a model of the zoo, or any other module, of which then only ``nn.Sequential`` parts are rewritten.
        memory_format: in which order maps are kept in memory: ``"channels_last"``, which the kernels of CPUs and GPUs
            prefer, or ``"contiguous"``.
        compile: compile the whole graph with :func:`torch.compile` too; the first call then takes a minute or so.

    Returns:
        A copy in evaluation mode, without gradients, whose outputs are those of ``model`` in evaluation mode up to
        rounding. It is of the same class, takes the same arguments, and can be saved, copied, exported, profiled and
        explained as ``model`` can. State-dict keys of batch norm are gone, those of merged convolutions have new names.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: an unknown memory format.

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
    if memory_format not in ("channels_last", "contiguous"):
        raise ValueError(
            f"memory_format must be 'channels_last' or 'contiguous', got {memory_format!r}; pass one of these"
        )
    channels_last = memory_format == "channels_last"
    with torch.inference_mode(False), torch.no_grad():
        fast = copy.deepcopy(unwrap(model)).eval().requires_grad_(False)
        leave_out_training(fast)
        fast = rewrite(fast, channels_last)
    fast.optimized_for_inference = True  # type: ignore[assignment]
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


def leave_out_training(model: nn.Module) -> None:
    """Take out what works in training only: dropout and auxiliary heads."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, DROPOUTS):
                setattr(module, name, nn.Identity())
    if isinstance(model, (googlenet.GoogLeNet, inception_v3.InceptionV3)) and model.config.aux:
        for name in ("aux1", "aux2", "AuxLogits"):
            model._modules.pop(name, None)
        model.config = model.config.changed(aux=False)


def rewrite(module: nn.Module, channels_last: bool) -> nn.Module:
    """``module`` with everything in it rewritten, innermost first; or what takes its place."""
    for name, child in list(module.named_children()):
        setattr(module, name, rewrite(child, channels_last))
    if type(module) is nn.Sequential:
        children = [*module._modules, "", ""]
        for place in range(len(module)):
            chain(module, children[place], children[place + 1], children[place + 2])
    for names in CHAINS.get(type(module), ()):
        chain(module, *names)
    if type(module) is nn.Conv2d:
        return PackedConv2d.of(module, channels_last=channels_last)
    if type(module) is nn.Linear:
        return PackedLinear.of(module)
    replacement = REWRITES.get(type(module))
    if replacement is None or any(isinstance(each, nn.BatchNorm2d) for each in module.modules()):
        return module
    return replacement(module)


def chain(module: nn.Module, layer_name: str, norm_name: str, activation_name: str) -> None:
    """Draw the batch norm and the activation that follow a layer of ``module`` into it.

    A name may be empty or that of something else; an Identity in between does not matter. Whatever cannot be drawn in
    stays where it is, and what follows it too.
    """
    layer, norm = module._modules.get(layer_name), module._modules.get(norm_name)
    last = ends(layer)
    if not last or any(end.activation != NONE for end in last):
        return
    if type(norm) is nn.BatchNorm2d:
        if norm.running_mean is None or norm.running_var is None or isinstance(layer, nn.Linear):
            return
        widths = [end.weight.shape[0] for end in last]
        factor, offset = affine_of(norm)
        for end, *affine in zip(last, factor.split(widths), offset.split(widths), strict=True):
            fold(end, *affine)
        setattr(module, norm_name, nn.Identity())
    elif type(module) is nn.Sequential and type(norm) is not nn.Identity:
        activation_name = norm_name  # what comes next is the activation, if it is one
    activation = activation_of(module._modules.get(activation_name))
    if activation not in (None, NONE):
        for end in last:
            end.activation = activation
        setattr(module, activation_name, nn.Identity())


def ends(layer: nn.Module | None) -> list[Any]:
    """The packed layers whose outputs, side by side, are the output of ``layer``."""
    if isinstance(layer, ablation.Branches):
        return [layer.branch1x1, layer.branch3x3[-1], layer.branch5x5[-1], layer.branch_pool[-1]]
    return [layer] if isinstance(layer, (PackedConv2d, PackedLinear)) else []
