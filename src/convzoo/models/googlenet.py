"""GoogLeNet: inception blocks, which look at their input at several scales side by side.

Szegedy et al., *Going Deeper with Convolutions*, 2014, arXiv:1409.4842, table 1 (the widths) and figure 3.

- ``googlenet``: the paper: 5x5 convolutions in the third branch, local response normalisation, no batch norm.
- ``googlenet_bn``: batch norm behind every convolution, 3x3 in the third branch, 2x2 in the last pooling: what the
  published sets of weights are made for, with the names that they use.
- ``googlenet_sparse_bn``: the paper's net with batch norm in three places only, behind the first convolution and
  blocks 3b and 5b, and without response normalisation: a published experiment's variant.

Departures: the two auxiliary heads are an option (``aux=True``); with them the model returns :class:`AuxLogits
<convzoo.models.AuxLogits>` in training mode, the logits of the head after block 4a first. They average their maps onto
a 4x4 grid, which is what the paper's 5x5/3 pooling leaves at 224. Dropout of the main head is 0.4, as in table 1, or
0.2 in ``googlenet_bn``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..registry import register
from ._base import Classifier
from ._config import ModelConfig, Rate
from ._functions import AuxLogits, global_pool, note
from ._init import he_normal_, identity_, normal_


@dataclass(kw_only=True)
class GoogLeNetConfig(ModelConfig):
    """The options of GoogLeNet; what a row of the table sets, it has set.

    Attributes:
        batch_norm: where it stands: ``"none"`` (the default), ``"every"``, behind every convolution, or ``"sparse"``,
            behind the first convolution and blocks 3b and 5b.
        third_branch: its larger kernel: ``"5x5"`` (the default) or ``"3x3"``.
        last_pool: the window of the last max-pooling: ``"3x3"`` (the default) or ``"2x2"``.
        lrn: local response normalisation in the stem, as in the paper; False by default.
        aux: the two auxiliary heads, which act in training mode; False by default.
        drop_rate: dropout before the last layer, in [0, 1); 0.4 by default.
        global_pool: what is kept of each of the last maps: its mean, ``"avg"`` (the default), or its largest value,
            ``"max"``.
    """

    training_only = ("drop_rate", "aux")

    batch_norm: Literal["none", "every", "sparse"] = "none"
    third_branch: Literal["5x5", "3x3"] = "5x5"
    last_pool: Literal["3x3", "2x2"] = "3x3"
    lrn: bool = False
    aux: bool = False
    drop_rate: Rate = 0.4
    global_pool: Literal["avg", "max"] = "avg"


# behind each row its parameters
VARIANTS = (
    GoogLeNetConfig(name="googlenet", lrn=True),  # 6,998,552; with aux 13,378,280
    GoogLeNetConfig(
        name="googlenet_bn", batch_norm="every", third_branch="3x3", last_pool="2x2", drop_rate=0.2
    ),  # 6,624,904; with aux 13,004,888
    GoogLeNetConfig(name="googlenet_sparse_bn", batch_norm="sparse"),  # 7,001,688; with 16 classes 5,993,088
)


class ConvUnit(nn.Module):
    """A convolution, batch norm where the config has it everywhere, and ReLU."""

    def __init__(
        self, in_chans: int, out_chans: int, config: GoogLeNetConfig, *, kernel: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        every = config.batch_norm == "every"
        self.conv = nn.Conv2d(in_chans, out_chans, kernel, stride, kernel // 2, bias=not every)
        self.bn = nn.BatchNorm2d(out_chans, eps=0.001) if every else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side; (N, C, H, W) to (N, the sum of their widths, H, W)."""

    def __init__(self, chans: int, widths: tuple[int, ...], config: GoogLeNetConfig) -> None:
        super().__init__()
        one, three_reduce, three, five_reduce, five, pool = widths
        kernel = int(config.third_branch[0])
        self.branch1 = ConvUnit(chans, one, config)
        self.branch2 = nn.Sequential(
            ConvUnit(chans, three_reduce, config), ConvUnit(three_reduce, three, config, kernel=3)
        )
        self.branch3 = nn.Sequential(
            ConvUnit(chans, five_reduce, config), ConvUnit(five_reduce, five, config, kernel=kernel)
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), ConvUnit(chans, pool, config))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxHead(nn.Module):
    """Maps (N, C, H, W) averaged onto 4x4, a 1x1 convolution to 128, a hidden layer of 1024, and logits."""

    def __init__(self, chans: int, config: GoogLeNetConfig) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.conv = ConvUnit(chans, 128, config)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, config.num_classes) if config.num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.pool(x)).flatten(1)  # (N, 2048)
        return self.fc2(self.dropout(self.relu(self.fc1(x))))


