"""One net in training: the recipe, the optimiser, the schedule, the average, and a step that puts them together.

SGD with Nesterov's momentum, a peak rate in proportion to the batch and a warm-up: Goyal et al. 2017,
arXiv:1706.02677. Linearly up and down again: Smith, Topin 2017, arXiv:1708.07120. Label smoothing: Szegedy et al. 2015,
arXiv:1512.00567. AdamW: Loshchilov, Hutter 2017, arXiv:1711.05101. For transformers the values are those of Touvron et
al. 2020 (arXiv:2012.12877), with TrivialAugment for RandAugment.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

import convzoo

from .augment import Augment, neighbours, normalise, resize
from .data import Split

NORMS = (nn.BatchNorm2d, nn.LayerNorm)
SMALL_RESNET = {"stem": "small", "zero_init_residual": True}
OPTIONS: dict[str, dict[str, Any]] = {  # of the nets of a family, where they are not the architecture's own
    "resnet": SMALL_RESNET,
    "wide_resnet": SMALL_RESNET,
    "resnext": SMALL_RESNET,
    "vgg": {"head": "gap"},
    "t2t_vit": {"drop_path_rate": 0.1},
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a net is trained; every field is an option of the command line.

    ``lr`` is the peak: for SGD per 128 images of the batch, for AdamW as it stands. ``warmup`` is a share of the steps.
    ``clip`` bounds the gradient's norm; 0 does not. ``pad``, ``cutmix``, ``mixup`` and ``trivial`` are
    :class:`~tiny_imagenet.augment.Augment`'s; ``cutmix=None`` is 0.5 in runs of 60 epochs and more, else 0.
    """

    optimizer: str = "sgd"
    lr: float = 0.1
    weight_decay: float = 5e-4
    warmup: float = 0.15
    smoothing: float = 0.1
    ema: float = 0.999
    clip: float = 0.0
    pad: int = 6
    cutmix: float | None = None
    mixup: float = 0.0
    trivial: bool = False


