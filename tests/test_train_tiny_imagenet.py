"""The Tiny-ImageNet example: its images, its augmentation, its recipe, and whole runs on small made-up images."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageEnhance, ImageOps

import convzoo

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "train_tiny_imagenet.py"
sys.path.insert(0, str(SCRIPT.parent))
script = importlib.import_module("train_tiny_imagenet")
augment = importlib.import_module("tiny_imagenet.augment")
data = importlib.import_module("tiny_imagenet.data")
training = importlib.import_module("tiny_imagenet.trainer")

CLASSES, SIDE = 4, 32
REAL = Path(os.environ.get("CONVZOO_DATA", ROOT.parent / "shared" / "data")) / "tiny-imagenet"


def draw_image(rng: np.random.Generator, label: int, side: int = SIDE) -> Image.Image:
    """Stripes whose colour and direction tell the class, under noise; one in ten is grey, and told by direction."""
    across = np.arange(side)[None, :] if label % 2 else np.arange(side)[:, None]
    stripes = np.sin(across * rng.uniform(0.7, 0.9) + rng.uniform(0, 6))[..., None]
    colour = np.array([1.0, 0.3, 0.0] if label < 2 else [0.0, 0.3, 1.0])
    pixels = 128 + 80 * stripes * colour + 40 * (colour - 0.4) + rng.normal(0, 12, (side, side, 3))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image.convert("L") if rng.random() < 0.1 else image


def write_parquet(path: Path, images: Sequence[Image.Image], labels: Sequence[int], names: Sequence[str] = ()) -> None:
    """A shard as the Hub's image data sets have them."""
    cells = []
    for index, image in enumerate(images):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        cells.append({"bytes": file.getvalue(), "path": f"{index}.JPEG"})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"label": pa.array(labels, pa.int64()), "image": pa.array(cells, kind)})
    if names:
        noted = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """640 images to train on in two shards, 160 to measure on."""
    rng = np.random.default_rng(0)
    result = tmp_path_factory.mktemp("stripes")
    for name, count in (("train-00000-of-00002", 400), ("train-00001-of-00002", 240), ("valid-00000-of-00001", 160)):
        labels = rng.integers(0, CLASSES, count).tolist()
        images = [draw_image(rng, label) for label in labels]
        write_parquet(result / f"{name}.parquet", images, labels, [f"n{label}" for label in range(CLASSES)])
    return result


def arguments(folder: Path, out: Path, *more: object, arch: str = "mnist_net") -> list[str]:
    """A command line for a short run on the CPU; mnist_net has dropout, so its runs need their random state."""
    given = [arch, "--data", folder, "--out", out, "--hub", out / "hub", "--device", "cpu", "--batch", 32, *more]
    return [str(value) for value in given]


def make_trainer(folder: Path, out: Path, *more: object, arch: str = "mnist_net") -> Any:
    args = script.parse(arguments(folder, out, *more, arch=arch))
    return training.Trainer(args, data.load_split(args.data, "train", limit=args.limit), training.join("cpu"))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{SCRIPT.parent}", "OMP_NUM_THREADS": "1"}


def read_checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def assert_same_run(first: Path, second: Path) -> None:
    """Weights, average, momentum and log of two runs agree, bit for bit (but for the clock)."""
    one, two = read_checkpoint(first), read_checkpoint(second)
    for part in ("model", "average"):
        for name, value in one[part].items():
            assert torch.equal(value, two[part][name]), f"{part} {name}"
    for index, state in one["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, two["optimizer"]["state"][index][name]), f"optimizer {index} {name}"
    without_clock = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in run["history"]] for run in (one, two)
    ]
    assert without_clock[0] == without_clock[1]
    assert without_clock[0]


# The images


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


# The augmentation


def pictures(count: int = 6, side: int = 24) -> torch.Tensor:
    """Smooth made-up images (N, 3, H, W) uint8 that use much of the range of values."""
    rng = np.random.default_rng(3)
    coarse = torch.from_numpy(rng.uniform(-20, 275, (count, 3, 6, 6)))
    return F.interpolate(coarse, size=side, mode="bicubic").clamp(0, 255).round().to(torch.uint8)