class GoogLeNet(Classifier):
    """A stem, nine inception blocks in three stages, global average pooling and one linear layer."""

    num_features = 1024
    can_checkpoint = True
    feature_layers = ("conv1", "lrn2", "norm3b", "inception4e", "norm5b")
    stages = {"stem": "maxpool2", "stage1": "norm3b", "stage2": "inception4e", "stage3": "norm5b"}
    auxiliary_heads = ("aux1", "aux2")
    _config: GoogLeNetConfig

    def __init__(self, config: GoogLeNetConfig) -> None:
        smallest = 31 if config.last_pool == "3x3" else 15
        super().__init__(config, min_size=smallest, min_size_why="the unpadded poolings leave nothing of less")
        sparse = config.batch_norm == "sparse"
        self.cam_method = "cam" if config.global_pool == "avg" else "hires_cam"
        self.conv1 = ConvUnit(config.in_chans, 64, config, kernel=7, stride=2)
        if sparse:
            self.conv1.bn = nn.BatchNorm2d(64)
        self.maxpool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        # alpha, beta and k are those of the authors' published model file; the paper does not give them
        self.lrn1 = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0) if config.lrn else nn.Identity()
        self.conv2 = ConvUnit(64, 64, config)
        self.conv3 = ConvUnit(64, 192, config, kernel=3)
        self.lrn2 = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0) if config.lrn else nn.Identity()
        self.maxpool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        # table 1: 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection
        self.inception3a = Inception(192, (64, 96, 128, 16, 32, 32), config)
        self.inception3b = Inception(256, (128, 128, 192, 32, 96, 64), config)
        self.norm3b = nn.BatchNorm2d(480) if sparse else nn.Identity()
        self.maxpool3 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.inception4a = Inception(480, (192, 96, 208, 16, 48, 64), config)
        self.inception4b = Inception(512, (160, 112, 224, 24, 64, 64), config)
        self.inception4c = Inception(512, (128, 128, 256, 24, 64, 64), config)
        self.inception4d = Inception(512, (112, 144, 288, 32, 64, 64), config)
        self.inception4e = Inception(528, (256, 160, 320, 32, 128, 128), config)
        self.maxpool4 = nn.MaxPool2d(int(config.last_pool[0]), 2, ceil_mode=True)
        self.inception5a = Inception(832, (256, 160, 320, 32, 128, 128), config)
        self.inception5b = Inception(832, (384, 192, 384, 48, 128, 128), config)
        self.norm5b = nn.BatchNorm2d(1024) if sparse else nn.Identity()
        if config.aux:
            self.aux_heads = ("aux1", "aux2")
            self.aux1 = AuxHead(512, config)
            self.aux2 = AuxHead(528, config)
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
            self._replace(f"{head}.fc2", nn.Linear(1024, num_classes) if num_classes else nn.Identity())

    def _to_4a(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.conv1(x))  # (N, 64, H/2, W/2)
        x = self.maxpool1(x)
        x = self.lrn1(x)  # (N, 64, H/4, W/4)
        x = note(maps, self.lrn2(self.conv3(self.conv2(x))))  # (N, 192, H/4, W/4)
        x = self.maxpool2(x)
        x = self._run(self.inception3a, x)  # (N, 256, H/8, W/8)
        x = note(maps, self.norm3b(self._run(self.inception3b, x)))  # (N, 480, H/8, W/8)
        return self._run(self.inception4a, self.maxpool3(x))  # (N, 512, H/16, W/16)

    def _to_4d(self, x: Tensor) -> Tensor:
        x = self._run(self.inception4b, x)  # (N, 512, H/16, W/16)
        x = self._run(self.inception4c, x)  # (N, 512, H/16, W/16)
        return self._run(self.inception4d, x)  # (N, 528, H/16, W/16)

    def _to_5b(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        x = note(maps, self._run(self.inception4e, x))  # (N, 832, H/16, W/16)
        x = self.maxpool4(x)
        x = self._run(self.inception5a, x)  # (N, 832, H/32, W/32)
        return note(maps, self.norm5b(self._run(self.inception5b, x)))  # (N, 1024, H/32, W/32)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        return self._to_5b(self._to_4d(self._to_4a(x, maps)), maps)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.dropout(global_pool(features, self._config.global_pool))  # (N, 1024)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Any:
        """As of every classifier; with auxiliary heads in training mode :class:`AuxLogits`."""
        if not (self.training and self.aux_heads):
            return super().forward(x)
        x4a = self._to_4a(x)
        x4d = self._to_4d(x4a)
        logits = self.forward_head(self._to_5b(x4d))
        return AuxLogits(logits, (self.aux1(x4a), self.aux2(x4d)))


register(GoogLeNet, VARIANTS, family="googlenet", year=2014, arxiv="1409.4842", authors="Szegedy et al.",
         paper="Going Deeper with Convolutions", source="table 1")  # fmt: skip
