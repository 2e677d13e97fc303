"""LeNets: the first convolutional networks that read digits for a living.

LeCun, Bottou, Bengio, Haffner, *Gradient-Based Learning Applied to Document Recognition*, Proceedings of the IEEE
86(11), 1998 (no arXiv id), section II.B, figure 2 and table I.

Three of them:

- ``lenet5``: the layer sizes of the paper with what is used today: ReLU, max-pooling, full connections, a linear
  output. Departures: all of these.
- ``lenet5_1998``: the paper as printed: scaled tanh, trainable sub-sampling, the connection table of C3, and an
  output of radial basis functions around fixed 7x12 bitmaps. Departures: the bitmaps are drawn here in the manner
  of the paper's figure 3; with more than ten classes further codes are drawn at random, once and for all; the
  output is minus the squared distance, so that the largest wins, as for every other net here.
- ``lenet_sigmoid``: a textbook's LeNet for large pictures: sigmoids, max-pooling, a third convolution of 4x4.

Nets that flatten their maps: built for ``img_size``. Images of 28x28 are padded to the paper's 32x32 by the first
convolution.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .._checks import check_img_size
from ..registry import register
from ._base import Classifier
from ._config import ModelConfig
from ._functions import note
from ._init import centred_sigmoid_, copy_, fans, he_normal_, uniform_


@dataclass(kw_only=True)
class LeNetConfig(ModelConfig):
    """LeNets have no options of their own: ten classes and one channel of 28x28, but for ``lenet_sigmoid``."""

    num_classes: int = 10
    in_chans: int = 1
    img_size: int | tuple[int, int] = 28


# behind each row its parameters
LENET5 = (LeNetConfig(name="lenet5"),)  # 61,706
LENET5_1998 = (LeNetConfig(name="lenet5_1998"),)  # 60,000, the paper's own figure
LENET_SIGMOID = (LeNetConfig(name="lenet_sigmoid", num_classes=16, in_chans=3, img_size=224),)  # 25,235,156

# Table I of the paper: which of the six maps of S2 each of the sixteen maps of C3 reads.
C3_TABLE = (
    ((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1)),
    (
        *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2)),
        *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    ),
    ((0, 1, 2, 3, 4, 5),),
)

# One picture of 7x12 per digit, after figure 3 of the paper; # is +1, the rest is -1.
BITMAPS = """
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
..###..  ...##..  .#####.  #######  ....##.  #######  ..####.  #######  .#####.  .#####.
.##.##.  ..###..  ##...##  .....##  ...###.  ##.....  .##....  .....##  ##...##  ##...##
##...##  .####..  .....##  ....##.  ..####.  ##.....  ##.....  ....##.  ##...##  ##...##
##...##  ...##..  .....##  ...##..  .##.##.  ######.  ######.  ....##.  ##...##  ##...##
##...##  ...##..  ....##.  ..####.  ##..##.  .....##  ##...##  ...##..  .#####.  ##...##
##...##  ...##..  ...##..  .....##  ##..##.  .....##  ##...##  ...##..  ##...##  .######
##...##  ...##..  ..##...  .....##  #######  .....##  ##...##  ..##...  ##...##  .....##
.##.##.  ...##..  .##....  ##...##  ....##.  ##...##  ##...##  ..##...  ##...##  ....##.
..###..  .######  #######  .#####.  ....##.  .#####.  .#####.  ..##...  .#####.  .####..
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
.......  .......  .......  .......  .......  .......  .......  .......  .......  .......
"""


def padding_for(img_size: tuple[int, int]) -> int:
    """Of the first convolution: it brings MNIST's 28x28 to the 32x32 that the paper's layer sizes are made for."""
    return 2 if img_size == (28, 28) else 0


class LeNet5(Classifier):
    """Two 5x5 convolutions, each with ReLU and 2x2 max-pooling, and three linear layers: 6-16-120-84."""

    fixed_size = True
    num_features = 84
    classifier_name = "fc3"
    cam_method = "hires_cam"
    cam_layer = "relu2"
    stages = {"stage1": "pool1", "stage2": "pool2"}
    feature_layers = ("relu1", "relu2", "pool2")

    def __init__(self, config: LeNetConfig) -> None:
        super().__init__(config, min_size=16, min_size_why="two unpadded 5x5 convolutions and 2x2 poolings")
        padding = padding_for(self.img_size)
        height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in self.img_size)
        self.conv1 = nn.Conv2d(config.in_chans, 6, 5, padding=padding)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(16 * height * width, 120)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU()
        self.fc3 = self.make_classifier(config.num_classes)

    def init_weights(self, module: nn.Module) -> None:
        """He et al. 2015: made for ReLU."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            he_normal_(module)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = self.pool1(note(maps, self.relu1(self.conv1(x))))  # (N, 6, 14, 14)
        x = self.pool2(note(maps, self.relu2(self.conv2(x))))  # (N, 16, 5, 5)
        return note(maps, x)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.relu3(self.fc1(features.flatten(1)))  # (N, 120)
        x = self.relu4(self.fc2(x))  # (N, 84)
        return x if pre_logits else self.fc3(x)


