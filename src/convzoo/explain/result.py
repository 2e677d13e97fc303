"""What :func:`convzoo.cam` gives back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from .._checks import check_choice, check_img_size
from .._images import is_pil, picture_size
from .._table import Column, Table
from ..models._functions import class_probabilities

if TYPE_CHECKING:
    from PIL.Image import Image

    from .._transform import Prepare, Transform

Normalize = Literal["max", "minmax", "joint"]


@dataclass(frozen=True)
class CAM:
    """Class activation maps of N images, K classes each.

    Attributes:
        maps: (N, K, h, w), raw and signed, at the resolution of the layer; float32 (float64 from a float64 model).
            Positive cells speak for the class, negative ones against it.
        logits: (N, classes), as the model gives them.
        target: (N, K) int64, the classes that are explained; None if a callable said what to explain.
        bias: (N, K), the part of the logits that no place in the image has a share in, where the method knows it
            (``method == "cam"``): ``maps.mean((2, 3)) + bias`` are the logits. None otherwise.
        method: how the maps were made, such as ``"cam"``.
        layer: path of the module whose output they are maps of.
        input_size: (height, width) of the images in pixels.
        transform: how pictures become the model's input, see :func:`convzoo.transform`; or None.
        classes: the names of the classes in order, where the model's weights tell them.
        temperature: what the logits are divided by before they become probabilities.
        images: the images, not a copy of them, so that the result can show itself in a notebook.
    """

    maps: Tensor
    logits: Tensor
    target: Tensor | None
    method: str
    layer: str
    input_size: tuple[int, int]
    bias: Tensor | None = None
    transform: Transform | None = field(default=None, repr=False)
    classes: tuple[str, ...] = field(default=(), repr=False)
    temperature: float = field(default=1.0, repr=False)
    images: Tensor | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        images, classes, height, width = self.maps.shape
        return f"CAM({self.method} at {self.layer}: {images} images, {classes} classes each, maps {height}x{width})"

    def _repr_html_(self) -> str | None:
        """The first images and maps as a table of pictures, with names and probabilities; None without pictures."""
        from .figures import html_sheet

        return html_sheet(self)

    def _repr_png_(self) -> bytes | None:
        """The same as one picture, without words."""
        from .figures import png_sheet

        return png_sheet(self)

    @property
    def mean(self) -> tuple[float, ...] | None:
        """Of the images that the model expects, scaled to 0..1, per channel; None if unknown."""
        return self.transform.mean if self.transform else None

    @property
    def std(self) -> tuple[float, ...] | None:
        """Of the images that the model expects, scaled to 0..1, per channel; None if unknown."""
        return self.transform.std if self.transform else None

    @property
    def probabilities(self) -> Tensor:
        """(N, classes), of the logits at the weights' temperature; (N, 2) of a single logit: absent, and present."""
        return class_probabilities(self.logits, self.temperature)

    @property
    def empty(self) -> Tensor:
        """(N, K) bool: maps without a positive cell. Their heat-map is zero, not a picture of their least bad place."""
        return self.maps.amax((2, 3)) <= 0

    def table(self) -> Table:
        """A row for each class of each image: its name and probability, and the pixel where its heat is largest.

        The rows leave as ``to_dict()``, ``to_csv()``, ``to_markdown()`` and ``to_dataframe()``. Where a map is empty
        there is no such pixel; where a callable said what to explain there is neither class nor probability.

        Example:
            >>> import convzoo, torch
            >>> model = convzoo.create_model("resnet18", num_classes=10).eval()
            >>> len(convzoo.cam(model, torch.rand(2, 3, 64, 64), ("top", 3)).table())
            6
        """
        images, classes, height, width = self.maps.shape
        down, across = self.input_size[0] / height, self.input_size[1] / width
        rows = []
        for image in range(images):
            for k in range(classes):
                cell = int(self.maps[image, k].argmax())
                row: dict[str, Any] = {"image": image, "empty": bool(self.empty[image, k])}
                if self.target is not None:
                    number = int(self.target[image, k])
                    row |= {"class": number, "probability": float(self.probabilities[image, number])}
                    row["name"] = self.classes[number] if self.classes else None
                if not row["empty"]:
                    row["y"], row["x"] = int((cell // width + 0.5) * down), int((cell % width + 0.5) * across)
                rows.append(row)
        numbers = [Column(key, key, number=True) for key in ("image", "class")]
        chance = Column("probability", "probability", "{:.3f}".format, True)
        place = [Column(key, key, number=True) for key in ("y", "x")]
        return Table([*numbers, Column("name", "name"), chance, *place, Column("empty", "empty")], rows)

    def heatmap(self, size: int | tuple[int, int] | None = None, normalize: Normalize | None = "max") -> Tensor:
        """Heat-maps (N, K, H, W), enlarged bilinearly with the centres of the cells where they belong.

        Args:
            size: of the heat-maps in pixels, one number or (height, width); None: of the images.
            normalize: ``"max"``, positive evidence over its peak, each map by itself; ``"joint"``, the same with one
                scale for the classes of an image, so that they can be compared; ``"minmax"``, from the least value
                (0) to the largest (1), negative evidence included; None, raw signed values.

        Returns:
            Values in 0..1, unless ``normalize`` is None. Mind that all classes of many images are large at full
            size: 16 images of 1000 classes at 224x224 take 3.2 GB.

        Raises:
            ValueError: another ``normalize``, or a size that is none.

        Example:
            >>> import convzoo, torch
            >>> model = convzoo.create_model("resnet18", num_classes=10).eval()
            >>> convzoo.cam(model, torch.rand(2, 3, 64, 64), ("top", 3)).heatmap().shape
            torch.Size([2, 3, 64, 64])
        """
        check_choice("normalize", normalize, (*get_args(Normalize), None))
        shape = self.input_size if size is None else check_img_size(size)
        evidence = self.maps.relu() if normalize in ("max", "joint") else self.maps
        heat = functional.interpolate(evidence, shape, mode="bilinear", align_corners=False)
        if normalize is None:
            return heat
        if normalize == "minmax":
            heat = heat - heat.amin((2, 3), keepdim=True)
        peak = heat.amax((1, 2, 3) if normalize == "joint" else (2, 3), keepdim=True)
        return torch.where(peak > 0, heat / peak, 0.0).clamp_(0.0, 1.0)

    def overlay(
        self, images: Any, k: int = 0, *, normalize: Normalize = "max", prepare: Prepare | None = None, **options: Any
    ) -> list[Image]:
        """The images with the heat of their ``k``-th class over them: N RGB pictures.

        A map that is empty (:attr:`empty`) is crossed out by a thin grey line: nothing there speaks for the class.

        Args:
            images: what :func:`convzoo.cam` was given, or the N pictures that it was made of (PIL, arrays, tensors).
                Over those the heat lies where the net looked: on the part that ``model.preprocess`` cut out.
            k: which of the K classes.
            normalize: as in :meth:`heatmap`.
            prepare: what ``model.preprocess`` was told; None: found out, from the images that it made.
            **options: passed to :func:`convzoo.overlay`; ``mean`` and ``std`` are the model's weights' by default.

        Raises:
            ValueError: not N images, no ``k``-th class, or pictures of another shape than the model's input where it
                is not known how they were cut.
        """
        from .pictures import cross_out, overlay

        if is_pil(images) or getattr(images, "ndim", 3) < 3:
            images = [images]
        count, classes = self.maps.shape[:2]
        given = len(images) if hasattr(images, "__len__") else 1
        if given != count:
            raise ValueError(f"these are the maps of {count} images, got {given}; pass the same images, in a list")
        if isinstance(k, bool) or not isinstance(k, int) or not -classes <= k < classes:
            raise ValueError(f"k must be from 0 to {classes - 1}, got {k}; each image has maps of {classes} classes")
        heat = self.heatmap(normalize=normalize)[:, k]
        pictures = [
            overlay(image, one, **{**self._look(image, index, prepare), **options})
            for index, (image, one) in enumerate(zip(images, heat, strict=True))
        ]
        if normalize == "minmax" or options.get("alpha") == 0:  # heat of another meaning, or none at all
            return pictures
        return [cross_out(each) if bool(no) else each for each, no in zip(pictures, self.empty[:, k], strict=True)]

    def _look(self, image: Any, index: int, prepare: Prepare | None) -> dict[str, Any]:
        """How to show one image: the model's input with its normalisation undone, a picture with the part looked at."""
        size, transform = picture_size(image), self.transform
        if isinstance(image, Tensor) and image.is_floating_point() and size == self.input_size:
            return {"mean": self.mean, "std": self.std}
        ground = transform.ground if transform else 1.0
        if transform is not None and transform.img_size == self.input_size:
            if prepare is None:
                prepare = self._was_prepared(transform, image, index)
            box = transform.views([image], prepare=prepare)[0].box if prepare else transform.box(*size)
            return {"ground": ground, "box": box}
        if size[0] * self.input_size[1] == size[1] * self.input_size[0]:
            return {"ground": ground}
        raise ValueError(
            f"these are maps of images of {self.input_size[0]}x{self.input_size[1]} pixels, got a picture of "
            f"{size[0]}x{size[1]}, and how it was cut is not known; pass what the net saw"
        )

    def _was_prepared(self, transform: Transform, image: Any, index: int) -> bool:
        """Whether a picture became the model's input by the transform's preparation, rather than without it."""
        if self.images is None or not transform.preparation or len(self.images) != len(self.maps):
            return False
        seen = self.images[index].float().cpu()

        def off(prepare: bool) -> float:
            try:
                (view,) = transform.views([image], prepare=prepare)
            except ValueError:  # it cannot have been read in this way
                return math.inf
            return float((transform.normalise(view.pixels)[0].cpu() - seen).abs().mean())

        return off(True) < off(False)
