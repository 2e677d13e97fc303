"""Attention by the matrix kernels: that of PyTorch's own function."""

import pytest
import torch
import torch.nn.functional as F
from helpers.fused_nets import assert_same, build, images

import convzoo
from convzoo.inference import tokens
from convzoo.inference.packed import KERNELS

pytestmark = pytest.mark.skipif(not KERNELS, reason="a torch without the kernels")


@pytest.mark.parametrize(("rows", "length"), [(5 * 2**18, 600), (600 * 100, 600), (1000, 641)])
@torch.no_grad()
def test_one_head(rows, length, monkeypatch):
    monkeypatch.setattr(tokens, "SCORES_AT_ONCE", rows)
    torch.manual_seed(0)
    q, k, v = (3 * torch.randn(2, length, 3 * 16)).chunk(3, -1)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=0.3).float()
    assert_same(tokens.attend(q, k, v, 0.3), expected)


@pytest.mark.parametrize(("batch", "heads", "length", "width"), [(1, 6, 197, 64), (3, 2, 16, 8), (2, 5, 37, 20)])
@torch.no_grad()
def test_heads_side_by_side(batch, heads, length, width):
    torch.manual_seed(0)
    q, k, v = (3 * torch.randn(batch, length, 3, heads, width)).permute(2, 0, 3, 1, 4)
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=0.3).float()
    assert_same(tokens.attend_side_by_side(q, k, v, 0.3), expected.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_t_14"])
@torch.no_grad()
def test_a_net_goes_through_them(name, monkeypatch):
    model = build(name, depth=2, img_size=96)  # 576 tokens at first, 37 in the blocks
    fast = convzoo.optimize_for_inference(model)
    seen = []
    for kind in ("attend", "attend_side_by_side"):
        real = getattr(tokens, kind)
        monkeypatch.setattr(tokens, kind, lambda *given, kind=kind, real=real: seen.append(kind) or real(*given))
    x = images(model, 3)
    assert_same(fast(x), model(x))
    # the last block has but one query, and the performer's first tokens no attention
    assert seen == ["attend"] * (name == "t2t_vit_t_14") + ["attend_side_by_side"]
    seen.clear()
    monkeypatch.setattr(tokens, "MOST_SCORES", 3 * model.config.num_heads * 37**2 - 1)
    assert_same(fast(x), model(x))
    assert "attend_side_by_side" not in seen  # which would take memory that grows with the square of the tokens
    probabilities = []
    fast.forward_features(x, probabilities)
    assert [each.shape for each in probabilities] == [(3, model.config.num_heads, 37, 37)] * 2
