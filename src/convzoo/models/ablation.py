"""A series of plain CNNs, one trick at a time: what does batch norm do, what a leaky ReLU, what pooling?

No paper describes them. The first net has six 5x5 convolutions (64-128-256-512-1024-1024) with
sigmoids, five of them followed by 2x2 max-pooling, and a hidden layer of 1024. The second adds batch norm behind every
convolution. Each of the others adds one more trick to the second; the last has them all.

===================== ============================================================================ ============
name                  what it adds                                                                 parameters
===================== ============================================================================ ============
``cnn_sigmoid``       nothing                                                                      95,027,856
``cnn_bn``            batch norm                                                                   95,033,872
``cnn_leaky_relu``    and leaky ReLU for sigmoid                                                   95,033,872
``cnn_gap``           and global average pooling for the hidden layer                              43,652,624
``cnn_dropout``       and dropout before the last layer                                            95,033,872
``cnn_3x3``           and two 3x3 convolutions for each 5x5                                        89,129,296
``cnn_concat``        and four branches side by side for convolution 5                             85,040,272
``cnn_all_tricks``    all: one 3x3 each, leaky ReLU, branches for 5 and 6, pooling, dropout         8,392,464
===================== ============================================================================ ============

Departures: the published figures fix every size, but not where the sixth pooling would have been nor where
activations stand inside the branches; here the first five convolutions are pooled, and every convolution that another
one reads is activated. All but the nets that pool globally are built for ``img_size``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .._checks import shorten
from ..registry import register
from ._base import Classifier
from ._config import ModelConfig, Rate
from ._functions import check_pooled, global_pool, note
from ._init import centred_sigmoid_, he_normal_, identity_, normal_


@dataclass(kw_only=True)
class AblationConfig(ModelConfig):
    """The options of the ablation nets; what a row of the table sets, it has set.

    Attributes:
        activation: ``"sigmoid"`` (the default) or ``"leaky_relu"``, behind every convolution and the hidden layer.
        batch_norm: whether batch norm stands behind every convolution; True by default.
        convolution: of every stage: ``"5x5"`` (the default), ``"3x3"`` or ``"two 3x3"``, one behind the other.
        branched: the stages, of 5 and 6, that are four branches side by side instead; none by default.
        gap: pool globally instead of flattening the maps into a hidden layer; False by default.
        drop_rate: dropout before the last layer, in [0, 1); 0 by default.
        global_pool: with ``gap``, what is kept of each map: its mean, ``"avg"`` (the default), or its largest value,
            ``"max"``.
    """

    num_classes: int = 16
    activation: Literal["sigmoid", "leaky_relu"] = "sigmoid"
    batch_norm: bool = True
    convolution: Literal["5x5", "3x3", "two 3x3"] = "5x5"
    branched: tuple[int, ...] = ()
    gap: bool = False
    drop_rate: Rate = 0.0
    global_pool: Literal["avg", "max"] = "avg"

    def validate(self) -> None:
        super().validate()
        if not set(self.branched) <= {5, 6}:
            raise ValueError(
                f"branched of {self.name} may name stages 5 and 6, got {shorten(self.branched)}; pass e.g. (5,)"
            )
        check_pooled(self, self.gap, "gap=True")


VARIANTS = (
    AblationConfig(name="cnn_sigmoid", batch_norm=False),
    AblationConfig(name="cnn_bn"),
    AblationConfig(name="cnn_leaky_relu", activation="leaky_relu"),
    AblationConfig(name="cnn_gap", gap=True),
    AblationConfig(name="cnn_dropout", drop_rate=0.5),
    AblationConfig(name="cnn_3x3", convolution="two 3x3"),
    AblationConfig(name="cnn_concat", branched=(5,)),
    AblationConfig(
        name="cnn_all_tricks", activation="leaky_relu", convolution="3x3", branched=(5, 6), gap=True, drop_rate=0.5
    ),
)
WIDTHS = (64, 128, 256, 512, 1024, 1024)


def make_activation(config: AblationConfig) -> nn.Module:
    """The config's activation."""
    return nn.Sigmoid() if config.activation == "sigmoid" else nn.LeakyReLU(0.01)


