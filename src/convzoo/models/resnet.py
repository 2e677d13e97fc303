"""Residual networks, and their wider and grouped descendants.

ResNet: He, Zhang, Ren, Sun, *Deep Residual Learning for Image Recognition*, 2015, arXiv:1512.03385. Depths are
table 1's. Wide ResNet: Zagoruyko, Komodakis, *Wide Residual Networks*, 2016, arXiv:1605.07146 (the ImageNet nets of
section 3.5: bottlenecks twice as wide). ResNeXt: Xie, Girshick, Dollar, Tu, He, *Aggregated Residual
Transformations for Deep Neural Networks*, 2016, arXiv:1611.05431, table 1 (32x4d means 32 groups of width 4).

Departures from the papers: the stride of a bottleneck stands on its 3x3 convolution, not on the first 1x1 (the
variant known as v1.5, which every published set of weights uses). The options that are ours: ``stem="small"`` and
``stem="medium"`` (a 3x3 convolution of stride 1 or 2 and no pooling, for images of 32 to 64 and of 64 to 128 pixels),
and ``shortcut=False`` (the residual connections removed, for the ablation).

Weights have the names that the field uses: conv1, bn1, layer1..layer4, fc.
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
from ._functions import note
from ._init import he_normal_, identity_, normal_


@dataclass(kw_only=True)
class ResNetConfig(ModelConfig):
    """The options of ResNets; what a row of the table sets, it has set.

    Attributes:
        block: ``"basic"``, two 3x3 convolutions, or ``"bottleneck"``, 1x1, 3x3 and 1x1.
        depths: blocks of each of the four stages.
        groups: of the 3x3 convolution of a bottleneck; 1 by default.
        width_per_group: channels of a group of that convolution in stage 1, which double from stage to stage; 64 by
            default.
        stem: ``"imagenet"`` (the default), 7x7/2 and a 3x3/2 pooling; ``"medium"``, 3x3/2 alone, for images of 64 to
            128 pixels, which makes every map twice as large each way; or ``"small"``, 3x3/1 alone, for images of 32 to
            64 pixels, which makes it four times as large. Weights of the last two fit each other.
        shortcut: keep the residual connections; True by default.
        zero_init_residual: start every block as the identity, its last batch-norm gain being 0; False by default.
        output_stride: pixels of the image to a cell of the last maps, each way: 32 (the default), 16 or 8 (with the
            medium stem half, with the small one a quarter of that). The strides left out become dilations, so weights
            fit any of them.
        drop_rate: dropout of the pooled features, in [0, 1); 0 by default.
        global_pool: what is kept of each of the last maps: its mean, ``"avg"`` (the default), or its largest value,
            ``"max"``.
    """

    small_images = {"stem": "small"}
    training_only = ("drop_rate", "zero_init_residual")

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    groups: int = 1
    width_per_group: int = 64
    stem: Literal["imagenet", "medium", "small"] = "imagenet"
    shortcut: bool = True
    zero_init_residual: bool = False
    output_stride: Literal[8, 16, 32] = 32
    drop_rate: Rate = 0.0
    global_pool: Literal["avg", "max"] = "avg"

    def validate(self) -> None:
        super().validate()
        if len(self.depths) != 4:
            raise ValueError(
                f"depths of {self.name} must name 4 stages, got {shorten(self.depths)}; pass e.g. (2, 2, 2, 2)"
            )
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise ValueError(
                f"groups and width_per_group of {self.name} belong to bottlenecks, got groups={self.groups}, "
                f"width_per_group={self.width_per_group} with basic blocks; pass block='bottleneck'"
            )


# He et al. 2015, table 1; behind each row its parameters
RESNETS = (
    ResNetConfig(name="resnet18", block="basic", depths=(2, 2, 2, 2)),  # 11,689,512
    ResNetConfig(name="resnet34", block="basic", depths=(3, 4, 6, 3)),  # 21,797,672
    ResNetConfig(name="resnet50", block="bottleneck", depths=(3, 4, 6, 3)),  # 25,557,032
    ResNetConfig(name="resnet101", block="bottleneck", depths=(3, 4, 23, 3)),  # 44,549,160
    ResNetConfig(name="resnet152", block="bottleneck", depths=(3, 8, 36, 3)),  # 60,192,808
)
# Zagoruyko and Komodakis 2016, section 3.5
WIDE_RESNETS = (
    ResNetConfig(name="wide_resnet50_2", block="bottleneck", depths=(3, 4, 6, 3), width_per_group=128),  # 68,883,240
    ResNetConfig(name="wide_resnet101_2", block="bottleneck", depths=(3, 4, 23, 3), width_per_group=128),  # 126,886,696
)
# Xie et al. 2016, tables 1 and 4
RESNEXTS = (
    ResNetConfig(name="resnext50_32x4d", block="bottleneck", depths=(3, 4, 6, 3), groups=32, width_per_group=4),
    ResNetConfig(name="resnext101_32x8d", block="bottleneck", depths=(3, 4, 23, 3), groups=32, width_per_group=8),
    ResNetConfig(name="resnext101_64x4d", block="bottleneck", depths=(3, 4, 23, 3), groups=64, width_per_group=4),
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the input added: (N, inplanes, H, W) to (N, planes, H / stride, W / stride)."""

    expansion = 1

    def __init__(
        self, inplanes: int, planes: int, stride: int, config: ResNetConfig, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        first, last = dilations
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, first, first, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, last, last, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = make_downsample(inplanes, planes, stride, config)
        self.shortcut = config.shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut:
            out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the input added: (N, inplanes, H, W) to (N, 4 planes, H / stride, W / stride)."""

    expansion = 4

    def __init__(
        self, inplanes: int, planes: int, stride: int, config: ResNetConfig, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        width = planes * config.width_per_group // 64 * config.groups
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        first = dilations[0]
        self.conv2 = nn.Conv2d(width, width, 3, stride, first, first, groups=config.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, planes * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = make_downsample(inplanes, planes * 4, stride, config)
        self.shortcut = config.shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.shortcut:
            out += x if self.downsample is None else self.downsample(x)
        return self.relu(out)


def make_downsample(inplanes: int, planes: int, stride: int, config: ResNetConfig) -> nn.Module | None:
    """The projection that fits the input to the block's output where their shapes differ (option B of the paper)."""
    if not config.shortcut or (stride == 1 and inplanes == planes):
        return None
    return nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))


