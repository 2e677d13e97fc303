"""Small nets for digits that end in global average pooling instead of flattening their maps.

``fcn_gap``: three convolutions, pooled (Lin et al. 2013, arXiv:1312.4400), with one of three heads. ``mnist_resnet``:
residual blocks (He et al. 2015, arXiv:1512.03385) at the full resolution of the digits. Both end the series
of experiments on MNIST that ``mnist.py`` begins, and have no paper. Departures: none is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ..registry import register
from ._config import Rate
from ._functions import global_pool, note
from .mnist import MnistClassifier, MnistConfig


@dataclass(kw_only=True)
class PooledMnistConfig(MnistConfig):
    """The options of the nets that pool globally.

    Attributes:
        drop_rate: dropout of the pooled features, in [0, 1); 0 by default.
        global_pool: what is kept of each of the last maps: its mean, ``"avg"`` (the default), or its largest value,
            ``"max"``.
    """

    drop_rate: Rate = 0.0
    global_pool: Literal["avg", "max"] = "avg"


@dataclass(kw_only=True)
class FcnGapConfig(PooledMnistConfig):
    """The options of the fully convolutional net.

    Attributes:
        head: ``"linear"`` (the default), a linear layer on the pooled maps; ``"conv_then_gap"``, the last convolution
            gives a map per class, which is pooled; or ``"gap_then_conv"``, a 1x1 convolution on the pooled maps.
        drop_rate: dropout of what the head reads, in [0, 1); 0 by default.
        global_pool: what is kept of each map: its mean, ``"avg"`` (the default), or its largest value, ``"max"``.
    """

    head: Literal["linear", "conv_then_gap", "gap_then_conv"] = "linear"


# behind each row its parameters
FCN_GAP = (FcnGapConfig(name="fcn_gap"),)  # 32,266
MNIST_RESNET = (PooledMnistConfig(name="mnist_resnet"),)  # 1,008,586


class FcnGap(MnistClassifier):
    """Unpadded 3x3 convolutions with batch norm (24, 48, 48), global average pooling, and one of three heads."""

    num_features = 48
    stages = {"stage1": "relu1", "stage2": "relu2", "stage3": "relu3"}
    feature_layers = tuple(stages.values())
    _config: FcnGapConfig

    def __init__(self, config: FcnGapConfig) -> None:
        super().__init__(config, min_size=7, min_size_why="three unpadded 3x3 convolutions")
        self.cam_method = "cam" if config.global_pool == "avg" else "hires_cam"
        third = config.head != "conv_then_gap"  # there the classifier is the third convolution
        if not third:
            self.stages = {"stage1": "relu1", "stage2": "relu2"}
            self.feature_layers = ("relu1", "relu2")
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
        self.drop = nn.Dropout(config.drop_rate)
        self.fc = self.make_classifier(config.num_classes)

    def make_classifier(self, num_classes: int) -> nn.Module:
        if num_classes == 0 or self._config.head == "linear":
            return super().make_classifier(num_classes)
        return nn.Conv2d(48, num_classes, 3 if self._config.head == "conv_then_gap" else 1)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.relu1(self.bn1(self.conv1(x))))  # (N, 24, H - 2, W - 2)
        x = note(maps, self.relu2(self.bn2(self.conv2(x))))  # (N, 48, H - 4, W - 4)
        if self._config.head == "conv_then_gap":
            return x
        return note(maps, self.relu3(self.bn3(self.conv3(x))))  # (N, 48, H - 6, W - 6)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        if self._config.head == "conv_then_gap" and not pre_logits:
            maps = self.fc(self.drop(features))  # a map per class (N, num_classes, H - 6, W - 6)
            return global_pool(maps, self._config.global_pool)
        pooled = self.drop(self.norm(global_pool(features, self._config.global_pool)))  # (N, 48)
        if pre_logits:
            return pooled
        if self._config.head == "gap_then_conv":
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
    _config: PooledMnistConfig
    stages = {"stem": "relu1", "stage1": "block1", "stage2": "block3"}
    feature_layers = tuple(stages.values())

    def __init__(self, config: PooledMnistConfig) -> None:
        super().__init__(config)
        self.cam_method = "cam" if config.global_pool == "avg" else "hires_cam"
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
        self.drop = nn.Dropout(config.drop_rate)
        self.fc = self.make_classifier(config.num_classes)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.relu1(self.bn1(self.conv1(x))))  # (N, 64, H, W)
        x = note(maps, self.block1(x))  # (N, 64, H, W)
        x = self.relu2(self.bn2(self.conv2(x)))  # (N, 128, H, W)
        return note(maps, self.block3(self.block2(x)))  # (N, 128, H, W)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(self.norm(global_pool(features, self._config.global_pool)))  # (N, 128)
        return x if pre_logits else self.fc(x)


register(FcnGap, FCN_GAP, family="mnist", source="experiments on MNIST: global average pooling")
register(MnistResNet, MNIST_RESNET, family="mnist", source="experiments on MNIST: residual blocks")