class ScaledTanh(nn.Module):
    """1.7159 tanh(2/3 x): f(1) = 1, f(-1) = -1, and the largest curvature there (the paper's appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2.0 / 3.0 * x)


class SubSampling(nn.Module):
    """The mean of each 2x2, times a trainable coefficient, plus a trainable bias, one of each per map.

    (The paper adds the four pixels; the mean differs by a factor of 4 that the coefficient takes in.)
    """

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.weight = nn.Parameter(torch.empty(chans))
        self.bias = nn.Parameter(torch.empty(chans))

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W) to (N, C, H/2, W/2)
        return self.pool(x) * self.weight[:, None, None] + self.bias[:, None, None]


def table_one() -> Tensor:
    """The maps that C3 reads, in its order: a constant, which has its content on the meta device too (on the CPU)."""
    device = torch.get_default_device()
    reads = [chan for rows in C3_TABLE for row in rows for chan in row]
    return torch.tensor(reads, device="cpu" if device.type == "meta" else device)


class TableConvolution(nn.Module):
    """The 5x5 convolution C3: each of 16 maps reads the maps that table I names, three, four or all six.

    Maps that read equally many are one grouped convolution over the maps they read, laid side by side.
    """

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(len(rows) * len(rows[0]), len(rows), 5, groups=len(rows)) for rows in C3_TABLE
        )
        self.register_buffer("reads", table_one(), persistent=False)
        self.reads: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TableConvolution:
        super()._apply(fn, recurse)
        if not self.reads.is_meta:  # what to_empty() leaves has no content, and no state dict brings it back
            self.reads.copy_(table_one())
        return self

    def forward(self, x: Tensor) -> Tensor:  # (N, 6, H, W) to (N, 16, H - 4, W - 4)
        maps = x[:, self.reads].split([conv.in_channels for conv in self.convs], 1)
        return torch.cat([conv(maps[index]) for index, conv in enumerate(self.convs)], 1)


class RadialBasis(nn.Module):
    """Minus the squared distance to each class's code: (N, 84) to (N, num_classes). Nothing here is trained."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.empty(num_classes, 84))  # part of the state: another net, other codes
        self.codes: Tensor

    @property
    def out_features(self) -> int:
        return len(self.codes)

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.codes).square().sum(-1)


def class_codes(count: int) -> list[list[float]]:
    """``count`` codes of 84 entries, +1 or -1: the ten digits' bitmaps, then random ones that never change."""
    lines = [line.split() for line in BITMAPS.split("\n") if line]
    digits = ["".join(line[digit] for line in lines) for digit in range(10)]
    codes = [[1.0 if pixel == "#" else -1.0 for pixel in bitmap] for bitmap in digits]
    draw = random.Random(1998)
    codes += [[draw.choice((1.0, -1.0)) for _ in range(84)] for _ in range(count - 10)]
    return codes[:count]


