"""Train a net on your own pictures: a folder that holds one folder of pictures per class.

    python examples/train_own_images.py PICTURES --model resnet18 --size 64 --epochs 20
    python examples/train_own_images.py PICTURES --weights resnet18.tiny_imagenet --epochs 5    # fine-tune
    python examples/train_own_images.py PICTURES --weights runs/own --out runs/more --epochs 5  # train it further

A fifth of the pictures is kept to measure on. It leaves a folder that ``create_model(..., pretrained=FOLDER)`` and
``python -m convzoo predict --weights FOLDER`` take, with the curve and the confusion matrix as a picture.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader

import convzoo

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("pictures", type=Path, help="a folder with one folder of pictures per class")
parser.add_argument("--model", default="resnet18", help="a net to train from scratch (default resnet18)")
parser.add_argument("--weights", help="weights to start from instead: ARCH.TAG of 'convzoo weights', or a folder")
parser.add_argument("--size", type=int, default=64, help="pixels a side, from scratch (default 64)")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--lr", type=float, help="peak rate (default 0.001; 0.0003 from weights)")
parser.add_argument("--out", type=Path, default=Path("runs/own"))
args = parser.parse_args()

# The pictures: every fifth of a fixed shuffle is kept to measure on.
classes = sorted(folder.name for folder in args.pictures.glob("*/") if folder.is_dir())
files = sorted(file for file in args.pictures.glob("*/*") if file.suffix.lower() in Image.registered_extensions())
if len(classes) < 2 or len(files) < 10:
    raise SystemExit(f"{args.pictures} holds {len(classes)} folders with {len(files)} pictures; it needs 2 and 10")
if (args.out / "config.json").exists():
    raise SystemExit(f"{args.out} holds a net already: train it further by --weights {args.out}, with another --out")
random.Random(0).shuffle(files)

# The net, and how it reads a picture: from weights as they were trained, else as said here.
torch.manual_seed(0)
try:
    if args.weights and Path(args.weights, "config.json").exists():
        name = json.loads(Path(args.weights, "config.json").read_text())["architecture"]
        model = convzoo.create_model(name, num_classes=len(classes), pretrained=Path(args.weights))
    elif args.weights:
        model = convzoo.create_model(args.weights, num_classes=len(classes), pretrained=True)
    else:
        stem = {"stem": "small"} if args.size < 96 and "stem" in convzoo.model_info(args.model).options else {}
        model = convzoo.create_model(args.model, num_classes=len(classes), in_chans=3, img_size=args.size, **stem)
        model.transform = convzoo.transform(args.size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
except (ValueError, convzoo.WeightsError) as error:  # they say what would be right
    raise SystemExit(str(error)) from None


def load(file: Path) -> tuple[torch.Tensor, int]:
    try:
        with Image.open(file) as picture:
            return model.transform(picture), classes.index(file.parent.name)
    except OSError as error:
        raise SystemExit(f"{file} is no picture that can be read: {error}") from None


train, test = [[load(file) for file in part] for part in ([f for i, f in enumerate(files) if i % 5], files[::5])]
loader = DataLoader(train, batch_size=32, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
peak = args.lr or (3e-4 if args.weights else 1e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=args.epochs * len(loader))
truth, curve = torch.tensor([label for _, label in test]), []
for epoch in range(1, args.epochs + 1):
    model.train()  # pretrained nets come in evaluation mode
    for images, labels in loader:
        flipped = torch.where((torch.rand(len(images)) < 0.5)[:, None, None, None], images.flip(3), images)
        loss = F.cross_entropy(model(flipped), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(images).argmax(1) for images, _ in DataLoader(test, batch_size=100)])
    curve.append(round(100 * (answers == truth).float().mean().item(), 2))
    print(f"epoch {epoch}: loss of the last batch {loss.item():.3f}, {curve[-1]:.1f} % of {len(truth)} right")

# What it leaves: the weights with all that is needed to use them, and a picture.
about = {"metrics": {"top1": curve[-1], "n": len(truth)}, "dataset": {"split": "own pictures"}}
convzoo.save_pretrained(model, args.out, tag="own", classes=classes, **about)
counts = torch.zeros(len(classes), len(classes)).index_put_((truth, answers), torch.ones(()), accumulate=True)
figure = Figure(figsize=(10, 4), layout="constrained")
left, right = figure.subplots(1, 2)
left.plot(range(1, args.epochs + 1), curve, marker="o")
left.set(xlabel="epoch", ylabel=f"% of {len(truth)} right", title=f"{model.config.name} on {args.pictures.name}")
left.xaxis.get_major_locator().set_params(integer=True)
right.imshow(counts, cmap="Blues")
for row, column in counts.nonzero().tolist():
    dark = counts[row, column] > counts.max() / 2
    right.text(column, row, int(counts[row, column]), ha="center", va="center", color="white" if dark else "black")
right.set(xlabel="answer", ylabel="truth", title="pictures of each class, by the answer")
right.set_xticks(range(len(classes)), classes, rotation=90)
right.set_yticks(range(len(classes)), classes)
figure.savefig(args.out / "training.png")
print(f"saved in {args.out}; use it: python -m convzoo predict --weights {args.out} PICTURE...")
