"""Do the maps point at the object? Tiny-ImageNet's validation images have boxes.

For each net: the pointing game (does the map's peak lie in the box?), the share of the heat inside the box, and beside
them what a blob in the centre and the image's own brightness reach on the same images, which is no little where the
object fills the picture; the whole picture's share is the box's. Only images that the net gets right count, or with
``--all`` all of them, for the true class.

``python benchmarks/cam_boxes.py resnet18.tiny_imagenet ... --data FOLDER [--images 1000] [--method auto] [--size 128]``
FOLDER holds ``valid-*.parquet`` with the columns image, label and bbox (x0, y0, x1, y1 in pixels of 64x64).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import convzoo

SIDE = 64


def read(folder: Path, count: int) -> tuple[list[Any], Tensor, Tensor]:
    """PIL pictures, labels (N,) and boxes (N, 4)."""
    import pyarrow.parquet
    from PIL import Image

    paths = sorted(folder.glob("valid-*.parquet"))
    if not paths:
        raise SystemExit(
            f"no valid-*.parquet in {folder}; give the folder of Tiny-ImageNet's parquet files with --data"
        )
    rows = [row for path in paths for row in pyarrow.parquet.read_table(path).to_pylist()]
    chosen = np.random.default_rng(0).permutation(len(rows))[:count]
    pictures = [Image.open(io.BytesIO(rows[i]["image"]["bytes"])).convert("RGB") for i in chosen]
    labels = torch.tensor([rows[i]["label"] for i in chosen])
    return pictures, labels, torch.tensor([rows[i]["bbox"] for i in chosen])


def masks(boxes: Tensor) -> Tensor:
    """Boxes (N, 4), both ends inside, to masks (N, 64, 64)."""
    x0, y0, x1, y1 = (edge[:, None, None] for edge in boxes.unbind(1))
    rows, columns = torch.arange(SIDE)[:, None], torch.arange(SIDE)[None]
    return ((rows >= y0) & (rows <= y1) & (columns >= x0) & (columns <= x1)).float()


def score(heat: Tensor, inside: Tensor) -> tuple[float, float]:
    """Pointing game and share of the heat inside, in percent, of heat (N, 64, 64)."""
    peak = heat.flatten(1).argmax(1)
    hits = inside.flatten(1).gather(1, peak[:, None])
    share = (heat * inside).sum((1, 2)) / heat.sum((1, 2)).clamp_min(1e-12)
    return 100 * float(hits.mean()), 100 * float(share.mean())


def load(name: str) -> convzoo.Classifier:
    """The net ``arch.tag``, or that of a folder of this name, which training packs."""
    folder = Path(name)
    if folder.is_dir():
        return convzoo.create_model(folder.name.partition(".")[0], pretrained=folder)
    return convzoo.create_model(name, pretrained=True)


def batches(count: int, size: int = 100) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)


def ask(
    model: convzoo.Classifier,
    pictures: list[Any],
    labels: Tensor,
    *,
    method: str = "auto",
    layer: str | None = None,
    size: int = SIDE,
) -> tuple[str, Tensor, Tensor]:
    """The method and the cells of a map, the heat (N, 64, 64) of the true classes, and whether the net names them."""
    heats, right = [], []
    for part in batches(len(labels)):
        images = F.interpolate(model.preprocess(pictures[part]), (size, size), mode="bilinear")
        result = convzoo.cam(model, images, labels[part], method=method, layer=layer)
        heats.append(result.heatmap(SIDE)[:, 0])
        right.append(result.logits.argmax(1) == labels[part])
    cells = f"{result.maps.shape[2]}x{result.maps.shape[3]}"
    return f"{result.method} | {cells}", torch.cat(heats), torch.cat(right)


def baselines(pictures: list[Any]) -> dict[str, Tensor]:
    """Heat (N, 64, 64) that knows nothing of the class."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    centre = torch.exp(-((rows - 31.5) ** 2 + (columns - 31.5) ** 2) / (2 * 16.0**2))
    grey = torch.stack([torch.from_numpy(np.array(picture.convert("L"))).float() / 255 for picture in pictures])
    return {
        "a blob in the centre": centre.expand(len(pictures), -1, -1),
        "brightness": grey,
        "contrast": (grey - grey.mean((1, 2), keepdim=True)).abs(),
        "the whole picture": torch.ones_like(grey),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="+", help="names such as resnet18.tiny_imagenet, or folders of weights")
    parser.add_argument("--data", type=Path, required=True, help="folder of Tiny-ImageNet's parquet files")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--layer", default=None)
    parser.add_argument("--size", type=int, default=SIDE, help="enlarge the pictures: finer maps of nets that pool")
    parser.add_argument("--all", action="store_true", help="also images that the net gets wrong")
    args = parser.parse_args()
    pictures, labels, boxes = read(args.data, args.images)
    inside = masks(boxes)
    print("| net | method | map | images | pointing % | heat in the box % |")
    print("| --- | --- | --- | ---: | ---: | ---: |")
    for name in args.weights:
        about, heat, right = ask(load(name), pictures, labels, method=args.method, layer=args.layer, size=args.size)
        chosen = right | args.all
        if not chosen.any():
            print(f"| {name} | {about} | 0 | | |")
            continue
        others = {f"{title} | |": other for title, other in baselines(pictures).items()}
        for title, shown in {f"{name} | {about}": heat, **others}.items():
            point, share = score(shown[chosen], inside[chosen])
            print(f"| {title} | {int(chosen.sum())} | {point:.1f} | {share:.1f} |", flush=True)


if __name__ == "__main__":
    main()
