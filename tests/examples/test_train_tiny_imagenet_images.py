"""The Tiny-ImageNet example: how its images are read and augmented."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_imagenet_set import SIDE, as_picture, augment, data, draw_image, write_parquet, write_set
from PIL import Image, ImageEnhance, ImageOps


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("stripes"))


def test_shards_are_read_in_order(folder: Path) -> None:
    split = data.load_split(str(folder), "train")
    assert split.images.shape == (640, 3, SIDE, SIDE)
    assert split.images.dtype == torch.uint8
    assert split.classes == ["n0", "n1", "n2", "n3"]
    rows = [
        row
        for part in ("00000", "00001")
        for row in pq.read_table(folder / f"train-{part}-of-00002.parquet").to_pylist()
    ]
    assert split.labels.tolist() == [row["label"] for row in rows]
    modes = set()
    for row, image in zip(rows, split.images, strict=True):
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        modes.add(picture.mode)
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture.convert("RGB")))
    assert modes == {"L", "RGB"}


def test_limit_takes_the_first_images(folder: Path) -> None:
    whole, part = (data.load_split(str(folder), "train", limit=limit) for limit in (None, 450))
    assert len(part.labels) == len(part.images) == 450
    assert torch.equal(part.images, whole.images[:450])
    assert torch.equal(part.labels, whole.labels[:450])


def test_cache_is_read_instead_of_the_pictures(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data.load_split(str(folder), "valid", cache=tmp_path)
    monkeypatch.setattr(data, "decode", lambda encoded: pytest.fail("decoded again"))
    second = data.load_split(str(folder), "valid", cache=tmp_path)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert second.classes == first.classes
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(pytest.fail.Exception, match="decoded again"):  # another part of the set is another entry
        data.load_split(str(folder), "valid", cache=tmp_path, limit=7)


def test_sets_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    files = ["README.md", "data/train-00000-of-00002.parquet", "data/valid-00000-of-00001.parquet"]
    asked = []

    def list_repo_files(self: object, repo_id: str, *, repo_type: str) -> list[str]:
        asked.append((repo_id, repo_type))
        return files

    def hf_hub_download(repo_id: str, name: str, *, repo_type: str) -> str:
        asked.append((repo_id, repo_type, name))
        return str(folder / Path(name).name)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", list_repo_files)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    assert len(data.load_split("zh-plus/tiny-imagenet", "valid").labels) == 160
    assert asked == [("zh-plus/tiny-imagenet", "dataset"), ("zh-plus/tiny-imagenet", "dataset", files[2])]
    with pytest.raises(FileNotFoundError, match=r"zh-plus/tiny-imagenet has no file test-\*.parquet"):
        data.load_split("zh-plus/tiny-imagenet", "test")


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        data.load_split(str(tmp_path / "nowhere"), "train")
    with pytest.raises(FileNotFoundError, match=r"no file train-\*.parquet"):
        data.load_split(str(tmp_path), "train")
    write_parquet(tmp_path / "train-0.parquet", [draw_image(rng, 0, side) for side in (32, 32, 40)], [0, 1, 1])
    with pytest.raises(ValueError, match=r"sizes \[\(32, 32\), \(40, 40\)\]; resize them"):
        data.load_split(str(tmp_path), "train")
    write_parquet(tmp_path / "valid-0.parquet", [draw_image(rng, 0)] * 2, [0, 2], ["cat", "dog"])
    with pytest.raises(ValueError, match="reach 2, but 2 classes are named"):
        data.load_split(str(tmp_path), "valid")


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train-0.parquet", [draw_image(np.random.default_rng(0), 0)] * 3, [0, 2, 1])
    assert data.load_split(str(tmp_path), "train").classes == ["0", "1", "2"]


def test_hold_out_is_a_tenth_and_always_the_same() -> None:
    train, held = data.hold_out(100_000)
    assert len(held) == 10_000
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(100_000))
    assert held[:5].tolist() == data.hold_out(100_000)[1][:5].tolist()
    assert np.histogram(held, 4)[0].min() > 2300  # from all shards


def test_wilson_interval() -> None:
    assert data.wilson(6500, 10_000) == pytest.approx((64.06, 65.93), abs=0.01)  # by the formula, by hand
    assert data.wilson(0, 10)[0] == pytest.approx(0.0, abs=1e-9)
    assert data.wilson(10, 10)[1] == pytest.approx(100.0)


def pictures(count: int = 6, side: int = 24) -> torch.Tensor:
    """Smooth made-up images (N, 3, H, W) uint8 that use much of the range of values."""
    rng = np.random.default_rng(3)
    coarse = torch.from_numpy(rng.uniform(-20, 275, (count, 3, 6, 6)))
    return F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 255).round().to(torch.uint8)


def as_pixels(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def test_crop_and_flip_match_reflected_padding() -> None:
    images = pictures(64)
    rng = np.random.default_rng(0)
    down, right = rng.integers(-6, 7, (2, 64))
    flip = rng.random(64) < 0.5
    result = augment.crop_and_flip(images, *(torch.from_numpy(values) for values in (down, right, flip)))
    for image, dy, dx, mirrored, got in zip(images.numpy(), down, right, flip, result.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (6, 6), (6, 6)), mode="reflect")
        expected = padded[:, 6 + dy : 30 + dy, 6 + dx : 30 + dx]
        assert np.array_equal(got, expected[:, :, ::-1] if mirrored else expected)


def test_all_moves_and_flips_occur() -> None:
    draws = augment.Augment(pad=4).draw(np.random.default_rng(0), 4000)
    assert set(draws["down"]) == set(draws["right"]) == set(range(-4, 5))
    assert 0.45 < draws["flip"].mean() < 0.55
    assert set(draws["operation"]) == set(range(14))
    assert not draws["cut"].any()
    assert (draws["share"] == 1).all()


ENHANCERS = {6: ImageEnhance.Brightness, 7: ImageEnhance.Color, 8: ImageEnhance.Contrast, 9: ImageEnhance.Sharpness}


@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("number", range(14))
def test_operations_match_pillow(number: int, strength: float) -> None:
    """Each operation of TrivialAugment against the library that the paper's code used."""
    images = pictures()
    side = images.shape[-1]
    got = augment.OPERATIONS[number](images.float() / 255, torch.full((len(images),), strength)) * 255
    angle = math.radians(135 * strength)
    cos, sin = math.cos(angle), math.sin(angle)
    rows = {
        1: (1, 0.99 * strength, 0, 0, 1, 0),
        2: (1, 0, 0, 0.99 * strength, 1, 0),
        3: (1, 0, strength * side / 2, 0, 1, 0),
        4: (1, 0, 0, 0, 1, strength * side / 2),
        5: (cos, -sin, 0, sin, cos, 0),
    }
    for image, result in zip(images, got, strict=True):
        picture = as_picture(image)
        tolerance, compared = 1.0, torch.ones(side, side, dtype=torch.bool)
        if number in rows:  # about the centre, which Pillow's coordinates have at side / 2
            a, b, c, d, e, f = rows[number]
            half = side / 2
            coefficients = (a, b, half - a * half - b * half + c, d, e, half - d * half - e * half + f)
            expected = picture.transform(picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
            # compare where no edge was near: Pillow has no half pixels outside, and fills with black
            inside = Image.new("L", picture.size, 255).crop((2, 2, side - 2, side - 2))
            frame = Image.new("L", picture.size, 0)
            frame.paste(inside, (2, 2))
            mask = frame.transform(frame.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST)
            compared, tolerance = torch.from_numpy(np.array(mask) == 255), 2.0
            assert compared.sum() > 20 or abs(strength) == 1
        elif number in ENHANCERS:
            expected = ENHANCERS[number](picture).enhance(1 + 0.99 * strength)
            tolerance = 2.5 if number == 9 else 1.5  # Pillow rounds the base image too
        elif number == 10:
            expected = ImageOps.posterize(picture, 8 - round(6 * abs(strength)))
        elif number == 11:
            expected = ImageOps.solarize(picture, math.ceil(256 * (1 - abs(strength))))
        elif number == 12:
            expected = ImageOps.autocontrast(picture)
            tolerance = 1.01  # it rounds down
        elif number == 13:
            expected = ImageOps.equalize(picture)
        else:
            expected = picture
        assert ((result - as_pixels(expected).float()).abs()[:, compared] <= tolerance).all()


def test_operations_of_one_value_images() -> None:
    flat = torch.full((2, 3, 8, 8), 100 / 255)
    for number in (12, 13):  # nothing to stretch
        assert torch.equal(augment.OPERATIONS[number](flat, torch.ones(2)), flat)


def test_trivial_augment_does_its_operation_to_each_image() -> None:
    images = pictures(28).float() / 255
    numbers = np.random.default_rng(1).permutation(np.repeat(np.arange(14), 2))
    strength = torch.linspace(-1, 1, 28)
    result = augment.trivial_augment(images, numbers, strength)
    for index, number in enumerate(numbers):
        alone = augment.OPERATIONS[number](images[index : index + 1], strength[index : index + 1])
        assert torch.allclose(result[index], alone[0], atol=1e-6)


def test_mixed_images_are_the_shares_they_claim() -> None:
    """On plain images, alternately black and white, the share of an image can be read from its pixels."""
    images = torch.zeros(400, 3, 16, 16, dtype=torch.uint8)
    images[1::2] = 255
    policy = augment.Augment(cutmix=0.4, mixup=0.3)
    draws = policy.draw(np.random.default_rng(0), 400)
    mixed, kept = policy(images, draws)
    white = (mixed * torch.tensor(augment.STD).view(3, 1, 1) + torch.tensor(augment.MEAN).view(3, 1, 1))[:, 0]
    own = torch.where(torch.arange(400)[:, None, None] % 2 == 1, white, 1 - white)
    assert torch.allclose(own.mean((1, 2)), kept, atol=1e-5)
    cut = torch.from_numpy(draws["cut"])
    plain = (kept == 1) & ~cut
    blended = ~cut & ~plain
    assert 0.3 < cut.float().mean() < 0.5
    assert 0.2 < blended.float().mean() < 0.4
    assert ((own[cut] < 1e-5) | (own[cut] > 1 - 1e-5)).all()  # whole pixels of one or the other
    assert (own[blended].flatten(1).std(1) < 1e-5).all()  # the same blend everywhere
    box = own[cut][(kept[cut] > 0.2) & (kept[cut] < 0.8)][0] < 0.5
    assert torch.equal(box, box.any(1)[:, None] & box.any(0)[None])  # a rectangle
    assert torch.equal(augment.neighbours(torch.arange(6)), torch.tensor([1, 0, 3, 2, 5, 4]))


def test_half_a_batch_is_half_of_the_whole() -> None:
    images = pictures(8)
    policy = augment.Augment(cutmix=0.5, mixup=0.5, trivial=True)
    draws = policy.draw(np.random.default_rng(0), 8)
    whole, kept = policy(images, draws)
    for part in (slice(0, 4), slice(4, 8)):
        half, share = policy(images[part], {name: values[part] for name, values in draws.items()})
        assert torch.allclose(half, whole[part], atol=1e-5)
        assert torch.equal(share, kept[part])


def test_images_are_normalised_and_resized() -> None:
    images = pictures(4)
    policy = augment.Augment(pad=0)
    draws = policy.draw(np.random.default_rng(0), 4) | {"flip": np.zeros(4, bool)}
    plain, kept = policy(images, draws)
    assert torch.equal(plain, augment.normalise(images))
    assert torch.equal(kept, torch.ones(4))
    assert torch.allclose(plain[0, 2, 5, 7], (images[0, 2, 5, 7] / 255 - 0.406) / 0.225)
    small, _ = policy(images, draws, side=16)
    assert small.shape == (4, 3, 16, 16)
    assert torch.allclose(small.mean((2, 3)), plain.mean((2, 3)), atol=0.05)
