"""T2T-ViT with fewer passes over memory, computing the same logits.

- The tokens of a soft split are copied in the order row, column, channel, in which they lie in memory; the weights that
  read them are put in that order once. The last split and the projection behind it are one convolution.
- Residual additions and GELU are done inside the linear layers.
- Behind the last attention only the class token is read, so in :meth:`FastT2TViT.forward` the last block computes its
  queries, projection and MLP for that token alone. ``forward_features`` gives all tokens, as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import t2t_vit
from ..models._soft_splits import KERNELS, TOKEN_DIM, TokenPerformer, TokensToToken, TokenTransformer
from .layers import is_plain
from .packed import GELU, NONE, PackedConv2d, PackedLinear, can_use_kernels
from .winograd import divisor

LONG = 512  # tokens
SCORES_AT_ONCE = 5 * 2**18  # 5 MB of them


def windows(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Maps (N, H, W, C) to their windows (N, L, kernel^2 * C), row by row; a window in the order row, column, channel.

    The padding is that of :func:`convzoo.models._soft_splits.split_image`.
    """
    padding = (kernel - stride + 1) // 2
    padded = F.pad(maps, (0, 0, *(padding,) * 4))
    rows = padded.unfold(1, kernel, stride).unfold(2, kernel, stride)  # (N, h, w, C, k, k)
    return rows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(1, 2)


@torch.no_grad()
def channels_inward(values: Tensor, kernel: int) -> Tensor:
    """What belongs to windows in the order channel, row, column (..., C * kernel^2), put as :func:`windows` has it."""
    return values.unflatten(-1, (-1, kernel * kernel)).transpose(-1, -2).flatten(-2)


def reorder(module: nn.Module, linear: nn.Linear, kernel: int) -> None:
    """Let ``module.norm1`` and ``linear`` behind it read windows in the order of :func:`windows`."""
    norm = module.get_submodule("norm1")
    for layer in (norm, linear):
        for name, parameter in layer.named_parameters(recurse=False):
            if name == "weight" or layer is norm:
                setattr(layer, name, nn.Parameter(channels_inward(parameter, kernel), requires_grad=False))


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(scale q k^T) v of queries, keys and values (N, L, D), with one head, where the kernels apply.

    Over many tokens PyTorch's fused attention is behind its own matrix kernels (on the processors measured, at a third
    to three fifths of their speed), so here some rows at a time go through those.
    """
    multiply, reorder = torch.ops.mkldnn._linear_pointwise, torch.ops.mkldnn._reorder_linear_weight
    rows = divisor(q.shape[1], SCORES_AT_ONCE // q.shape[1])
    out = torch.empty(q.shape[:-1] + v.shape[-1:], dtype=v.dtype)
    for queries, keys, values, target in zip(q, k, v, out, strict=True):
        keys, values = reorder(scale * keys, rows), reorder(values.t().contiguous(), rows)
        for some, place in zip(queries.split(rows), target.split(rows), strict=True):
            shares = multiply(some, keys, None, *NONE).softmax(-1)  # (rows, L)
            place.copy_(multiply(shares, values, None, *NONE))
    return out


class FastMlp(nn.Module):
    """Linear, GELU, linear, and ``add`` on top."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.fc1, self.fc2 = mlp.fc1, mlp.fc2
        self.fc1.activation = GELU

    def forward(self, x: Tensor, add: Tensor) -> Tensor:
        return self.fc2(self.fc1(x), add)


class FastTokenAttention(nn.Module):
    """A token transformer or performer, windows (N, L, width) in the order of :func:`windows` to tokens (N, L, 64)."""

    def __init__(self, block: Any, kernel: int) -> None:
        super().__init__()
        self.block = block
        reorder(block, block.kqv if isinstance(block, TokenPerformer) else block.attn.qkv, kernel)
        if isinstance(block, TokenTransformer):
            block.add_module("mlp", FastMlp(block.mlp))
        else:
            block.mlp[0].activation = GELU
            block.drop = block.mlp[1] = block.mlp[3] = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        if isinstance(block, TokenPerformer):
            k, q, v = block.kqv(block.norm1(x)).chunk(3, -1)
            x = block.proj(block.attend(k, q, v), v)
            return block.mlp[2](block.mlp[0](block.norm2(x)), x)
        attn = block.attn
        q, k, v = attn.qkv(block.norm1(x)).chunk(3, -1)  # (N, L, 64)
        if x.shape[1] >= LONG and x.dtype is torch.float32 and can_use_kernels(x, attn.qkv.weight):
            out = attend(q, k, v, attn.scale)
        else:
            out = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=attn.scale)[:, 0]
        x = attn.proj(out, v)
        return block.mlp(block.norm2(x), x)


class FastTokensToToken(nn.Module):
    """The stem: images (N, C, H, W) to tokens (N, L, embed_dim)."""

    def __init__(self, stem: TokensToToken) -> None:
        super().__init__()
        self.strides = stem.strides
        self.attention1 = FastTokenAttention(stem.attention1, KERNELS[0])
        self.attention2 = FastTokenAttention(stem.attention2, KERNELS[1])
        kernel, stride, linear = KERNELS[2], stem.strides[2], stem.project
        conv = nn.Conv2d(TOKEN_DIM, linear.out_features, kernel, stride, (kernel - stride + 1) // 2, device="meta")
        weight = linear.weight.detach().unflatten(1, (TOKEN_DIM, kernel, kernel))
        conv.weight = nn.Parameter(weight, requires_grad=False)
        conv.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        self.project = PackedConv2d.of(conv)

    def forward(self, x: Tensor) -> Tensor:
        first, second, _ = self.strides
        side = x.shape[2] // first
        x = self.attention1(windows(x.permute(0, 2, 3, 1), KERNELS[0], first))
        x = self.attention2(windows(x.unflatten(1, (side, side)), KERNELS[1], second))
        side //= second
        return self.project(x.unflatten(1, (side, side)).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)


class FastAttention(nn.Module):
    """Multi-head self-attention, and ``add`` on top: (N, L, D) to (N, L, D)."""

    def __init__(self, attention: t2t_vit.Attention) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, x: Tensor, add: Tensor, probabilities: list[Tensor] | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, L, D / heads)
        return self.proj(t2t_vit.mix_values(q, k, v, self.scale, probabilities), add)