def model_options(arch: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options that ``arch`` is built with: its family's for small images, and those given."""
    options = OPTIONS.get(convzoo.model_info(arch).family, {}) | given
    if options.get("shortcut") is False:  # a last gain of zero would leave nothing but zeros
        options["zero_init_residual"] = False
    return options


def default_recipe(model: nn.Module) -> Recipe:
    """By the layers that normalise: convolutional nets with batch norm, transformers, and VGG as first published."""
    kinds = [kind for kind in NORMS if any(isinstance(module, kind) for module in model.modules())]
    if nn.BatchNorm2d in kinds:
        return Recipe()
    if nn.LayerNorm in kinds:
        return Recipe(optimizer="adamw", lr=1e-3, weight_decay=0.05, clip=1.0, cutmix=0.5, mixup=0.5, trivial=True)
    return Recipe(lr=0.02, warmup=0.2, clip=1.0)


def make_optimizer(model: nn.Module, recipe: Recipe, batch: int) -> torch.optim.Optimizer:
    """Weight decay on weights only: not on biases, gains of normalisation layers, or a class token."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    weights = [parameter for name, parameter in trained if name.endswith("weight") and parameter.ndim > 1]
    others = [parameter for name, parameter in trained if not (name.endswith("weight") and parameter.ndim > 1)]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    fused = weights[0].is_cuda
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr * batch / 128, momentum=0.9, nesterov=True, fused=fused)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    raise ValueError(f"--optimizer {recipe.optimizer} is not known; pass sgd or adamw")


def lr_factor(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at ``step`` of ``steps``: linearly up, then linearly to zero."""
    rising = max(1, round(warmup * steps))
    return (step + 1) / rising if step < rising else (steps - step) / (steps - rising + 1)


class Average:
    """The exponential moving average of a model's weights and batch-norm statistics; young averages forget faster.

    Its age is counted from the last change of the images' size: statistics of maps of another size are not its own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model).eval().requires_grad_(False), decay
        self.mine, self.theirs = (
            [value for value in net.state_dict().values() if value.is_floating_point()] for net in (self.model, model)
        )

    def update(self, age: int) -> None:
        decay = min(self.decay, (1 + age) / (10 + age))
        get_ema_multi_avg_fn(decay)(self.mine, self.theirs, None)


def load_packed(source: str, num_classes: int, option: str) -> convzoo.Classifier:
    """The net that ``option`` names: ``arch.tag``, or a folder as this script packs them."""
    config = Path(source) / "config.json"
    if config.is_file():
        model = convzoo.create_model(json.loads(config.read_text())["architecture"], pretrained=Path(source))
    else:
        model = convzoo.create_model(source, pretrained=True)
    if model.num_classes != num_classes:
        raise ValueError(
            f"{option} {source} tells {model.num_classes} classes apart, the data has {num_classes}; pass another"
        )
    return model.eval()


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16 by instructions of its own: emulated it is slower than float32."""
    if device.type != "cpu":
        return device.type == "cuda"
    return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


class Process(NamedTuple):
    """This process among those that train one net together, and its device."""

    rank: int
    world: int
    device: torch.device

    def agree(self, number: float) -> float:
        """The first process's ``number``, on all of them."""
        if self.world == 1:
            return number
        value = torch.tensor(number, dtype=torch.float64, device=self.device)
        dist.broadcast(value, 0)
        return value.item()


def join(device: str | None) -> Process:
    """Join the processes that torchrun started, if it did."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" not in os.environ:
        return Process(0, 1, torch.device(kind))
    local = int(os.environ["LOCAL_RANK"])
    if kind == "cuda":
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    return Process(dist.get_rank(), dist.get_world_size(), torch.device(kind, local if kind == "cuda" else None))


def leave(process: Process) -> None:
    """Leave the other processes, once nobody needs the trainer any more.

    A network for several processes that is still there when Python ends now and then aborts it (torch 2.13, gloo): it
    would be taken down while threads of its group are at work. Its parts refer to each other, so it goes by collecting.
    """
    if process.world > 1:
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()


class Trainer:
    """A net, its average, its optimiser and its images; :meth:`step` does one step, :meth:`state` is all there is.

    Every random number of a step follows from the run's seed, the step's number and the process's, so the number of
    the step is the random state.
    """

    def __init__(self, args: argparse.Namespace, split: Split, process: Process) -> None:
        self.args, self.process, device = args, process, process.device
        self.steps_per_epoch = len(split.labels) // args.batch
        if args.batch % (2 * process.world) or not self.steps_per_epoch:
            raise ValueError(
                f"--batch {args.batch} does not fit {process.world} processes and {len(split.labels)} images; "
                f"pass a multiple of {2 * process.world} of at most {len(split.labels)}"
            )
        self.split = split.to(device)
        self.bf16 = args.bfloat16 or (has_bfloat16(device) and not args.float32)
        self.measured_side = args.measure or args.size
        self.options = model_options(args.arch, dict(args.option))
        torch.manual_seed(args.seed)
        self.model = self.make_model()
        for option in ("small", "measure"):
            side = getattr(args, option)
            if self.model.fixed_size and side and side != args.size:
                raise ValueError(
                    f"{args.arch} takes images of one size, and --{option} {side} is another; leave it out"
                )
        if args.init:
            convzoo.load_weights(self.model, load_packed(args.init, len(split.classes), "--init").state_dict())
        self.model.to(device, memory_format=torch.channels_last)
        given = {field.name: getattr(args, field.name) for field in fields(Recipe)}
        self.recipe = replace(default_recipe(self.model), **{k: v for k, v in given.items() if v is not None})
        self.teacher: Callable[[Tensor], Tensor] | None = None
        self.teacher_side: int | None = None
        if args.teacher:
            teacher = load_packed(args.teacher, len(split.classes), "--teacher")
            self.teacher_side = max(teacher.img_size)
            teacher = teacher.requires_grad_(False).to(device, memory_format=torch.channels_last)
            self.teacher = torch.compile(teacher, dynamic=False) if args.compile else teacher
        if process.world > 1 and device.type == "cuda":
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self.average = Average(self.model, self.recipe.ema)
        self.optimizer = make_optimizer(self.model, self.recipe, args.batch)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        net: nn.Module = self.model.train()
        if process.world > 1:
            net = DistributedDataParallel(net, device_ids=[device.index] if device.type == "cuda" else None)
        self.net: Callable[[Tensor], Tensor] = torch.compile(net, dynamic=False) if args.compile else net
        self.done, self.seconds, self.epoch = 0, 0.0, -1
        self.loss_sum, self.history = torch.zeros((), device=device), []  # of the steps since the last record
        self.plan(1)

    def make_model(self) -> convzoo.Classifier:
        return convzoo.create_model(
            self.args.arch,
            num_classes=len(self.split.classes),
            in_chans=3,
            img_size=self.measured_side or tuple(self.split.images.shape[2:]),
            **self.options,
        )

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 to the input that the net is measured with."""
        return resize(normalise(images), self.measured_side)

    def plan(self, steps: int) -> None:
        """Fix the length of the run, which the schedule and CutMix's default hang on."""
        self.steps, self.planned, recipe = steps, steps, self.recipe
        cutmix = recipe.cutmix
        if cutmix is None:
            cutmix = 0.5 if steps >= 60 * self.steps_per_epoch else 0.0
        self.augment = Augment(pad=recipe.pad, cutmix=cutmix, mixup=recipe.mixup, trivial=recipe.trivial)

    def side(self, step: int) -> int | None:
        """The size of the images that the net is trained on in ``step``; None for their own."""
        return self.args.small if step < self.first_large() else self.args.size

    def first_large(self) -> int:
        """The first step on images of full size."""
        return math.ceil(self.args.small_share * self.steps) if self.args.small else 0

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This process's part of a step's images, normalised, with labels (n,) and the share (n,) that is theirs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            order = np.random.default_rng((self.args.seed, 0, epoch)).permutation(len(self.split.labels))
            self.epoch, self.order = epoch, torch.from_numpy(order).to(self.process.device)
        rng, size = np.random.default_rng((self.args.seed, 1, step)), self.args.batch // self.process.world
        draws = self.augment.draw(rng, self.args.batch)
        torch.manual_seed(int(rng.integers(2**62)) + self.process.rank)  # for dropout and its like
        first = self.process.rank * size
        index = self.order[place * self.args.batch + first :][:size]
        side = self.side(step)
        if self.teacher_side is not None:  # a teacher sees the images at its own size, however small the pupil's are
            side = max(self.teacher_side, side or max(self.split.images.shape[2:]))
        mine = {name: values[first : first + size] for name, values in draws.items()}
        images, kept = self.augment(self.split.images[index], mine, side)
        return images.contiguous(memory_format=torch.channels_last), self.split.labels[index], kept

    def loss(self, images: Tensor, labels: Tensor, kept: Tensor) -> Tensor:
        """Cross-entropy with the labels of both images that were mixed; with a teacher, partly with its answer."""
        with torch.autocast(self.process.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.net(resize(images, self.side(self.done))).float()
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(resize(images, self.teacher_side)).float()
        own, other = (
            F.cross_entropy(logits, target, reduction="none", label_smoothing=self.recipe.smoothing)
            for target in (labels, neighbours(labels))
        )
        loss = (kept * own + (1 - kept) * other).mean()
        if self.teacher is None:
            return loss
        heat, share = self.args.temperature, self.args.distill  # Hinton et al. 2015, arXiv:1503.02531
        soft = F.kl_div(
            F.log_softmax(logits / heat, 1), F.log_softmax(taught / heat, 1), log_target=True, reduction="batchmean"
        )
        return (1 - share) * loss + share * heat**2 * soft

    def step(self) -> None:
        """One step of the run."""
        factor = lr_factor(self.done, self.steps, self.recipe.warmup)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        loss = self.loss(*self.batch(self.done))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.average.update(self.done - (self.first_large() if self.done >= self.first_large() else 0))
        self.loss_sum += loss.detach()
        self.done += 1

    def settings(self) -> dict[str, Any]:
        """What makes this run the run it is; a checkpoint of other settings is not gone on from."""
        names = (
            "arch",
            "batch",
            "seed",
            "epochs",
            "minutes",
            "final",
            "size",
            "small",
            "small_share",
            "measure",
            "init",
            "teacher",
            "distill",
            "temperature",
        )
        own = {name: getattr(self.args, name) for name in names}
        return {**own, "images": len(self.split.labels), "options": self.options, "recipe": asdict(self.recipe)}

    def state(self) -> dict[str, Any]:
        return {
            "settings": json.dumps(self.settings(), sort_keys=True),
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "done": self.done,
            "seconds": self.seconds,
            "loss_sum": self.loss_sum,
            "history": self.history,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            ValueError: it is of a run with other settings.
        """
        theirs, mine = json.loads(state["settings"]), json.loads(json.dumps(self.settings()))
        differ = sorted(key for key in mine if mine[key] != theirs.get(key))
        if differ:
            key = differ[0]
            raise ValueError(
                f"{self.args.out} holds a run with other settings ({key}: {theirs.get(key)}, now {mine[key]}); "
                "pass the same ones, or another --out"
            )
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loss_sum.copy_(state["loss_sum"])
        self.done, self.seconds, self.history = state["done"], state["seconds"], state["history"]
        self.plan(state["steps"])
