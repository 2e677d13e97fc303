"""Fine-tuning without a training loop: what to train, and at which rate.

:func:`freeze` and :func:`unfreeze` choose what is trained; :func:`parameter_groups` gives an optimizer the parameters
by stage. All take a net of the zoo, or a model of your own with one inside, such as a detector on a backbone: what is
outside the net counts as its head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ._checks import check_number, check_text, did_you_mean, plural, shorten
from ._wrappers import unwrap
from .models import Classifier
from .models._stages import HEAD, stage_of_modules, stage_of_parameters

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Frozen:
    """What :func:`freeze` did; printed, a sentence.

    Attributes:
        name: the net.
        stages: the stages of which nothing is trained any more.
        trained: the others; ``"head"`` is what comes after the last stage.
        norms: paths of the layers that keep their statistics, also after ``train()``.
        parameters: how many numbers of the model are not trained.
        trained_parameters: how many are.
    """

    name: str
    stages: tuple[str, ...]
    trained: tuple[str, ...]
    norms: tuple[str, ...]
    parameters: int
    trained_parameters: int

    def __str__(self) -> str:
        norms = plural(len(self.norms), "batch norm")
        still = f"; {norms} in evaluation mode, also after train()" if self.norms else ""
        return (
            f"{self.name}: {', '.join(self.stages)} frozen ({self.parameters:,} numbers{still}), "
            f"{', '.join(self.trained)} trained ({self.trained_parameters:,})"
        )


def freeze(model: nn.Module, until: str | None = None) -> Frozen:
    """Train only what comes after a stage: no gradient before it, and no new statistics.

    Batch norm in the frozen part (every layer that keeps statistics) stays in evaluation mode, also when
    ``model.train()`` is called afterwards: it would go on learning otherwise. What was frozen before is freed first.

    Args:
        model: a net of the zoo, or a model with one inside; it is changed.
        until: the last stage to freeze, one of ``model.stages``. None: all but the last layer, or where that layer has
            nothing to train (``lenet5_1998``), all stages.

    Returns:
        What is frozen and what is not.

    Raises:
        TypeError: ``model`` is or has inside no net of the zoo, or several; or ``until`` is no text.
        ValueError: the net has no such stage, or nothing would be left to train.

    Example:
        >>> import convzoo
        >>> model = convzoo.create_model("resnet18", num_classes=3)
        >>> print(freeze(model, until="stage3"))
        resnet18: stem, stage1, stage2, stage3 frozen (2,782,784 numbers; 15 batch norms in evaluation mode, also \
after train()), stage4, head trained (8,395,267)
        >>> model.train().bn1.training
        False
    """
    net, prefix = find_net(model)
    trained = _trained_modules(net, until)
    frozen = [path for path, _ in net.named_parameters() if path.rpartition(".")[0] not in trained]
    if not prefix and len(frozen) == sum(1 for _ in net.named_parameters()):
        raise ValueError(f"freezing {net.config.name} so far leaves nothing to train; name an earlier stage as until=")
    unfreeze(model)
    for path in frozen:
        net.get_parameter(path).requires_grad_(False)
    statistics = (path for path, module in net.named_modules() if getattr(module, "running_mean", None) is not None)
    net.still_layers = tuple(path for path in statistics if path not in trained)
    net.train(net.training)
    return _report(model, net, bool(prefix))


def _trained_modules(net: Classifier, until: str | None) -> set[str]:
    """Paths of the modules of ``net`` that :func:`freeze` leaves alone."""
    of_module, stages = stage_of_modules(net), [*net.stages, HEAD]
    if until is None:
        last = net.classifier_name
        layer = {path for path in of_module if path == last or path.startswith(f"{last}.")}
        if any(True for _ in net.get_classifier().parameters()):
            return layer
        until = stages[-2]
    if check_text("until", until) not in net.stages:
        raise ValueError(
            f"{net.config.name} has no stage {shorten(until)}; {did_you_mean(until, net.stages)}its stages are "
            f"{', '.join(net.stages)}"
        )
    return {path for path, stage in of_module.items() if stages.index(stage) > stages.index(until)}


def _report(model: nn.Module, net: Classifier, has_more: bool) -> Frozen:
    of_parameter = stage_of_parameters(net)
    trained = {stage for path, stage in of_parameter.items() if net.get_parameter(path).requires_grad}
    if has_more:  # the rest of the model
        trained.add(HEAD)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    stages = [stage for stage in (*net.stages, HEAD) if stage in trained or stage in of_parameter.values()]
    return Frozen(
        net.config.name,
        tuple(stage for stage in stages if stage not in trained),
        tuple(stage for stage in stages if stage in trained),
        net.still_layers,
        sum(count for count, is_trained in counts if not is_trained),
        sum(count for count, is_trained in counts if is_trained),
    )


def unfreeze(model: nn.Module) -> None:
    """Train everything again: every parameter, but the tables that are never trained, and every layer's statistics.

    Args:
        model: a net of the zoo, or a model with one inside; it is changed.

    Raises:
        TypeError: no net of the zoo is in ``model``.

    Example:
        >>> import convzoo
        >>> model = convzoo.create_model("resnet18")
        >>> report = freeze(model)
        >>> unfreeze(model)
        >>> all(parameter.requires_grad for parameter in model.parameters())
        True
    """
    net, _ = find_net(model)
    net.still_layers = ()
    net.requires_grad_(True)
    net.train(net.training)


def parameter_groups(
    model: nn.Module, lr: float, *, layer_decay: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """The trainable parameters of a model by stage, for any optimizer of :mod:`torch.optim`.

    The head learns at ``lr``, each stage before it at ``layer_decay`` times the rate of the one behind. Weights of
    convolutions and linear layers get the weight decay; biases, normalisation layers and a class token do not.

    Args:
        model: a net of the zoo, or a model with one inside.
        lr: learning rate of the head.
        layer_decay: factor from stage to stage, above 0 and at most 1.
        weight_decay: of weights.

    Returns:
        Groups from the image inwards, with ``params``, ``lr``, ``weight_decay`` and ``name``, such as ``"stage1"`` and
        ``"stage1, no decay"``. Frozen parameters are in none.

    Raises:
        TypeError: no net of the zoo is in ``model``, or a value is no number.
        ValueError: a value is out of range, or nothing is trainable.

    Example:
        >>> import convzoo, torch
        >>> model = convzoo.create_model("lenet5")
        >>> groups = parameter_groups(model, 0.1, layer_decay=0.5, weight_decay=1e-4)
        >>> [(group["name"], group["lr"], group["weight_decay"]) for group in groups[:2]]
        [('stage1', 0.025, 0.0001), ('stage1, no decay', 0.025, 0.0)]
        >>> optimizer = torch.optim.SGD(groups)
    """
    net, prefix = find_net(model)
    lr, layer_decay = check_number("lr", lr), check_number("layer_decay", layer_decay)
    weight_decay = check_number("weight_decay", weight_decay)
    if lr < 0 or weight_decay < 0 or not 0 < layer_decay <= 1:
        raise ValueError(
            f"lr and weight_decay must be at least 0 and layer_decay in (0, 1], got lr={lr}, "
            f"weight_decay={weight_decay}, layer_decay={layer_decay}; pass e.g. lr=1e-3, layer_decay=0.75"
        )
    stages = [*net.stages, HEAD]
    of_parameter = {prefix + path: stage for path, stage in stage_of_parameters(net).items()}
    fixed = {prefix + path for path in net.fixed_tables()}
    rates = {stage: lr * layer_decay ** (len(stages) - 1 - place) for place, stage in enumerate(stages)}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (stage, decays): [] for stage in stages for decays in (True, False)
    }
    inner = unwrap(model)
    for path, parameter in inner.named_parameters():
        if parameter.requires_grad and path not in fixed:
            decays = is_weight(inner, path, parameter)
            groups[of_parameter.get(path, HEAD), decays].append(parameter)
    made = [
        {
            "params": parameters,
            "lr": rates[stage],
            "weight_decay": weight_decay if decays else 0.0,
            "name": stage if decays else f"{stage}, no decay",
        }
        for (stage, decays), parameters in groups.items()
        if parameters
    ]
    if not made:
        raise ValueError(f"no parameter of {net.config.name} is trainable; unfreeze(model) makes them so")
    return made


def is_weight(model: nn.Module, path: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the weight of a convolution or linear layer, also where it is pruned or parametrised.

    Weight normalisation (Salimans and Kingma 2016, arXiv:1602.07868) makes a weight of directions, which are one, and
    of lengths, a number an output, which are a gain.
    """
    owner, _, name = path.rpartition(".")
    if ".parametrizations." in f".{owner}.":
        made_of = model.get_submodule(owner)
        gain = name == "original0" and any(type(each).__name__ == "_WeightNorm" for each in made_of.children())
        owner, _, name = f".{owner}".rpartition(".parametrizations.")
        owner, name = owner.removeprefix("."), "gain" if gain else name
    elif name in ("weight_orig", "weight_v"):  # pruning, and the older forms of spectral and weight normalisation
        name = "weight"
    return name == "weight" and parameter.ndim > 1 and not isinstance(model.get_submodule(owner), NORMS)


def find_net(model: nn.Module) -> tuple[Classifier, str]:
    """The one net of the zoo that ``model`` is or has inside, and what its parameters' paths begin with there.

    Raises:
        TypeError: there is none, or more than one.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"a model is a torch.nn.Module, got {shorten(model)}; create_model(name) makes one")
    inner = unwrap(model)
    modules = inner.named_modules()
    nets = [(module, f"{path}." if path else "") for path, module in modules if isinstance(module, Classifier)]
    if len(nets) != 1:
        raise TypeError(
            f"stages are those of a net made by create_model, and {type(inner).__name__} has {len(nets) or 'no'} such "
            "nets inside; pass that net"
        )
    return nets[0]
