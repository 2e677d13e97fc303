"""Nets, images and a comparison that the tests of optimised models share."""

import torch
from helpers.sizes import abridged, size_of
from torch import nn

import convzoo


def build(name, **options):
    """A small-headed model whose batch norms have seen something."""
    torch.manual_seed(0)
    settings = {"num_classes": 7, "in_chans": 2, "img_size": size_of(name)} | abridged(name) | options
    model = convzoo.create_model(name, **settings).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.3)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.3)
    return model


def images(model, count=2):
    return torch.randn(count, model.in_chans, *model.img_size, generator=torch.Generator().manual_seed(1))


def assert_same(actual, expected):
    """Within 1e-4 of the largest."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


def rows_saved(model):
    """Multiply-accumulates that T2T-ViT's last block does without: all tokens' but the class token's."""
    if not hasattr(model, "pos_embed"):
        return 0
    _, length, width = model.pos_embed.shape
    matrices = 2 + 2 * model.config.mlp_ratio  # queries, projection and MLP, each of width x width
    return (length - 1) * (matrices * width * width + 2 * length * width)
