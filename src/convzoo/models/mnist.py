"""Small nets for digits of 28x28 pixels that flatten their maps, from tutorials and experiments rather than papers.

``mnist_net`` is the two-convolution net of pytorch/examples, ``mnist/main.py``. ``basic_cnn``, ``inception_cnn`` and
``residual_cnn`` carry one idea each to MNIST: plain convolutions; the blocks of GoogLeNet (Szegedy et al. 2014,
arXiv:1409.4842); residual blocks (He et al. 2015, arXiv:1512.03385). The series goes on in ``mnist_gap.py``.

Departures: none is known of what is published, which leaves open where the activations stand inside the inception
blocks and behind the 512 units; here every convolution and that layer is followed by a ReLU, as in GoogLeNet.

Nets that flatten their maps: built for ``img_size``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import register
from ._base import Classifier
from ._config import ModelConfig, Rate
from ._functions import note
from ._init import he_normal_, identity_, normal_


@dataclass(kw_only=True)
class MnistConfig(ModelConfig):
    """Nets for digits: one channel of 28x28, ten classes; without options."""

    num_classes: int = 10
    in_chans: int = 1
    img_size: int | tuple[int, int] = 28


@dataclass(kw_only=True)
class MnistNetConfig(MnistConfig):
    """The options of the two-convolution net.

    Attributes:
        log_softmax: return log-probabilities, as the example does, instead of logits; False by default.
        drop_rate: dropout of the second convolution's maps and of the hidden units, in [0, 1); 0.5 by default.
    """

    log_softmax: bool = False
    drop_rate: Rate = 0.5


# behind each row its parameters
MNIST_NET = (MnistNetConfig(name="mnist_net"),)  # 21,840
BASIC_CNN = (MnistConfig(name="basic_cnn"),)  # 593,034
INCEPTION_CNN = (MnistConfig(name="inception_cnn"),)  # 1,195,978
RESIDUAL_CNN = (MnistConfig(name="residual_cnn"),)  # 25,186


class MnistClassifier(Classifier):
    """What the nets of this file share: how they are drawn."""

    def init_weights(self, module: nn.Module) -> None:
        """He et al. 2015: every layer is followed by a ReLU, or is small and last."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            if module is self.get_classifier():
                normal_(module, module.weight[0].numel() ** -0.5)
            else:
                he_normal_(module)
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            identity_(module)


