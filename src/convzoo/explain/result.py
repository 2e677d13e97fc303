"""What :func:`convzoo.cam` gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from .._checks import check_img_size

if TYPE_CHECKING:
    from PIL.Image import Image

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
        mean, std: the normalisation that the model's weights expect of their images, for the pictures; or None.
    """

    maps: Tensor
    logits: Tensor
    target: Tensor | None
    method: str
    layer: str
    input_size: tuple[int, int]
    bias: Tensor | None = None
    mean: tuple[float, ...] | None = field(default=None, repr=False)
    std: tuple[float, ...] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        images, classes, height, width = self.maps.shape
        return f"CAM({self.method} at {self.layer}: {images} images, {classes} classes each, maps {height}x{width})"

    @property
    def empty(self) -> Tensor:
        """(N, K) bool: maps without a positive cell. Their heat-map is zero, not a picture of their least bad place."""
        return self.maps.amax((2, 3)) <= 0

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
        if normalize is not None and normalize not in get_args(Normalize):
            raise ValueError(f"normalize takes 'max', 'minmax', 'joint' or None, got {normalize!r}; pass one of these")
        shape = self.input_size if size is None else check_img_size(size)
        evidence = self.maps.relu() if normalize in ("max", "joint") else self.maps
        heat = functional.interpolate(evidence, shape, mode="bilinear", align_corners=False)
        if normalize is None:
            return heat
        if normalize == "minmax":
            heat = heat - heat.amin((2, 3), keepdim=True)
        peak = heat.amax((1, 2, 3) if normalize == "joint" else (2, 3), keepdim=True)
        return torch.where(peak > 0, heat / peak, 0.0).clamp_(0.0, 1.0)

    def overlay(self, images: Any, k: int = 0, *, normalize: Normalize = "max", **options: Any) -> list[Image]:
        """The images with the heat of their ``k``-th class over them: N RGB pictures.

        Args:
            images: what :func:`convzoo.cam` was given, or a list of N pictures (PIL, array or tensor).
            k: which of the K classes.
            normalize: as in :meth:`heatmap`.
            **options: passed to :func:`convzoo.overlay`; ``mean`` and ``std`` are the model's weights' by default.

        Raises:
            ValueError: not N images, or no ``k``-th class.
        """
        from .pictures import overlay

        count, classes = self.maps.shape[:2]
        if len(images) != count:
            raise ValueError(f"these are the maps of {count} images, got {len(images)}; pass the same images")
        if not -classes <= k < classes:
            raise ValueError(f"k must be from 0 to {classes - 1}, got {k}; each image has maps of {classes} classes")
        options = {"mean": self.mean, "std": self.std, **options}
        heat = self.heatmap(normalize=normalize)[:, k]
        return [overlay(image, one, **options) for image, one in zip(images, heat, strict=True)]
