"""Relevance through a transformer: against the published rule written out, and on pictures of two objects."""

import pytest
import torch
from helpers.cam_nets import close
from torch.nn import functional

import convzoo
from convzoo import cam

COLOURS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])


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


def squares(count, generator, kinds=1):
    """Noise (N, 3, 64, 64) with ``kinds`` squares of different colours, each filling one token's place; the colours
    (N, kinds) and the places (N, kinds)."""
    x = 0.3 * torch.rand(count, 3, 64, 64, generator=generator)
    colours = torch.stack([torch.randperm(4, generator=generator)[:kinds] for _ in range(count)])
    places = torch.stack([torch.randperm(16, generator=generator)[:kinds] for _ in range(count)])
    for image, row, cells in zip(x, colours, places, strict=True):
        for colour, place in zip(row, cells.tolist(), strict=True):
            top, left = 16 * (place // 4), 16 * (place % 4)
            image[:, top : top + 16, left : left + 16] += 0.7 * COLOURS[colour][:, None, None]
    return x, colours, places


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = convzoo.create_model("t2t_vit_7", 4, img_size=64, embed_dim=32, depth=3, num_heads=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(50):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1.0, (step + 1) / 15)
        x, colours, _ = squares(24, generator)
        loss = functional.cross_entropy(model(x), colours[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    x, colours, _ = squares(60, generator)
    with torch.no_grad():
        assert (model(x).argmax(1) == colours[:, 0]).float().mean() >= 0.95  # there is something to see
    return model


def test_each_class_finds_its_own_square(trained):
    x, colours, places = squares(60, torch.Generator().manual_seed(7), kinds=2)
    share = {}
    for method in ("attention", "rollout"):
        maps = cam(trained, x, colours, method=method).maps.relu().flatten(2)  # (60, 2, 16)
        both = maps.gather(2, places[:, None].expand(-1, 2, -1))  # [n, k, j]: heat of class k on the square of j
        own = both.diagonal(dim1=1, dim2=2) / both.sum(2)
        share[method] = float(own.nan_to_num(0.5).mean())  # no heat on either square knows nothing
    assert share["attention"] >= 0.7
    assert share["rollout"] == pytest.approx(0.5, abs=1e-6)
