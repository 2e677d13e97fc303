"""A U-Net on any backbone of the zoo (Ronneberger et al. 2015, arXiv:1505.04597): a class for each pixel.

Example:
    >>> import convzoo, torch
    >>> net = UNet(convzoo.create_model("resnet18", features_only=True), classes=2)
    >>> net(torch.rand(1, 3, 64, 96)).shape
    torch.Size([1, 2, 64, 96])
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """The smallest map is enlarged to the next larger one and joined with it, up to the largest; then to the image."""

    def __init__(self, backbone: nn.Module, classes: int, width: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        *skips, chans = backbone.feature_info.channels()
        self.merge = nn.ModuleList()
        for skip in reversed(skips):
            self.merge.append(
                nn.Sequential(nn.Conv2d(chans + skip, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
            )
            chans = width
        self.classify = nn.Conv2d(chans, classes, 1)

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) to logits (N, classes, H, W)
        *skips, x = self.backbone(images)
        for merge, skip in zip(self.merge, reversed(skips), strict=True):
            x = merge(torch.cat([F.interpolate(x, skip.shape[2:]), skip], 1))
        return F.interpolate(self.classify(x), images.shape[2:], mode="bilinear")
