"""The Tiny-ImageNet example: whole runs, cut off and gone on with, in one process and in two, packed and measured."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.data_sets import TINY_IMAGENET, needs_tiny_imagenet
from helpers.tiny_imagenet_set import (
    SCRIPT,
    arguments,
    as_picture,
    assert_same_run,
    augment,
    data,
    environment,
    make_trainer,
    one_thread,
    read_checkpoint,
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


def test_learns_and_packs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {f"n{index}": f"{word}, a synonym" for index, word in enumerate(("zebra", "tiger", "zebu", "okapi"))}
    described = [{"wnid": wnid, "name": name} for wnid, name in names.items()]
    (folder / "classes.json").write_text(json.dumps(described))
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
    assert model.weights.classes == ("zebra", "tiger", "zebu", "okapi")
    assert model.weights.class_ids == ("n0", "n1", "n2", "n3")
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


def test_small_images_then_larger_ones_from_the_weights_of_the_first_run(folder: Path, tmp_path: Path) -> None:
    """Trained at 16 and 24 pixels and measured at 28; the next run starts where the first one ended."""
    sizes = ("--size", 24, "--small", 16, "--measure", 28)
    first = arguments(folder, tmp_path / "a", "--epochs", 6, *sizes, "--evaluations", 2, arch="fcn_gap")
    assert script.main(first) == 0
    packed = tmp_path / "a" / "fcn_gap.tiny_imagenet"
    model = convzoo.create_model("fcn_gap", pretrained=packed)
    assert model.img_size == (28, 28)
    assert model.weights.recipe["size"] == 24
    top1 = json.loads((tmp_path / "a" / "results.json").read_text())["metrics"]["top1"]
    assert top1 > 60

    trainer = make_trainer(folder, tmp_path / "b", "--epochs", 1, *sizes, "--init", packed, arch="fcn_gap")
    state = trainer.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [trainer.batch(step)[0].shape[-1] for step in (0,)] == [16]
    trainer.plan(10)
    assert [trainer.batch(step)[0].shape[-1] for step in (4, 5)] == [16, 24]
    held = data.load_split(str(folder), "train").select(data.hold_out(640)[1])
    assert 100 * data.count_right(model, held, model.preprocess)[0] / 64 == top1  # as a user's pictures are read
    second = arguments(folder, tmp_path / "b", "--epochs", 1, *sizes, "--init", packed, "--lr", 0.01, arch="fcn_gap")
    assert script.main([*second, "--evaluations", "1"]) == 0
    assert json.loads((tmp_path / "b" / "results.json").read_text())["recipe"]["init"] == "fcn_gap.tiny_imagenet"
    with pytest.raises(
        ValueError, match="mnist_net takes images of one size, and --measure 28 is another; leave it out"
    ):
        make_trainer(folder, tmp_path / "c", "--epochs", 1, "--measure", 28)


def test_unfinished_runs_go_on_with_one_command(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        args = arguments(folder, tmp_path / name, "--epochs", 1, "--evaluations", 2, arch="lenet5")
        assert script.main([*args, "--call-minutes", "0"]) == script.UNFINISHED
        command = json.loads((tmp_path / name / "command.json").read_text())
        (tmp_path / name / "command.json").write_text(json.dumps(command[:-2]))  # no --call-minutes
    assert script.main(["--unfinished", str(tmp_path)]) == 0
    for name in ("one", "two"):
        assert (tmp_path / name / "results.json").exists()
        assert read_checkpoint(tmp_path / name)["done"] == 18
    assert script.main(["--unfinished", str(tmp_path)]) == 0  # nothing is left


def test_a_run_is_ended_early(folder: Path, tmp_path: Path) -> None:
    args = arguments(folder, tmp_path, "--epochs", 2, "--evaluations", 2, arch="lenet5")
    assert script.main([*args, "--call-minutes", "0"]) == script.UNFINISHED
    assert script.main([*args, "--finish"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["recipe"]["steps"], results["recipe"]["planned_steps"]) == (1, 36)
    model = convzoo.create_model("lenet5", pretrained=tmp_path / "lenet5.tiny_imagenet")
    average = read_checkpoint(tmp_path)["average"]
    assert all(torch.equal(value.half().float(), model.state_dict()[name]) for name, value in average.items())


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
    for _ in range(4000):
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


def test_minutes_plan_a_run_that_is_kept_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whole calls, by a clock that decoding moves on by 10 s, a step by 1.5 s and reading an image by 10 ms."""
    clock = [50.0]
    load, step, count = data.load_split, training.Trainer.step, data.count_right

    def timed_load(source: str, split: str, **options: Any) -> Any:
        clock[0] += 10
        return load(source, split, **options)

    def timed_step(self: Any) -> None:
        step(self)
        clock[0] += 1.5

    def timed_count(model: Any, split: Any, *prepare: Any, **options: Any) -> tuple[int, int]:
        clock[0] += 0.01 * len(split.labels)
        return count(model, split, *prepare, **options)

    monkeypatch.setattr(script, "load_split", timed_load)
    monkeypatch.setattr(training.Trainer, "step", timed_step)
    monkeypatch.setattr(script, "count_right", timed_count)
    monkeypatch.setattr(script.time, "perf_counter", lambda: clock[0])
    args = arguments(folder, tmp_path, "--minutes", 4, "--timed-steps", 3, "--evaluations", 4, arch="lenet5")
    assert script.main([*args, "--call-minutes", "2"]) == script.UNFINISHED
    assert 120 < clock[0] - 50 < 124
    told = re.search(r"1500.0 ms a step: ([\d.]+) epochs \((\d+) steps\) fit 4 minutes", capsys.readouterr().out)
    assert told
    steps = int(told[2])
    assert float(told[1]) == pytest.approx(steps / 18, abs=0.06)
    assert read_checkpoint(tmp_path)["steps"] == steps
    assert 120 < read_checkpoint(tmp_path)["seconds"] < 124
    assert script.main(args) == 0
    assert 0.75 * 240 < clock[0] - 50 < 240
    assert "ms a step" not in capsys.readouterr().out  # the plan stands
    log = json.loads((tmp_path / "log.json").read_text())
    assert [line["step"] for line in log] == [math.ceil(steps * part / 4) for part in (1, 2, 3, 4)]
    last = read_checkpoint(tmp_path)["optimizer"]["param_groups"][0]["lr"]
    assert last == pytest.approx(0.02 * 32 / 128 / (steps - round(0.2 * steps) + 1))  # the anneal has ended


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
def test_compiled_nets_train(folder: Path, tmp_path: Path) -> None:
    """Compiled and as it stands, a net takes the same steps."""
    for out, more in (("plain", ()), ("compiled", ("--compile",))):
        assert script.main(arguments(folder, tmp_path / out, "--epochs", 1, *more, arch="lenet5")) == 0
    plain, compiled = (read_checkpoint(tmp_path / out)["model"] for out in ("plain", "compiled"))
    for name, value in plain.items():
        assert torch.allclose(value, compiled[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.slow
@needs_tiny_imagenet
def test_a_slice_of_tiny_imagenet(tmp_path: Path) -> None:
    """2,000 images, six epochs: chance is 0.5 % among 200 classes, and the loss starts from log 200 = 5.3."""
    smoke = ("--data", TINY_IMAGENET, "--limit", 2000, "--option", "stem=imagenet", "--batch", 50, "--epochs", 6)
    assert script.main(arguments(TINY_IMAGENET, tmp_path, *smoke, "--evaluations", 6, arch="resnet18")) == 0
    log = json.loads((tmp_path / "log.json").read_text())
    assert log[-1]["loss"] < log[0]["loss"] - 0.3
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"]["n"] == 200
    assert results["metrics"]["top5"] > 5.0  # chance is 2.5
    assert results["bytes"] < 24e6


if __name__ == "__main__":
    run_in_processes(*map(Path, sys.argv[1:]))
