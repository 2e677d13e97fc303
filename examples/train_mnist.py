"""Train one of the small nets on MNIST, and measure it once.

    python examples/train_mnist.py --model lenet5 --data FOLDER       # a folder with train-*.parquet, test-*.parquet
    python examples/train_mnist.py --model fcn_gap --augment          # fetches ylecun/mnist from the Hub

What a project of your own would look like: convzoo gives the net, the loop is yours. 5,000 training digits, the same
for every run, are held out to choose hyper-parameters by (``--no-test`` leaves the test digits unread while you do);
the 10,000 test digits are read once, after the last step, on the averaged weights in the float16 they are kept in.
A run that was stopped goes on where its last epoch ended when it is called again. The folder that it leaves is what
``create_model(..., pretrained=FOLDER)`` and ``python -m convzoo predict --weights FOLDER`` take.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mnist_recipe.data import MEAN, STD, accuracy, normalise, read_split
from mnist_recipe.distort import distort, random_part, shrink
from mnist_recipe.options import command_line, make_optimizer, moving_average, parse_arguments
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

import convzoo

try:
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'training needs {error.name}; run: pip install ".[data]"')

ABOUT = {
    "classes": list("0123456789"),
    "mean": MEAN,
    "std": STD,
    "dtype": "float16",
    "dataset": {"id": "ylecun/mnist", "name": "MNIST", "split": "test"},
    "dataset_terms": "MNIST is by LeCun, Cortes and Burges.",
    "license": "mit",
}
RECIPE = ("command", "epochs", "batch", "optimizer", "peak_lr", "weight_decay", "ema", "augment", "seed")
RESULTS = ("command", "held_out_accuracy", "torch", "device", "seconds")  # of a log; all else are settings


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Call ``save`` with a temporary name, then give the file its own: a stopped run leaves no broken file."""
    partial = path.with_name(path.name + ".partial")
    save(partial)
    partial.replace(path)


def resume(checkpoint: Path, log: dict[str, Any], parts: dict[str, Any], device: str) -> dict[str, Any]:
    """Put the state of an earlier call into ``parts``; its log, or an exit in words where it had other settings."""
    saved = torch.load(checkpoint, map_location=device, weights_only=True)
    earlier = json.loads(saved["log"])
    differ = [name for name in log if name not in RESULTS and earlier.get(name) != log[name]]
    if differ:
        name, out = differ[0], checkpoint.parent
        sys.exit(
            f"{out} holds a run with other settings ({name}: {earlier.get(name)}, now {log[name]}); repeat its "
            f"command, pass another --out, or train its weights further: --init {out} --out {out}_2"
        )
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    torch.set_rng_state(saved["random"].cpu())
    return earlier | {"command": log["command"]}


def main() -> None:
    args = parse_arguments(__doc__)
    tag = "mnist_aug" if args.augment else "mnist"
    out = args.out or Path("runs") / f"{args.model}.{tag}"
    torch.manual_seed(args.seed)
    try:
        model = convzoo.create_model(args.model, 10, 1, img_size=28, pretrained=args.init or False)
    except ValueError as error:  # an unknown net, or one for larger pictures
        sys.exit(str(error))
    model = model.train().to(args.device, memory_format=torch.channels_last)
    if args.parts and "cam" not in convzoo.cam_layers(model):
        sys.exit(f"--parts is for nets that end in global average pooling, such as fcn_gap; {args.model} does not")
    images, labels = (part.to(args.device) for part in read_split(args.data, "train"))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(2026)).to(args.device)
    held_out, kept = order[: args.held_out], order[args.held_out :]

    steps = len(kept) // args.batch
    optimizer = make_optimizer(model, args.optimizer, args.lr, args.weight_decay)
    peak = optimizer.param_groups[0]["lr"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps * args.epochs, pct_start=0.2, cycle_momentum=False, final_div_factor=1e3
    )
    average = AveragedModel(model, avg_fn=moving_average(args.ema), use_buffers=True)
    log = {
        "command": command_line(sys.argv[1:]),
        "model": args.model,
        "tag": tag,
        "optimizer": type(optimizer).__name__,
        "peak_lr": peak,
        "weight_decay": optimizer.param_groups[0]["weight_decay"],
        "label_smoothing": args.smoothing,
        **{name: getattr(args, name) for name in ("seed", "epochs", "sides", "batch", "temperature", "parts", "ema")},
        **{name: getattr(args, name) for name in ("bf16", "augment", "strength", "plain_epochs")},
        "trained_on": len(kept),
        "held_out": len(held_out),
        "held_out_accuracy": [],
        "torch": torch.__version__,
        "device": args.device,
        "seconds": 0.0,
    }
    parts = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        log = resume(checkpoint, log, parts, args.device)
        print(f"{out}: {len(log['held_out_accuracy'])} of {args.epochs} epochs are done")

    def loss_of(inputs: Tensor, answers: Tensor) -> Tensor:
        """Cross-entropy; with ``--parts`` half of it is that of random parts of the last maps."""
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
            maps = model.forward_features(inputs)
            views = [maps, *(random_part(maps) for _ in range(args.parts))]
            heads = [model.forward_head(view).float() / args.temperature for view in views]
        losses = [F.cross_entropy(logits, answers, label_smoothing=args.smoothing) for logits in heads]
        return (losses[0] + torch.stack(losses[1:]).mean()) / 2 if args.parts else losses[0]

    for epoch in range(len(log["held_out_accuracy"]), args.epochs):
        started = time.perf_counter()
        side = args.sides[min(epoch, len(args.sides) - 1)]
        model.train()
        shuffled = kept[torch.randperm(len(kept)).to(args.device)]
        bar = tqdm(range(steps), desc=f"{args.model}.{tag} epoch {epoch + 1}/{args.epochs}", leave=False)
        for step in bar:
            batch = shuffled[step * args.batch : (step + 1) * args.batch]
            inputs = normalise(images[batch])
            if args.augment and epoch < args.epochs - args.plain_epochs:
                inputs = distort(inputs, -MEAN / STD, args.strength)
            loss = loss_of(shrink(inputs, side).contiguous(memory_format=torch.channels_last), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            if step % 20 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
        log["held_out_accuracy"].append(round(accuracy(average.module, images[held_out], labels[held_out], side), 2))
        log["seconds"] = round(log["seconds"] + time.perf_counter() - started, 1)
        print(f"epoch {epoch + 1}: held out {log['held_out_accuracy'][-1]:.2f} %, {log['seconds']:.0f} s in all")
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"random": torch.get_rng_state(), "log": json.dumps(log)}
        write(checkpoint, lambda path, state=state: torch.save(state, path))

    about = {**ABOUT, "tag": tag, "recipe": {name: log[name] for name in RECIPE}}
    average.module.to(memory_format=torch.contiguous_format)
    convzoo.save_pretrained(average.module, out, **about)
    if not args.no_test:
        loaded = convzoo.create_model(args.model, pretrained=out).to(args.device)
        digits, answers = (part.to(args.device) for part in read_split(args.data, "test"))
        log["test_accuracy"] = round(accuracy(loaded, digits, answers), 2)
        convzoo.save_pretrained(average.module, out, **about, metrics={"top1": log["test_accuracy"], "n": len(digits)})
        print(f"test: {log['test_accuracy']:.2f} % of {len(digits)} digits")
    write(out / "log.json", lambda path: path.write_text(json.dumps(log, indent=1) + "\n"))
    print(f"saved in {out}; use it: python -m convzoo predict --weights {out} PICTURE...")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on after the last epoch that was finished", file=sys.stderr)
        sys.exit(130)