class Branches(nn.Module):
    """Four branches side by side: (N, C, H, W) to (N, 384 + 256 + 256 + 128, H, W)."""

    def __init__(self, chans: int, config: AblationConfig) -> None:
        super().__init__()
        self.branch1x1 = nn.Conv2d(chans, 384, 1)
        self.branch3x3 = nn.Sequential(
            nn.Conv2d(chans, 384, 1), make_activation(config), nn.Conv2d(384, 256, 3, padding=1)
        )
        self.branch5x5 = nn.Sequential(
            nn.Conv2d(chans, 256, 1), make_activation(config), nn.Conv2d(256, 256, 5, padding=2)
        )
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(chans, 128, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1x1(x), self.branch3x3(x), self.branch5x5(x), self.branch_pool(x)], 1)


def make_stage(stage: int, config: AblationConfig) -> nn.Sequential:
    """Convolutions of one stage, each normalised where asked and activated; the size of the maps is kept."""
    chans, width = (config.in_chans, *WIDTHS)[stage - 1 : stage + 1]
    if stage in config.branched:
        convolutions: list[nn.Module] = [Branches(chans, config)]
    elif config.convolution == "two 3x3":
        convolutions = [nn.Conv2d(chans, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)]
    else:
        kernel = int(config.convolution[0])
        convolutions = [nn.Conv2d(chans, width, kernel, padding=kernel // 2)]
    layers: list[nn.Module] = []
    for convolution in convolutions:
        norm = [nn.BatchNorm2d(width)] if config.batch_norm else []
        layers += [convolution, *norm, make_activation(config)]
    return nn.Sequential(*layers)


class AblationCNN(Classifier):
    """Six stages of convolutions, the first five max-pooled, then a hidden layer or global average pooling."""

    num_features = 1024
    cam_layer = "stage6"
    stages = {f"stage{stage}": f"stage{stage}" for stage in range(1, 7)}
    feature_layers = tuple(stages)
    _config: AblationConfig

    def __init__(self, config: AblationConfig) -> None:
        super().__init__(config, min_size=32, min_size_why="five 2x2 poolings")
        self.fixed_size = not config.gap
        self.cam_method = "cam" if config.gap and config.global_pool == "avg" else "hires_cam"
        height, width = (side // 32 for side in self.img_size)
        self.pool = nn.MaxPool2d(2)
        self.stage1 = make_stage(1, config)
        self.stage2 = make_stage(2, config)
        self.stage3 = make_stage(3, config)
        self.stage4 = make_stage(4, config)
        self.stage5 = make_stage(5, config)
        self.stage6 = make_stage(6, config)
        self.fc1 = nn.Identity() if config.gap else nn.Linear(1024 * height * width, 1024)
        self.activation = nn.Identity() if config.gap else make_activation(config)
        self.drop = nn.Dropout(config.drop_rate)
        self.fc = self.make_classifier(config.num_classes)

    def init_weights(self, module: nn.Module) -> None:
        """For sigmoids, on their slope; for leaky ReLU, He et al. 2015; the last layer starts small."""
        if isinstance(module, nn.BatchNorm2d):
            identity_(module)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            if module is self.get_classifier():
                normal_(module, 0.03)
            elif self._config.activation == "leaky_relu":
                he_normal_(module)
            else:
                first = next(layer for layer in self.modules() if isinstance(layer, nn.Conv2d))
                centred_sigmoid_(module, after_sigmoid=module is not first)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = self.pool(note(maps, self.stage1(x)))  # (N, 64, H/2, W/2)
        x = self.pool(note(maps, self.stage2(x)))  # (N, 128, H/4, W/4)
        x = self.pool(note(maps, self.stage3(x)))  # (N, 256, H/8, W/8)
        x = self.pool(note(maps, self.stage4(x)))  # (N, 512, H/16, W/16)
        x = self.pool(note(maps, self.stage5(x)))  # (N, 1024, H/32, W/32)
        return note(maps, self.stage6(x))  # (N, 1024, H/32, W/32)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        flat = global_pool(features, self._config.global_pool) if self._config.gap else features.flatten(1)
        x = self.drop(self.activation(self.fc1(flat)))  # (N, 1024)
        return x if pre_logits else self.fc(x)


register(AblationCNN, VARIANTS, family="ablation", source="an ablation series: one trick at a time")
