"""AlexNet, the net that started it all in 2012, and its one-tower descendant.

``alexnet_2012``: Krizhevsky, Sutskever, Hinton, *ImageNet Classification with Deep Convolutional Neural Networks*,
NeurIPS 2012 (no arXiv id), section 3 and figure 2: 96-256-384-384-256, local response normalisation, and on
convolutions 2, 4 and 5 the two groups that once lived on two GPUs. ``alexnet``: Krizhevsky, *One weird trick for
parallelizing convolutional neural networks*, 2014, arXiv:1404.5997: 64-192-384-256-256, one tower.

Departures: images of other sizes than 224 are taken, the last maps being averaged onto a 6x6 grid; weights are drawn
by He et al. 2015 instead of N(0, 0.01) with biases of one. The weights of ``alexnet`` have the names that the field
uses (features, classifier).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ..registry import register
from ._base import Classifier
from ._config import ModelConfig, Rate
from ._functions import note
from ._init import he_normal_, normal_


@dataclass(kw_only=True)
class AlexNetConfig(ModelConfig):
    """The options of AlexNet.

    Attributes:
        drop_rate: dropout before both hidden layers of the head, in [0, 1); 0.5 by default.
    """

    drop_rate: Rate = 0.5


@dataclass(kw_only=True)
class AlexNet2012Config(AlexNetConfig):
    """The options of the net of 2012.

    Attributes:
        drop_rate: dropout before both hidden layers of the head, in [0, 1); 0.5 by default.
        groups: of convolutions 2, 4 and 5: 2 (the default), the paper's two towers, or 1.
    """

    groups: Literal[1, 2] = 2


# behind each row its parameters
ALEXNET = (AlexNetConfig(name="alexnet"),)  # 61,100,840
ALEXNET_2012 = (AlexNet2012Config(name="alexnet_2012"),)  # 60,965,224; with one group 62,378,344


class AlexNet(Classifier):
    """Five convolutions, three 3x3/2 max-poolings, and three linear layers: 64-192-384-256-256-4096-4096."""

    num_features = 4096
    classifier_name = "classifier.6"
    cam_method = "hires_cam"
    cam_layer = "features.11"
    stages = {"stage1": "features.2", "stage2": "features.5", "stage3": "features.12"}
    feature_layers = ("features.1", "features.4", "features.11", "features.12")

    def __init__(self, config: AlexNetConfig) -> None:
        super().__init__(config, min_size=63, min_size_why="an 11x11 convolution of stride 4 and three 3x3/2 poolings")
        self.features = nn.Sequential(*self.make_features(config))
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(config.drop_rate),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(config.drop_rate),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            self.make_classifier(config.num_classes),
        )

    @staticmethod
    def make_features(config: AlexNetConfig) -> Sequence[nn.Module]:
        """The layers up to the last pooling; the sizes are those at 224."""
        return [
            nn.Conv2d(config.in_chans, 64, 11, 4, 2),  # (N, 64, 55, 55)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # (N, 64, 27, 27)
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # (N, 192, 13, 13)
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # (N, 256, 6, 6)
        ]

    def init_weights(self, module: nn.Module) -> None:
        """He et al. 2015; the last layer starts small."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if module is self.get_classifier():
                normal_(module, 0.01)
            else:
                he_normal_(module)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        if maps is None:
            return self.features(x)  # (N, 256, 6, 6) at 224
        for name, layer in self.features.named_children():
            x = layer(x)
            if f"features.{name}" in self.feature_layers:
                note(maps, x)
        return x

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.avgpool(features).flatten(1)  # (N, 9216)
        return self.classifier[:6](x) if pre_logits else self.classifier(x)


class AlexNet2012(AlexNet):
    """The paper's layers: 96-256-384-384-256, normalised across maps after the first two convolutions."""

    cam_layer = "features.13"
    stages = {"stage1": "features.3", "stage2": "features.7", "stage3": "features.14"}
    feature_layers = ("features.2", "features.6", "features.13", "features.14")

    @staticmethod
    def make_features(config: AlexNetConfig) -> Sequence[nn.Module]:
        groups = config.options["groups"]

        def response_norm() -> nn.Module:
            # k = 2, n = 5, alpha = 1e-4, beta = 0.75 in section 3.3, which sums over the n maps; the framework takes
            # their mean, so that its alpha is n times the paper's
            return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

        return [
            nn.Conv2d(config.in_chans, 96, 11, 4, 2),  # (N, 96, 55, 55)
            nn.ReLU(inplace=True),
            response_norm(),
            nn.MaxPool2d(3, 2),  # (N, 96, 27, 27)
            nn.Conv2d(96, 256, 5, padding=2, groups=groups),
            nn.ReLU(inplace=True),
            response_norm(),
            nn.MaxPool2d(3, 2),  # (N, 256, 13, 13)
            nn.Conv2d(256, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 384, 3, padding=1, groups=groups),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1, groups=groups),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),  # (N, 256, 6, 6)
        ]


register(AlexNet, ALEXNET, family="alexnet", year=2014, arxiv="1404.5997", authors="Krizhevsky",
         paper="One weird trick for parallelizing convolutional neural networks", source="section 5")  # fmt: skip
register(AlexNet2012, ALEXNET_2012, family="alexnet", year=2012, authors="Krizhevsky, Sutskever, Hinton",
         paper="ImageNet Classification with Deep Convolutional Neural Networks", source="section 3")  # fmt: skip