class LastAttention(FastAttention):
    """With queries apart from keys and values, so that there need be but one query."""

    def __init__(self, attention: FastAttention) -> None:
        super().__init__(attention)  # type: ignore[arg-type] # has what is read of one
        weight = self.qkv.weight.detach()
        width = weight.shape[1]
        del self.qkv
        self.q, self.kv = (nn.Linear(width, rows, bias=False, device="meta") for rows in (width, 2 * width))
        self.q.weight = nn.Parameter(weight[:width].clone(), requires_grad=False)
        self.kv.weight = nn.Parameter(weight[width:].clone(), requires_grad=False)
        self.q, self.kv = PackedLinear.of(self.q), PackedLinear.of(self.kv)

    def forward(self, x: Tensor, add: Tensor, probabilities: list[Tensor] | None = None) -> Tensor:
        """For the first ``add.shape[1]`` tokens: x (N, L, D), add (N, Q, D) to (N, Q, D)."""
        q = self.q(x[:, : add.shape[1]]).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(t2t_vit.mix_values(q, k, v, self.scale, probabilities), add)


class FastBlock(nn.Module):
    """A block of the transformer: (N, L, D) to (N, L, D), or with ``rows`` the first ``rows`` tokens of that."""

    def __init__(self, block: t2t_vit.Block) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.attn, self.mlp = FastAttention(block.attn), FastMlp(block.mlp)

    def forward(self, x: Tensor, probabilities: list[Tensor] | None = None, rows: int | None = None) -> Tensor:
        x = self.attn(self.norm1(x), x if rows is None else x[:, :rows], probabilities)
        return self.mlp(self.norm2(x), x)


class FastT2TViT(t2t_vit.T2TViT):
    """A T2T-ViT for inference, made of another one."""

    @classmethod
    def of(cls, model: t2t_vit.T2TViT) -> FastT2TViT:
        """``model``, whose last block is a :class:`FastBlock` that can do with the class token."""
        fast = cls.__new__(cls)
        fast.__dict__ = dict(model.__dict__)
        return fast

    def forward(self, x: Tensor) -> Tensor:
        last = self.blocks[-1]
        hooked = not torch.compiler.is_compiling() and any(
            module._forward_hooks for part in (last, self.norm) for module in part.modules()
        )
        if hooked:  # somebody wants to see all tokens
            return super().forward(x)
        if self.in_slices is None:
            return self.forward_head(self._class_token(x))
        return self.forward_head(self.in_slices(self, self._class_token, x))

    def _class_token(self, x: Tensor) -> Tensor:
        """Images (N, in_chans, H, W) to their class tokens (N, 1, D), normalised."""
        *blocks, last = self.blocks
        x = self.embed(x)
        for block in blocks:
            x = block(x, None)
        return self.norm(last(x, rows=1))


def fast_parts(
    modules: dict[str, nn.Module], path: str, is_sealed: Callable[[str], bool]
) -> Iterator[tuple[str, nn.Module]]:
    """What can take the place of parts of the T2T-ViT at ``path`` of ``modules``, by path; last the net itself.

    Only of parts that are what the net's config says, whose layers are packed, and for which ``is_sealed`` holds.
    """
    vit: Any = modules[path]
    if type(vit) is not t2t_vit.T2TViT:
        return
    with torch.device("meta"):
        reference = dict(t2t_vit.T2TViT(vit.config).eval().named_modules())
    prefix = f"{path}." if path else ""

    def is_stock(name: str) -> bool:
        return name in reference and is_alike(modules[prefix + name], reference[name]) and is_sealed(prefix + name)

    if vit.feature_info is None and is_stock("tokens_to_token"):  # a backbone wants its maps too
        yield f"{prefix}tokens_to_token", FastTokensToToken(vit.tokens_to_token)
    blocks = [f"blocks.{index}" for index in range(len(vit.blocks))]
    for name in filter(is_stock, blocks):
        block = FastBlock(modules[prefix + name])  # type: ignore[arg-type] # is_stock looked
        class_token_alone = name == blocks[-1] and is_stock("norm") and is_plain(vit) and vit.feature_info is None
        if class_token_alone:
            block.attn = LastAttention(block.attn)
        yield prefix + name, block
        if class_token_alone:
            yield path, FastT2TViT.of(vit)


def is_alike(module: nn.Module, reference: nn.Module) -> bool:
    """Whether ``module`` is built as ``reference`` is, but that its linear layers are packed."""

    def describe(each: nn.Module) -> list[object]:
        kind = nn.Linear if type(each) is PackedLinear else type(each)
        settings = {name: value for name, value in vars(each).items() if name[0] != "_" and name != "activation"}
        tensors = [(name, type(tensor), None if tensor is None else tensor.shape) for name, tensor in (
            *each._parameters.items(), *each._buffers.items())]  # fmt: skip
        return [kind, settings, tensors, list(each._modules)]

    if describe(module) != describe(reference):
        return False
    pairs = zip(module.children(), reference.children(), strict=True)
    return all(is_alike(*pair) for pair in pairs)
