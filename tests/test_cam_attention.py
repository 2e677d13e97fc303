"""Relevance through a transformer, against the published rule written out."""

import pytest
import torch
from test_cam import close

import convzoo
from convzoo import cam


@pytest.fixture(scope="module")
def exact():
    torch.manual_seed(0)
    model = convzoo.create_model("t2t_vit_7", 5, img_size=64, embed_dim=32, depth=3, num_heads=2).double().eval()
    for parameter in model.parameters():  # further from zero than a net begins, so that attention is not uniform
        if parameter.requires_grad and parameter.ndim == 2:
            parameter.data.mul_(8)
    return model


def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_rule_of_chefer_written_out(exact):
    r = cam(exact, images(), [[0, 3], [4, 1]])
    assert (r.method, r.layer) == ("attention", "blocks")
    assert r.maps.shape == (2, 2, 4, 4)
    for n in range(2):
        for k, target in enumerate(([0, 3], [4, 1])[n]):
            probabilities = []
            logits = exact.forward_head(exact.forward_features(images()[n : n + 1], probabilities))
            gradients = torch.autograd.grad(logits[0, target], probabilities)
            relevance = torch.eye(17, dtype=torch.float64)
            for attention, gradient in zip(probabilities, gradients, strict=True):
                matrix = torch.zeros(17, 17, dtype=torch.float64)
                for head in range(2):
                    matrix += (gradient[0, head] * attention[0, head]).clamp(min=0) / 2
                relevance = relevance + matrix.detach() @ relevance
            close(r.maps[n, k], relevance[0, 1:].reshape(4, 4))


def test_rollout_written_out(exact):
    r = cam(exact, images(), ("top", 2), method="rollout")
    probabilities = []
    exact.forward_features(images(), probabilities)
    product = torch.eye(17, dtype=torch.float64)
    for attention in probabilities:
        product = (attention.detach().mean(1) + torch.eye(17)) / 2 @ product
    close(r.maps[:, 0] / 2 ** len(probabilities), product[:, 0, 1:].reshape(2, 4, 4))
    assert torch.equal(r.maps[:, 0], r.maps[:, 1])  # it knows no classes


def test_batch_equals_singles(exact):
    together = cam(exact, images(), "all")
    for n in range(2):
        close(cam(exact, images()[n : n + 1], 2).maps[0, 0], together.maps[n, 2])


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam", "layer_cam", "grad_cam_pp"])
def test_gradient_methods_read_tokens_before_the_last_attention(exact, method):
    r = cam(exact, images(), 1, method=method)
    assert r.layer == "blocks.2.norm1"
    assert r.maps.shape == (2, 1, 4, 4)
    assert (r.maps.std((2, 3)) > 0).all()
    if method == "hires_cam":
        block, tokens = exact.blocks[2], []
        handle = block.norm1.register_forward_hook(lambda module, inputs, output: tokens.append(output))
        score = exact(images())[:, 1].sum()
        handle.remove()
        gradient = torch.autograd.grad(score, tokens)[0]
        close(r.maps[:, 0], (gradient * tokens[0]).sum(-1)[:, 1:].reshape(2, 4, 4).detach())
