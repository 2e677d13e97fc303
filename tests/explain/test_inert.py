"""Models that a run leaves as they are: no private copy of them is made, and nobody can tell the difference."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import convzoo
from convzoo._inert import copy_inert, is_inert
from convzoo._wrappers import FORWARD_HOOKS
from convzoo.explain import run

SMALL = ["lenet5", "lenet5_1998", "mnist_net", "fcn_gap", "mnist_resnet", "basic_cnn", "residual_cnn", "inception_cnn"]
SIZES = {**dict.fromkeys(SMALL, None), "resnet18": 64, "squeezenet1_1": 64, "googlenet_bn": 64, "vgg11_bn": 64}


def make(name):
    torch.manual_seed(0)
    size = {} if SIZES[name] is None else {"img_size": SIZES[name], "num_classes": 10}
    head = {"head": "gap"} if name == "vgg11_bn" else {}  # lenet5 has linear layers over all cells too
    model = convzoo.create_model(name, **size, **head).eval()
    return model, torch.rand(2, model.in_chans, *model.img_size)


def state_of(model):
    """All that can be seen of a model: its attributes, containers by content and all else by identity."""
    return [
        {
            name: list(value.items()) if isinstance(value, dict) else value if name == "training" else id(value)
            for name, value in vars(module).items()
        }
        for module in model.modules()
    ]


@pytest.mark.filterwarnings("ignore:images of:UserWarning", "ignore:for .* of 2 images:UserWarning")
@pytest.mark.parametrize("name", SIZES)
def test_the_maps_are_those_of_a_private_copy(name, monkeypatch):
    model, images = make(name)
    assert is_inert(model)
    layers = convzoo.cam_layers(model)
    calls = [{}, {"target": "all"}, {"target": ("top", 2)}]
    calls += [{"method": method, "layer": layers[method][0]} for method in layers]
    calls += [{"method": "grad_cam", "layer": list(layers["grad_cam"][:2])}]
    before, parameters = state_of(model), copy.deepcopy(model.state_dict())
    short = [convzoo.cam(model, images, **call) for call in calls]
    maps = convzoo.feature_maps(model, images)
    assert state_of(model) == before
    assert all(each.grad is None for each in model.parameters())
    monkeypatch.setattr(run, "is_inert", lambda model: False)
    for call, found in zip(calls, short, strict=True):
        strict = convzoo.cam(model, images, **call)
        assert (strict.method, strict.layer) == (found.method, found.layer)
        assert_close(strict.maps, found.maps)
        assert_close(strict.logits, found.logits)
        assert (strict.bias is None) == (found.bias is None)
        assert not found.maps.requires_grad
        assert not found.logits.requires_grad
    for key, expected in convzoo.feature_maps(model, images).items():
        assert torch.equal(maps[key], expected)
    assert all(torch.equal(parameters[key], value) for key, value in model.state_dict().items())


def test_a_copy_of_an_inert_model():
    model, images = make("lenet5")
    copied = copy_inert(model, {id(model.relu2)})
    assert not any(each.requires_grad for each in copied.parameters())
    assert all(each.requires_grad for each in model.parameters())
    assert copied.conv1.weight.data_ptr() == model.conv1.weight.data_ptr()
    copied.relu2.register_forward_hook(lambda module, inputs, output: output * 0)
    assert not any(getattr(model.relu2, kind) for kind in FORWARD_HOOKS)
    assert copied.relu1 is model.relu1
    assert not torch.equal(copied(images), model(images))


def train(model):
    model.bn2.train()


def pre_hook(model):
    model.conv1.register_forward_pre_hook(lambda module, inputs: None)


def hook(model):
    model.conv1.register_forward_hook(lambda module, inputs, output: None)


def backward_hook(model):
    model.conv1.register_full_backward_hook(lambda module, given, taken: None)


def own_forward(model):
    model.conv1.forward = lambda x: x


def own_features(model):
    model.forward_features = lambda x: x


def own_head(model):
    model.forward_head = lambda x: x


def own_check(model):
    model.check_input = lambda x: None


def compiled(model):
    model.conv2.compile(backend="eager")


def twice(model):
    model.relu2 = model.relu1


def inside_itself(model):
    model.relu2.child = model


def inference_weight(model):
    with torch.inference_mode():
        model.conv1.weight = nn.Parameter(torch.zeros(24, 1, 3, 3))


def inference_buffer(model):
    with torch.inference_mode():
        model.bn1.running_mean = torch.zeros(24)


def another_parameter(model):
    model.conv1.weight = type("Mine", (nn.Parameter,), {})(torch.zeros(24, 1, 3, 3))


def another_class(model):
    model.relu2 = type("Mine", (nn.ReLU,), {})()


def anybodys_activation(model):
    model.drop = nn.TransformerEncoderLayer(48, 2, 8, activation=lambda x: x).eval()


ACTS = [
    train, pre_hook, hook, backward_hook, own_forward, own_features, own_head, own_check, compiled, twice,
    inside_itself, inference_weight, inference_buffer, another_parameter, another_class, anybodys_activation,
]  # fmt: skip


@pytest.mark.parametrize("change", ACTS)
def test_what_is_not_inert(change):
    model, _ = make("fcn_gap")
    change(model)
    assert not is_inert(model)


@pytest.mark.filterwarnings("ignore:for .* of 2 images:UserWarning")
def test_a_head_that_is_more_than_linear():
    model, images = make("fcn_gap")
    model.fc = nn.Sequential(nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 5))
    found = convzoo.cam(model.eval(), images)
    assert (found.method, found.maps.shape[:2]) == ("hires_cam", (2, 1))


def test_a_class_with_another_forward_is_not(monkeypatch):
    """What it keeps is kept by the copy."""
    model = convzoo.create_model("resnet18", 5, depths=(1, 1, 1, 1)).eval()
    block, usual = type(model.layer1[0]), type(model.layer1[0]).forward

    def forward(self, x):
        self.last = usual(self, x)
        return self.last

    monkeypatch.setattr(block, "forward", forward)
    x = torch.rand(1, 3, 64, 64)
    for method in ("cam", "hires_cam"):
        convzoo.cam(model, x, method=method)
    assert not any("last" in vars(module) for module in model.modules())
