"""Digits drawn by strokes, a little differently every time: something to look at without any data set.

Each digit is a few curves in a unit square; a pixel is white where a curve, moved, turned, slanted and scaled at
random, is nearer than half the thickness of the pen.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

Curve = list[tuple[float, float]]


def arc(cx: float, cy: float, rx: float, ry: float, start: float, stop: float) -> Curve:
    """Points on an ellipse, from ``start`` to ``stop`` degrees: 0 is right, 90 is down."""
    steps = [math.radians(start + (stop - start) * step / 14) for step in range(15)]
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in steps]


# curves of (x, y), both 0..1, y downwards
STROKES: list[list[Curve]] = [
    [arc(0.5, 0.5, 0.3, 0.45, 0, 360)],
    [[(0.35, 0.2), (0.55, 0.05), (0.55, 0.95)]],
    [[*arc(0.5, 0.3, 0.28, 0.25, 190, 390), (0.25, 0.93), (0.8, 0.93)]],
    [arc(0.45, 0.28, 0.27, 0.22, 200, 450), arc(0.45, 0.71, 0.31, 0.23, 270, 520)],
    [[(0.6, 0.05), (0.2, 0.62), (0.82, 0.62)], [(0.63, 0.3), (0.63, 0.95)]],
    [[(0.75, 0.06), (0.32, 0.06), (0.28, 0.45)], arc(0.47, 0.67, 0.29, 0.27, 235, 510)],
    [[(0.65, 0.05), (0.4, 0.25), (0.25, 0.6)], arc(0.5, 0.69, 0.26, 0.25, 0, 360)],
    [[(0.2, 0.07), (0.8, 0.07), (0.42, 0.95)]],
    [arc(0.5, 0.27, 0.23, 0.21, 0, 360), arc(0.5, 0.71, 0.28, 0.24, 0, 360)],
    [arc(0.5, 0.31, 0.25, 0.25, 0, 360), [(0.75, 0.31), (0.72, 0.6), (0.6, 0.95)]],
]


def draw(digit: int, size: int = 28, generator: torch.Generator | None = None, jitter: float = 1.0) -> Tensor:
    """One digit, 20/28 of the picture high: (1, size, size) in 0..1."""

    def around(spread: float) -> float:
        return float(jitter * spread * (2 * torch.rand((), generator=generator) - 1))

    turn, slant, grow = around(0.2), around(0.25), 20 / 28 * (1 + around(0.12))
    dx, dy, pen = around(0.05), around(0.05), 0.055 * (1 + around(0.35))
    starts, ends = [], []
    for curve in STROKES[digit]:
        points = torch.tensor(curve) - 0.5 + 0.02 * jitter * torch.randn(len(curve), 2, generator=generator) / 2
        points[:, 0] -= slant * points[:, 1]
        rotation = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        points = grow * points @ rotation + torch.tensor([0.5 + dx, 0.5 + dy])
        starts.append(points[:-1])
        ends.append(points[1:])
    start, end = torch.cat(starts), torch.cat(ends)
    centres = (torch.arange(size) + 0.5) / size
    pixels = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)[:, :, None]  # (size, size, 1, 2)
    along = end - start
    share = ((pixels - start) * along).sum(-1) / along.square().sum(-1).clamp_min(1e-9)
    nearest = start + share.clamp(0, 1)[..., None] * along
    distance = (pixels - nearest).norm(dim=-1).amin(-1)
    return ((pen - distance) * size + 0.5).clamp(0, 1)[None]


def side_by_side(left: int, right: int, generator: torch.Generator | None = None, size: int = 28) -> Tensor:
    """Two digits in one picture: (1, size, 2 * size)."""
    return torch.cat([draw(left, size, generator), draw(right, size, generator)], 2)


def main() -> None:
    """Write the ten digits that the demo reads, 28x28 grey PNG, into examples/digits."""
    from PIL import Image

    folder = Path(__file__).parent / "digits"
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(7)
    for digit in range(10):
        pixels = (draw(digit, generator=generator, jitter=0.5)[0] * 255).round().to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{digit}.png")
    print(folder)


if __name__ == "__main__":
    main()
