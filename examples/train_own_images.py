"""Train a net on your own pictures: a folder that holds one folder of pictures per class.

    python examples/train_own_images.py PICTURES --model resnet18 --size 64 --epochs 20
    python examples/train_own_images.py PICTURES --weights resnet18.tiny_imagenet --epochs 5    # fine-tune
    python examples/train_own_images.py PICTURES --weights runs/own --out runs/more --epochs 5  # train it further

A fifth of the pictures is kept to measure on. It leaves a folder that ``create_model(..., pretrained=FOLDER)`` and
``python -m convzoo predict --weights FOLDER`` take, with the curve and the confusion matrix as a picture.
"""

import argparse
import json
from pathlib import Path

import torch
from own_images.figures import draw
from own_images.folder import Pictures, split
from torch.nn import functional as F
from torch.utils.data import DataLoader

import convzoo

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("pictures", type=Path, help="a folder with one folder of pictures per class")
parser.add_argument("--model", default="resnet18", help="a net to train from scratch (default resnet18)")
parser.add_argument("--weights", default="", help="weights to start from: ARCH.TAG of 'convzoo weights', or a folder")
parser.add_argument("--size", type=int, default=64, help="pixels a side, from scratch (default 64)")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--lr", type=float, help="peak rate (default 0.001; 0.0003 from weights)")
parser.add_argument("--out", type=Path, default=Path("runs/own"))
args = parser.parse_args()
if (args.out / "config.json").exists():
    raise SystemExit(f"{args.out} holds a net already: train it further by --weights {args.out}, with another --out")
classes, training, measuring = split(args.pictures)

# The net, and how it reads a picture: from weights as they were trained, else as said here.
torch.manual_seed(0)
try:
    if (config := Path(args.weights, "config.json")).exists():
        name, weights = json.loads(config.read_text())["architecture"], Path(args.weights)
        model = convzoo.create_model(name, num_classes=len(classes), pretrained=weights)
    elif args.weights:
        model = convzoo.create_model(args.weights, num_classes=len(classes), pretrained=True)
    else:
        stem = {"stem": "small"} if args.size < 96 and "stem" in convzoo.model_info(args.model).options else {}
        model = convzoo.create_model(args.model, num_classes=len(classes), in_chans=3, img_size=args.size, **stem)
        model.transform = convzoo.transform(args.size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
except (ValueError, convzoo.WeightsError) as error:  # they say what would be right
    raise SystemExit(str(error)) from None

loader = DataLoader(Pictures(training, classes, model.transform), batch_size=32, shuffle=True)
test = DataLoader(Pictures(measuring, classes, model.transform), batch_size=100)
truth, curve = torch.cat([labels for _, labels in test]), []
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
peak = args.lr or (3e-4 if args.weights else 1e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=args.epochs * len(loader))
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
        answers = torch.cat([model(images).argmax(1) for images, _ in test])
    curve.append(round(100 * (answers == truth).float().mean().item(), 2))
    print(f"epoch {epoch}: loss of the last batch {loss.item():.3f}, {curve[-1]:.1f} % of {len(truth)} right")

# What it leaves: the weights with all that is needed to use them, and a picture.
about = {"metrics": {"top1": curve[-1], "n": len(truth)}, "dataset": {"split": "own pictures"}}
convzoo.save_pretrained(model, args.out, tag="own", classes=classes, **about)
draw(args.out / "training.png", f"{model.config.name} on {args.pictures.name}", curve, truth, answers, classes)
print(f"saved in {args.out}; use it: python -m convzoo predict --weights {args.out} PICTURE...")
