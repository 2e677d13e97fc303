"""The options of a run, its optimiser and its average."""

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


def parse_arguments(about: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet5", help="a model for 28x28 digits (default lenet5)")
    parser.add_argument("--data", default="ylecun/mnist", help="a folder of parquet files, or a data set of the Hub")
    parser.add_argument("--init", help="start from these weights: a folder that an earlier run left, or a tag")
    parser.add_argument("--augment", action="store_true", help="distort the digits")
    parser.add_argument("--strength", type=float, default=1.0, help="of the distortions, such as 0.5 for half of each")
    parser.add_argument("--plain-epochs", type=int, default=0, help="leave the last so many epochs undistorted")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument(
        "--sides",
        type=lambda text: [int(side) for side in text.split(",")],
        default=[28],
        help="pixels a side that the digits are shrunk to in each epoch, such as 14,14,28; the last one holds on",
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), help="default: by whether the net has batch norm")
    parser.add_argument("--lr", type=float, help="peak learning rate (default 0.1 for SGD, 0.005 for AdamW)")
    parser.add_argument("--weight-decay", type=float, help="on weights (default 5e-4 for SGD, 0.3 for AdamW)")
    parser.add_argument("--smoothing", type=float, default=0.1, help="of the labels; 0 suits the smallest nets")
    parser.add_argument("--temperature", type=float, default=1.0, help="the loss divides the logits by it")
    parser.add_argument(
        "--parts",
        type=int,
        default=0,
        help="name the digit from so many random parts of the last maps too, with half of the loss: for nets that pool"
        " them, whose class activation maps then keep to their own digit",
    )
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the average of the weights")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 where that is exact enough")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=5_000, help="training digits to choose hyper-parameters by")
    parser.add_argument("--no-test", action="store_true", help="leave the test digits unread")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/MODEL.mnist or .mnist_aug)")
    return parser.parse_args()


def command_line(arguments: list[str]) -> str:
    """The command as anyone would type it: without the folders of this machine."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in ("--data", "--out"):
            next(words)
        elif not word.startswith(("--data=", "--out=")):
            kept.append(word)
    return shlex.join(["python", "examples/train_mnist.py", *kept])


def make_optimizer(model: nn.Module, name: str | None, lr: float | None, decay: float | None) -> torch.optim.Optimizer:
    """SGD for nets with batch norm, AdamW for those without; weight decay on weights, not on biases and gains."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    if name is None:
        name = "sgd" if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) else "adamw"
    if decay is None:
        decay = 5e-4 if name == "sgd" else 0.3
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr or 0.1, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr or 5e-3)


def moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Of the weights, by ``decay`` a step, less at first so that the random start is soon forgotten."""

    def step(average: Tensor, value: Tensor, count: Tensor) -> Tensor:
        if not average.is_floating_point():
            return value
        return average.lerp(value, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return step
