"""The stem of T2T-ViT: an image to tokens, in three soft splits with attention between them.

A soft split cuts overlapping windows out of a map and makes each a token; a small attention module brings it to 64
numbers; the tokens are laid out as a map again for the next split (Yuan et al. 2021, arXiv:2101.11986, section 3.1).
The attention of ``performer`` tokens is the linear one of Choromanski et al. 2020, arXiv:2009.14794; that of
``transformer`` tokens (the ``_t`` nets) the usual one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from .._modules import autocast_off

if TYPE_CHECKING:
    from .t2t_vit import T2TViTConfig

KERNELS = (7, 3, 3)  # sides of the windows of the three soft splits
TOKEN_DIM = 64  # width of a token between the splits


def split_image(images: Tensor, kernel: int, stride: int) -> Tensor:
    """Images (N, C, H, W) to windows (N, L, C * kernel^2), row by row; a window in the order channel, row, column.

    The numbers of :func:`torch.nn.functional.unfold`, transposed, with one copy instead of two. A side of n * stride
    is padded so that it gives n windows.
    """
    padding = (kernel - stride + 1) // 2
    windows = F.pad(images, (padding,) * 4).unfold(2, kernel, stride).unfold(3, kernel, stride)  # (N, C, h, w, k, k)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def split_tokens(tokens: Tensor, side: int, kernel: int, stride: int) -> Tensor:
    """Tokens (N, side^2, D) to the windows (N, L, D * kernel^2) of their map, in the order of :func:`split_image`."""
    padding = (kernel - stride + 1) // 2
    maps = F.pad(tokens.unflatten(1, (side, side)), (0, 0, *(padding,) * 4))  # (N, h, w, D)
    end = side // stride * stride
    shifts = [maps[:, y : y + end : stride, x : x + end : stride] for y in range(kernel) for x in range(kernel)]
    return torch.stack(shifts, -1).flatten(3).flatten(1, 2)


def note_map(maps: list[Tensor] | None, tokens: Tensor, side: int) -> Tensor:
    """Tokens (N, side^2, D), which are appended to ``maps`` as a map (N, D, side, side) where somebody wants them."""
    if maps is not None:
        maps.append(tokens.unflatten(1, (side, side)).permute(0, 3, 1, 2))
    return tokens


class Mlp(nn.Module):
    """Linear, GELU, linear; the width of the tokens is kept."""

    def __init__(self, width: int, hidden: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


@torch.fx.wrap  # one node of a symbolic trace
def linear_attention(k: Tensor, q: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """softmax(q k^T) v for keys, queries and values (N, L, 64), estimated by phi(q) phi(k)^T v with phi(x) =
    exp(w x - |x|^2 / 2) and random features w (m, 64); in float32 at least, as the sums under- and overflow in
    float16."""
    with autocast_off(v.device):
        dtype = torch.promote_types(v.dtype, torch.float32)
        columns = w.to(dtype).t()  # (64, m)
        k, q = (x @ columns - x.square().sum(-1, keepdim=True) / 2 for x in (k.to(dtype), q.to(dtype)))
        k, q = k.exp().transpose(1, 2), q.exp()  # (N, m, L), (N, L, m)
        # phi has a factor 1 / sqrt(m) that cancels, but for the epsilon of 1e-8: there it is an m
        norm = q @ k.sum(-1, keepdim=True) + len(w) * 1e-8  # (N, L, 1)
        return (q @ (k @ v.to(dtype)) / norm).to(v.dtype)


class TokenPerformer(nn.Module):
    """Linear attention, windows (N, L, width) to tokens (N, L, 64). The skip connection starts from v, since the width
    changes."""

    features = TOKEN_DIM // 2

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(self.features, TOKEN_DIM), requires_grad=False)  # orthogonal rows, fixed
        self.kqv = nn.Linear(width, 3 * TOKEN_DIM)
        self.drop = nn.Dropout(0.1)
        self.proj = nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(TOKEN_DIM)
        first, last = nn.Linear(TOKEN_DIM, TOKEN_DIM), nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.mlp = nn.Sequential(first, nn.GELU(), last, nn.Dropout(0.1))

    def attend(self, k: Tensor, q: Tensor, v: Tensor) -> Tensor:
        """Attention of (N, L, 64) to (N, L, 64)."""
        return linear_attention(k, q, v, self.w.detach())

    def forward(self, x: Tensor) -> Tensor:
        k, q, v = self.kqv(self.norm1(x)).chunk(3, -1)
        x = v + self.drop(self.proj(self.attend(k, q, v)))
        return x + self.mlp(self.norm2(x))


class TokenAttention(nn.Module):
    """Attention with one head, (N, L, width) to (N, L, 64); the skip connection starts from v."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = width**-0.5  # of the input, although q and k are 64 wide: so the nets were trained
        self.qkv = nn.Linear(width, 3 * TOKEN_DIM, bias=False)
        self.proj = nn.Linear(TOKEN_DIM, TOKEN_DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)  # (N, 1, L, 64)
        return (v + self.proj(F.scaled_dot_product_attention(q, k, v, scale=self.scale)))[:, 0]


class TokenTransformer(nn.Module):
    """A transformer block that changes the width: windows (N, L, width) to tokens (N, L, 64)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = TokenAttention(width)
        self.norm2 = nn.LayerNorm(TOKEN_DIM)
        self.mlp = Mlp(TOKEN_DIM, TOKEN_DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TokensToToken(nn.Module):
    """The stem: images (N, C, H, W) to tokens (N, L, embed_dim), L = H * W / (product of the strides)^2."""

    def __init__(self, config: T2TViTConfig) -> None:
        super().__init__()
        token_module = TokenPerformer if config.tokens == "performer" else TokenTransformer
        self.strides = tuple(config.strides)
        self.attention1 = token_module(config.in_chans * KERNELS[0] ** 2)
        self.attention2 = token_module(TOKEN_DIM * KERNELS[1] ** 2)
        self.project = nn.Linear(TOKEN_DIM * KERNELS[2] ** 2, config.embed_dim)

    def forward(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        first, second, third = self.strides
        side = x.shape[2] // first
        x = self.attention1(split_image(x, KERNELS[0], first))  # (N, (H/4)^2, 64) with strides 4, 2, 2
        x = self.attention2(split_tokens(note_map(maps, x, side), side, KERNELS[1], second))  # (N, (H/8)^2, 64)
        side = side // second
        return self.project(split_tokens(note_map(maps, x, side), side, KERNELS[2], third))  # (N, (H/16)^2, embed_dim)
