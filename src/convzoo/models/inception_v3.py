"""Inception v3: large kernels factored into small and one-sided ones.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, *Rethinking the Inception Architecture for Computer Vision*, 2015,
arXiv:1512.00567, table 1 and figures 5 to 7, with the widths of the authors' published model, which the paper leaves
out.

Departures: the auxiliary head is an option (``aux=True``); with it the model returns :class:`AuxLogits
<convzoo.models.AuxLogits>` in training mode, which takes images of 299 pixels or so.

Weights have the names that the field uses (Conv2d_1a_3x3 ... Mixed_7c, fc).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import register
from ._base import Classifier
from ._config import ModelConfig, Rate
from ._functions import AuxLogits, global_average, global_pool, note
from ._init import he_normal_, identity_, normal_


@dataclass(kw_only=True)
class InceptionV3Config(ModelConfig):
    """The options of Inception v3.

    Attributes:
        aux: the auxiliary head, which acts in training mode; False by default.
        drop_rate: dropout before the last layer, in [0, 1); 0.5 by default.
        global_pool: what is kept of each of the last maps: its mean, ``"avg"`` (the default), or its largest value,
            ``"max"``.
    """

    training_only = ("drop_rate", "aux")

    img_size: int | tuple[int, int] = 299
    aux: bool = False
    drop_rate: Rate = 0.5
    global_pool: Literal["avg", "max"] = "avg"


VARIANTS = (InceptionV3Config(name="inception_v3"),)  # 23,834,568; with aux 27,161,264


class ConvUnit(nn.Module):
    """A convolution, batch norm, ReLU."""

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_chans, eps=0.001)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


def row(in_chans: int, out_chans: int) -> ConvUnit:
    """A kernel of one row of seven pixels; the size of the maps is kept."""
    return ConvUnit(in_chans, out_chans, (1, 7), padding=(0, 3))


def column(in_chans: int, out_chans: int) -> ConvUnit:
    """A kernel of one column of seven pixels; the size of the maps is kept."""
    return ConvUnit(in_chans, out_chans, (7, 1), padding=(3, 0))


class InceptionA(nn.Module):
    """Figure 5: 5x5 beside two 3x3; (N, C, H, W) to (N, 224 + pooled, H, W)."""

    def __init__(self, chans: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(chans, 64)
        self.branch5x5_1 = ConvUnit(chans, 48)
        self.branch5x5_2 = ConvUnit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvUnit(chans, 64)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, padding=1)
        self.branch_pool = ConvUnit(chans, pooled)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), five, three, pool], 1)


class InceptionB(nn.Module):
    """Halves the maps: (N, C, H, W) to (N, 480 + C, H/2, W/2)."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.branch3x3 = ConvUnit(chans, 384, 3, 2)
        self.branch3x3dbl_1 = ConvUnit(chans, 64)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(nn.Module):
    """Figure 6: 7x7 as a row and a column, once and twice; (N, C, H, W) to (N, 768, H, W)."""

    def __init__(self, chans: int, width: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(chans, 192)
        self.branch7x7_1 = ConvUnit(chans, width)
        self.branch7x7_2 = row(width, width)
        self.branch7x7_3 = column(width, 192)
        self.branch7x7dbl_1 = ConvUnit(chans, width)
        self.branch7x7dbl_2 = column(width, width)
        self.branch7x7dbl_3 = row(width, width)
        self.branch7x7dbl_4 = column(width, width)
        self.branch7x7dbl_5 = row(width, 192)
        self.branch_pool = ConvUnit(chans, 192)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), seven, double, pool], 1)


