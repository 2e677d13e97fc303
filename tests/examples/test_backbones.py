"""The examples on backbones learn: on pictures that are drawn here, in a few steps."""

import doctest
import importlib

import pytest
import torch
from backbones.detector import Detector
from backbones.fpn import FPN
from backbones.unet import UNet
from torch.nn import functional as F

import convzoo


def squares(count, size=64):
    """Pictures of one bright square each on noise, with its mask (N, H, W) and box (N, 4)."""
    generator = torch.Generator().manual_seed(3)
    images = 0.3 * torch.rand(count, 3, size, size, generator=generator)
    masks, boxes = torch.zeros(count, size, size, dtype=torch.int64), torch.zeros(count, 4)
    for index in range(count):
        side = int(torch.randint(16, 33, (), generator=generator))
        x, y = (int(torch.randint(0, size - side, (), generator=generator)) for _ in range(2))
        images[index, :, y : y + side, x : x + side] += 0.7
        masks[index, y : y + side, x : x + side] = 1
        boxes[index] = torch.tensor([x, y, x + side, y + side])
    return images, masks, boxes


def train(net, loss_of, steps=12, lr=2e-3):
    optimizer, losses = torch.optim.Adam(net.parameters(), lr), []
    for _ in range(steps):
        loss = loss_of(net)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["unet", "fpn", "detector"])
def test_docstring_examples(name):
    results = doctest.testmod(importlib.import_module(f"backbones.{name}"))
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [("resnet18", {}, 12), ("vgg11_bn", {}, 12), ("t2t_vit_7", {"depth": 2}, 12), ("mnist_net", {"in_chans": 3}, 60)],
)
def test_unet_learns_to_segment(name, options, steps):
    torch.manual_seed(0)
    images, masks, _ = squares(4)
    net = UNet(convzoo.create_model(name, features_only=True, **options), classes=2, width=16)
    losses = train(net, lambda net: F.cross_entropy(net(images), masks), steps)
    assert losses[-1] < 0.6 * losses[0]
    assert net(images).shape == (4, 2, 64, 64)


def test_fpn_is_the_same_at_every_scale():
    net = FPN(convzoo.create_model("resnet18", features_only=True), width=8)
    assert net.strides == [2, 4, 8, 16, 32]
    assert [tuple(each.shape) for each in net(torch.rand(1, 3, 64, 32))] == [
        (1, 8, 64 // stride, 32 // stride) for stride in net.strides
    ]


def test_detector_learns_where_the_square_is():
    torch.manual_seed(0)
    images, _, boxes = squares(4)
    net = Detector(convzoo.create_model("resnet18", features_only=True, out_indices=(2, 3)), classes=1)
    places = torch.cat(
        [
            torch.stack(torch.meshgrid(*[torch.arange(stride / 2, 64, stride)] * 2, indexing="xy"), -1).reshape(-1, 2)
            for stride in (8, 16)
        ]
    )
    inside = ((places[None] > boxes[:, None, :2]) & (places[None] < boxes[:, None, 2:])).all(-1)  # (N, P)
    assert inside.any(1).all()

    def loss_of(net):
        scores, found = net(images)
        away = (found - boxes[:, None]).abs().mean(-1)[inside].mean() / 64
        return F.binary_cross_entropy_with_logits(scores[..., 0], inside.float()) + away

    losses = train(net, loss_of, steps=30)
    assert losses[-1] < 0.5 * losses[0]
    scores, found = net(images)
    best = found[torch.arange(4), scores[..., 0].argmax(1)]
    assert (best - boxes).abs().mean() < 8
