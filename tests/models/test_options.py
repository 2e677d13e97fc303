"""Options of the families: documented, and doing what the documentation says."""

import dataclasses
import re
from typing import Any

import pytest
import torch
from helpers.sizes import size_of
from torch import nn

import convzoo
from convzoo.registry import find_entry

CONFIGS = sorted({type(find_entry(name).config) for name in convzoo.list_models()}, key=lambda config: config.__name__)
POOLED = [
    ("resnet18", {"stem": "small", "depths": (2, 1, 1, 1)}, "layer4"),
    ("resnext50_32x4d", {"stem": "small", "depths": (1, 1, 1, 1)}, "layer4"),
    ("vgg11_bn", {"head": "gap"}, "features.27"), ("googlenet_bn", {}, "norm5b"), ("inception_v3", {}, "Mixed_7c"),
    ("cnn_all_tricks", {}, "stage6"), ("fcn_gap", {}, "relu3"), ("fcn_gap", {"head": "gap_then_conv"}, "relu3"),
    ("mnist_resnet", {}, "block3"),
]  # fmt: skip


def build(name, size=64, **options):
    torch.manual_seed(0)
    if name == "inception_v3":
        size = 128
    return convzoo.create_model(name, 5, img_size=size, **options).eval()


def images(model):
    return torch.randn(2, model.in_chans, *model.img_size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_option_is_described_with_its_default(config):
    text = config.__doc__.partition("Attributes:")[2]
    described = re.split(r"^        (\w+): ", text, flags=re.MULTILINE)[1:]
    paragraphs = dict(zip(described[::2], described[1::2], strict=True))
    fields = {field.name: field for field in dataclasses.fields(config)}
    assert list(paragraphs.keys() ^ set(config.option_names())) == []
    for name, paragraph in paragraphs.items():
        if fields[name].default is not dataclasses.MISSING:
            assert "default" in paragraph, name


@pytest.mark.parametrize(("name", "options"), [("resnet18", {}), ("resnet50", {"depths": (1, 2, 2, 2)})])
@pytest.mark.parametrize("stem", ["imagenet", "medium", "small"])
def test_output_stride_computes_the_same_maps_more_densely(name, options, stem):
    """With the strides' own weights: every second or fourth cell is a cell of the strided net's map."""
    torch.manual_seed(0)
    strided = convzoo.create_model(name, features_only=True, stem=stem, **options).double().eval()
    x = torch.randn(1, 3, 64, 32, dtype=torch.float64)
    with torch.no_grad():
        coarse = strided(x)
        for output_stride in (16, 8):
            dense = convzoo.create_model(
                name, features_only=True, stem=stem, output_stride=output_stride, **options
            ).double()
            dense.eval().load_state_dict(strided.state_dict())
            largest = output_stride // {"imagenet": 1, "medium": 2, "small": 4}[stem]
            reductions = strided.feature_info.reduction()
            assert dense.feature_info.reduction() == [min(each, largest) for each in reductions]
            for fine, rough, factor in zip(dense(x), coarse, reductions, strict=True):
                step = max(factor // largest, 1)
                torch.testing.assert_close(fine[:, :, ::step, ::step], rough, rtol=1e-9, atol=1e-9)


def test_output_stride_counts_and_explains():
    model = build("resnet18", output_stride=8)
    assert model.config.output_stride == 8
    assert sum(each.numel() for each in model.parameters()) == 11_179_077
    assert model.forward_features(images(model)).shape == (2, 512, 8, 8)
    assert convzoo.cam(model, images(model)).maps.shape[2:] == (8, 8)
    assert convzoo.profile(model, (3, 64, 64)).macs > convzoo.profile(build("resnet18"), (3, 64, 64)).macs


@pytest.mark.parametrize(("name", "options", "layer"), POOLED)
def test_global_pool(name, options, layer):
    mean, largest = build(name, **options), build(name, **options, global_pool="max")
    largest.load_state_dict(mean.state_dict())
    x = images(mean)
    with torch.no_grad():
        features = mean.forward_features(x)
        assert torch.equal(largest.forward_features(x), features)
        repeated = features.amax((2, 3), keepdim=True).expand_as(features)  # its mean is the largest value
        torch.testing.assert_close(largest(x), mean.forward_head(repeated))
        assert not torch.allclose(largest(x), mean(x))
    assert (mean.cam_method, largest.cam_method) == ("cam", "hires_cam")
    fast = convzoo.optimize_for_inference(largest)(x)
    torch.testing.assert_close(fast, largest(x), rtol=1e-3, atol=1e-4)
    explained = convzoo.cam(largest, x)
    assert explained.layer == layer
    assert torch.isfinite(explained.maps).all()


@pytest.mark.parametrize("global_pool", ["avg", "max"])
def test_global_pool_of_maps_per_class(global_pool):
    model = build("fcn_gap", head="conv_then_gap", global_pool=global_pool)
    x = images(model)
    maps = model.fc(model.forward_features(x))
    torch.testing.assert_close(model(x), maps.mean((2, 3)) if global_pool == "avg" else maps.amax((2, 3)))


@pytest.mark.parametrize(("name", "how"), [("vgg11", "head='gap'"), ("cnn_bn", "gap=True")])
def test_global_pool_is_refused_without_one(name, how):
    with pytest.raises(ValueError, match=f"global_pool of {name} is of its global pooling, and without {how} it has"):
        convzoo.create_model(name, global_pool="max")


@pytest.mark.parametrize("name", ["resnet18", "mnist_net", "fcn_gap", "mnist_resnet", "alexnet", "googlenet", "lenet5"])
def test_drop_rate(name):
    if name == "lenet5":
        with pytest.raises(TypeError, match="lenet5 has no option 'drop_rate'"):
            build(name, drop_rate=0.5)
        return
    size = 28 if name == "mnist_net" else 64
    model = build(name, size, drop_rate=0.4)
    assert {layer.p for layer in model.modules() if isinstance(layer, (nn.Dropout, nn.Dropout2d))} == {0.4}
    x = images(model)
    assert torch.equal(model(x), model(x))
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    features = model.forward_features(x) if name != "mnist_net" else torch.ones(2, 20, 4, 4)
    assert not torch.equal(model.forward_head(features), model.forward_head(features))


def test_drop_rate_zero_is_the_default_of_nets_without_dropout():
    model = build("resnet18").train()
    features = torch.rand(2, 512, 2, 2)
    assert torch.equal(model.forward_head(features), model.forward_head(features))


OTHER: dict[str, Any] = {"aux": True, "zero_init_residual": True}  # than the default; a rate is 0.3


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
@torch.no_grad()
def test_training_only_options_change_no_answer(config):
    """With the same weights; all other options may, and then the weights' accuracy no longer holds."""
    name = next(name for name in convzoo.list_models() if type(find_entry(name).config) is config)
    size = size_of(name)
    model = convzoo.create_model(name, 5, img_size=size).eval()
    for option in set(model.config.training_only) & set(config.option_names()):
        other = convzoo.create_model(name, 5, img_size=size, **{option: OTHER.get(option, 0.3)}).eval()
        other.load_state_dict(model.state_dict(), strict=option != "aux")
        torch.testing.assert_close(other(images(model)), model(images(model)), rtol=0, atol=0)
