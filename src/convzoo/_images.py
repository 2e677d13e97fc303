"""What "an image" may be, and the one reader of it: for the input of a net, and for pictures with heat over them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what picture libraries mean by grey
MAX_PIXELS = 1 << 27  # of one picture: 134 million
# Formats that hold pixels, by Pillow's names. Others hold programs (EPS is run by Ghostscript) or need another library.
FORMATS = tuple("AVIF BMP DIB GIF ICO JPEG JPEG2000 PCX PNG PPM QOI TGA TIFF WEBP".split())
SHAPES = {
    "array": "(H, W), (H, W, C), (N, H, W) or (N, H, W, C)",
    "tensor": "(H, W), (C, H, W), (N, H, W) or (N, C, H, W)",
}


class Box(NamedTuple):
    """A part of a picture, in its pixels from its upper left corner; it may reach beyond the edges."""

    top: float
    left: float
    height: float
    width: float


def require_pillow() -> Any:
    """The module ``PIL.Image``, or ImportError that says how to get it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install 'convzoo[pictures]'") from error
    return Image


def is_pil(image: object) -> bool:
    """True for a PIL image; PIL is not imported to find out."""
    return hasattr(image, "getbands") and hasattr(image, "convert")


def open_image(source: Path | BinaryIO, name: str = "") -> Image:
    """A picture file, read to its end; nothing that is in it is run.

    Args:
        source: a path, or an open binary file.
        name: what to call it in messages; the path by default.

    Raises:
        ImportError: Pillow is not installed.
        OSError: no such file, or it may not be read.
        ValueError: not a picture, a damaged one, or a huge one.
    """
    pil = require_pillow()
    name = name or str(source)
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"{name} is a folder" if source.is_dir() else f"No such file: {name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about the size: held below, in words
            pil.init()
            with pil.open(source, formats=[name for name in FORMATS if name in pil.OPEN]) as image:
                check_pixels(image.height, image.width, name)
                image.load()
                return image
    except PermissionError as error:
        raise PermissionError(f"{name}: {error}") from error
    except pil.DecompressionBombError as error:
        raise ValueError(
            f"{name} is larger than the {MAX_PIXELS:,} pixels that are read ({error}); reduce it"
        ) from None
    except pil.UnidentifiedImageError as error:
        raise ValueError(
            f"{name} is not a picture that Pillow can read; give it a PNG, JPEG, WebP, TIFF, GIF or BMP file"
        ) from error
    except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
        if isinstance(error, ValueError) and str(error).startswith(name):
            raise
        raise ValueError(f"{name} is a damaged picture ({type(error).__name__}: {error}); get another copy") from error


def check_pixels(height: int, width: int, name: str = "the picture") -> None:
    """Refuse a picture without pixels, or of more than ``MAX_PIXELS``."""
    if height < 1 or width < 1:
        raise ValueError(f"{name} has {width}x{height} pixels, that is none; pass one that shows something")
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"{name} has {width}x{height} pixels, more than the {MAX_PIXELS:,} that are read; reduce it first"
        )


def upright(image: Image) -> Image:
    """A PIL image turned as its EXIF entry says that it is to be seen."""
    if not is_turned(image):
        return image
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # an EXIF block that cannot be read says nothing about the orientation
        return image


def is_turned(image: object) -> bool:
    """Whether a PIL image has an EXIF entry that turns or mirrors it."""
    try:
        return is_pil(image) and cast("Any", image).getexif().get(0x0112, 1) in range(2, 9)
    except Exception:  # as in upright
        return False


def picture_size(image: Any) -> tuple[int, int]:
    """(height, width) of one upright picture: a PIL image, an array or a tensor.

    Raises:
        TypeError, ValueError: not one.
    """
    if is_pil(image):
        check_pixels(image.height, image.width)
        width, height = upright(image).size
        return height, width
    shape = tuple(getattr(image, "shape", ()))
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) not in (2, 3):
        kind = f"the shape {shape}" if shape else type(image).__name__
        raise (ValueError if shape else TypeError)(f"a picture is a PIL image, an array or a tensor, got {kind}")
    if 0 in shape:
        raise ValueError(f"a picture has pixels, got the shape {shape}; pass one that shows something")
    if len(shape) == 2:
        return shape[0], shape[1]
    last = shape[2] in (1, 2, 3, 4) and not (isinstance(image, Tensor) and shape[0] in (1, 2, 3, 4))
    return (shape[0], shape[1]) if last else (shape[1], shape[2])


def from_pil(image: Image) -> Tensor:
    """A PIL image as it is to be seen: (1, C, H, W), uint8 or float32; C is 1 or 3, or 2 or 4 with transparency."""
    import numpy as np

    if getattr(image, "format", None) in ("EPS", "WMF"):
        raise ValueError(f"{image.format} files hold a program, which is not run; convert the picture to PNG")
    check_pixels(image.height, image.width)
    image, mode = upright(image), image.mode
    if mode.startswith("I;16"):
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 65535)[None, None]
    if mode in ("I", "F"):
        raise ValueError(f"a PIL image of mode {mode!r} has no fixed range; scale it, and pass an array of 0..1")
    grey = mode in ("1", "L", "LA", "La")
    transparent = mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    try:
        image = image.convert(("LA" if grey else "RGBA") if transparent else ("L" if grey else "RGB"))
    except (
        Exception
    ) as error:  # what a picture carries beside its pixels, such as a transparent colour, may be anything
        raise ValueError(f"a PIL image of mode {mode!r} cannot be read ({error}); convert it to RGB first") from error
    array = np.array(image)  # a copy: what PIL gives cannot be written to
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).movedim(-1, 0)[None]


