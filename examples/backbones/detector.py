"""A detector on any backbone of the zoo: at every place of a feature pyramid the classes, and the box around it.

The dense head of FCOS (Tian et al. 2019, arXiv:1904.01355) in its shortest form. torchvision's detectors take the same
backbones: what they want is a module with ``out_channels`` that returns a dict of maps, three lines around ``FPN``.

Example:
    >>> import convzoo, torch
    >>> net = Detector(convzoo.create_model("resnet18", features_only=True, out_indices=(2, 3)), classes=3)
    >>> scores, boxes = net(torch.rand(1, 3, 64, 64))
    >>> scores.shape, boxes.shape
    (torch.Size([1, 80, 3]), torch.Size([1, 80, 4]))
"""

import torch
from torch import Tensor, nn

from .fpn import FPN


def centres(maps: Tensor, stride: int) -> Tensor:
    """Where the cells of maps (N, C, h, w) lie in the image: (h * w, 2), x and y in pixels."""
    height, width = maps.shape[2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) * stride).to(maps)


class Detector(nn.Module):
    """Images (N, C, H, W) to logits (N, P, classes) and boxes (N, P, 4), x0 y0 x1 y1 in pixels, at P places."""

    def __init__(self, backbone: nn.Module, classes: int, width: int = 64) -> None:
        super().__init__()
        self.pyramid = FPN(backbone, width)
        self.head = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, classes + 4, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = [], []
        for maps, stride in zip(self.pyramid(images), self.pyramid.strides, strict=True):
            out = self.head(maps).flatten(2).transpose(1, 2)  # (N, h * w, classes + 4)
            scores.append(out[..., :-4])
            reach = out[..., -4:].exp() * stride  # to the left, up, to the right, down
            centre = centres(maps, stride)
            boxes.append(torch.cat([centre - reach[..., :2], centre + reach[..., 2:]], -1))
        return torch.cat(scores, 1), torch.cat(boxes, 1)
