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


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_t_14"])
@torch.no_grad()
def test_a_net_goes_through_them(name, monkeypatch):
    model = build(name, depth=2, img_size=96)  # 576 tokens at first, 37 in the blocks
    fast = convzoo.optimize_for_inference(model)
    seen = []
    real = tokens.attend
    monkeypatch.setattr(tokens, "attend", lambda *given: seen.append(given[0].shape) or real(*given))
    x = images(model, 3)
    assert_same(fast(x), model(x))
    # 576 tokens go through it, later 144 do not; and a performer has no attention
    assert seen == [(3, 576, 64)] * (name == "t2t_vit_t_14")
    expected = model.double()(x.double())
    fast.double()
    assert_same(fast(x.double()), expected)  # not its kernels
    assert len(seen) == (name == "t2t_vit_t_14")
