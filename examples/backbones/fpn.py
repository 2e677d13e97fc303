"""A feature pyramid on any backbone of the zoo (Lin et al. 2017, arXiv:1612.03144): maps of one width at every scale.

Example:
    >>> import convzoo, torch
    >>> pyramid = FPN(convzoo.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)))
    >>> [tuple(maps.shape) for maps in pyramid(torch.rand(1, 3, 64, 64))]
    [(1, 64, 16, 16), (1, 64, 8, 8), (1, 64, 4, 4), (1, 64, 2, 2)]
"""

from torch import Tensor, nn
from torch.nn import functional as F


class FPN(nn.Module):
    """Every map is brought to one width; to each the next smaller result, enlarged, is added."""

    def __init__(self, backbone: nn.Module, width: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        self.strides: list[int] = backbone.feature_info.reduction()
        self.lateral = nn.ModuleList(nn.Conv2d(chans, width, 1) for chans in backbone.feature_info.channels())
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in self.strides)

    def forward(self, images: Tensor) -> list[Tensor]:  # (N, C, H, W) to a list of (N, width, H / stride, W / stride)
        maps = [lateral(each) for lateral, each in zip(self.lateral, self.backbone(images), strict=True)]
        for index in range(len(maps) - 2, -1, -1):
            maps[index] = maps[index] + F.interpolate(maps[index + 1], maps[index].shape[2:])
        return [smooth(each) for smooth, each in zip(self.smooth, maps, strict=True)]
