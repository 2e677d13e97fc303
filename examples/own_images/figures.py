"""How a training went, as a picture."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor


def draw(file: Path, title: str, curve: list[float], truth: Tensor, answers: Tensor, classes: list[str]) -> None:
    """The percent of right answers by epoch, and of each class (N,) how its pictures were answered at last."""
    counts = torch.zeros(len(classes), len(classes)).index_put_((truth, answers), torch.ones(()), accumulate=True)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(range(1, len(curve) + 1), curve, marker="o")
    left.set(xlabel="epoch", ylabel=f"% of {len(truth)} right", title=title)
    left.xaxis.get_major_locator().set_params(integer=True)
    right.imshow(counts.numpy(), cmap="Blues")
    for row, column in counts.nonzero().tolist():
        dark = counts[row, column] > counts.max() / 2
        right.text(column, row, int(counts[row, column]), ha="center", va="center", color="white" if dark else "black")
    right.set(xlabel="answer", ylabel="truth", title="pictures of each class, by the answer")
    right.set_xticks(range(len(classes)), classes, rotation=90)
    right.set_yticks(range(len(classes)), classes)
    figure.savefig(file)
