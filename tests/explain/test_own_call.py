"""Nets of the zoo whose call does more than hand the features on to the head: ``cam`` explains the call."""

import types

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

import convzoo


def build(name):
    torch.manual_seed(0)
    options = {"resnet18": {"depths": (1, 1, 1, 1)}, "t2t_vit_7": {"depth": 2}, "fcn_gap": {}}[name]
    size = 28 if name == "fcn_gap" else 64
    return convzoo.create_model(name, 5, in_chans=3, img_size=size, **options).eval()


def hook_before(model):
    model.register_forward_pre_hook(lambda module, args: ((args[0] - 3) / 0.22,))


def hook_before_by_name(model):
    model.register_forward_pre_hook(lambda module, args, kwargs: (((args[0] - 3) / 0.22,), kwargs), with_kwargs=True)


def patched(model):
    usual = model.forward
    model.forward = lambda x: usual((x - 3) / 0.22)


def patched_method(model):
    usual = model.forward
    model.forward = types.MethodType(lambda self, x: usual((x - 3) / 0.22), model)


def subclass(model):
    class Normalises(type(model)):
        def forward(self, x):
            return super().forward((x - 3) / 0.22)

    model.__class__ = Normalises


def patched_features(model):
    usual = model.forward_features
    model.forward_features = lambda x, *args, **kwargs: usual((x - 3) / 0.22, *args, **kwargs)


CHANGES = [hook_before, hook_before_by_name, patched, patched_method, subclass, patched_features]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["resnet18", "fcn_gap", "t2t_vit_7"])
def test_images_that_are_normalised_inside(name, change):
    model = build(name)
    x = torch.rand(2, 3, *model.img_size)
    expected = convzoo.cam(model, (x - 3) / 0.22, "all")
    change(model)
    found = convzoo.cam(model, x, "all")
    with torch.no_grad():
        assert_close(found.logits, model(x))
    assert found.method == expected.method
    assert_close(found.maps, expected.maps)
    if name == "resnet18":  # fcn_gap has a norm between the maps and the linear layer
        assert_close(convzoo.cam(model, x, "all", method="hires_cam").maps.argmax(1), expected.maps.argmax(1))


@pytest.mark.parametrize("name", ["resnet18", "t2t_vit_7"])
def test_logits_that_are_changed(name):
    model = build(name)
    x = torch.rand(2, 3, *model.img_size)
    plain = convzoo.cam(model, x, 1)
    model.register_forward_hook(lambda module, args, output: output.flip(1) * 2)
    found = convzoo.cam(model, x, 3)
    with torch.no_grad():
        assert_close(found.logits, model(x))
    assert_close(found.logits, plain.logits.flip(1) * 2)
    if name == "t2t_vit_7":  # relevance multiplies by the gradient twice, through two blocks
        assert found.maps.flatten(1).argmax(1).equal(plain.maps.flatten(1).argmax(1))
    else:
        assert found.method == "hires_cam"  # the head alone does not make these logits
        assert_close(found.maps * 4, plain.maps * 2)  # which are of the gradient at four cells
        with pytest.raises(ValueError, match="method='hires_cam'"):
            convzoo.cam(model, x, 3, method="cam")


def test_a_call_without_the_features():
    model = build("t2t_vit_7")
    model.forward = lambda x: x.mean((2, 3)) @ torch.rand(3, 5)
    with pytest.raises(ValueError, match=r"t2t_vit_7 does not call its forward_features.*'hires_cam'"):
        convzoo.cam(model, torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize("method", ["auto", "hires_cam"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_spectral_norm_in_training_mode_takes_no_step(method, wrapped):
    net = build("resnet18")
    parametrizations.spectral_norm(net.fc)
    parametrizations.spectral_norm(net.conv1)
    model = nn.Sequential(net) if wrapped else net
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layer = "0.layer4" if wrapped else None
    found = convzoo.cam(model, torch.rand(2, 3, 64, 64), layer=layer, method="cam" if wrapped else method)
    convzoo.feature_maps(model, torch.rand(2, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert_close(found.maps, convzoo.cam(model.eval(), found.images, layer=layer, method=found.method).maps)