def as_picture(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


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


# The recipe


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small nets gain nothing from more threads, and sums come out the same in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_rate_rises_then_falls_to_zero() -> None:
    rates = [training.lr_factor(step, 100, 0.15) for step in range(100)]
    assert rates[14] == max(rates) == 1.0
    assert np.allclose(np.diff(rates[:15]), 1 / 15)
    assert np.allclose(np.diff(rates[15:]), rates[15] - 1)
    assert 0 < rates[99] < 0.012
    assert training.lr_factor(0, 1, 0.15) == 1.0


def test_weights_alone_decay(folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(folder, tmp_path, "--epochs", 1, "--limit", 64, arch="fcn_gap")
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    decayed, free = trainer.optimizer.param_groups
    assert {names[id(parameter)] for parameter in decayed["params"]} == {
        name for name in names.values() if name.startswith(("conv", "fc")) and name.endswith("weight")
    }
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    assert (decayed["weight_decay"], free["weight_decay"]) == (5e-4, 0.0)
    assert decayed["lr"] == pytest.approx(0.1 * 32 / 128)
    assert decayed["nesterov"]
    assert decayed["momentum"] == 0.9


def test_average_follows_the_weights() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = training.Average(model, 0.999)
    expected = model[0].weight.detach().clone()
    for step in (0, 5, 100_000):
        with torch.no_grad():
            model[0].weight += 1
            model[1].running_mean += 1
        decay = min(0.999, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
        average.update(step)
    assert torch.allclose(average.model[0].weight, expected)
    assert torch.allclose(average.model[1].running_mean[0], expected[0, 0] - (model[0].weight[0, 0] - 3))
    assert not average.model.training


def test_resnets_get_a_small_stem_and_start_as_the_identity(folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        folder, tmp_path, "--epochs", 1, "--limit", 64, "--option", "depths=[1,1,1,1]", arch="resnet18"
    )
    assert trainer.model.config.options["stem"] == "small"
    assert trainer.model.layer1[0].bn2.weight.abs().max() == 0
    assert trainer.recipe.optimizer == "sgd"
    assert (trainer.recipe.weight_decay, trainer.recipe.smoothing, trainer.recipe.ema) == (5e-4, 0.1, 0.999)
    assert trainer.model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    trainer.plan(60 * trainer.steps_per_epoch - 1)
    assert trainer.augment.cutmix == 0
    trainer.plan(60 * trainer.steps_per_epoch)
    assert trainer.augment.cutmix == 0.5


def test_transformers_get_adamw(folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(folder, tmp_path, "--epochs", 1, "--limit", 64, "--mixup", 0.3, arch="t2t_vit_t_14_small")
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    decayed, free = trainer.optimizer.param_groups
    assert (decayed["lr"], decayed["weight_decay"], free["weight_decay"]) == (1e-3, 0.05, 0.0)
    assert trainer.model.config.options["drop_path_rate"] == 0.1
    assert any(parameter is trainer.model.cls_token for parameter in free["params"])
    assert trainer.recipe.clip == 1.0
    assert (trainer.augment.trivial, trainer.augment.cutmix, trainer.augment.mixup) == (True, 0.5, 0.3)


def test_vgg_gets_a_small_head_and_without_batch_norm_a_bound(folder: Path, tmp_path: Path) -> None:
    plain = make_trainer(folder, tmp_path, "--epochs", 1, "--limit", 64, arch="vgg11")
    assert plain.model.config.options["head"] == "gap"
    assert plain.recipe.clip == 1.0
    assert plain.recipe.lr < 0.1
    normed = make_trainer(folder, tmp_path, "--epochs", 1, "--limit", 64, "--lr", 0.05, arch="vgg11_bn")
    assert normed.recipe == training.Recipe(lr=0.05)


def test_gradients_are_clipped(folder: Path, tmp_path: Path) -> None:
    """The first step of plain SGD moves the weights by its rate times the gradient, here one of norm 0.01."""
    trainer = make_trainer(folder, tmp_path, "--epochs", 1, "--limit", 64, "--clip", 0.01, "--weight-decay", 0)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.step()
    moved = torch.stack([(a - b).norm() for a, b in zip(before, trainer.model.parameters(), strict=True)]).norm()
    rate = trainer.optimizer.param_groups[0]["lr"]
    assert moved.item() == pytest.approx(rate * 1.9 * 0.01, rel=1e-3)  # Nesterov's first step is 1 + 0.9 gradients


def test_loss_is_the_cross_entropy_with_soft_labels(folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        folder, tmp_path, "--epochs", 1, "--limit", 64, "--cutmix", 0.5, "--mixup", 0.5, arch="lenet5"
    )
    images, labels, kept = trainer.batch(0)
    assert (kept < 1).all()
    own, other = F.one_hot(labels, CLASSES), F.one_hot(labels.view(-1, 2).flip(1).flatten(), CLASSES)
    soft = kept[:, None] * own + (1 - kept[:, None]) * other
    soft = 0.9 * soft + 0.1 / CLASSES
    expected = -(soft * trainer.model(images).log_softmax(1)).sum(1).mean()
    assert torch.allclose(trainer.loss(images, labels, kept), expected, atol=1e-6)


def test_teacher_teaches(folder: Path, tmp_path: Path) -> None:
    teacher = convzoo.create_model("lenet5", CLASSES, 3, img_size=SIDE)
    saved = convzoo.save_pretrained(teacher, tmp_path / "teacher", tag="taught", mean=augment.MEAN, std=augment.STD)
    learn = ("--epochs", 1, "--limit", 64, "--teacher", saved, "--distill", 0.7, "--temperature", 3)
    trainer = make_trainer(folder, tmp_path, *learn)
    trainer.model.eval()  # no dropout, to compare
    batch = trainer.batch(0)
    logits, taught = trainer.model(batch[0]) / 3, teacher.eval()(batch[0]) / 3
    divergence = (taught.softmax(1) * (taught.log_softmax(1) - logits.log_softmax(1))).sum(1).mean()
    plain = F.cross_entropy(trainer.model(batch[0]), batch[1], label_smoothing=0.1)
    assert torch.allclose(trainer.loss(*batch), 0.3 * plain + 0.7 * 9 * divergence, atol=1e-5)
    trainer.step()
    assert all(parameter.grad is None for parameter in trainer.teacher.parameters())
    other = convzoo.save_pretrained(convzoo.create_model("lenet5"), tmp_path / "other", tag="digits", mean=0, std=1)
    with pytest.raises(ValueError, match="tells 10 classes apart, the data has 4"):
        make_trainer(folder, tmp_path, "--epochs", 1, "--teacher", other)


def test_small_images_first(folder: Path, tmp_path: Path) -> None:
    small = ("--epochs", 4, "--limit", 128, "--small", 24, "--small-share", 0.25, "--option", "depths=[1,1,1,1]")
    trainer = make_trainer(folder, tmp_path, *small, arch="resnet18")
    trainer.plan(16)
    assert [trainer.batch(step)[0].shape[-1] for step in (0, 3, 4, 15)] == [24, 24, 32, 32]
    with pytest.raises(ValueError, match="mnist_net takes images of one size, and --small 24 is another; leave it out"):
        make_trainer(folder, tmp_path, "--epochs", 1, "--limit", 64, "--small", 24)


def test_every_image_is_seen_once_an_epoch(folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(folder, tmp_path, "--epochs", 2, "--limit", 128)
    epochs = []
    for epoch in (0, 1):
        trainer.batch(epoch * trainer.steps_per_epoch)
        epochs.append(trainer.order.tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(128))
    assert epochs[0] != epochs[1]
    with pytest.raises(ValueError, match="--batch 256 does not fit 1 processes and 128 images; pass a multiple of 2"):
        make_trainer(folder, tmp_path, "--epochs", 1, "--limit", 128, "--batch", 256)


# Whole runs


def test_learns_and_packs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(folder, tmp_path, "--epochs", 5, "--final", "--evaluations", 5, arch="lenet5")
    assert script.main(args) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    packed = tmp_path / "hub" / "lenet5.tiny_imagenet"
    assert results["folder"] == str(packed)
    assert sorted(path.name for path in packed.iterdir()) == [
        "README.md",
        "config.json",
        "log.json",
        "model.safetensors",
    ]
    assert results["metrics"]["top1"] > 80
    assert results["metrics"]["n"] == 160
    low, high = results["top1_interval"]
    assert low < results["metrics"]["top1"] < high
    log = json.loads((tmp_path / "log.json").read_text())
    assert [line["step"] for line in log] == [20, 40, 60, 80, 100]
    assert log[-1]["loss"] < 0.6
    assert log[0]["loss"] > 1.0
    assert "held_out_top1" not in log[0]

    # the accuracy is that of the file as loaded, in float16
    model = convzoo.create_model("lenet5", pretrained=packed)
    assert (model.weights.dtype, model.weights.name) == ("float16", "lenet5.tiny_imagenet")
    assert results["bytes"] == model.weights.size == (packed / "model.safetensors").stat().st_size
    assert model.weights.classes == ("n0", "n1", "n2", "n3")
    assert (model.weights.mean, model.weights.std) == (augment.MEAN, augment.STD)
    assert model.weights.recipe["steps"] == 100
    split = data.load_split(str(folder), "valid")
    answers = torch.cat([model(model.preprocess([as_picture(image)])) for image in split.images[:40]]).argmax(1)
    right = data.count_right(model, split)
    assert 100 * right[0] / 160 == results["metrics"]["top1"] == model.weights.metrics["top1"]
    assert (answers == split.labels[:40]).float().mean() > 0.8  # so a user's own pictures are read the same way
    average = read_checkpoint(tmp_path)["average"]
    assert all(torch.equal(value.half().float(), model.state_dict()[name]) for name, value in average.items())

    card = (packed / "README.md").read_text()
    assert "Tiny-ImageNet derives from ImageNet, whose terms allow non-commercial research and education." in card
    for part in (
        f"{results['metrics']['top1']:.2f} %",
        f"{low:.2f} to {high:.2f} %",
        "| weight_decay | 0.0005 |",
        "mit",
    ):
        assert part in card
    assert str(folder) not in card + (packed / "config.json").read_text()

    # called again, a finished run says what it has, and reads the validation images no more
    capsys.readouterr()
    before = (packed / "config.json").stat().st_mtime_ns
    assert script.main(args) == 0
    assert json.loads(capsys.readouterr().out) == results
    assert (packed / "config.json").stat().st_mtime_ns == before


def test_choosing_leaves_the_validation_images_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    load = data.load_split

    def load_split(source: str, split: str, **options: Any) -> Any:
        read.append(split)
        return load(source, split, **options)

    monkeypatch.setattr(script, "load_split", load_split)
    assert script.main(arguments(folder, tmp_path, "--epochs", 1, "--evaluations", 2)) == 0
    assert read == ["train"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["on"], results["metrics"]["n"], results["recipe"]["images"]) == ("held out of train", 64, 576)
    assert [line["step"] for line in json.loads((tmp_path / "log.json").read_text())] == [9, 18]
    assert convzoo.create_model("mnist_net", pretrained=tmp_path / "mnist_net.tiny_imagenet").weights.metrics["n"] == 64
    assert not (tmp_path / "hub").exists()


def test_a_killed_run_goes_on_as_if_nothing_had_been(folder: Path, tmp_path: Path) -> None:
    """SIGKILL, at a moment that the run does not choose; then the same command; dropout and mixing at every step."""
    more = ("--epochs", 2, "--cutmix", 0.5, "--mixup", 0.3, "--trivial", "--evaluations", 7)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert script.main(arguments(folder, whole, *more)) == 0
    args = arguments(folder, killed, *more, "--checkpoint-seconds", 0)
    process = subprocess.Popen([sys.executable, str(SCRIPT), *args], env=environment(), stderr=subprocess.DEVNULL)
    for _ in range(1200):
        if (killed / "log.json").exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = read_checkpoint(killed)["done"]
    assert 0 < done < 36
    assert script.main(args) == 0
    assert_same_run(whole, killed)
    results = [json.loads((out / "results.json").read_text()) for out in (whole, killed)]
    assert results[0]["metrics"] == results[1]["metrics"]


def test_a_run_leaves_when_told_to_and_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert script.main(arguments(folder, whole, "--epochs", 2, "--evaluations", 3)) == 0
    args = arguments(folder, parts, "--epochs", 2, "--evaluations", 3)
    assert script.main([*args, "--call-minutes", "0"]) == script.UNFINISHED  # after one step
    assert read_checkpoint(parts)["done"] == 1
    assert not (parts / "results.json").exists()
    step = training.Trainer.step

    def signalled(self: Any) -> None:
        step(self)
        if self.done == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training.Trainer, "step", signalled)
    assert script.main(args) == script.UNFINISHED
    assert read_checkpoint(parts)["done"] == 20
    assert script.main(args) == 0
    assert_same_run(whole, parts)


def test_other_settings_are_another_run(folder: Path, tmp_path: Path) -> None:
    args = arguments(folder, tmp_path, "--epochs", 1, "--call-minutes", 0)
    assert script.main(args) == script.UNFINISHED
    with pytest.raises(ValueError, match=r"other settings \(recipe: .*pass the same ones, or another --out"):
        script.main([*args, "--lr", "0.05"])
    with pytest.raises(ValueError, match=r"other settings \(batch: 32, now 64\)"):
        script.main([*args, "--batch", "64"])


def test_a_diverged_run_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="start again with a smaller --lr, or --clip 1"):
        script.main(arguments(folder, tmp_path, "--epochs", 1, "--lr", 1e9, arch="lenet5"))


def test_large_nets_are_refused_before_they_are_trained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resnet101 takes 85 MB in float16, and a packed net may take 50"):
        script.main(arguments(folder, tmp_path, "--epochs", 1, "--final", arch="resnet101"))


# Several processes

NETS = {"lenet5": (), "fcn_gap": (), "t2t_vit_t_14_small": ("--option", "depth=1", "--option", "drop_path_rate=0.0")}


def first_gradients(folder: Path, out: Path, arch: str) -> torch.Tensor:
    """All gradients of a run's first step, in one row; batch norm reads its running statistics, which for a part of a
    batch are the same as for the whole of it (on GPUs it is the synchronised one that is trained)."""
    mixed = ("--epochs", 1, "--cutmix", 0.4, "--mixup", 0.3, "--trivial", "--limit", 128)
    torch.set_default_dtype(torch.float64)  # so that what differs is not the rounding of sums
    try:
        trainer = make_trainer(folder, out, *mixed, *NETS[arch], arch=arch)
        trainer.model.eval()
        images, labels, kept = trainer.batch(0)
        trainer.loss(images.double(), labels, kept).backward()
    finally:
        torch.set_default_dtype(torch.float32)
    return torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters() if parameter.requires_grad])


def run_in_processes(folder: Path, out: Path) -> None:
    """What each of the processes does that torchrun starts from this very file."""
    rank = training.join("cpu").rank
    assert torch.distributed.get_world_size() == 2
    for arch in NETS:
        gradients = first_gradients(folder, out, arch)
        if rank == 0:
            torch.save(gradients, out / f"{arch}.pt")
    code = script.main(arguments(folder, out / "run", "--epochs", 1, "--evaluations", 3, "--final", arch="lenet5"))
    sys.exit(code)


def test_two_processes_do_what_one_does_with_twice_the_batch(folder: Path, tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, __file__, str(folder), str(tmp_path)],
        check=False,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for arch in NETS:
        alone, together = (
            first_gradients(folder, tmp_path, arch),
            torch.load(tmp_path / f"{arch}.pt", weights_only=True),
        )
        assert alone.norm() > 0.01
        assert (together - alone).norm() / alone.norm() < 1e-6, arch

    assert (
        script.main(arguments(folder, tmp_path / "alone", "--epochs", 1, "--evaluations", 3, "--final", arch="lenet5"))
        == 0
    )
    one, two = read_checkpoint(tmp_path / "alone"), read_checkpoint(tmp_path / "run")
    assert one["done"] == two["done"] == 20
    for name, value in one["average"].items():
        assert torch.allclose(value, two["average"][name], rtol=1e-3, atol=1e-5), name
    measured = [
        json.loads((tmp_path / out / "results.json").read_text())["metrics"]["top1"] for out in ("alone", "run")
    ]
    assert measured[0] == pytest.approx(measured[1], abs=1.3)  # two images


# The budget


def test_the_steps_that_fit_are_counted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that a step moves on by 0.2 s at small images, 0.5 s at large ones, and reading an image by 1 ms."""
    small = ("--minutes", 5, "--small", 24, "--small-share", 0.25, "--evaluations", 10, "--option", "depths=[1,1,1,1]")
    args = script.parse(arguments(folder, tmp_path, *small, arch="resnet18"))
    split = data.load_split(args.data, "train", limit=256)
    held = split.select(np.arange(100))
    trainer = training.Trainer(args, split, training.join("cpu"))
    clock = [1000.0]
    steps = []

    def step(self: Any) -> None:
        size = self.batch(self.done)[0].shape[-1]
        steps.append(size)
        clock[0] += 0.2 if size == 24 else 0.5
        self.model.conv1.weight.data += 1
        self.done += 1

    def count_right(model: Any, images: Any, **options: Any) -> tuple[int, int]:
        clock[0] += 0.001 * len(images.labels)
        return 0, 0

    monkeypatch.setattr(training.Trainer, "step", step)
    monkeypatch.setattr(script, "count_right", count_right)
    monkeypatch.setattr(script.time, "perf_counter", lambda: clock[0])
    before = trainer.model.conv1.weight.detach().clone()
    fitting = script.fit_steps(trainer, held, clock[0] - 10)
    assert [steps.count(size) for size in (24, 32)] == [33, 33]  # three to warm up, thirty timed
    gone = 10 + 33 * 0.2 + 33 * 0.5 + 2 * 0.256
    assert fitting == int((0.95 * 300 - gone - 11 * 100 * 0.001) / (0.25 * 0.2 + 0.75 * 0.5))
    assert torch.equal(trainer.model.conv1.weight, before)  # timing leaves no trace
    assert (trainer.done, trainer.loss_sum.item()) == (0, 0.0)
    args.minutes = 0.7
    with pytest.raises(ValueError, match=r"--minutes 0.7 leaves -?\d+ s to train, and a step takes 0.4\d s; pass more"):
        script.fit_steps(trainer, held, clock[0] - 40)


def test_minutes_plan_a_run_that_is_kept_to(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = arguments(folder, tmp_path, "--minutes", 0.15, "--timed-steps", 5, "--evaluations", 3, arch="lenet5")
    assert script.main([*args, "--call-minutes", "0"]) == script.UNFINISHED
    told = re.search(r"([\d.]+) ms a step: ([\d.]+) epochs \((\d+) steps\) fit 0.15 minutes", capsys.readouterr().out)
    assert told
    steps = int(told[3])
    assert float(told[2]) == pytest.approx(steps / 18, abs=0.06)
    assert read_checkpoint(tmp_path)["steps"] == steps
    assert script.main(args) == 0
    assert "ms a step" not in capsys.readouterr().out  # the plan stands
    assert [line["step"] for line in json.loads((tmp_path / "log.json").read_text())] == [
        math.ceil(steps * part / 3) for part in (1, 2, 3)
    ]
    last = read_checkpoint(tmp_path)["optimizer"]["param_groups"][0]["lr"]
    assert last == pytest.approx(0.02 * 32 / 128 / (steps - max(1, round(0.2 * steps)) + 1))  # the anneal has ended


if __name__ == "__main__":
    run_in_processes(*map(Path, sys.argv[1:]))
