"""Nets, images and a comparison that the tests of class activation maps share."""

import torch
from torch import nn

import convzoo


def make(name, **options):
    torch.manual_seed(0)
    if name.startswith("resn"):
        options["depths"] = (1, 1, 1, 1)  # less to wait for
    model = convzoo.create_model(name, num_classes=10, **options).double().eval()
    for module in model.modules():  # batch norms as training leaves them, or random maps are nearly flat
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return model


def images(count=2, chans=3, size=64):
    return torch.rand(count, chans, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class UserNet(nn.Module):
    """A net that the zoo does not know: convolutions, an activation in place, pooling, linear."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.head(self.pool(x).flatten(1))


def close(got, wanted, tolerance=1e-12):
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()
