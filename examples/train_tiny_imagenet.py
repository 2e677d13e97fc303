"""Train a net of the zoo on Tiny-ImageNet (or a set laid out like it) from scratch, and pack it for publishing.

    python examples/train_tiny_imagenet.py resnet18 --data FOLDER --minutes 25
    torchrun --nproc-per-node 4 examples/train_tiny_imagenet.py resnet50 --data FOLDER --epochs 100 --final

Without ``--final`` a tenth of the training images is held out, to choose settings by. With it the net is trained on all
of them, packed in float16 and measured, once, on the validation images. Called again with the same arguments a run goes
on where it was; ``--unfinished`` alone does that with every run under ``runs/``. The guide is
``docs/tiny_imagenet.md``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import signal
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from tiny_imagenet.augment import MEAN, STD
from tiny_imagenet.data import Split, count_right, hold_out, load_split, wilson
from tiny_imagenet.trainer import Process, Recipe, Trainer, join, leave
from tqdm import tqdm

import convzoo

DATA, TAG = "zh-plus/tiny-imagenet", "tiny_imagenet"
TERMS = "Tiny-ImageNet derives from ImageNet, whose terms allow non-commercial research and education."
PACKED_LIMIT = 50_000_000  # bytes of a packed net
UNFINISHED = 75  # exit status of a run that stopped early and can be gone on with, by sysexits' EX_TEMPFAIL


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line; options of the recipe that are not given stay None."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("arch", help="a net of convzoo, such as resnet18")
    add("--data", default=DATA, help="folder of train-*.parquet and valid-*.parquet, or a set on the Hub")
    add("--cache", type=Path, help="folder to keep the decoded images in")
    add("--out", type=Path, help="folder of the checkpoint, the log and the results (default: runs/ARCH)")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--epochs", type=float)
    length.add_argument("--minutes", type=float, help="train for as many epochs as fit, over all calls together")
    add("--call-minutes", type=float, default=math.inf, help="leave, resumable, after so many minutes of this call")
    add("--finish", action="store_true", help="end an unfinished run where it is: pack the average it has")
    add("--final", action="store_true", help="train on all images, pack the net, measure it on the validation images")
    add("--hub", type=Path, default=Path("weights/hub"), help="where the packed net goes, in a folder of its name")
    add("--tag", default=TAG, help="the packed net is called ARCH.TAG")
    add(
        "--option",
        action="append",
        default=[],
        type=model_option,
        metavar="KEY=VALUE",
        help="option of the net; VALUE in JSON",
    )
    add("--batch", type=int, default=256, help="images a step, over all processes")
    add("--size", type=int, help="train on images of this size (default: the set's own)")
    add("--small", type=int, help="train on images of this size first (progressive resizing)")
    add("--small-share", type=float, default=0.5, help="for this share of the steps")
    add("--measure", type=int, help="the packed net reads images of this size (default: --size)")
    add("--init", help="start from the weights of a packed net: its folder, or ARCH.TAG")
    add("--teacher", help="a trained net to learn from: a packed folder, or ARCH.TAG")
    add("--distill", type=float, default=0.5, help="the teacher's share of the loss")
    add("--temperature", type=float, default=2.0)
    add("--limit", type=int, help="use the first so many training images only")
    add("--seed", type=int, default=0)
    add("--device", help="default: cuda where there is one, else cpu")
    add("--compile", action="store_true", help="torch.compile the net")
    add("--float32", action="store_true", help="no bfloat16, which a GPU and a CPU with instructions for it use")
    add("--bfloat16", action="store_true", help="on a CPU without instructions for it too")
    add("--evaluations", type=int, default=20, help="how often the log gets a record")
    add("--checkpoint-seconds", type=float, default=120.0)
    add("--timed-steps", type=int, default=30, help="steps that --minutes times")
    hints = get_type_hints(Recipe)
    for field in fields(Recipe):
        kind = next(iter(get_args(hints[field.name])), hints[field.name])  # float | None is parsed as float
        action = {"action": argparse.BooleanOptionalAction} if kind is bool else {"type": kind}
        add(f"--{field.name.replace('_', '-')}", default=None, help="recipe; default by the net", **action)
    args = parser.parse_args(argv)
    args.out = args.out or Path("runs") / args.arch
    return args


def model_option(text: str) -> tuple[str, Any]:
    """``stem="imagenet"`` or ``stem=imagenet`` as a pair."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def write_json(path: Path, value: object) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1) + "\n")
    partial.replace(path)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Tensors, numbers and text, to be read with ``weights_only``; under ``path`` it is whole or not there."""
    partial = path.with_name(f"{path.name}.partial")
    torch.save(state, partial)
    partial.replace(path)


def seconds_per_step(trainer: Trainer, at_most: float) -> float:
    """Time ``--timed-steps`` steps of each image size, or fewer where they take long; their mean over the run."""
    args, long = trainer.args, 10**6
    before = copy.deepcopy(trainer.state())
    trainer.plan(long)
    small_share = args.small_share if args.small else 0.0
    result = 0.0
    for share, first in ((small_share, 0), (1 - small_share, long - 1000)):
        if not share:
            continue
        trainer.done = first
        for _ in range(3):  # compile, pick algorithms, fill the allocator
            trainer.step()
        trainer.loss_sum.item()  # wait for the device
        steps, started = 0, time.perf_counter()
        while steps < args.timed_steps and trainer.process.agree(steps < 3 or time.perf_counter() - started < at_most):
            trainer.step()
            steps += 1
        trainer.loss_sum.item()
        result += share * (time.perf_counter() - started) / steps
    trainer.load_state(before)
    return result


def fit_steps(trainer: Trainer, held: Split | None, started: float) -> int:
    """The number of steps that ``--minutes`` leaves time for, beside evaluations, new starts and a margin of 5 %.

    Raises:
        ValueError: not one step fits.
    """
    args = trainer.args
    budget = 60 * args.minutes
    step = seconds_per_step(trainer, 0.05 * budget)
    probe = trainer.split.select(np.arange(min(500, len(trainer.split.labels))))
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        count_right(trainer.average.model, probe, trainer.prepare, bf16=trainer.bf16)
    image = (time.perf_counter() - began) / len(probe.labels)
    packed = image * (len(held.labels) if held else 10_000) * (4 if trainer.bf16 else 1)  # is read in float32
    reading = packed + image * (args.evaluations * len(held.labels) if held else 0)
    gone = time.perf_counter() - started
    calls = max(1, math.ceil(args.minutes / args.call_minutes))  # every one has to start, as this one did
    left = 0.95 * budget - calls * gone - reading
    steps = int(trainer.process.agree(left / step))
    if steps < 1:
        raise ValueError(
            f"--minutes {args.minutes:g} leaves {left:.0f} s to train, and a step takes {step:.2f} s; "
            "pass more minutes, a smaller --batch, or fewer --evaluations"
        )
    if trainer.process.rank == 0:
        print(
            f"{1000 * step:.1f} ms a step: {steps / trainer.steps_per_epoch:.1f} epochs ({steps} steps) fit "
            f"{args.minutes:g} minutes, of which {calls * gone:.0f} s start the calls and {reading:.0f} s evaluate"
        )
    return steps


def train(trainer: Trainer, held: Split | None, started: float) -> bool:
    """Steps until the last one; False where the run left before, by ``--call-minutes`` or SIGTERM."""
    args, process = trainer.args, trainer.process
    main, before, saved, leave = process.rank == 0, trainer.seconds, time.perf_counter(), []
    handler = signal.signal(signal.SIGTERM, lambda *_: leave.append(True))
    try:
        with tqdm(total=trainer.steps, initial=trainer.done, disable=not main, mininterval=1, unit="step") as bar:
            while trainer.done < trainer.steps:
                trainer.step()
                bar.update()
                now = time.perf_counter()
                trainer.seconds = before + now - started
                if main:
                    record(trainer, held, bar)
                stop = bool(leave) or now - started > 60 * args.call_minutes
                if process.world > 1:  # one answer for all, asked for now and then
                    stop = trainer.done % 10 == 0 and bool(process.agree(stop))
                last = trainer.done == trainer.steps
                if main and (stop or last or now - saved > args.checkpoint_seconds):
                    save_checkpoint(args.out / "checkpoint.pt", trainer.state())
                    saved = time.perf_counter()
                if stop and not last:
                    return False
    finally:
        signal.signal(signal.SIGTERM, handler)
    return True


def record(trainer: Trainer, held: Split | None, bar: tqdm) -> None:
    """Where one is due, a record in the log: the mean loss since the last, and the accuracy on the held-out images.

    Raises:
        FloatingPointError: the training has diverged.
    """
    done, steps, records = trainer.done, trainer.steps, trainer.args.evaluations
    if done * records // steps == (done - 1) * records // steps:
        return
    since = trainer.history[-1]["step"] if trainer.history else 0
    loss = trainer.loss_sum.item() / (done - since)
    trainer.loss_sum.zero_()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss} at step {done}; start again with a smaller --lr, or --clip 1")
    line: dict[str, Any] = {"step": done, "epoch": round(done / trainer.steps_per_epoch, 3), "loss": loss}
    line["lr"] = trainer.optimizer.param_groups[0]["lr"]
    if held:
        right = count_right(trainer.average.model, held, trainer.prepare, bf16=trainer.bf16)
        line |= {f"held_out_top{k}": 100 * hits / len(held.labels) for k, hits in zip((1, 5), right, strict=True)}
    trainer.history.append({**line, "seconds": round(trainer.seconds, 1)})
    write_json(trainer.args.out / "log.json", trainer.history)
    bar.set_postfix({name: f"{value:.4g}" for name, value in line.items() if name != "step"})


def pack(trainer: Trainer, split: Split, name: str, folder: Path) -> dict[str, Any]:
    """Write the average in float16 as a repository of the Hub, with what the file, as loaded, reaches on ``split``."""
    args = trainer.args
    model = trainer.make_model()
    model.load_state_dict(trainer.average.model.state_dict())
    recipe = {
        **asdict(trainer.recipe),
        "cutmix": trainer.augment.cutmix,
        "epochs": round(trainer.steps / trainer.steps_per_epoch, 2),
        "steps": trainer.steps,
        **({"planned_steps": trainer.planned} if trainer.planned != trainer.steps else {}),
        **{key: getattr(args, key) for key in ("batch", "seed")},
        **({"size": args.size} if args.size else {}),
        **({"small": args.small, "small_share": args.small_share} if args.small else {}),
        **({"init": Path(args.init).name} if args.init else {}),
        **({"teacher": Path(args.teacher).name, "distill": args.distill} if args.teacher else {}),
        "images": len(trainer.split.labels),
        "seconds": round(trainer.seconds),
        "precision": "bfloat16" if trainer.bf16 else "float32",
        "made_with": f"torch {torch.__version__}",
    }
    dataset: dict[str, Any] = {"split": name}
    if args.tag == TAG:
        dataset |= {"id": DATA, "name": "Tiny-ImageNet"}
    classes: list[str] | dict[str, str] = split.classes
    words = Path(args.data) / "classes.json"
    if words.is_file():
        names = {entry["wnid"]: entry["name"] for entry in json.loads(words.read_text())}
        classes = {wnid: names.get(wnid, wnid) for wnid in split.classes}
    about: dict[str, Any] = {
        "tag": args.tag,
        "classes": classes,
        "mean": MEAN,
        "std": STD,
        "dataset": dataset,
        "dataset_terms": TERMS if args.tag == TAG else "",
        "recipe": recipe,
        "license": "mit",
        "repo_id": f"convzoo/{args.arch}.{args.tag}" if args.tag == TAG else None,
        "dtype": "float16",
    }
    trial = convzoo.save_pretrained(model, args.out / "unmeasured", **about)
    loaded = convzoo.create_model(args.arch, pretrained=trial).to(
        trainer.process.device, memory_format=torch.channels_last
    )
    count = len(split.labels)
    right = count_right(loaded.eval(), split, loaded.preprocess)
    metrics = {"top1": 100 * right[0] / count, "top5": 100 * right[1] / count, "n": count}
    convzoo.save_pretrained(model, folder, metrics=metrics, **about)
    write_json(folder / "log.json", trainer.history)
    shutil.rmtree(trial)
    return {"metrics": metrics, "top1_interval": wilson(right[0], count), "on": name, "recipe": recipe}


def finish(trainer: Trainer, held: Split | None) -> None:
    """Pack and measure the net that a finished run ends with; what has been measured is not measured again."""
    args = trainer.args
    name, results = f"{args.arch}.{args.tag}", args.out / "results.json"
    if not results.exists():
        if held is None:
            folder, split, on = args.hub / name, load_split(args.data, "valid", cache=args.cache), "valid"
        else:
            folder, split, on = args.out / name, held, "held out of train"
        measured = pack(trainer, split, on, folder)
        size = (folder / "model.safetensors").stat().st_size
        write_json(results, {"name": name, "folder": str(folder), "bytes": size, **measured})
    print(results.read_text())


def unfinished(folder: Path) -> list[list[str]]:
    """The command lines of the runs in ``folder`` that have a checkpoint or a beginning, and no results."""
    commands = sorted(folder.glob("*/command.json"))
    return [json.loads(path.read_text()) for path in commands if not path.with_name("results.json").exists()]


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "--unfinished":
        return max([run(command) for command in unfinished(Path(*argv[1:] or ["runs"]))], default=0)
    return run(argv)


def run(argv: list[str]) -> int:
    started = time.perf_counter()
    args = parse(argv)
    process = join(args.device)
    finished = run_as(process, args, argv, started)
    leave(process)
    return 0 if finished else UNFINISHED


def run_as(process: Process, args: argparse.Namespace, argv: list[str], started: float) -> bool:
    """The run, as one of the processes that share it; whether it is finished."""
    if process.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    args.out.mkdir(parents=True, exist_ok=True)
    split, held = load_split(args.data, "train", cache=args.cache, limit=args.limit), None
    if not args.final:
        train_on, choose_by = hold_out(len(split.labels))
        split, held = split.select(train_on), split.select(choose_by).to(process.device)
    trainer = Trainer(args, split, process)
    if process.rank == 0:
        precision = "bfloat16" if trainer.bf16 else "float32"
        print(f"{args.arch} on {process.device} in {precision}, {torch.get_num_threads()} threads", file=sys.stderr)
        write_json(args.out / "command.json", argv)
    size = 2 * sum(value.numel() for value in trainer.model.state_dict().values())
    if args.final and size > PACKED_LIMIT:
        raise ValueError(
            f"{args.arch} takes {size / 1e6:.0f} MB in float16, and a packed net may take {PACKED_LIMIT / 1e6:.0f}; "
            "train a smaller one, or leave --final out"
        )
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load_state(torch.load(checkpoint, map_location="cpu", weights_only=True))
        if args.finish:
            trainer.planned, trainer.steps = trainer.steps, trainer.done
    else:
        (args.out / "results.json").unlink(missing_ok=True)
        fitting = fit_steps(trainer, held, started) if args.minutes else round(args.epochs * trainer.steps_per_epoch)
        trainer.plan(max(1, fitting))
    finished = train(trainer, held, started)
    if process.rank == 0:
        if finished:
            finish(trainer, held)
        else:
            print(f"left at step {trainer.done} of {trainer.steps}; the same command goes on from there")
    return finished


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, FileNotFoundError) as error:  # what is wrong with the command or the data, in words
        sys.exit(str(error))
    except ImportError as error:
        sys.exit(f'this needs {error.name}; run: pip install ".[data]"')
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on after the last checkpoint", file=sys.stderr)
        sys.exit(130)