class MnistNet(MnistClassifier):
    """Two 5x5 convolutions (10, 20), each max-pooled, and two linear layers; dropout on maps and units."""

    fixed_size = True
    num_features = 50
    classifier_name = "fc2"
    cam_method = "hires_cam"
    cam_layer = "conv2"
    stages = {"stage1": "relu1", "stage2": "relu2"}
    feature_layers = tuple(stages.values())

    def __init__(self, config: MnistNetConfig) -> None:
        super().__init__(config, min_size=16, min_size_why="two unpadded 5x5 convolutions and 2x2 poolings")
        height, width = (((side - 4) // 2 - 4) // 2 for side in self.img_size)
        self.conv1 = nn.Conv2d(config.in_chans, 10, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.drop1 = nn.Dropout2d(config.drop_rate)
        self.pool2 = nn.MaxPool2d(2)
        self.relu2 = nn.ReLU()
        self.fc1 = nn.Linear(20 * height * width, 50)
        self.relu3 = nn.ReLU()
        self.drop2 = nn.Dropout(config.drop_rate)
        self.fc2 = self.make_classifier(config.num_classes)
        self.log_softmax = config.log_softmax

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.relu1(self.pool1(self.conv1(x))))  # (N, 10, 12, 12)
        return note(maps, self.relu2(self.pool2(self.drop1(self.conv2(x)))))  # (N, 20, 4, 4)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop2(self.relu3(self.fc1(features.flatten(1))))  # (N, 50)
        if pre_logits or (not isinstance(self.fc2, nn.Linear) and self.num_classes == 0):
            return x
        logits = self.fc2(x)
        return F.log_softmax(logits, 1) if self.log_softmax else logits


class BasicCNN(MnistClassifier):
    """Three unpadded 3x3 convolutions (128, 256, 128), each max-pooled, then ReLU; LayerNorm; linear.

    Twice a pooling leaves a row and a column over (11 to 5, 3 to 1), so that of 28x28 pixels the net reads the first 22
    each way. The published number of parameters fixes that: it leaves the linear layer 128 maps of one cell.
    """

    fixed_size = True
    cam_method = "hires_cam"
    cam_layer = "conv3"
    stages = {"stage1": "relu1", "stage2": "relu2", "stage3": "relu3"}
    feature_layers = tuple(stages.values())

    def __init__(self, config: MnistConfig) -> None:
        super().__init__(config, min_size=22, min_size_why="three unpadded 3x3 convolutions and 2x2 poolings")
        height, width = ((((side - 2) // 2 - 2) // 2 - 2) // 2 for side in self.img_size)
        self.num_features = 128 * height * width
        self.conv1 = nn.Conv2d(config.in_chans, 128, 3)
        self.pool1 = nn.MaxPool2d(2)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(128, 256, 3)
        self.pool2 = nn.MaxPool2d(2)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(256, 128, 3)
        self.pool3 = nn.MaxPool2d(2)
        self.relu3 = nn.ReLU()
        self.norm = nn.LayerNorm(self.num_features)
        self.fc = self.make_classifier(config.num_classes)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.relu1(self.pool1(self.conv1(x))))  # (N, 128, 13, 13)
        x = note(maps, self.relu2(self.pool2(self.conv2(x))))  # (N, 256, 5, 5)
        return note(maps, self.relu3(self.pool3(self.conv3(x))))  # (N, 128, 1, 1)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.norm(features.flatten(1))
        return x if pre_logits else self.fc(x)


def conv_relu(in_chans: int, out_chans: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the size of its maps, and a ReLU."""
    return nn.Sequential(nn.Conv2d(in_chans, out_chans, kernel, padding=kernel // 2), nn.ReLU())


class InceptionBlock(nn.Module):
    """Four branches side by side, 24 + 16 + 24 + 24 = 88 maps: (N, C, H, W) to (N, 88, H, W)."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.branch_pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_relu(chans, 24, 1))
        self.branch1x1 = conv_relu(chans, 16, 1)
        self.branch5x5 = nn.Sequential(conv_relu(chans, 16, 1), conv_relu(16, 24, 5))
        self.branch3x3 = nn.Sequential(conv_relu(chans, 16, 1), conv_relu(16, 24, 3), conv_relu(24, 24, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch_pool(x), self.branch1x1(x), self.branch5x5(x), self.branch3x3(x)], 1)


class InceptionCNN(MnistClassifier):
    """Twice: a 3x3 convolution (12, 24), max-pooled, ReLU, an inception block; then LayerNorm, 512, LayerNorm."""

    fixed_size = True
    num_features = 512
    classifier_name = "fc2"
    cam_method = "hires_cam"
    cam_layer = "block2"
    stages = {"stage1": "block1", "stage2": "block2"}
    feature_layers = tuple(stages.values())

    def __init__(self, config: MnistConfig) -> None:
        super().__init__(config, min_size=10, min_size_why="two unpadded 3x3 convolutions and 2x2 poolings")
        height, width = (((side - 2) // 2 - 2) // 2 for side in self.img_size)
        self.conv1 = nn.Conv2d(config.in_chans, 12, 3)
        self.pool1 = nn.MaxPool2d(2)
        self.relu1 = nn.ReLU()
        self.block1 = InceptionBlock(12)
        self.conv2 = nn.Conv2d(88, 24, 3)
        self.pool2 = nn.MaxPool2d(2)
        self.relu2 = nn.ReLU()
        self.block2 = InceptionBlock(24)
        self.norm1 = nn.LayerNorm(88 * height * width)
        self.fc1 = nn.Linear(88 * height * width, 512)
        self.relu3 = nn.ReLU()
        self.norm2 = nn.LayerNorm(512)
        self.fc2 = self.make_classifier(config.num_classes)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.block1(self.relu1(self.pool1(self.conv1(x)))))  # (N, 88, 13, 13)
        return note(maps, self.block2(self.relu2(self.pool2(self.conv2(x)))))  # (N, 88, 5, 5)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.norm2(self.relu3(self.fc1(self.norm1(features.flatten(1)))))  # (N, 512)
        return x if pre_logits else self.fc2(x)


class PlainResidualBlock(nn.Module):
    """Two 3x3 convolutions and the input added; (N, C, H, W) is kept."""

    def __init__(self, chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(chans, chans, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(chans, chans, 3, padding=1)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(x + self.conv2(self.relu1(self.conv1(x))))


class ResidualCNN(MnistClassifier):
    """Twice: a 5x5 convolution (12, 24), max-pooled, ReLU, a residual block; then LayerNorm and linear."""

    fixed_size = True
    cam_method = "hires_cam"
    cam_layer = "block2"
    stages = {"stage1": "block1", "stage2": "block2"}
    feature_layers = tuple(stages.values())

    def __init__(self, config: MnistConfig) -> None:
        super().__init__(config, min_size=16, min_size_why="two unpadded 5x5 convolutions and 2x2 poolings")
        height, width = (((side - 4) // 2 - 4) // 2 for side in self.img_size)
        self.num_features = 24 * height * width
        self.conv1 = nn.Conv2d(config.in_chans, 12, 5)
        self.pool1 = nn.MaxPool2d(2)
        self.relu1 = nn.ReLU()
        self.block1 = PlainResidualBlock(12)
        self.conv2 = nn.Conv2d(12, 24, 5)
        self.pool2 = nn.MaxPool2d(2)
        self.relu2 = nn.ReLU()
        self.block2 = PlainResidualBlock(24)
        self.norm = nn.LayerNorm(self.num_features)
        self.fc = self.make_classifier(config.num_classes)

    def forward_features(self, x: Tensor, *, maps: list[Tensor] | None = None) -> Tensor:
        self.check_input(x)
        x = note(maps, self.block1(self.relu1(self.pool1(self.conv1(x)))))  # (N, 12, 12, 12)
        return note(maps, self.block2(self.relu2(self.pool2(self.conv2(x)))))  # (N, 24, 4, 4)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.norm(features.flatten(1))
        return x if pre_logits else self.fc(x)


register(
    MnistNet,
    MNIST_NET,
    family="mnist",
    source="pytorch/examples: https://github.com/pytorch/examples/blob/main/mnist/main.py",
)
register(BasicCNN, BASIC_CNN, family="mnist", source="experiments on MNIST: plain convolutions")
register(InceptionCNN, INCEPTION_CNN, family="mnist", source="experiments on MNIST: inception blocks")
register(ResidualCNN, RESIDUAL_CNN, family="mnist", source="experiments on MNIST: residual blocks")
