"""T2T-ViT: a transformer over tokens that are gathered from the image in three overlapping steps.

Yuan et al., *Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet*, 2021, arXiv:2101.11986.
The three steps are in ``_soft_splits.py``. Widths, depths and heads are table 1's, ``wide`` and ``resnext`` those of
section 3.2. LayerNorm's epsilon is 1e-5.

Departures from the paper: T2T-ViT-7 has 7 blocks, as its published weights have (the text says 8). Images of another
size than ``img_size`` get the position table of their own grid: it is a fixed function, never trained. The ``_small``
nets are ours: strides 2, 2, 2 instead of 4, 2, 2, so that a 64x64 image gives 64 tokens and not 16; all weights but
the position table keep their shapes. Weights have the names that the field uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from .._checks import shorten
from ..registry import register
from ._base import Classifier
from ._config import ModelConfig, Rate
from ._init import copy_, identity_, normal_, orthogonal
from ._soft_splits import KERNELS, Mlp, TokenPerformer, TokensToToken, note_map


@dataclass(kw_only=True)
class T2TViTConfig(ModelConfig):
    """The options of T2T-ViT; what a row of the table sets, it has set.

    Attributes:
        tokens: the attention between the soft splits: ``"performer"`` (the default), linear, or ``"transformer"``.
        embed_dim: width of a token in the blocks.
        depth: number of blocks.
        num_heads: heads of each block's attention; a divisor of ``embed_dim``.
        mlp_ratio: hidden width of each block's MLP, in widths of a token; 3 by default.
        strides: of the three soft splits, in cells of their input, up to 7, 3 and 3; (4, 2, 2) by default.
        drop_rate: dropout of tokens, projections and MLPs, in [0, 1); 0 by default.
        attn_drop_rate: dropout of attention probabilities, in [0, 1); 0 by default.
        drop_path_rate: chance that training skips a branch of the last block, falling evenly to 0 at the first; in
            [0, 1), 0 by default.
    """

    training_only = ("drop_rate", "attn_drop_rate", "drop_path_rate")

    tokens: Literal["performer", "transformer"] = "performer"
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: int = 3
    strides: tuple[int, ...] = (4, 2, 2)
    drop_rate: Rate = 0.0
    attn_drop_rate: Rate = 0.0
    drop_path_rate: Rate = 0.0

    def validate(self) -> None:
        super().validate()
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim of {self.name} must be a multiple of num_heads, got {self.embed_dim} and {self.num_heads}; "
                "pass num_heads that divides it"
            )
        if len(self.strides) != 3 or any(stride > kernel for stride, kernel in zip(self.strides, KERNELS, strict=True)):
            raise ValueError(
                f"strides of {self.name} must be 3 numbers up to 7, 3, 3, got {shorten(self.strides)}; "
                "pass e.g. (4, 2, 2)"
            )


# Yuan et al. 2021, table 1; behind each row its parameters, with the position table and the random features
VARIANTS = (
    T2TViTConfig(name="t2t_vit_7", embed_dim=256, depth=7, num_heads=4, mlp_ratio=2),  # 4,310,222
    T2TViTConfig(name="t2t_vit_10", embed_dim=256, depth=10, num_heads=4, mlp_ratio=2),  # 5,889,230
    T2TViTConfig(name="t2t_vit_12", embed_dim=256, depth=12, num_heads=4, mlp_ratio=2),  # 6,941,902
    T2TViTConfig(name="t2t_vit_14", embed_dim=384, depth=14, num_heads=6),  # 21,545,550
    T2TViTConfig(name="t2t_vit_19", embed_dim=448, depth=19, num_heads=7),  # 39,177,422
    T2TViTConfig(name="t2t_vit_24", embed_dim=512, depth=24, num_heads=8),  # 64,105,934
    T2TViTConfig(name="t2t_vit_t_14", tokens="transformer", embed_dim=384, depth=14, num_heads=6),  # 21,541,070
    T2TViTConfig(name="t2t_vit_t_19", tokens="transformer", embed_dim=448, depth=19, num_heads=7),  # 39,172,942
    T2TViTConfig(name="t2t_vit_t_24", tokens="transformer", embed_dim=512, depth=24, num_heads=8),  # 64,101,454
    # section 3.2: few wide blocks, and many narrow heads
    T2TViTConfig(name="t2t_vit_14_wide", embed_dim=768, depth=4, num_heads=12),  # 25,156,302
    T2TViTConfig(name="t2t_vit_14_resnext", embed_dim=384, depth=14, num_heads=32),  # 21,545,550
)
# ours, with the blocks of t2t_vit_14 and t2t_vit_t_14; 21,186,862 and 21,182,382 parameters
SMALL_VARIANTS = tuple(
    replace(row, name=f"{row.name}_small", num_classes=200, img_size=64, strides=(2, 2, 2))
    for row in (VARIANTS[3], VARIANTS[6])
)


def sinusoid(length: int, width: int) -> Tensor:
    """The position table of Vaswani et al. 2017, arXiv:1706.03762, section 3.5: (1, length, width), sines in the even
    columns and cosines in the odd ones; on the CPU, since not every device has the float64 it is computed in."""
    position = torch.arange(length, dtype=torch.float64, device="cpu")[:, None]
    column = torch.arange(width, dtype=torch.float64, device="cpu")
    angle = position / 10000.0 ** (2 * (column // 2) / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos())[None].float()


@torch.fx.wrap  # one node of a symbolic trace
def positions_of(tokens: Tensor, table: Tensor) -> Tensor:
    """``table`` (1, L, D) where it fits tokens (N, L, D); else the table of another image size's grid."""
    return table if tokens.shape[1] == table.shape[1] else sinusoid(*tokens.shape[1:]).to(table)


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Leave ``branch`` (N, L, D) out for a share ``rate`` of the samples (Huang et al. 2016, arXiv:1603.09382)."""
    if not training or rate == 0.0:
        return branch
    keep = torch.rand_like(branch[:, :1, :1], dtype=torch.float32) >= rate
    return branch * keep / (1.0 - rate)


def mix_values(
    q: Tensor, k: Tensor, v: Tensor, scale: float, probabilities: list[Tensor] | None, dropout: nn.Dropout | None = None
) -> Tensor:
    """Values (N, heads, L, d) mixed for queries (N, heads, Q, d), heads put together: (N, Q, heads * d)."""
    if probabilities is None:
        rate = dropout.p if dropout is not None and dropout.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=rate, scale=scale)
    else:
        probabilities.append((q * scale @ k.transpose(-2, -1)).softmax(-1))
        out = (probabilities[-1] if dropout is None else dropout(probabilities[-1])) @ v
    return out.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention, (N, L, D) to (N, L, D). A list given as ``probabilities`` gets the attention
    probabilities appended, (N, heads, L, L); they are formed for it alone, the fused attention keeps none."""

    def __init__(self, config: T2TViTConfig) -> None:
        super().__init__()
        width, self.num_heads = config.embed_dim, config.num_heads
        self.scale = (width // self.num_heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attn_drop = nn.Dropout(config.attn_drop_rate)
        self.proj = nn.Linear(width, width)
        self.proj_drop = nn.Dropout(config.drop_rate)

    def forward(self, x: Tensor, probabilities: list[Tensor] | None = None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, L, D / heads)
        return self.proj_drop(self.proj(mix_values(q, k, v, self.scale, probabilities, self.attn_drop)))


class Block(nn.Module):
    """Attention, then an MLP, each on normalised tokens and added to them: (N, L, D) to (N, L, D)."""

    def __init__(self, config: T2TViTConfig, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim)
        self.mlp = Mlp(config.embed_dim, config.embed_dim * config.mlp_ratio, config.drop_rate)
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor, probabilities: list[Tensor] | None = None) -> Tensor:
        x = x + drop_path(self.attn(self.norm1(x), probabilities), self.drop_path_rate, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)


