"""The Tiny-ImageNet example: optimiser, schedule, average and loss, by kind of net; what a budget of time allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_imagenet_set import (
    CLASSES,
    SIDE,
    arguments,
    augment,
    data,
    make_trainer,
    one_thread,
    script,
    training,
    write_set,
)

import convzoo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("stripes"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


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


def test_average_begins_anew_with_the_size_of_the_images(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("--epochs", 1, "--limit", 64, "--small", 24, "--small-share", 0.5, "--option", "depths=[1,1,1,1]")
    trainer = make_trainer(folder, tmp_path, *small, arch="resnet18")
    trainer.plan(7)
    ages, sides = [], []
    monkeypatch.setattr(trainer.average, "update", ages.append)
    monkeypatch.setattr(trainer, "batch", lambda step: sides.append(trainer.side(step)) or (None,) * 3)
    monkeypatch.setattr(trainer, "loss", lambda *_: trainer.model.fc.weight.sum())
    for _ in range(7):
        trainer.step()
    assert sides == [24] * 4 + [None] * 3
    assert ages == [0, 1, 2, 3, 0, 1, 2]


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


def test_resnets_without_shortcuts_start_alive() -> None:
    options = training.model_options("resnet18", {"shortcut": False, "depths": [1, 1, 1, 1]})
    assert options == {"stem": "small", "zero_init_residual": False, "shortcut": False, "depths": [1, 1, 1, 1]}
    logits = convzoo.create_model("resnet18", 4, img_size=SIDE, **options)(torch.rand(8, 3, SIDE, SIDE))
    assert logits.std(0).min() > 1e-4


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


def test_teacher_sees_images_of_its_own_size(folder: Path, tmp_path: Path) -> None:
    teacher = convzoo.create_model("lenet5", CLASSES, 3, img_size=SIDE)  # takes no other size
    saved = convzoo.save_pretrained(teacher, tmp_path / "teacher", tag="taught", mean=augment.MEAN, std=augment.STD)
    small = ("--epochs", 1, "--limit", 64, "--small", 24, "--distill", 1, "--temperature", 1, "--teacher", saved)
    trainer = make_trainer(folder, tmp_path, *small, "--option", "depths=[1,1,1,1]", arch="resnet18")
    trainer.model.eval()
    trainer.plan(2)
    for trainer.done, side in ((0, 24), (1, SIDE)):
        batch = trainer.batch(trainer.done)
        assert batch[0].shape[2:] == (SIDE, SIDE)
        logits, taught = trainer.model(augment.resize(batch[0], side)), teacher.eval()(batch[0])
        divergence = (taught.softmax(1) * (taught.log_softmax(1) - logits.log_softmax(1))).sum(1).mean()
        assert torch.allclose(trainer.loss(*batch), divergence, atol=1e-5)


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

    def count_right(model: Any, images: Any, *prepare: Any, **options: Any) -> tuple[int, int]:
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


def test_bfloat16_where_the_processor_has_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*("mnist_net", "--data", str(folder), "--epochs", "1", "--device", "cpu", "--limit", "320")]
    split = data.load_split(str(folder), "train", limit=320)

    def chosen(*more: str) -> bool:
        return training.Trainer(script.parse([*arguments, *more]), split, training.join("cpu")).bf16

    for has in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has, "avx2": True})
        assert (chosen(), chosen("--float32"), chosen("--bfloat16")) == (has, False, True)
