"""Pictures to exactly the input that a set of weights expects."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ._checks import check_choice, check_img_size, check_number, shorten
from ._images import Box, is_pil, is_turned, lay_on, read_batch, split_alpha, to_chans, unit
from ._prepare import BEARABLE, is_in_place, is_prepared, prepare_digit

Prepare = bool | Literal["auto"]
PREPARATIONS = ("", "mnist")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CROP_MODES = ("center", "squash")
MAX_SCALED = 1 << 26  # pixels of a picture on its way to the crop
TINY, HUGE = 1e-6, 1e6  # bounds of mean and std
BRIGHT = 0.55  # mean of a picture from which on it is no bright ink on black


@dataclass(frozen=True)
class View:
    """What a net sees of a picture, or of a batch of pictures of one size.

    Attributes:
        pixels: (N, C, height, width) in 0..1 or 0..255 (uint8), of the net's size and channels, not yet normalised.
        box: the part of the upright pictures that they show.
        notes: what was done to them, in words.
        file: they come from a file, or a PIL image, rather than from numbers that a program made.
        searched: ink was looked for, and the picture prepared where some was found and it had to be.
    """

    pixels: Tensor
    box: Box
    notes: tuple[str, ...] = ()
    file: bool = False
    searched: bool = False


@dataclass(frozen=True, kw_only=True)
class Transform:
    """One picture to the input of a net, (C, height, width) in float32; small and picklable, for data loaders.

    :func:`convzoo.transform` makes one; ``model.transform`` and ``weight_info(name).transform`` are such.

    Attributes:
        img_size: (height, width) in pixels.
        mean: per channel, of images scaled to 0..1; there are as many as the net has channels.
        std: per channel, likewise.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        crop_pct: part of the resized image's side that the centre crop keeps.
        crop_mode: ``"center"`` (shorter side, then a centre crop) or ``"squash"`` (both sides, aspect lost).
        preparation: the fixed preparation that the training pictures had been through: ``"mnist"``, or ``""`` (none).
    """

    img_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_pct: float = 1.0
    crop_mode: str = "center"
    preparation: str = ""

    @property
    def in_chans(self) -> int:
        """Channels of the result."""
        return len(self.mean)

    @property
    def ground(self) -> float:
        """What transparent pictures are laid on: 0.0, black, where the weights know ink on black, else 1.0, white."""
        return 0.0 if self.preparation == "mnist" else 1.0

    def __call__(self, image: Any, *, prepare: Prepare = False, invert: bool = False) -> Tensor:
        """One picture to (C, height, width); arguments as :meth:`batch`."""
        batch = self.batch(image if isinstance(image, (list, tuple)) else [image], prepare=prepare, invert=invert)
        if len(batch) != 1:
            raise ValueError(f"a transform takes one picture, got {len(batch)}; .batch(images) takes several")
        return batch[0]

    def batch(self, images: Any, *, prepare: Prepare = False, invert: bool = False) -> Tensor:
        """Pictures to (N, C, height, width), float32.

        Args:
            images: one picture or several: a PIL image; an array (H, W), (H, W, C), (N, H, W) or (N, H, W, C); a
                tensor (H, W), (C, H, W), (N, H, W) or (N, C, H, W); or a list of any of these. A tensor (3, H, W) or
                (4, H, W) on its own may be one picture in colour or several grey ones, and weights of grey images
                refuse it; in a list it is one picture. Bytes are 0..255, floating-point numbers 0..1. PIL images are
                turned as their EXIF entry says; transparent ones are laid on black where the weights know bright ink
                on black, else on white.
            prepare: do to each picture what was done to the training pictures, for weights with such a preparation
                (MNIST's: bright ink on black, in a box of 20x20, centre of mass in the middle of 28x28); ``"auto"``:
                to those that do not look as if it had been done.
            invert: take dark for bright, before anything else.

        Raises:
            TypeError: not an image.
            ValueError: other shapes, channels that cannot be converted, numbers out of range, or no preparation.

        Warns:
            UserWarning: a picture is unlike what the weights were trained on: mostly bright, blank, or, where they
                know MNIST's digits, with its ink too small, too large or off centre.
        """
        views = self.views(images, prepare=prepare, invert=invert)
        for what in dict.fromkeys(filter(None, map(self.unlike, views))):
            warnings.warn(f"a picture {what}", UserWarning, stacklevel=2)
        return self.normalise(torch.cat([unit(view.pixels) for view in views]))

    def views(self, images: Any, *, prepare: Prepare = False, invert: bool = False, single: bool = False) -> list[View]:
        """What the net sees of each picture; arguments as :meth:`batch`. ``single``: what is given is one picture."""
        check_choice("prepare", prepare, (True, False, "auto"))
        if prepare is True and not self.preparation:
            raise ValueError("the training pictures of these weights had no fixed preparation; leave prepare out")
        if not isinstance(images, (list, tuple)):
            with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                return self._see(images, prepare, invert, single)
        if not images:
            raise ValueError("there is no image in the list; give at least one")
        return [view for image in images for view in self.views(image, prepare=prepare, invert=invert, single=True)]

    def _see(self, image: Any, prepare: Prepare, invert: bool, single: bool) -> list[View]:
        """The views of one source: one for all of its pictures, or, where they are prepared, one each."""
        file = is_pil(image)
        notes = ("turned as its EXIF entry says",) if is_turned(image) else ()
        batch, alpha = split_alpha(read_batch(image, self.in_chans, single=single), self.in_chans)
        if invert:
            batch, notes = (255 if batch.dtype == torch.uint8 else 1) - batch, (*notes, "inverted")
        if not (prepare and self.preparation):
            return [self._cut(batch, alpha, notes, file)]
        views = []
        for index in range(len(batch)):
            one = batch[index : index + 1]
            opacity = None if alpha is None else alpha[index : index + 1]
            done = self._prepared(one, opacity, prepare == "auto", invert)
            if done is None:
                views.append(replace(self._cut(one, opacity, notes, file), searched=True))
            else:
                views.append(View(done.pixels, done.box, notes + done.notes, file, searched=True))
        return views

    def _prepared(self, colours: Tensor, alpha: Tensor | None, auto: bool, bright_ink: bool) -> View | None:
        """A picture (1, C, H, W) prepared; None where it is blank, or where it need not be."""
        laid: tuple[str, ...] = ()
        if alpha is not None:  # on what its ink stands out from
            ink = (unit(colours) * alpha).sum() / (alpha.sum() * colours.shape[1]).clamp_min(1e-9)
            colours, laid = lay_on(colours, alpha, float(ink < 0.5)), (f"laid on {'white' if ink < 0.5 else 'black'}",)
        elif auto and tuple(colours.shape[2:]) == self.img_size and is_prepared(unit(to_chans(colours, 1))[0, 0]):
            return None
        done = prepare_digit(unit(colours)[0].cpu(), self.img_size, bright_ink=bright_ink)
        if done is None:
            return None
        pixels = done.pixels[None].to(colours.device)
        notes = (*laid, "inverted: dark ink made bright") if done.dark_ink else laid
        return View(to_chans(pixels, self.in_chans), done.box, (*notes, "cut to its ink and centred, as MNIST's were"))

    def _cut(self, colours: Tensor, alpha: Tensor | None, notes: tuple[str, ...], file: bool) -> View:
        """Pictures (N, C, H, W) resized and cropped."""
        if alpha is not None:
            laid = lay_on(colours, alpha, self.ground)
            if laid.amax() - laid.amin() < 1 / 256 < alpha.amax() - alpha.amin():
                raise ValueError(
                    f"nothing is left of a transparent picture on {'white' if self.ground else 'black'}, the ground "
                    "that these weights know; pass "
                    + ("prepare=True" if self.preparation else "invert=True, or lay it on another colour first")
                )
            colours, notes = laid, (*notes, f"laid on {'white' if self.ground else 'black'}")
        height, width = colours.shape[2:]
        scaled, (top, left) = self._plan(height, width)
        box = self.box(height, width)
        if box.height < height - 1 or box.width < width - 1:
            notes = (*notes, f"cropped to the {box.width:.0f}x{box.height:.0f} in its middle")
        batch = _scaled(to_chans(colours, self.in_chans), scaled, self.interpolation)
        return View(batch[..., top : top + self.img_size[0], left : left + self.img_size[1]], box, notes, file)

    def box(self, height: int, width: int) -> Box:
        """The part of a picture of ``height`` x ``width`` pixels that the net sees, where it is not prepared."""
        scaled, (top, left) = self._plan(height, width)
        down, across = height / scaled[0], width / scaled[1]
        return Box(top * down, left * across, self.img_size[0] * down, self.img_size[1] * across)

    def _plan(self, have_height: int, have_width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """The size that pictures are scaled to, and the (top, left) of the crop in it."""
        height, width = self.img_size
        if self.crop_mode == "squash":
            return self.img_size, (0, 0)
        scale_height, scale_width = math.floor(height / self.crop_pct), math.floor(width / self.crop_pct)
        if have_height * scale_width >= have_width * scale_height:  # as wide as wanted, and at least as high
            target = (max(scale_height, int(have_height * scale_width / have_width)), scale_width)
        else:
            target = (scale_height, max(scale_width, int(have_width * scale_height / have_height)))
        if target[0] * target[1] > MAX_SCALED:
            raise ValueError(
                f"a picture of {have_width}x{have_height} pixels would be scaled to {target[1]}x{target[0]} before "
                f"the crop to {width}x{height}; cut it to the part that matters first"
            )
        return target, (round((target[0] - height) / 2), round((target[1] - width) / 2))

    def unlike(self, view: View) -> str:
        """Why pictures are unlike what the weights were trained on, in words; empty if they are not."""
        flat = view.pixels.flatten(1)
        blank = (flat.amax(1) == flat.amin(1)) & view.file
        bright = (unit(view.pixels).mean((1, 2, 3)) > BRIGHT) & ~blank
        if self.preparation == "mnist" and bool(bright.any()):
            ink = (
                "no ink was found" if view.searched else "prepare=True finds the ink and does what was done to MNIST's"
            )
            known = "is mostly bright, and these weights know bright ink on black"
            return f"{known}; {ink}, invert=True takes dark for bright"
        if bool(blank.any()):
            return "is blank: all its pixels are the same, and what the net says of it means nothing"
        if self.preparation == "mnist" and not view.searched and not self._in_place(view):
            return (
                "has its ink elsewhere than these weights know it, a box of 20x20 in 28x28 pixels with the centre of "
                "mass in the middle; prepare=True does what was done to MNIST's"
            )
        return ""

    def _in_place(self, view: View) -> bool:
        """Whether all pictures have their ink where MNIST's have theirs; of made-up numbers may all be ink."""
        grey = (to_chans(view.pixels, 1) if self.in_chans == 3 else view.pixels)[:, 0]
        smallest, largest, off_centre = BEARABLE
        return is_in_place(grey, smallest, largest if view.file else math.inf, off_centre)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Bytes to 0..1, then less the mean, by the std, of each channel: (N, C, H, W), float32."""
        scaled = unit(pixels)
        return (scaled - _column(self.mean, scaled)) / _column(self.std, scaled)


def transform(
    img_size: int | tuple[int, int],
    mean: float | Sequence[float],
    std: float | Sequence[float],
    *,
    interpolation: str = "bilinear",
    crop_pct: float = 1.0,
    crop_mode: str = "center",
    preparation: str = "",
) -> Transform:
    """The transform of a net that one trains oneself.

    Set it on the model (``model.transform = ...``): ``model.preprocess``, ``convzoo.save_pretrained`` and
    ``convzoo.show_cam`` use it.

    Args:
        img_size: in pixels, one number or (height, width).
        mean: of the training images scaled to 0..1, one value per channel; their number is that of the channels.
        std: likewise.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        crop_pct: part of the resized image's side that the centre crop keeps.
        crop_mode: ``"center"`` (shorter side, then a centre crop) or ``"squash"`` (both sides, aspect lost).
        preparation: ``"mnist"`` for nets trained on MNIST or on pictures prepared in the same way.

    Raises:
        TypeError, ValueError: values of another kind or out of range.

    Example:
        >>> import convzoo, torch
        >>> model = convzoo.create_model("resnet18", num_classes=5, img_size=64)
        >>> model.transform = convzoo.transform(64, mean=(0.48, 0.45, 0.40), std=(0.28, 0.27, 0.28))
        >>> model.transform(torch.rand(3, 100, 80)).shape
        torch.Size([3, 64, 64])
    """
    means, stds = per_channel("mean", mean), per_channel("std", std)
    if len(means) != len(stds):
        raise ValueError(f"mean has {len(means)} values and std has {len(stds)}; pass one of each for every channel")
    if min(stds) <= 0:
        raise ValueError(f"std must be above 0, got {shorten(stds)}; pass that of images scaled to 0..1")
    if any(number and not TINY <= abs(number) <= HUGE for number in (*means, *stds)):
        raise ValueError(
            f"mean and std must be 0 or from {TINY:g} to {HUGE:g}, got {shorten(means)} and {shorten(stds)}; pass "
            "those of images scaled to 0..1"
        )
    for what, value, allowed in (
        ("interpolation", interpolation, INTERPOLATIONS),
        ("crop_mode", crop_mode, CROP_MODES),
        ("preparation", preparation, PREPARATIONS),
    ):
        check_choice(what, value, allowed)
    if not 0.01 <= check_number("crop_pct", crop_pct) <= 1:
        raise ValueError(f"crop_pct must be from 0.01 to 1, got {shorten(crop_pct)}; 1 keeps the whole side")
    return Transform(
        img_size=check_img_size(img_size),
        mean=means,
        std=stds,
        interpolation=interpolation,
        crop_pct=float(crop_pct),
        crop_mode=crop_mode,
        preparation=preparation,
    )


def per_channel(what: str, values: Any, chans: int | None = None) -> tuple[float, ...]:
    """Finite numbers, one a channel, of Python, numpy or torch; for ``chans`` channels one stands for all.

    Raises:
        TypeError: something else.
        ValueError: a number is not finite, or they are not as many.
    """
    given = values.tolist() if hasattr(values, "tolist") else values
    given = given if isinstance(given, (list, tuple)) else [given]
    try:
        numbers = tuple(check_number(what, value.item() if isinstance(value, Tensor) else value) for value in given)
    except TypeError as error:
        raise TypeError(f"{what} must be numbers, one a channel ({error})") from error
    if len(numbers) == 1 and chans is not None:
        numbers *= chans
    if not numbers or len(numbers) != (chans or len(numbers)):
        wanted = "at least one value" if chans is None else f"{chans} values"
        raise ValueError(f"{what} needs {wanted}, one a channel, got {len(numbers)}; pass one number for all")
    return numbers


def _scaled(batch: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if tuple(batch.shape[-2:]) == size:
        return batch
    if interpolation == "nearest":
        return functional.interpolate(batch, size, mode="nearest-exact")
    mode = "bicubic" if interpolation == "bicubic" else "bilinear"
    if batch.dtype == torch.uint8 and batch.device.type != "cpu":  # only the CPU's kernel takes bytes
        scaled = functional.interpolate(batch.float(), size, mode=mode, antialias=True)
        return scaled.round().clamp(0, 255).to(torch.uint8)
    scaled = functional.interpolate(batch.contiguous(), size, mode=mode, antialias=True)
    return scaled if batch.dtype == torch.uint8 else scaled.clamp(0, 1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]
