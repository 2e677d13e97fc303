"""Train a net on your own pictures: a folder that holds one folder of pictures per class.

    python examples/train_own_images.py PICTURES --model resnet18 --size 64 --epochs 20
    python examples/train_own_images.py PICTURES --weights resnet18.tiny_imagenet --epochs 5    # fine-tune

A fifth of the pictures is kept to measure on. It leaves a folder that ``create_model(..., pretrained=FOLDER)`` and
``python -m convzoo predict --weights FOLDER`` take, with the curve and the confusion matrix as pictures.
"""

import argparse
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
parser.add_argument("--weights", help="weights to start from instead: ARCH.TAG, as 'convzoo weights' lists them")
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
random.Random(0).shuffle(files)
splits = {"train": [f for i, f in enumerate(files) if i % 5], "test": files[::5]}

# The net, and how it reads a picture: from weights as they were trained, else as said here.
torch.manual_seed(0)
try:
    if args.weights:
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


loaded = {name: [load(file) for file in split] for name, split in splits.items()}  # small sets fit into memory
loader = DataLoader(loaded["train"], batch_size=32, shuffle=True)
lr = args.lr or (3e-4 if args.weights else 1e-3)
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=args.epochs * len(loader))
losses, accuracies = [], []
for epoch in range(args.epochs):
    model.train()  # pretrained nets come in evaluation mode
    total = 0.0
    for images, labels in loader:
        flipped = torch.where((torch.rand(len(images)) < 0.5)[:, None, None, None], images.flip(3), images)
        loss = F.cross_entropy(model(flipped), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() / len(loader)
    model.eval()
    with torch.no_grad():
        guesses = torch.cat([model(images).argmax(1) for images, _ in DataLoader(loaded["test"], batch_size=100)])
    truth = torch.tensor([label for _, label in loaded["test"]])
    losses.append(total)
    accuracies.append(100 * (guesses == truth).float().mean().item())
    print(f"epoch {epoch + 1}: loss {total:.3f}, {accuracies[-1]:.1f} % of {len(truth)} right")

# What it leaves: the weights with all that is needed to use them, and two pictures.
metrics = {"top1": accuracies[-1], "n": len(truth)}
convzoo.save_pretrained(model, args.out, tag="own", classes=classes, metrics=metrics, dataset={"split": "own pictures"})
figure = Figure(figsize=(10, 4), layout="constrained")
curve, table = figure.subplots(1, 2)
curve.plot(range(1, args.epochs + 1), accuracies)
curve.set(
    xlabel="epoch", ylabel="% right", title=f"{convzoo.model_info(model.config.name).name} on {args.pictures.name}"
)
confusion = torch.zeros(len(classes), len(classes), dtype=torch.long)
for right, guess in zip(truth.tolist(), guesses.tolist(), strict=True):
    confusion[right, guess] += 1
table.imshow(confusion, cmap="Blues")
table.set(xlabel="answer", ylabel="truth", title="how many of which class are taken for which")
table.set_xticks(range(len(classes)), classes, rotation=90)
table.set_yticks(range(len(classes)), classes)
figure.savefig(args.out / "training.png")
print(f"saved in {args.out}; use it: python -m convzoo predict --weights {args.out} PICTURE...")
