"""Small nets for digits that end in global average pooling instead of flattening their maps.

``fcn_gap``: three convolutions, pooled (Lin et al. 2013, arXiv:1312.4400), with one of three heads. ``mnist_resnet``:
residual blocks (He et al. 2015, arXiv:1512.03385) at the full resolution of the digits. Both end a series of
published experiments on MNIST that ``mnist.py`` begins. Departures: none is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ..registry import register
from ._base import global_average, note
from ._init import without_default_init
from .mnist import MnistClassifier, MnistConfig


@dataclass(kw_only=True)
class FcnGapConfig(MnistConfig):
    """``head``: a linear layer on the pooled maps; or the last convolution gives a map per class, then pooled; or a
    1x1 convolution on the pooled maps."""

    head: Literal["linear", "conv_then_gap", "gap_then_conv"] = "linear"


# behind each row its parameters
FCN_GAP = (FcnGapConfig(name="fcn_gap"),)  # 32,266
MNIST_RESNET = (MnistConfig(name="mnist_resnet"),)  # 1,008,586


class FcnGap(MnistClassifier):
    """Unpadded 3x3 convolutions with batch norm (24, 48, 48), global average pooling, and one of three heads."""

    num_features = 48
    stages = {"stage1": "relu1", "stage2": "relu2", "stage3": "relu3"}
    config: FcnGapConfig

    def __init__(self, config: FcnGapConfig) -> None:
        super().__init__(config, min_size=7, min_size_why="three unpadded 3x3 convolutions")
        third = config.head != "conv_then_gap"  # there the classifier is the third convolution
        self.feature_layers = ("relu1", "relu2", "relu3") if third else ("relu1", "relu2")
        with without_default_init():
            self.conv1 = nn.Conv2d(config.in_chans, 24, 3)
            self.bn1 = nn.BatchNorm2d(24)
            self.relu1 = nn.ReLU(inplace=True)
            self.conv2 = nn.Conv2d(24, 48, 3)
            self.bn2 = nn.BatchNorm2d(48)
            self.relu2 = nn.ReLU(inplace=True)
            self.conv3 = nn.Conv2d(48, 48, 3) if third else nn.Identity()
            self.bn3 = nn.BatchNorm2d(48) if third else nn.Identity()
            self.relu3 = nn.ReLU(inplace=True) if third else nn.Identity()
            self.norm = nn.LayerNorm(48) if config.head == "linear" else nn.Identity()
            self.fc = self.make_classifier(config.num_classes)
        self.reset_parameters()

    def make_classifier(self, num_classes: int) -> nn.Module:
        if num_classes == 0 or self.config.head == "linear":
            return super().make_classifier(num_classes)
        return nn.Conv2d(48, num_classes, 3 if self.config.head == "conv_then_gap" else 1)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.relu1(self.bn1(self.conv1(x))))  # (N, 24, H - 2, W - 2)
        x = note(maps, self.relu2(self.bn2(self.conv2(x))))  # (N, 48, H - 4, W - 4)
        if self.config.head == "conv_then_gap":
            return x
        return note(maps, self.relu3(self.bn3(self.conv3(x))))  # (N, 48, H - 6, W - 6)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        if self.config.head == "conv_then_gap" and not pre_logits:
            return global_average(self.fc(features))  # a map per class (N, num_classes, H - 6, W - 6), then its mean
        pooled = self.norm(global_average(features))  # (N, 48)
        if pre_logits:
            return pooled
        if self.config.head == "gap_then_conv":
            return self.fc(pooled[:, :, None, None]).flatten(1)
        return self.fc(pooled)


class NormedResidualBlock(nn.Module):
    """Three 3x3 convolutions with batch norm and the input added; (N, C, H, W) is kept."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(chans, chans, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(chans)
        self.conv2 = nn.Conv2d(chans, chans, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(chans)
        self.conv3 = nn.Conv2d(chans, chans, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(chans)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(x + out)


class MnistResNet(MnistClassifier):
    """1x1 convolutions to 64 and 128 maps, residual blocks (one, two) at full size; pooling, LayerNorm, linear."""

    num_features = 128
    stages = {"stem": "relu1", "stage1": "block1", "stage2": "block3"}
    feature_layers = tuple(stages.values())

    def __init__(self, config: MnistConfig) -> None:
        super().__init__(config)
        with without_default_init():
            self.conv1 = nn.Conv2d(config.in_chans, 64, 1)
            self.bn1 = nn.BatchNorm2d(64)
            self.relu1 = nn.ReLU(inplace=True)
            self.block1 = NormedResidualBlock(64)
            self.conv2 = nn.Conv2d(64, 128, 1)
            self.bn2 = nn.BatchNorm2d(128)
            self.relu2 = nn.ReLU(inplace=True)
            self.block2 = NormedResidualBlock(128)
            self.block3 = NormedResidualBlock(128)
            self.norm = nn.LayerNorm(128)
            self.fc = self.make_classifier(config.num_classes)
        self.reset_parameters()

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.relu1(self.bn1(self.conv1(x))))  # (N, 64, H, W)
        x = note(maps, self.block1(x))  # (N, 64, H, W)
        x = self.relu2(self.bn2(self.conv2(x)))  # (N, 128, H, W)
        return note(maps, self.block3(self.block2(x)))  # (N, 128, H, W)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.norm(global_average(features))  # (N, 128)
        return x if pre_logits else self.fc(x)


PAPER = "none: published experiments on MNIST"
register(FcnGap, FCN_GAP, family="mnist", paper=PAPER, source="global average pooling")
register(MnistResNet, MNIST_RESNET, family="mnist", paper=PAPER, source="residual blocks at full size")
