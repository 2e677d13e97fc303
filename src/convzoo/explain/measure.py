"""Measuring how a layer's output is laid out, by running private copies of its model: on images of another size, and on
an image that is changed at one place at a time."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from .._modules import private_copy

MARGIN = 1.2  # how much more than any other one the token of a place must move when the image changes there


def measure(model: nn.Module, path: str, images: Tensor, size: tuple[int, int]) -> tuple[int, ...] | None:
    """The shape that a layer gives for one image of ``size``; None if the model takes none of that size.

    Found on the meta device, where a forward pass computes shapes only, or where a model cannot run there, on its own.
    """
    repeats = [-(-side // old) for side, old in zip(size, images.shape[2:], strict=True)]
    image = images[:1].detach().repeat(1, 1, *repeats)[..., : size[0], : size[1]]
    for device in ("meta", None):
        output = _output(model, path, image, device)
        if output is not None:
            return tuple(output.shape)
    return None


def token_order(
    model: nn.Module, path: str, images: Tensor, axis: int, grid: tuple[int, int], extra: int
) -> Tensor | None:
    """Which token of a layer's output stands for which cell of a grid; None if that is not certain.

    An image is changed in its four corners, one after the other. The tokens that move there the most tell where the
    grid begins among the tokens, and the steps from row to row and from column to column. A change inside the image
    must then move a token of that place.

    Args:
        model: without wrappers.
        path: of the layer.
        images: (N, C, H, W), of the size and the range that the model takes.
        axis: of the layer's output (N, L, D) or (N, D, L), along which the tokens lie.
        grid: (h, w).
        extra: how many of the tokens stand for no cell.

    Returns:
        (h w,), the indices of the tokens of the cells, row by row.
    """
    rows, columns = grid
    inside = (rows // 2, (columns - 1) // 3)
    corners = [(row, column) for row in sorted({0, rows - 1}) for column in sorted({0, columns - 1})]
    areas = [*(_tip(cell, grid, images) for cell in corners), _area(inside, grid, images)]
    moved = _movements(model, path, images, axis, areas)
    if moved is None or moved.shape[1] != rows * columns + extra:
        return None
    moved = moved - moved[:-1].mean(0)  # some tokens, such as the one for the class, move wherever the image changes
    found = {cell: int(movement.argmax()) for cell, movement in zip(corners, moved, strict=False)}
    top = moved[:-1].topk(min(2, moved.shape[1])).values
    if not bool(((top[:, 0] > 0) & (top[:, 0] >= MARGIN * top[:, -1] * (top.shape[1] > 1))).all()):
        return None
    start = found[0, 0]
    down = (found[rows - 1, 0] - start) // max(rows - 1, 1)
    across = (found[0, columns - 1] - start) // max(columns - 1, 1)
    order = start + down * torch.arange(rows)[:, None] + across * torch.arange(columns)
    steps = [step for step, count in ((down, rows), (across, columns)) if count > 1]
    if (
        any(order[cell] != token for cell, token in found.items())
        or any(step < 1 for step in steps)  # the tokens go from the upper left to the lower right
        or len(order.unique()) < order.numel()
        or int(order.max()) >= moved.shape[1]
    ):
        return None
    # convolutions that overlap let the next cells move as much
    near = order[max(inside[0] - 1, 0) : inside[0] + 2, max(inside[1] - 1, 0) : inside[1] + 2]
    return order.flatten() if bool((near == moved[-1].argmax()).any()) else None


def _area(cell: tuple[int, int], grid: tuple[int, int], images: Tensor) -> tuple[slice, slice]:
    """The pixels of a cell."""
    row, column = (
        slice(index * side // count, -(-(index + 1) * side // count))
        for index, count, side in zip(cell, grid, images.shape[2:], strict=True)
    )
    return row, column


def _tip(corner: tuple[int, int], grid: tuple[int, int], images: Tensor) -> tuple[slice, slice]:
    """The pixels of a cell in a corner that are next to the border, which convolutions that overlap show least to the
    cells beside it."""
    height, width = (
        slice(0, -(-area.stop // 4)) if index == 0 else slice(area.stop - -(-(area.stop - area.start) // 4), None)
        for index, area in zip(corner, _area(corner, grid, images), strict=True)
    )
    return height, width


def _movements(
    model: nn.Module, path: str, images: Tensor, axis: int, areas: list[tuple[slice, slice]]
) -> Tensor | None:
    """(areas, L): how far each token moves as one area of an image changes; None if the model takes no such image.

    The image is noise, on which every token depends, in the range of ``images``.
    """
    with torch.inference_mode(False):
        largest = float(images[:1].to(torch.complex64).abs().max()) or 1.0
        generator = torch.Generator().manual_seed(0)
        image, other = (largest * torch.rand(2, 1, *images.shape[1:], generator=generator)).to(images).unbind()
        before, moves = _output(model, path, image), []
        for rows, columns in areas:
            changed = image.clone()
            changed[..., rows, columns] = other[..., rows, columns]
            after = _output(model, path, changed)
            if before is None or after is None or after.shape != before.shape:
                return None
            moves.append((after - before).norm(dim=3 - axis)[0])
        return torch.stack(moves).cpu()


def _output(model: nn.Module, path: str, image: Tensor, device: str | None = None) -> Tensor | None:
    """What a layer gives at its last call for ``image``; None if the model does not take it so far."""
    outputs: list[Tensor] = []
    copied = private_copy(model, device=device)
    copied.get_submodule(path).register_forward_hook(lambda module, inputs, output: outputs.append(output.double()))
    with torch.no_grad(), contextlib.suppress(Exception):  # whatever a model raises for a size or a device
        copied(image.to(device))
    return outputs[-1] if outputs else None
