"""Train one of the small nets on MNIST, and measure it once.

    python examples/train_mnist.py --model lenet5 --data FOLDER       # a folder with train-*.parquet, test-*.parquet
    python examples/train_mnist.py --model fcn_gap --augment               # fetches ylecun/mnist from the Hub

What a project of your own would look like: convzoo gives the net, the loop is yours. 5,000 training digits, the same
for every run, are held out to choose hyper-parameters by (``--no-test`` leaves the test digits unread while you do);
the 10,000 test digits are read once, after the last step, on the averaged weights in the float16 they are kept in.
A run that was stopped goes on where its last epoch ended when it is called again. The folder it leaves is what
``create_model(..., pretrained=FOLDER)`` and ``python -m convzoo bundle FOLDER`` take.
"""

import argparse
import io
import json
import math
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

import convzoo

MEAN, STD = 0.1307, 0.3081
RECIPE = ("command", "epochs", "batch", "optimizer", "peak_lr", "weight_decay", "ema", "augment", "seed")


def read_split(source: str, split: str) -> tuple[Tensor, Tensor]:
    """The digits (N, 1, 28, 28) as bytes and their labels (N,) of ``train`` or ``test``."""
    from PIL import Image
    from pyarrow import parquet

    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(source, repo_type="dataset", allow_patterns="*.parquet"))
    files = sorted(folder.rglob(f"{split}-*.parquet"))
    if not files:
        sys.exit(f"{folder} holds no {split}-*.parquet; pass --data a folder that does, or ylecun/mnist")
    images, labels = [], []
    for file in files:
        table = parquet.read_table(file, columns=["image", "label"])
        for cell in table["image"].to_pylist():
            images.append(np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("L")))
        labels += table["label"].to_pylist()
    return torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels)


def normalise(images: Tensor) -> Tensor:
    """Bytes to floats with the training digits' mean 0 and standard deviation 1."""
    return (images.float() / 255 - MEAN) / STD


def shrink(images: Tensor, side: int) -> Tensor:
    """Pictures (N, C, H, W) to (N, C, side, side), averaged."""
    return images if images.shape[-1] == side else F.interpolate(images, (side, side), mode="area")


def distort(images: Tensor, strength: float = 1.0) -> Tensor:
    """A random rotation, scaling, shear and shift of every digit, ``strength`` of the whole; none is ever flipped."""
    count, _, height, width = images.shape

    def draw(limit: float) -> Tensor:
        return torch.empty(count, device=images.device).uniform_(-limit * strength, limit * strength)

    angle, shear = draw(math.radians(12)), draw(0.15)
    scale = 1 / (1 + draw(0.12))
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift_x, shift_y = draw(2 * 2 / width), draw(2 * 2 / height)  # two pixels; the grid runs from -1 to 1
    rows = torch.stack([cos, shear * cos - sin, shift_x, sin, shear * sin + cos, shift_y], 1)
    grid = F.affine_grid(rows.view(count, 2, 3), list(images.shape), align_corners=False)
    background = -MEAN / STD
    return F.grid_sample(images - background, grid, align_corners=False) + background


def random_part(maps: Tensor, least: int = 2, most: int = 8) -> Tensor:
    """A rectangle of the maps (N, C, H, W), the same of every picture, ``least`` to ``most`` cells a side (of small
    maps less) and away from the edge, an eighth of the side, where digits leave room."""
    sides = maps.shape[2:]
    edges = [side // 8 for side in sides]
    spans = [
        int(torch.randint(min(least, side), min(most, side - 2 * edge) + 1, ()))
        for side, edge in zip(sides, edges, strict=True)
    ]
    top, left = (
        int(torch.randint(edge, side - edge - span + 1, ()))
        for side, edge, span in zip(sides, edges, spans, strict=True)
    )
    return maps[:, :, top : top + spans[0], left : left + spans[1]]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, side: int = 28, batch: int = 100) -> float:
    """Percent of the digits, shown ``side`` pixels large, that the model gets right."""
    model.eval()
    hits = 0
    for i in range(0, len(images), batch):
        logits = model(shrink(normalise(images[i : i + batch]), side))
        hits += int((logits.argmax(1) == labels[i : i + batch]).sum())
    return 100 * hits / len(images)