def make_layer(
    config: ResNetConfig, inplanes: int, planes: int, depth: int, *, stride: int, dilations: tuple[int, int]
) -> nn.Sequential:
    """``depth`` blocks: (N, inplanes, H, W) to (N, C, H / stride, W / stride).

    The first block has the stride; its first 3x3 convolution has the first dilation, and all others the last.
    """
    block = BasicBlock if config.block == "basic" else Bottleneck
    blocks = [block(inplanes, planes, stride, config, dilations)]
    blocks += [block(planes * block.expansion, planes, 1, config, dilations[1:] * 2) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


class ResNet(Classifier):
    """A stem, four stages of residual blocks, global average pooling and one linear layer."""

    can_checkpoint = True
    config: ResNetConfig
    feature_layers = ("relu", "layer1", "layer2", "layer3", "layer4")
    stages = {"stem": "maxpool", "stage1": "layer1", "stage2": "layer2", "stage3": "layer3", "stage4": "layer4"}

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        block = BasicBlock if config.block == "basic" else Bottleneck
        self.num_features = 512 * block.expansion
        self.cam_method = "cam" if config.global_pool == "avg" else "hires_cam"
        if config.stem == "imagenet":
            self.conv1 = nn.Conv2d(config.in_chans, 64, 7, 2, 3, bias=False)
        else:
            self.conv1 = nn.Conv2d(config.in_chans, 64, 3, 2 if config.stem == "medium" else 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if config.stem == "imagenet" else nn.Identity()
        depths, wide = config.depths, block.expansion
        # a stride that is left out becomes a dilation of what follows it
        stride3, stride4 = 2 if config.output_stride >= 16 else 1, 2 if config.output_stride == 32 else 1
        dilation3 = 2 // stride3
        dilation4 = dilation3 * 2 // stride4
        self.layer1 = make_layer(config, 64, 64, depths[0], stride=1, dilations=(1, 1))
        self.layer2 = make_layer(config, 64 * wide, 128, depths[1], stride=2, dilations=(1, 1))
        self.layer3 = make_layer(config, 128 * wide, 256, depths[2], stride=stride3, dilations=(1, dilation3))
        self.layer4 = make_layer(config, 256 * wide, 512, depths[3], stride=stride4, dilations=(dilation3, dilation4))
        self.avgpool = nn.AdaptiveAvgPool2d(1) if config.global_pool == "avg" else nn.AdaptiveMaxPool2d(1)
        self.drop = nn.Dropout(config.drop_rate)
        self.fc = self.make_classifier(config.num_classes)

    def init_weights(self, module: nn.Module) -> None:
        """He et al. 2015 by the fan out, which suits a net that halves its maps; a small linear layer."""
        if isinstance(module, nn.Conv2d):
            he_normal_(module, fan_out=True)
        elif isinstance(module, nn.BatchNorm2d):
            identity_(module)
        elif isinstance(module, nn.Linear):
            normal_(module, 0.01)
        elif isinstance(module, (BasicBlock, Bottleneck)) and self.config.zero_init_residual:
            last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
            with torch.no_grad():
                last.weight.zero_()  # Goyal et al. 2017, arXiv:1706.02677, section 5.1

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.relu(self.bn1(self.conv1(x))))  # (N, 64, H/2, W/2); medium stem: H/2, small: H
        x = self.maxpool(x)  # (N, 64, H/4, W/4); medium stem: H/2, small: H
        x = note(maps, self._run_blocks(self.layer1, x))
        x = note(maps, self._run_blocks(self.layer2, x))
        x = note(maps, self._run_blocks(self.layer3, x))
        return note(
            maps, self._run_blocks(self.layer4, x)
        )  # (N, num_features, H/32, W/32); medium stem: H/16, small: H/8

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = self.drop(self.avgpool(features).flatten(1))  # (N, num_features)
        return pooled if pre_logits else self.fc(pooled)


register(ResNet, RESNETS, family="resnet", year=2015, arxiv="1512.03385", authors="He et al.",
         paper="Deep Residual Learning for Image Recognition", source="table 1")  # fmt: skip
register(ResNet, WIDE_RESNETS, family="wide_resnet", year=2016, arxiv="1605.07146", authors="Zagoruyko, Komodakis",
         paper="Wide Residual Networks", source="section 3.5")  # fmt: skip
register(ResNet, RESNEXTS, family="resnext", year=2016, arxiv="1611.05431", authors="Xie et al.",
         paper="Aggregated Residual Transformations for Deep Neural Networks", source="tables 1 and 4")  # fmt: skip
