"""Small modules that tests are made of."""

import torch
from torch import nn


class Fn(nn.Module):
    """A module whose forward is the function given, with the module itself first; ``parts`` are its attributes."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def weight(*shape):
    return nn.Parameter(torch.rand(*shape))