class T2TViT(Classifier):
    """Tokens from three soft splits, a class token before them, transformer blocks, a linear layer on the class token.
    Images are square, their side a multiple of 16; of 8 for the ``_small`` nets (the product of the strides)."""

    classifier_name, can_checkpoint = "head", True
    cam_method = "attention"
    config: T2TViTConfig

    def __init__(self, config: T2TViTConfig) -> None:
        config.validate()  # the strides are needed before the base class looks at them
        side = math.prod(config.strides)
        super().__init__(config, min_size=side, min_size_why=f"one token stands for {side}x{side} of them")
        self.check_side(*self.img_size)
        self.num_features = config.embed_dim
        length = 1 + (self.img_size[0] // side) ** 2
        rates = [config.drop_path_rate * index / max(config.depth - 1, 1) for index in range(config.depth)]
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, length, config.embed_dim), requires_grad=False)
        self.tokens_to_token = TokensToToken(config)
        self.pos_drop = nn.Dropout(config.drop_rate)
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.head = self.make_classifier(config.num_classes)
        self.cam_layer = f"blocks.{config.depth - 1}.norm1"  # behind it, only the class token has a gradient
        self.feature_layers = ("tokens_to_token.attention1", "tokens_to_token.attention2", "norm")
        self.stages = {"stem": "tokens_to_token", **{f"block{n + 1}": f"blocks.{n}" for n in range(config.depth)}}

    def leave_out_after(self, path: str, stand_in: nn.Module) -> None:
        super().leave_out_after(path, stand_in)
        if path != "norm":  # no block is left that reads them
            for name in ("cls_token", "pos_embed"):
                self.register_parameter(name, None)

    def fixed_tables(self) -> list[str]:
        performers = [f"{path}.w" for path, module in self.named_modules() if isinstance(module, TokenPerformer)]
        return performers if self.pos_embed is None else ["pos_embed", *performers]

    @torch.no_grad()
    def init_weights(self, module: nn.Module) -> None:
        """Normal with std 0.02. The published nets cut it at +-2, which is 100 deviations away and never happens."""
        if isinstance(module, nn.Linear):
            normal_(module, 0.02)
        elif isinstance(module, nn.LayerNorm):
            identity_(module)
        elif isinstance(module, TokenPerformer):  # rows as long as the average row of a normal matrix of m columns
            copy_(module.w, math.sqrt(module.features) * orthogonal(*module.w.shape))
        elif module is self and self.cls_token is not None:
            self.cls_token.normal_(0.0, 0.02)
            copy_(self.pos_embed, sinusoid(*self.pos_embed.shape[1:]))

    def check_side(self, height: int, width: int) -> None:
        """Refuse an image size that is not square, or that the soft splits do not divide."""
        if height != width or height % self.min_size:
            fitting = -(-max(height, width) // self.min_size) * self.min_size
            raise ValueError(
                f"{self.config.name} takes square images whose side is a multiple of {self.min_size}, got "
                f"{height}x{width}; resize or pad them to {fitting}x{fitting}"
            )

    def check_input(self, x: Tensor) -> None:
        super().check_input(x)
        if not isinstance(x, torch.fx.Proxy):
            self.check_side(*x.shape[2:])

    def embed(self, x: Tensor, maps: list[Tensor] | None = None) -> Tensor:
        """Images (N, in_chans, H, W) to what the first block reads, class token first: (N, 1 + L, D)."""
        self.check_input(x)
        tokens = self.tokens_to_token(x) if maps is None else self.tokens_to_token(x, maps)
        if self.cls_token is None:  # a backbone without the blocks
            return tokens
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], 1)
        return self.pos_drop(tokens + positions_of(tokens, self.pos_embed.detach()))

    def forward_features(
        self, x: Tensor, probabilities: list[Tensor] | None = None, *, maps: list[Tensor] | None = None
    ) -> Tensor:
        """Images (N, in_chans, H, W) to normalised tokens (N, 1 + L, D), the class token first.

        A list given as ``probabilities`` gets the attention probabilities of every block appended, differentiable:
        (N, heads, 1 + L, 1 + L), queries by keys, whose rows add up to 1.

        Example:
            >>> import convzoo, torch
            >>> model, maps = convzoo.create_model("t2t_vit_7", img_size=64).eval(), []
            >>> tokens = model.forward_features(torch.rand(1, 3, 64, 64), maps)
            >>> tokens.shape, len(maps), maps[0].shape
            (torch.Size([1, 17, 256]), 7, torch.Size([1, 4, 17, 17]))
        """
        tokens = self.embed(x, maps)
        if self.cls_token is None:
            return tokens
        for block in self.blocks:
            tokens = self._run(block, tokens, probabilities)
        tokens = self.norm(tokens)
        note_map(maps, tokens[:, 1:], x.shape[2] // self.min_size)
        return tokens

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features[:, 0] if pre_logits else self.head(features[:, 0])


register(T2TViT, VARIANTS + SMALL_VARIANTS, family="t2t_vit", year=2021, arxiv="2101.11986",
         authors="Yuan et al.", source="table 1, section 3.2",
         paper="Tokens-to-Token ViT: Training Vision Transformers from Scratch on ImageNet")  # fmt: skip
