"""What is done to a batch of digits before the net sees it."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def shrink(images: Tensor, side: int) -> Tensor:
    """Pictures (N, C, H, W) to (N, C, side, side), averaged."""
    return images if images.shape[-1] == side else F.interpolate(images, (side, side), mode="area")


def distort(images: Tensor, background: float, strength: float = 1.0) -> Tensor:
    """A random rotation, scaling, shear and shift of every digit, ``strength`` of the whole; none is ever flipped.

    ``background`` is the value of paper, which fills what comes in at the edges."""
    count, _, height, width = images.shape

    def draw(limit: float) -> Tensor:
        return torch.empty(count, device=images.device).uniform_(-limit * strength, limit * strength)

    angle, shear = draw(math.radians(12)), draw(0.15)
    scale = 1 / (1 + draw(0.12))
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift_x, shift_y = draw(2 * 2 / width), draw(2 * 2 / height)  # two pixels; the grid runs from -1 to 1
    rows = torch.stack([cos, shear * cos - sin, shift_x, sin, shear * sin + cos, shift_y], 1)
    grid = F.affine_grid(rows.view(count, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images - background, grid, align_corners=False) + background


def random_part(maps: Tensor, least: int = 2, most: int = 8) -> Tensor:
    """A rectangle of the maps (N, C, H, W), the same of every picture, ``least`` to ``most`` cells a side (of small
    maps less) and away from the edge, an eighth of the side, where digits leave room."""
    sides = maps.shape[2:]
    edges = [side // 8 for side in sides]
    spans = [
        int(torch.randint(min(least, side), min(most, side - 2 * edge) + 1, ()))
        for side, edge in zip(sides, edges, strict=True)
    ]
    top, left = (
        int(torch.randint(edge, side - edge - span + 1, ()))
        for side, edge, span in zip(sides, edges, spans, strict=True)
    )
    return maps[:, :, top : top + spans[0], left : left + spans[1]]
