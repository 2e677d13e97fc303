"""What the nets are compared with: other libraries where they can be imported, and stand-ins where not.

torchvision's nets have the graphs and names of ours, so where torchvision is missing its stand-in is this library's
plain model: for inference and training as it is (the same operators, one by one), for creation built as torchvision
builds it. The stand-in of the T2T-ViT authors' code is :class:`StraightT2T`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convzoo

THEIR_NAMES = {"googlenet_bn": "googlenet"}  # torchvision's, where they differ from ours


def find(name: str) -> ModuleType | None:
    """The library ``name``; None, and a line, where it cannot be imported."""
    if importlib.util.find_spec(name) is None:
        print(f"- {name} is not installed: left out")
        return None
    try:
        return importlib.import_module(name)
    except Exception as error:  # a build that does not fit this torch fails in many ways
        print(f"- {name} cannot be imported here ({type(error).__name__}: {str(error).splitlines()[0]}): left out")
        return None


class OnnxRuntime(nn.Module):
    """An exported net, run by ONNX Runtime on as many threads as PyTorch has, all of its rewrites switched on."""

    def __init__(self, path: Path, library: Any) -> None:
        super().__init__()
        options = library.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {self.name: images.numpy()})[0])


class OpenVino(nn.Module):
    """An exported net, run by OpenVINO on as many threads as PyTorch has, in float32: left to itself it would compute
    in bfloat16 where the processor can."""

    def __init__(self, path: Path, library: Any) -> None:
        super().__init__()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.compiled = library.Core().compile_model(str(path), "CPU", settings)

    def forward(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.compiled(images.numpy())[0])


RUNTIMES = {"ONNX Runtime": ("onnxruntime", OnnxRuntime), "OpenVINO": ("openvino", OpenVino)}


def exported(model: nn.Module, x: Tensor, libraries: dict[str, ModuleType]) -> dict[str, nn.Module]:
    """``model``, exported for images of just the shape of ``x``, in each of the runtimes ``libraries``."""
    if not libraries:
        return {}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of its own parts
        path = Path(folder) / "model.onnx"
        with torch.inference_mode(False), torch.no_grad():  # the exporter takes no inference tensors
            torch.onnx.export(model, (torch.zeros(x.shape),), path, dynamo=True, verbose=False)
        return {name: RUNTIMES[name][1](path, library) for name, library in libraries.items()}


class DrawTwice(contextlib.nullcontext):  # type: ignore[type-arg]
    """Stands for what leaves the first draw out, and leaves nothing out."""

    def __enter__(self) -> DrawTwice:
        return self

    def make_up(self) -> None:
        """Nothing was left out."""


@contextlib.contextmanager
def usual_construction() -> Iterator[None]:
    """Within it, layers draw their parameters when they are made, and the model draws them again."""
    base = importlib.import_module("convzoo.models._base")
    ours = base.without_default_init
    base.without_default_init = DrawTwice
    try:
        yield
    finally:
        base.without_default_init = ours


def built_as_usual(name: str) -> nn.Module:
    """A model built as torchvision builds it: twice drawn; GoogLeNet from truncated normals."""
    with usual_construction():
        model = convzoo.create_model(name)
    if name.startswith("googlenet"):
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, 0.0, 0.01, -2.0, 2.0)
    return model


class StraightT2T(nn.Module):
    """A T2T-ViT written down the straight way, over the layers of one of ours.

    The operations are those of the paper and of the usual code for it, in their usual form: ``unfold`` and a
    transposition for each soft split; explicit softmax attention; a performer of repeats and einsums; every block for
    all tokens. The authors' own code is not here; this is what it is measured by instead.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def split(self, maps: Tensor, kernel: int, stride: int) -> Tensor:
        return F.unfold(maps, kernel, stride=stride, padding=(kernel - stride + 1) // 2).transpose(1, 2)

    def as_maps(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        side = round(length**0.5)
        return tokens.transpose(1, 2).reshape(batch, width, side, side)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return torch.softmax((q * scale) @ k.transpose(-2, -1), -1) @ v

    def features(self, x: Tensor, w: Tensor) -> Tensor:
        """The positive random features of a performer: (N, L, 64) to (N, L, m)."""
        count = w.shape[0]
        half = (x * x).sum(-1, keepdim=True).repeat(1, 1, count) / 2
        projected = torch.einsum("nld,md->nlm", x.float(), w)
        return torch.exp(projected - half) / count**0.5

    def token_block(self, block: nn.Module, x: Tensor) -> Tensor:
        if hasattr(block, "kqv"):
            k, q, v = torch.split(block.kqv(block.norm1(x)), 64, -1)
            keys, queries = self.features(k, block.w), self.features(q, block.w)
            norm = torch.einsum("nlm,nm->nl", queries, keys.sum(1)).unsqueeze(2)
            mixed = torch.einsum("nld,nlm->ndm", v.float(), keys)
            out = torch.einsum("nlm,ndm->nld", queries, mixed)
            x = v + block.drop(block.proj(out / (norm.repeat(1, 1, out.shape[2]) + 1e-8)))
        else:
            batch, length, _ = x.shape
            q, k, v = block.attn.qkv(block.norm1(x)).reshape(batch, length, 3, 1, 64).permute(2, 0, 3, 1, 4)
            out = self.attend(q, k, v, block.attn.scale).transpose(1, 2).reshape(batch, length, 64)
            x = v.squeeze(1) + block.attn.proj(out)
        return x + block.mlp(block.norm2(x))

    def block(self, block: nn.Module, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).reshape(batch, length, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = self.attend(qkv[0], qkv[1], qkv[2], attention.scale).transpose(1, 2).reshape(batch, length, width)
        x = x + attention.proj(out)
        return x + block.mlp(block.norm2(x))

    def forward(self, images: Tensor) -> Tensor:
        model, stem = self.model, self.model.tokens_to_token
        first, second, third = stem.strides
        x = self.token_block(stem.attention1, self.split(images, 7, first))
        x = self.token_block(stem.attention2, self.split(self.as_maps(x), 3, second))
        x = stem.project(self.split(self.as_maps(x), 3, third))
        x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1) + model.pos_embed
        for block in model.blocks:
            x = self.block(block, x)
        return model.head(model.norm(x)[:, 0])


def fill_statistics(model: nn.Module) -> None:
    """Batch norms as if they had seen something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


def matrix_peak(size: int = 2048, rounds: int = 5) -> float:
    """The fastest product of float32 matrices that this process gets out of the processor, in GFLOP/s."""
    import time

    x = torch.randn(size, size)
    weight = torch.ops.mkldnn._reorder_linear_weight(torch.randn(size, size), size)
    best = 0.0
    with torch.inference_mode():
        for _ in range(rounds):
            for product in (
                lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", (), ""),
                lambda: x @ x,
            ):
                start = time.perf_counter()
                product()
                best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best
