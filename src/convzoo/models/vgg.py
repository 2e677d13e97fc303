"""VGG: nothing but 3x3 convolutions and 2x2 poolings, as deep as it would go.

Simonyan, Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, 2014, arXiv:1409.1556,
table 1, configurations A, B, D and E.

Departures: the ``_bn`` variants put batch norm behind every convolution (Ioffe, Szegedy 2015, arXiv:1502.03167); the
``_sparse_bn`` variants, from a published experiment, in two places only: behind the second convolution of block 2 and
the first of block 4. Images of other sizes than 224 are taken, the last maps being averaged onto a 7x7 grid. The
option ``head="gap"`` replaces the 4096-wide head by global average pooling and one linear layer, for small images.

Weights have the names that the field uses: features, classifier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from .._checks import shorten
from ..registry import register
from ._base import Classifier
from ._config import ModelConfig, Rate
from ._functions import check_pooled, note
from ._init import he_normal_, identity_, normal_


@dataclass(kw_only=True)
class VGGConfig(ModelConfig):
    """The options of VGG; what a row of the table sets, it has set.

    Attributes:
        depths: convolutions of each of the five blocks.
        batch_norm: where it stands: ``"none"`` (the default), ``"every"``, behind every convolution, or ``"sparse"``,
            behind the second convolution of block 2 and the first of block 4.
        head: ``"fc"`` (the default), the paper's three linear layers, or ``"gap"``, global pooling and one.
        drop_rate: dropout in the paper's head, in [0, 1); 0.5 by default.
        global_pool: with ``head="gap"``, what is kept of each of the last maps: its mean, ``"avg"`` (the default), or
            its largest value, ``"max"``.
    """

    depths: tuple[int, ...]
    batch_norm: Literal["none", "every", "sparse"] = "none"
    head: Literal["fc", "gap"] = "fc"
    drop_rate: Rate = 0.5
    global_pool: Literal["avg", "max"] = "avg"

    def validate(self) -> None:
        super().validate()
        if len(self.depths) != 5:
            raise ValueError(
                f"depths of {self.name} must name 5 blocks, got {shorten(self.depths)}; pass e.g. (2, 2, 3, 3, 3)"
            )
        check_pooled(self, self.head == "gap", "head='gap'")


A, B, D, E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
# Simonyan and Zisserman 2014, table 1; behind each row its parameters
VGGS = (
    VGGConfig(name="vgg11", depths=A),  # 132,863,336
    VGGConfig(name="vgg13", depths=B),  # 133,047,848
    VGGConfig(name="vgg16", depths=D),  # 138,357,544
    VGGConfig(name="vgg19", depths=E),  # 143,667,240
    VGGConfig(name="vgg11_bn", depths=A, batch_norm="every"),  # 132,868,840
    VGGConfig(name="vgg13_bn", depths=B, batch_norm="every"),  # 133,053,736
    VGGConfig(name="vgg16_bn", depths=D, batch_norm="every"),  # 138,365,992
    VGGConfig(name="vgg19_bn", depths=E, batch_norm="every"),  # 143,678,248
)
SPARSE_VGGS = (
    VGGConfig(name="vgg13_sparse_bn", depths=B, batch_norm="sparse"),  # 133,049,128; with 16 classes 129,017,680
    VGGConfig(name="vgg16_sparse_bn", depths=D, batch_norm="sparse"),  # 138,358,824
    VGGConfig(name="vgg19_sparse_bn", depths=E, batch_norm="sparse"),  # 143,668,520
)
WIDTHS = (64, 128, 256, 512, 512)
SPARSE_PLACES = ((1, 1), (3, 0))  # (block, convolution), from 0


class VGG(Classifier):
    """Five blocks of 3x3 convolutions, each max-pooled, and three linear layers: 4096-4096-num_classes."""

    can_checkpoint = True
    cam_layer: str

    def __init__(self, config: VGGConfig) -> None:
        super().__init__(config, min_size=32, min_size_why="five 2x2 poolings")
        self.num_features = 4096 if config.head == "fc" else 512
        self.classifier_name = "classifier.6" if config.head == "fc" else "classifier.0"
        self.cam_method = "cam" if config.head == "gap" and config.global_pool == "avg" else "hires_cam"
        self.pools: list[int] = []  # places of the poolings in ``features``
        self.features = self._make_features(config)
        if config.global_pool == "avg":
            self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(7 if config.head == "fc" else 1)
        else:
            self.avgpool = nn.AdaptiveMaxPool2d(1)
        if config.head == "gap":
            self.classifier = nn.Sequential(self.make_classifier(config.num_classes))
        else:
            self.classifier = nn.Sequential(
                nn.Linear(512 * 7 * 7, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(config.drop_rate),
                nn.Linear(4096, 4096),
                nn.ReLU(inplace=True),
                nn.Dropout(config.drop_rate),
                self.make_classifier(config.num_classes),
            )
        self.cam_layer = f"features.{self.pools[-1] - 1}"
        self.stages = {f"stage{block}": f"features.{pool}" for block, pool in enumerate(self.pools, 1)}
        self.feature_layers = (*(f"features.{pool - 1}" for pool in self.pools), f"features.{self.pools[-1]}")

    def _make_features(self, config: VGGConfig) -> nn.Sequential:
        """The blocks; each halves the maps: (N, in_chans, H, W) to (N, 512, H/32, W/32)."""
        layers: list[nn.Module] = []
        chans = config.in_chans
        for block, (depth, width) in enumerate(zip(config.depths, WIDTHS, strict=True)):
            for place in range(depth):
                layers.append(nn.Conv2d(chans, width, 3, padding=1))
                if config.batch_norm == "every" or (config.batch_norm == "sparse" and (block, place) in SPARSE_PLACES):
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                chans = width
            self.pools.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers)

    def init_weights(self, module: nn.Module) -> None:
        """He et al. 2015, which alone lets 19 layers without batch norm learn: under the framework's default the
        logits of VGG-19 do not depend on the image."""
        if isinstance(module, nn.Conv2d):
            he_normal_(module, fan_out=True)
        elif isinstance(module, nn.Linear):
            normal_(module, 0.01)
        elif isinstance(module, nn.BatchNorm2d):
            identity_(module)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        if maps is None and not self.grad_checkpointing:
            return self.features(x)  # (N, 512, H/32, W/32)
        start = 0
        for pool in self.pools:
            if maps is None:
                x = self._run(self.features[start : pool + 1], x)  # with the pooling, which would keep what it reads
            else:
                if self.grad_checkpointing:
                    x = self._run(self.features[start:pool], x)
                else:
                    for place in range(start, pool):
                        x = self.features[place](x)
                x = self.features[pool](note(maps, x))
            start = pool + 1
        return note(maps, x)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.avgpool(features).flatten(1)  # (N, 25088); with head="gap" (N, 512)
        return self.classifier[:-1](x) if pre_logits else self.classifier(x)


PAPER = "Very Deep Convolutional Networks for Large-Scale Image Recognition"
for _rows, _source in ((VGGS, "table 1"), (SPARSE_VGGS, "table 1, with batch norm in two places")):
    register(VGG, _rows, family="vgg", paper=PAPER, authors="Simonyan, Zisserman", year=2014, arxiv="1409.1556",
             source=_source)  # fmt: skip