class InceptionD(nn.Module):
    """Halves the maps: (N, C, H, W) to (N, 512 + C, H/2, W/2)."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvUnit(chans, 192)
        self.branch3x3_2 = ConvUnit(192, 320, 3, 2)
        self.branch7x7x3_1 = ConvUnit(chans, 192)
        self.branch7x7x3_2 = row(192, 192)
        self.branch7x7x3_3 = column(192, 192)
        self.branch7x7x3_4 = ConvUnit(192, 192, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class InceptionE(nn.Module):
    """Figure 7: rows and columns of three side by side; (N, C, H, W) to (N, 2048, H, W)."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(chans, 320)
        self.branch3x3_1 = ConvUnit(chans, 384)
        self.branch3x3_2a = ConvUnit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = ConvUnit(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = ConvUnit(chans, 448)
        self.branch3x3dbl_2 = ConvUnit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvUnit(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = ConvUnit(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = ConvUnit(chans, 192)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = self.branch_pool(F.avg_pool2d(x, 3, 1, 1))
        three_parts = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        double_parts = [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *three_parts, *double_parts, pool], 1)


class AuxHead(nn.Module):
    """Maps (N, C, 17, 17) to logits: 5x5/3 average pooling, a 1x1 and a 5x5 convolution, the mean, linear."""

    def __init__(self, chans: int, num_classes: int) -> None:
        super().__init__()
        self.conv0 = ConvUnit(chans, 128)
        self.conv1 = ConvUnit(128, 768, 5)
        self.fc = nn.Linear(768, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, torch.fx.Proxy) and min(x.shape[2:]) < 17:
            raise ValueError(
                f"the auxiliary head of inception_v3 needs maps of 17x17 or more in training, got "
                f"{x.shape[2]}x{x.shape[3]}; enlarge the images to 299x299, or build the model with aux=False"
            )
        x = self.conv1(self.conv0(F.avg_pool2d(x, 5, 3)))  # (N, 768, 1, 1) at 299
        return self.fc(global_average(x))


class InceptionV3(Classifier):
    """A stem of convolutions, eleven inception blocks in three stages, global average pooling, one linear layer."""

    num_features = 2048
    can_checkpoint = True
    feature_layers = ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
    stages = {"stem": "maxpool2", "stage1": "Mixed_5d", "stage2": "Mixed_6e", "stage3": "Mixed_7c"}
    auxiliary_heads = ("AuxLogits",)
    _config: InceptionV3Config

    def __init__(self, config: InceptionV3Config) -> None:
        super().__init__(config, min_size=75, min_size_why="five halvings without padding")
        self.cam_method = "cam" if config.global_pool == "avg" else "hires_cam"
        self.Conv2d_1a_3x3 = ConvUnit(config.in_chans, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3, padding=1)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = InceptionA(192, 32)
        self.Mixed_5c = InceptionA(256, 64)
        self.Mixed_5d = InceptionA(288, 64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, 128)
        self.Mixed_6c = InceptionC(768, 160)
        self.Mixed_6d = InceptionC(768, 160)
        self.Mixed_6e = InceptionC(768, 192)
        if config.aux:
            self.aux_heads = ("AuxLogits",)
            self.AuxLogits = AuxHead(768, config.num_classes)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280)
        self.Mixed_7c = InceptionE(2048)
        self.dropout = nn.Dropout(config.drop_rate)
        self.fc = self.make_classifier(config.num_classes)

    def init_weights(self, module: nn.Module) -> None:
        """He et al. 2015; the last layers start small."""
        if isinstance(module, nn.BatchNorm2d):
            identity_(module)
        elif isinstance(module, nn.Conv2d):
            he_normal_(module)
        elif isinstance(module, nn.Linear):
            normal_(module, 0.02)

    def reset_classifier(self, num_classes: int) -> None:
        super().reset_classifier(num_classes)
        for head in self.aux_heads:
            self._replace(f"{head}.fc", nn.Linear(768, num_classes) if num_classes else nn.Identity())

    def _to_6e(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))  # (N, 32, 147, 147) at 299
        x = note(maps, self.Conv2d_2b_3x3(x))  # (N, 64, 147, 147)
        x = self.Conv2d_3b_1x1(self.maxpool1(x))  # (N, 80, 73, 73)
        x = note(maps, self.Conv2d_4a_3x3(x))  # (N, 192, 71, 71)
        x = self._run(self.Mixed_5b, self.maxpool2(x))  # (N, 256, 35, 35)
        x = self._run(self.Mixed_5c, x)  # (N, 288, 35, 35)
        x = note(maps, self._run(self.Mixed_5d, x))  # (N, 288, 35, 35)
        x = self._run(self.Mixed_6a, x)  # (N, 768, 17, 17)
        x = self._run(self.Mixed_6b, x)
        x = self._run(self.Mixed_6c, x)
        x = self._run(self.Mixed_6d, x)
        return note(maps, self._run(self.Mixed_6e, x))  # (N, 768, 17, 17)

    def _to_7c(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        x = self._run(self.Mixed_7a, x)  # (N, 1280, 8, 8)
        x = self._run(self.Mixed_7b, x)  # (N, 2048, 8, 8)
        return note(maps, self._run(self.Mixed_7c, x))  # (N, 2048, 8, 8)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        return self._to_7c(self._to_6e(x, maps), maps)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.dropout(global_pool(features, self._config.global_pool))  # (N, 2048)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Any:
        """As of every classifier; with the auxiliary head in training mode :class:`AuxLogits`."""
        if not (self.training and self.aux_heads):
            return super().forward(x)
        x6e = self._to_6e(x)
        return AuxLogits(self.forward_head(self._to_7c(x6e)), (self.AuxLogits(x6e),))


register(InceptionV3, VARIANTS, family="inception_v3", year=2015, arxiv="1512.00567", authors="Szegedy et al.",
         paper="Rethinking the Inception Architecture for Computer Vision", source="table 1")  # fmt: skip
