"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4x4, 3x3).

Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2015, arXiv:1509.09308, section 4.3. The output is
cut into tiles of 4x4 pixels, which read 6x6 overlapping ones of the input. Both tiles and kernel are transformed by
small constant matrices; in between, each of the 36 points is a matrix product over the maps, and all of them are one
grouped 1x1 convolution. The result is the convolution's but for rounding, which is about three times as large.

It pays where many maps meet: the transforms cost as many passes over memory whatever the number of maps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# the points 0, 1, -1, 2, -2 and infinity; equation 14 of the paper
INPUT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
         (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))  # fmt: skip
KERNEL = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # over 24
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
TILE, POINTS = 4, 36
ALL_ONES = 7  # what is put into this point, (1, 1) of 6x6, reaches every pixel of the tile: there the bias goes in
TILES_AT_ONCE = 512  # so many tiles of 36 points and a few hundred maps stay in the cache
GEOMETRY = ((0, 0), (1, 1), (1, 1), POINTS)  # of the grouped convolution: padding, stride, dilation, groups


def divisor(number: int, limit: int) -> int:
    """The largest divisor of ``number`` up to ``limit``, at least 1."""
    return next((part for part in range(min(number, limit), 1, -1) if number % part == 0), 1)


def is_faster(in_maps: int, out_maps: int, tiles: int) -> bool:
    """Whether this is faster than the usual convolution, as measured in whole nets.

    The kernels of the 36 points are four times as large: with few tiles, reading them takes longer than it saves,
    the more so the faster the processor multiplies.
    """
    least = 2_500_000 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 750_000
    return min(in_maps, out_maps) >= 128 and in_maps * out_maps * tiles >= least


def count_tiles(shape: torch.Size, padding: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of tiles for maps of ``shape`` (N, C, H, W)."""
    height, width = (side + 2 * margin - 2 for side, margin in zip(shape[2:], padding, strict=True))
    return -(-height // TILE), -(-width // TILE)


def transformed(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Weight (O, C, 3, 3) and bias (O,) as those of the grouped convolution: (36 O, C, 1, 1) and (36 O,)."""
    kernel = torch.tensor(KERNEL, dtype=torch.float64) / 24
    points = torch.einsum("pi,ocij,qj->pqoc", kernel, weight.double(), kernel).to(weight.dtype)
    points = points.reshape(-1, weight.shape[1], 1, 1)
    if bias is None:
        return points, None
    biases = bias.new_zeros(POINTS, len(bias))
    biases[ALL_ONES] = bias
    return points, biases.flatten()


class Winograd:
    """A 3x3 convolution of stride 1 made ready for maps of one shape (N, C, H, W), channels last, float32, CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], shape: torch.Size) -> None:
        self.padding = padding
        self.out_maps = weight.shape[0]
        rows, columns = self.grid = count_tiles(shape, padding)
        per_image = rows * columns
        self.images = divisor(shape[0], TILES_AT_ONCE // per_image)  # at once
        self.rows = rows if per_image <= TILES_AT_ONCE else divisor(rows, TILES_AT_ONCE // columns)
        tiles = self.images * self.rows * columns
        points, self.bias = transformed(weight, bias)
        points = points.contiguous(memory_format=torch.channels_last)
        self.points = torch.ops.mkldnn._reorder_convolution_weight(
            points, *GEOMETRY, (1, POINTS * weight.shape[1], tiles, 1)
        )
        self.into, self.out_of = (torch.tensor(matrix, dtype=torch.float64) for matrix in (INPUT, OUTPUT))
        self.into, self.out_of = (torch.kron(matrix, matrix).float() for matrix in (self.into, self.out_of))

    def __call__(self, x: Tensor) -> Tensor:
        """Maps (N, C, H, W) to (N, C', H', W'), channels last."""
        (top, left), (rows, columns) = self.padding, self.grid
        batch, _, height, width = x.shape
        bottom, right = rows * TILE + 2 - height - top, columns * TILE + 2 - width - left
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, right, top, bottom))  # (N, H, W, C)
        out = x.new_empty(batch, rows * TILE, columns * TILE, self.out_maps)
        for n in range(0, batch, self.images):
            for row in range(0, rows, self.rows):
                begin, end = row * TILE, (row + self.rows) * TILE
                part = self._tiles(padded[n : n + self.images, begin : end + 2])  # (n, rows, columns, 4, 4, C')
                place = out[n : n + self.images, begin:end].view(-1, self.rows, TILE, columns, TILE, self.out_maps)
                place.copy_(part.transpose(2, 3))
        height, width = height + 2 * top - 2, width + 2 * left - 2
        return out[:, :height, :width].permute(0, 3, 1, 2)

    def _tiles(self, maps: Tensor) -> Tensor:
        """A strip of maps (n, H, W, C) to its tiles of output (n, rows, columns, 4, 4, C')."""
        windows = maps.unfold(1, 6, TILE).unfold(2, 6, TILE).permute(0, 1, 2, 4, 5, 3)  # (n, rows, columns, 6, 6, C)
        points = self.into @ windows.reshape(-1, POINTS, maps.shape[3])  # (tiles, 36, C)
        points = points.view(1, len(points), 1, -1).permute(0, 3, 1, 2)  # (1, 36 C, tiles, 1), channels last
        products = torch.ops.mkldnn._convolution_pointwise(points, self.points, self.bias, *GEOMETRY, "none", (), "")
        products = products.permute(0, 2, 3, 1).view(-1, POINTS, self.out_maps)  # (tiles, 36, C')
        return (self.out_of @ products).view(*windows.shape[:3], TILE, TILE, self.out_maps)