def make_optimizer(model: nn.Module, name: str | None, lr: float | None, decay: float | None) -> torch.optim.Optimizer:
    """SGD for nets with batch norm, AdamW for those without; weight decay on weights, not on biases and gains."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    if name is None:
        name = "sgd" if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) else "adamw"
    if decay is None:
        decay = 5e-4 if name == "sgd" else 0.3
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr or 0.1, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr or 5e-3)


def moving_average(decay: float):
    """Of the weights, by ``decay`` a step, less at first so that the random start is soon forgotten."""

    def step(average: Tensor, value: Tensor, count: Tensor) -> Tensor:
        if not average.is_floating_point():
            return value
        return average.lerp(value, 1 - min(decay, (1 + int(count)) / (10 + int(count))))

    return step


def write(path: Path, save: object) -> None:
    """Call ``save`` with a temporary name, then give the file its own: a stopped run leaves no broken file."""
    partial = path.with_name(path.name + ".partial")
    save(partial)
    partial.replace(path)


def command_line(arguments: list[str]) -> str:
    """The command as anyone would type it: without the folders of this machine."""
    kept, words = [], iter(arguments)
    for word in words:
        if word in ("--data", "--out"):
            next(words)
        elif not word.startswith(("--data=", "--out=")):
            kept.append(word)
    return shlex.join(["python", "examples/train_mnist.py", *kept])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet5", help="a model for 28x28 digits (default lenet5)")
    parser.add_argument("--data", default="ylecun/mnist", help="a folder of parquet files, or a data set of the Hub")
    parser.add_argument("--init", help="start from these weights: a folder that an earlier run left, or a tag")
    parser.add_argument("--augment", action="store_true", help="distort the digits")
    parser.add_argument("--strength", type=float, default=1.0, help="of the distortions, such as 0.5 for half of each")
    parser.add_argument("--plain-epochs", type=int, default=0, help="leave the last so many epochs undistorted")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument(
        "--sides",
        type=lambda text: [int(side) for side in text.split(",")],
        default=[28],
        help="pixels a side that the digits are shrunk to in each epoch, such as 14,14,28; the last one holds on",
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), help="default: by whether the net has batch norm")
    parser.add_argument("--lr", type=float, help="peak learning rate (default 0.1 for SGD, 0.005 for AdamW)")
    parser.add_argument("--weight-decay", type=float, help="on weights (default 5e-4 for SGD, 0.3 for AdamW)")
    parser.add_argument("--smoothing", type=float, default=0.1, help="of the labels; 0 suits the smallest nets")
    parser.add_argument("--temperature", type=float, default=1.0, help="the loss divides the logits by it")
    parser.add_argument(
        "--parts",
        type=int,
        default=0,
        help="name the digit from so many random parts of the last maps too, with half of the loss: for nets that pool"
        " them, whose class activation maps then keep to their own digit",
    )
    parser.add_argument("--ema", type=float, default=0.998, help="decay of the average of the weights")
    parser.add_argument("--bf16", action="store_true", help="train in bfloat16 where that is exact enough")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=5_000, help="training digits to choose hyper-parameters by")
    parser.add_argument("--no-test", action="store_true", help="leave the test digits unread")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/MODEL.mnist or .mnist_aug)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    tag = "mnist_aug" if args.augment else "mnist"
    out = args.out or Path("runs") / f"{args.model}.{tag}"
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    model = convzoo.create_model(args.model, 10, 1, img_size=28, pretrained=args.init or False).to(args.device)
    model = model.to(memory_format=torch.channels_last)
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
        "seed": args.seed,
        "epochs": args.epochs,
        "sides": args.sides,
        "batch": args.batch,
        "optimizer": type(optimizer).__name__,
        "peak_lr": peak,
        "weight_decay": optimizer.param_groups[0]["weight_decay"],
        "label_smoothing": args.smoothing,
        "temperature": args.temperature,
        "parts": args.parts,
        "ema": args.ema,
        "bf16": args.bf16,
        "augment": args.augment,
        "strength": args.strength,
        "plain_epochs": args.plain_epochs,
        "trained_on": len(kept),
        "held_out": len(held_out),
        "held_out_accuracy": [],
        "torch": torch.__version__,
        "device": args.device,
        "seconds": 0.0,
    }

    parts = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=args.device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        torch.set_rng_state(saved["random"].cpu())
        log = json.loads(saved["log"]) | {"command": log["command"]}

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
                inputs = distort(inputs, args.strength)
            inputs = shrink(inputs, side).contiguous(memory_format=torch.channels_last)
            with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
                maps = model.forward_features(inputs)
                crops = [random_part(maps) for _ in range(args.parts)]
                heads = [model.forward_head(part).float() / args.temperature for part in [maps, *crops]]
            losses = torch.stack(
                [F.cross_entropy(logits, labels[batch], label_smoothing=args.smoothing) for logits in heads]
            )
            loss = (losses[0] + losses[1:].mean()) / 2 if crops else losses[0]
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

    facts = {
        "tag": tag,
        "classes": "0123456789",
        "mean": MEAN,
        "std": STD,
        "dtype": "float16",
        "dataset": {"id": "ylecun/mnist", "name": "MNIST", "split": "test"},
        "dataset_terms": "MNIST is by LeCun, Cortes and Burges.",
        "recipe": {name: log[name] for name in RECIPE},
    }
    average.module.to(memory_format=torch.contiguous_format)
    convzoo.save_pretrained(average.module, out, **facts)
    if not args.no_test:
        kept_model = convzoo.create_model(args.model, pretrained=out).to(args.device)
        digits, answers = (part.to(args.device) for part in read_split(args.data, "test"))
        log["test_accuracy"] = round(accuracy(kept_model, digits, answers), 2)
        facts["metrics"] = {"top1": log["test_accuracy"], "n": len(digits)}
        convzoo.save_pretrained(average.module, out, **facts)
        print(f"test: {log['test_accuracy']:.2f} % of {len(digits)} digits")
    write(out / "log.json", lambda path: path.write_text(json.dumps(log, indent=1) + "\n"))


if __name__ == "__main__":
    main()
