"""Residual and inception blocks with fewer passes over memory, computing the same maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import googlenet, inception_v3, mnist, mnist_gap, resnet
from .folding import side_by_side
from .packed import RELU, PackedConv2d


class Residual(nn.Module):
    """Convolutions one behind the other, the input added within the last: ResNet's blocks, and MNIST's.

    The convolutions keep the names they had; ``downsample`` is None or what fits the input to the output.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.depth = 0
        for name, child in block.named_children():
            if isinstance(child, PackedConv2d):
                child.activation = RELU  # of the last one, behind the addition
                self.add_module(name, child)
                self.depth += 1
        downsample = getattr(block, "downsample", None)
        self.downsample = None if downsample is None else downsample[0]
        self.shortcut = getattr(block, "shortcut", True)

    def forward(self, x: Tensor) -> Tensor:
        *convs, last = list(self._modules.values())[: self.depth]
        out = x
        for conv in convs:
            out = conv(out)  # type: ignore[misc]
        if not self.shortcut:
            return last(out)  # type: ignore[misc]
        if self.downsample is None:
            return last(out, x)  # type: ignore[misc]
        return last(out, self.downsample(x), overwrite=True)  # type: ignore[misc]


class Merged(nn.Module):
    """Convolutions of one geometry that read the same maps, as one convolution; gives the maps of each."""

    def __init__(self, convs: list[PackedConv2d]) -> None:
        super().__init__()
        first = convs[0]
        self.conv = PackedConv2d.of(side_by_side(list(convs)), first.activation, channels_last=first.channels_last)
        self.widths = [conv.out_channels for conv in convs]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.conv(x).split(self.widths, 1)


def merged(*units: nn.Module) -> Merged:
    """The 1x1 convolutions of these units as one."""
    return Merged([unit.get_submodule("conv") for unit in units])  # type: ignore[misc]


class GoogLeNetBlock(nn.Module):
    """GoogLeNet's inception block."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.first = merged(block.branch1, block.branch2[0], block.branch3[0])
        self.branch2, self.branch3 = block.branch2[1].conv, block.branch3[1].conv
        self.branch4 = nn.Sequential(block.branch4[0], block.branch4[1].conv)

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = self.first(x)
        return torch.cat([one, self.branch2(two), self.branch3(three), self.branch4(x)], 1)


class InceptionABlock(nn.Module):
    """Inception v3's block of 5x5 beside two 3x3."""

    def __init__(self, block: inception_v3.InceptionA) -> None:
        super().__init__()
        self.first = merged(block.branch1x1, block.branch5x5_1, block.branch3x3dbl_1)
        self.five = block.branch5x5_2.conv
        self.three = nn.Sequential(block.branch3x3dbl_2.conv, block.branch3x3dbl_3.conv)
        self.pool = block.branch_pool.conv

    def forward(self, x: Tensor) -> Tensor:
        one, five, three = self.first(x)
        return torch.cat([one, self.five(five), self.three(three), self.pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class InceptionCBlock(nn.Module):
    """Inception v3's block of rows and columns of seven."""

    def __init__(self, block: inception_v3.InceptionC) -> None:
        super().__init__()
        self.first = merged(block.branch1x1, block.branch7x7_1, block.branch7x7dbl_1)
        self.seven = nn.Sequential(block.branch7x7_2.conv, block.branch7x7_3.conv)
        twice = (block.branch7x7dbl_2, block.branch7x7dbl_3, block.branch7x7dbl_4, block.branch7x7dbl_5)
        self.twice = nn.Sequential(*(unit.conv for unit in twice))
        self.pool = block.branch_pool.conv

    def forward(self, x: Tensor) -> Tensor:
        one, seven, twice = self.first(x)
        return torch.cat([one, self.seven(seven), self.twice(twice), self.pool(F.avg_pool2d(x, 3, 1, 1))], 1)


class InceptionDBlock(nn.Module):
    """Inception v3's block that halves its maps."""

    def __init__(self, block: inception_v3.InceptionD) -> None:
        super().__init__()
        self.first = merged(block.branch3x3_1, block.branch7x7x3_1)
        self.three = block.branch3x3_2.conv
        seven = (block.branch7x7x3_2, block.branch7x7x3_3, block.branch7x7x3_4)
        self.seven = nn.Sequential(*(unit.conv for unit in seven))

    def forward(self, x: Tensor) -> Tensor:
        three, seven = self.first(x)
        return torch.cat([self.three(three), self.seven(seven), F.max_pool2d(x, 3, 2)], 1)


class InceptionEBlock(nn.Module):
    """Inception v3's block of rows and columns of three."""

    def __init__(self, block: inception_v3.InceptionE) -> None:
        super().__init__()
        self.first = merged(block.branch1x1, block.branch3x3_1, block.branch3x3dbl_1)
        self.three_row, self.three_column = block.branch3x3_2a.conv, block.branch3x3_2b.conv
        self.twice = block.branch3x3dbl_2.conv
        self.twice_row, self.twice_column = block.branch3x3dbl_3a.conv, block.branch3x3dbl_3b.conv
        self.pool = block.branch_pool.conv

    def forward(self, x: Tensor) -> Tensor:
        one, three, twice = self.first(x)
        twice = self.twice(twice)
        parts = [one, self.three_row(three), self.three_column(three), self.twice_row(twice)]
        return torch.cat([*parts, self.twice_column(twice), self.pool(F.avg_pool2d(x, 3, 1, 1))], 1)


# what takes the place of a block whose batch norms are folded
REWRITES: dict[type[nn.Module], Callable[..., nn.Module]] = {
    **dict.fromkeys((resnet.BasicBlock, resnet.Bottleneck), Residual),
    **dict.fromkeys((mnist.PlainResidualBlock, mnist_gap.NormedResidualBlock), Residual),
    googlenet.Inception: GoogLeNetBlock,
    inception_v3.InceptionA: InceptionABlock,
    inception_v3.InceptionC: InceptionCBlock,
    inception_v3.InceptionD: InceptionDBlock,
    inception_v3.InceptionE: InceptionEBlock,
}
