"""Train on several processes, with the framework's own means: a copy of the net on each, or the net spread over them.

    torchrun --nproc-per-node 2 examples/train_distributed.py               # a copy each: DistributedDataParallel
    torchrun --nproc-per-node 2 examples/train_distributed.py --shard       # parameters spread: fully_shard (FSDP2)
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 examples/train_distributed.py

On GPUs where there are any, one a process, else on the CPU. The pictures are digits that it draws, so that it needs no
data set; the first process saves a folder that ``create_model(..., pretrained=FOLDER)`` takes.
"""

import argparse
import gc
import os
from pathlib import Path

import torch
import torch.distributed as dist
from drawn_digits import draw
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import convzoo

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="mnist_resnet")
parser.add_argument("--shard", action="store_true", help="spread the parameters instead of copying the net")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--digits", type=int, default=1000, help="pictures, half as many again are kept to measure on")
parser.add_argument("--batch", type=int, default=50, help="pictures of a step, of all processes together")
parser.add_argument("--out", type=Path, default=Path("runs/distributed"))
args = parser.parse_args()
if "RANK" not in os.environ:
    raise SystemExit("start it with torchrun: torchrun --nproc-per-node 2 examples/train_distributed.py")

device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
if device.type == "cuda":
    torch.cuda.set_device(device)
dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
rank, processes = dist.get_rank(), dist.get_world_size()
if args.batch % processes:
    raise SystemExit(f"--batch {args.batch} cannot be shared by {processes} processes; pass a multiple of {processes}")

# The same weights everywhere: DistributedDataParallel and fully_shard send nothing that the seed does not make equal.
torch.manual_seed(0)
net = convzoo.create_model(args.model, num_classes=10, in_chans=1, device=device)
if device.type == "cuda":
    net = nn.SyncBatchNorm.convert_sync_batchnorm(
        net
    )  # statistics of the whole batch; on CPUs those of the first's part
if args.shard:
    mesh = dist.init_device_mesh(device.type, (processes,))
    for part in net.children():  # each is put together when it runs, and let go afterwards
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh)
    model = fully_shard(net, mesh=mesh)
else:
    model = DistributedDataParallel(net)


def digits(count: int, seed: int) -> TensorDataset:
    """Drawn digits (count, 1, 28, 28), as many of each kind, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    return TensorDataset(torch.stack([draw(int(label), generator=generator) for label in labels]), labels)


# Each process reads a share of the pictures, another one every epoch.
train, test = digits(args.digits, 1), digits(args.digits // 2, 2)
share = DistributedSampler(train, seed=0)
loader = DataLoader(train, batch_size=args.batch // processes, sampler=share, drop_last=True)
groups = convzoo.parameter_groups(net, lr=1e-3, weight_decay=0.05)  # of the net inside; after sharding
optimizer = torch.optim.AdamW(groups)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=args.epochs * len(loader))
for epoch in range(args.epochs):
    share.set_epoch(epoch)
    model.train()
    for images, labels in loader:
        loss = F.cross_entropy(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()  # the mean of the gradients over the processes
        optimizer.step()
        schedule.step()
    model.eval()
    hits = torch.zeros((), device=device)
    images, labels = (each[rank::processes].to(device) for each in test.tensors)  # everybody measures a part
    with torch.no_grad():
        hits += (model(images).argmax(1) == labels).sum()
    dist.all_reduce(hits)
    if rank == 0:
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {100 * hits.item() / len(test):.1f} % of {len(test)} right")

# Every process helps to put the net together again; the first one writes it.
whole = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
if rank == 0:
    alone = convzoo.create_model(args.model, num_classes=10, in_chans=1)
    alone.load_state_dict(whole)
    about = {"classes": list("0123456789"), "dataset": {"split": "drawn digits"}, "mean": (0.0,), "std": (1.0,)}
    convzoo.save_pretrained(alone, args.out, tag="drawn", **about)
    print(f"saved in {args.out}")
del model, loss  # what is still there when Python ends may abort it: threads of the group are at work for it
gc.collect()  # its parts refer to each other
dist.destroy_process_group()
