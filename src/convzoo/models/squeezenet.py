"""SqueezeNet: the accuracy of AlexNet with fiftieth of its parameters, by 1x1 convolutions that squeeze the channels.

Iandola, Han, Moskewicz, Ashraf, Dally, Keutzer, *SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and
<0.5MB model size*, 2016, arXiv:1602.07360, table 1 (1.0). 1.1 is the authors' own later version
(github.com/forresti/SqueezeNet, SqueezeNet_v1.1), with a smaller first convolution and earlier poolings.

Departures: none. State-dict keys are torchvision's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..registry import register
from ._base import Classifier
from ._config import ModelConfig, Rate
from ._functions import global_average, note
from ._init import he_normal_, normal_

SQUEEZES = (16, 16, 32, 32, 48, 48, 64, 64)  # channels that fire2 to fire9 squeeze to; they expand to eight times that


@dataclass(kw_only=True)
class SqueezeNetConfig(ModelConfig):
    """The options of SqueezeNet; what a row of the table sets, it has set.

    Attributes:
        stem_width: channels of the first convolution.
        stem_kernel: side of its kernel, in pixels.
        pools: after how many of the eight fire modules the second and the third pooling stand.
        drop_rate: dropout before the last convolution, in [0, 1); 0.5 by default.
    """

    stem_width: int
    stem_kernel: int
    pools: tuple[int, ...]
    drop_rate: Rate = 0.5

    def validate(self) -> None:
        super().validate()
        if len(self.pools) != 2 or not 0 < self.pools[0] < self.pools[1] < len(SQUEEZES):
            raise ValueError(
                f"pools of {self.name} must be two rising numbers from 1 to {len(SQUEEZES) - 1}, got {self.pools}; "
                "pass e.g. (3, 7)"
            )


# Iandola et al. 2016, table 1; behind each row its parameters
SQUEEZENETS = (
    SqueezeNetConfig(name="squeezenet1_0", stem_width=96, stem_kernel=7, pools=(3, 7)),  # 1,248,424
    SqueezeNetConfig(name="squeezenet1_1", stem_width=64, stem_kernel=3, pools=(2, 4)),  # 1,235,496
)


class Fire(nn.Module):
    """1x1 down to ``width`` channels, then 1x1 and 3x3 side by side: (N, chans, H, W) to (N, 8 width, H, W)."""

    def __init__(self, chans: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(chans, width, 1)
        self.squeeze_activation = nn.ReLU(inplace=True)
        self.expand1x1 = nn.Conv2d(width, 4 * width, 1)
        self.expand1x1_activation = nn.ReLU(inplace=True)
        self.expand3x3 = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.expand3x3_activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        one, three = self.expand1x1_activation(self.expand1x1(x)), self.expand3x3_activation(self.expand3x3(x))
        return torch.cat([one, three], 1)


class SqueezeNet(Classifier):
    """A convolution, eight fire modules, three poolings, and a 1x1 convolution whose maps are averaged."""

    can_checkpoint = True
    num_features = 8 * SQUEEZES[-1]
    classifier_name = "classifier.1"
    cam_method = "hires_cam"  # a ReLU stands between the last convolution and the mean

    def __init__(self, config: SqueezeNetConfig) -> None:
        # from the end: 1 cell, of 2 before the third pooling, of 4, of 8, and the stride of the first convolution
        super().__init__(config, min_size=14 + config.stem_kernel, min_size_why="a stride and three 3x3/2 poolings")
        layers: list[nn.Module] = [nn.Conv2d(config.in_chans, config.stem_width, config.stem_kernel, 2)]
        layers += [nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True)]
        ends, chans = [1], config.stem_width  # where the maps of each resolution end
        for number, width in enumerate(SQUEEZES, 1):
            layers.append(Fire(chans, width))
            chans = 8 * width
            if number in config.pools:
                ends.append(len(layers) - 1)
                layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        ends.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(config.drop_rate),
            self.make_classifier(config.num_classes),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        self.feature_layers = tuple(f"features.{end}" for end in ends)
        self.stages = {f"stage{number}": path for number, path in enumerate(self.feature_layers, 1)}
        self.cam_layer = self.feature_layers[-1]

    def make_classifier(self, num_classes: int) -> nn.Module:
        return nn.Conv2d(self.num_features, num_classes, 1) if num_classes else nn.Identity()

    def init_weights(self, module: nn.Module) -> None:
        """He et al. 2015 before a ReLU; the last convolution small, its ReLU kept open by nothing but the images."""
        if module is self.get_classifier():
            if isinstance(module, nn.Conv2d):
                normal_(module, 0.01)
        elif isinstance(module, nn.Conv2d):
            he_normal_(module)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        for place, layer in enumerate(self.features):
            x = self._run(layer, x) if isinstance(layer, Fire) else layer(x)
            if f"features.{place}" in self.feature_layers:
                x = note(maps, x)
        return x  # (N, 512, H/16, W/16)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        if pre_logits or self.num_classes == 0:
            return global_average(features)  # (N, 512)
        return self.classifier(features).flatten(1)


register(SqueezeNet, SQUEEZENETS, family="squeezenet", year=2016, arxiv="1602.07360", authors="Iandola et al.",
         paper="SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size",
         source="table 1")  # fmt: skip
