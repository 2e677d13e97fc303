"""Code that asks its layers what they are, and layers that are not quite what their class makes."""

import copy

import pytest
import torch
from helpers.modules import Fn
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

import convzoo


def list_of_layers():
    return nn.ModuleList([nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)])


def by_type(self, x):
    for layer in self.layers:
        if type(layer) is nn.Conv2d:
            x = layer(x).relu()
    return x


def by_subclass(self, x):
    for layer in self.layers:
        if issubclass(type(layer), nn.Conv2d):
            x = layer(x)
    return x


def by_table(self, x):
    handlers = {nn.Conv2d: lambda layer, x: layer(x), nn.ReLU: lambda layer, x: x}
    for layer in self.layers:
        x = handlers[type(layer)](layer, x)
    return x


def by_identity(self, x):
    for layer in self.layers:
        if layer in set(self.modules()):
            x = layer(x)
    return x


def by_copies(self, x):
    for layer in self.layers:
        x = copy.copy(layer)(x)
    return copy.deepcopy(self.layers[2])(x[:, :4])


ALL = 3 * 4 * 9 * 30 * 30 + 4 * 5 * 9 * 28 * 28


@pytest.mark.parametrize(("forward", "macs"), [
    (by_type, ALL), (by_subclass, ALL), (by_table, ALL), (by_identity, ALL), (by_copies, ALL + 4 * 5 * 9 * 26 * 26),
])  # fmt: skip
@pytest.mark.parametrize("around", [nn.ModuleList, lambda layers: nn.Sequential(*layers)])
def test_code_that_asks(forward, macs, around):
    model = Fn(forward, layers=around(list_of_layers()))
    assert convzoo.profile(model, (3, 32, 32)).macs == macs
    assert convzoo.profile(nn.Sequential(model), (3, 32, 32)).macs == macs


def test_a_layer_that_is_folded_in_every_call():
    model = Fn(lambda self, x: fuse_conv_bn_eval(self.conv, self.bn)(x), conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    assert convzoo.profile(model.eval(), (3, 32, 32)).macs == 3 * 4 * 9 * 30 * 30


def test_a_zoo_net_whose_method_is_patched():
    model = convzoo.create_model("resnet18")
    model.forward = lambda x: model.conv1(x) if type(model.conv1) is nn.Conv2d else None
    assert convzoo.profile(model, (3, 64, 64)).layers[1].macs == 3 * 64 * 49 * 32 * 32


@pytest.mark.parametrize("kind", ["buffer", "tensor", "made in forward"])
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(3), nn.Linear(32, 5)])
def test_a_weight_that_is_no_parameter(layer, kind):
    layer = copy.deepcopy(layer).eval()
    expected = convzoo.profile(nn.Sequential(layer), (3, 32, 32)).macs
    weight = layer.weight.detach()
    del layer.weight
    if kind == "buffer":
        layer.register_buffer("weight", weight)
    elif kind == "tensor":
        layer.weight = weight

    def forward(self, x):
        if kind == "made in forward":
            self.layer.weight = torch.ones(weight.shape)
        return self.layer(x)

    assert convzoo.profile(Fn(forward, layer=layer), (3, 32, 32)).macs == expected
    if kind != "made in forward":
        assert convzoo.profile(nn.Sequential(layer), (3, 32, 32)).macs == expected


def test_a_convolution_with_code_of_its_own():
    conv = nn.Conv2d(3, 4, 3)
    usual = conv._conv_forward
    conv._conv_forward = lambda x, weight, bias: usual(x, weight, bias) + usual(x, weight, bias)
    assert convzoo.profile(nn.Sequential(conv), (3, 32, 32)).macs == 2 * 3 * 4 * 9 * 30 * 30


def test_a_class_with_another_forward(monkeypatch):
    usual = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: usual(self, x) + usual(self, x))
    assert convzoo.profile(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 32, 32)).macs == 2 * 3 * 4 * 9 * 30 * 30