class LeNet5From1998(Classifier):
    """C1, S2, C3, S4, C5, F6 and the radial basis functions, named and made as in the paper."""

    fixed_size = True
    num_features = 84
    classifier_name = "output"
    cam_method = "hires_cam"
    cam_layer = "squash3"
    stages = {"stage1": "squash2", "stage2": "squash4", "stage3": "squash5"}
    feature_layers = ("squash1", "squash3", "squash5")

    def __init__(self, config: LeNetConfig) -> None:
        padding = padding_for(check_img_size(config.img_size))
        why = "C1 to C5 shrink 32x32 to one pixel; 28x28 is padded"
        super().__init__(config, min_size=28 if padding else 32, min_size_why=why)
        height, width = (((side + 2 * padding - 4) // 2 - 4) // 2 - 4 for side in self.img_size)
        self.c1 = nn.Conv2d(config.in_chans, 6, 5, padding=padding)
        self.squash1 = ScaledTanh()
        self.s2 = SubSampling(6)
        self.squash2 = ScaledTanh()
        self.c3 = TableConvolution()
        self.squash3 = ScaledTanh()
        self.s4 = SubSampling(16)
        self.squash4 = ScaledTanh()
        self.c5 = nn.Conv2d(16, 120, 5)
        self.squash5 = ScaledTanh()
        self.f6 = nn.Linear(120 * height * width, 84)
        self.squash6 = ScaledTanh()
        self.output = self.make_classifier(config.num_classes)

    def make_classifier(self, num_classes: int) -> nn.Module:
        return RadialBasis(num_classes) if num_classes else nn.Identity()

    @torch.no_grad()
    def init_weights(self, module: nn.Module) -> None:
        """Uniform in +-2.4 / fan_in (the paper's section on F6); sub-sampling starts as a plain mean."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            uniform_(module, 2.4 / fans(module.weight)[0])
        elif isinstance(module, SubSampling):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, RadialBasis):
            copy_(module.codes, torch.tensor(class_codes(len(module.codes)), dtype=torch.float32, device="cpu"))

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.squash1(self.c1(x)))  # (N, 6, 28, 28)
        x = self.squash2(self.s2(x))  # (N, 6, 14, 14)
        x = note(maps, self.squash3(self.c3(x)))  # (N, 16, 10, 10)
        x = self.squash4(self.s4(x))  # (N, 16, 5, 5)
        return note(maps, self.squash5(self.c5(x)))  # (N, 120, 1, 1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.squash6(self.f6(features.flatten(1)))  # (N, 84)
        return x if pre_logits else self.output(x)


class LeNetSigmoid(Classifier):
    """Convolutions of 5, 5 and 4 pixels with sigmoids, the first two max-pooled, and two linear layers."""

    fixed_size = True
    num_features = 84
    classifier_name = "fc2"
    cam_method = "hires_cam"
    cam_layer = "sigmoid3"
    stages = {"stage1": "pool1", "stage2": "pool2", "stage3": "sigmoid3"}
    feature_layers = ("sigmoid1", "sigmoid2", "sigmoid3")

    def __init__(self, config: LeNetConfig) -> None:
        super().__init__(config, min_size=28, min_size_why="unpadded convolutions of 5, 5 and 4 pixels, two poolings")
        height, width = (((side - 4) // 2 - 4) // 2 - 3 for side in self.img_size)
        self.conv1 = nn.Conv2d(config.in_chans, 6, 5)
        self.sigmoid1 = nn.Sigmoid()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.sigmoid2 = nn.Sigmoid()
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(16, 120, 4)
        self.sigmoid3 = nn.Sigmoid()
        self.fc1 = nn.Linear(120 * height * width, 84)
        self.sigmoid4 = nn.Sigmoid()
        self.fc2 = self.make_classifier(config.num_classes)

    def init_weights(self, module: nn.Module) -> None:
        """Every layer but the first reads outputs of a sigmoid."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            centred_sigmoid_(module, after_sigmoid=module is not self.conv1)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = self.pool1(note(maps, self.sigmoid1(self.conv1(x))))  # (N, 6, 110, 110) at 224
        x = self.pool2(note(maps, self.sigmoid2(self.conv2(x))))  # (N, 16, 53, 53)
        return note(maps, self.sigmoid3(self.conv3(x)))  # (N, 120, 50, 50)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.sigmoid4(self.fc1(features.flatten(1)))  # (N, 84)
        return x if pre_logits else self.fc2(x)


PAPER = "Gradient-Based Learning Applied to Document Recognition"
for _model, _rows, _source in (
    (LeNet5, LENET5, "figure 2"),
    (LeNet5From1998, LENET5_1998, "section II.B and table I"),
    (LeNetSigmoid, LENET_SIGMOID, "after figure 2"),
):
    register(_model, _rows, family="lenet", paper=PAPER, authors="LeCun et al.", year=1998, source=_source)