def from_array(array: Any) -> Tensor:
    """A NumPy array as a tensor of the same shape."""
    import numpy as np

    try:
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        raise TypeError(f"image numbers are uint8 or floating point, got {array.dtype}; convert them") from error


def checked(tensor: Tensor) -> Tensor:
    """``tensor`` without its history, if it holds plain numbers; truth values become black and white."""
    tensor = tensor.detach()
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "without data (meta)" if tensor.is_meta else "nested, sparse or quantized"
        raise TypeError(f"an image is a plain tensor of numbers, got one that is {kind}; convert it first")
    if tensor.is_complex():
        raise TypeError(f"image numbers are uint8 or floating point, got {tensor.dtype}; convert them")
    return tensor.to(torch.uint8) * 255 if tensor.dtype == torch.bool else tensor


def read_batch(image: Any, chans: int, *, single: bool = False) -> Tensor:
    """A PIL image, an array or a tensor as (N, C, H, W), uint8 or float32 in 0..1, for a net of ``chans`` channels.

    C is what the image has; 2 and 4 may include transparency. With three dimensions arrays are (H, W, C) where the
    last is at most 4, else (N, H, W); tensors are (C, H, W) where the first is 1 or ``chans``, else (N, H, W), but
    with 3 or 4 in the first place could be either and are refused, unless ``single`` says that it is one picture.

    Raises:
        TypeError: not an image.
        ValueError: another shape, an ambiguous one, or numbers out of range.
    """
    import numpy as np

    if is_pil(image):
        return in_range(from_pil(image))
    if isinstance(image, Tensor):
        tensor, kind = checked(image), "tensor"
    elif isinstance(image, np.ndarray):
        tensor, kind = checked(from_array(image)), "array"
    else:
        raise TypeError(
            f"an image is a PIL image, an array or a tensor, got {type(image).__name__}; open files with "
            "PIL.Image.open first"
        )
    if tensor.ndim not in (2, 3, 4) or 0 in tensor.shape:
        raise ValueError(f"an image has the shape {SHAPES[kind]}, got {tuple(image.shape)}; reshape it")
    if tensor.ndim == 2:
        return in_range(tensor[None, None])
    if tensor.ndim == 4:
        return in_range(tensor if kind == "tensor" else tensor.movedim(-1, -3))
    return in_range(_three(tensor, kind, chans, single))


def _three(tensor: Tensor, kind: str, chans: int, single: bool) -> Tensor:
    """Three dimensions as (N, C, H, W): one picture, or several grey ones."""
    first, _, last = tensor.shape
    if kind == "array":
        if last <= 4 or last == chans:
            return tensor.movedim(-1, -3)[None]
        if first not in (3, 4) or chans == 1:  # for these weights a batch of grey images is what one has
            return tensor[:, None]
        remedy = "images[..., None] for grey images, or np.moveaxis(image, 0, -1) for one picture in colour"
    else:
        if first in (1, chans) or (single and first in (3, 4)):
            return tensor[None]
        if first not in (3, 4):
            return tensor[:, None]
        remedy = "images[:, None] for grey images, or image[None] for one picture in colour"
    raise ValueError(f"{tuple(tensor.shape)} can be {first} grey images or one picture; pass {remedy}")


def in_range(tensor: Tensor) -> Tensor:
    """uint8 as it is; fractions as float32, which must lie in 0..1."""
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise ValueError(f"image numbers are uint8 (0..255) or floating point (0..1), got {tensor.dtype}; convert them")
    tensor = tensor.float()
    least, most = tensor.aminmax()
    if not (least >= -1e-3 and most <= 1 + 1e-3):  # nor if it is not a number
        raise ValueError(
            f"floating-point images lie in 0..1, got {least:.3g}..{most:.3g}; divide by the number of white, 255 for "
            "bytes, and leave mean and std to this function"
        )
    return tensor


def split_alpha(batch: Tensor, chans: int) -> tuple[Tensor, Tensor | None]:
    """The colours (N, C, H, W), and the opacity (N, 1, H, W) in 0..1 where the images have any."""
    if batch.shape[1] not in (2, 4) or batch.shape[1] == chans:
        return batch, None
    alpha = unit(batch[:, -1:])
    return batch[:, :-1], None if bool((alpha == 1).all()) else alpha


def unit(batch: Tensor) -> Tensor:
    """Bytes 0..255 as float32 0..1; fractions as they are."""
    return batch.float() / 255 if batch.dtype == torch.uint8 else batch


def lay_on(colours: Tensor, alpha: Tensor, ground: float) -> Tensor:
    """Transparent pictures over an even ground, 0 black to 1 white: float32 in 0..1."""
    return unit(colours) * alpha + ground * (1 - alpha)


def to_chans(batch: Tensor, chans: int) -> Tensor:
    """Colour to grey by its luma, grey to any number of channels by repetition; else the channels must agree."""
    have = batch.shape[1]
    if have == chans:
        return batch
    if have == 1:
        return batch.expand(-1, chans, -1, -1)
    if have == 3 and chans == 1:
        red, green, blue = batch.float().unbind(1)
        grey = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]
        return grey.round().to(torch.uint8) if batch.dtype == torch.uint8 else grey
    raise ValueError(f"these weights take {chans} channels, got an image of {have}; pick or mix the channels first")
