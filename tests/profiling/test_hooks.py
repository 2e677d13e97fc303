"""Forward hooks of the model that is counted."""

import warnings

import pytest
import torch
from helpers.modules import Fn
from torch import nn
from torch.nn.utils import parametrizations, prune

import convzoo

MACS = 1_814_073_344  # of resnet18 at 224x224


seen = []


class Collects(nn.Module):
    """The maps of some layers, by hooks on them."""

    def __init__(self, net, paths, forgets=True):
        super().__init__()
        self.net, self.paths, self.forgets, self.found = net, paths, forgets, {}
        for path in paths:
            net.get_submodule(path).register_forward_hook(self.keep(path))

    def keep(self, path):
        def hook(module, args, output):
            self.found[path] = output

        return hook

    def forward(self, x):
        self.net(x)
        means = [self.found[path].mean((2, 3)) for path in self.paths]
        if self.forgets:
            self.found.clear()
        return means[0]


def profile(model, size=(3, 224, 224), **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return convzoo.profile(model, size, **options)


def test_hooks_that_only_look_are_called_on_the_copy():
    model, shapes = convzoo.create_model("resnet18"), []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
        module.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    assert profile(model) == profile(convzoo.create_model("resnet18"))
    assert shapes == seen == []


def test_hooks_of_torch_are_left_out():
    model = convzoo.create_model("resnet18")
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    parametrizations.weight_norm(model.layer1[0].conv1)
    assert profile(model).macs == MACS


def test_what_hooks_change_is_counted():
    model, aside = convzoo.create_model("resnet18", num_classes=7), nn.Linear(7, 5)
    model.register_forward_pre_hook(lambda module, args: (args[0][:, :, ::2, ::2],))
    model.fc.register_forward_hook(lambda module, args, output: aside(output))
    plain = profile(convzoo.create_model("resnet18", num_classes=7), (3, 112, 112))
    counted = profile(model)
    assert counted.macs == plain.macs + 35
    assert [layer.macs for layer in counted.layers if "not registered" in layer.path] == [35]


class ReturnsADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return {"maps": self.conv(x)}


def test_a_dict_that_a_hook_changes():
    body, head = ReturnsADict(), nn.Conv2d(4, 5, 1)

    def pool(module, args, output):
        output["maps"] = nn.functional.avg_pool2d(output["maps"], 2)

    body.register_forward_hook(pool)
    model = nn.Sequential(body, Fn(lambda self, maps: maps["maps"]), head)
    assert profile(model, (3, 32, 32)).macs == 4 * 27 * 30 * 30 + 4 * 5 * 15 * 15


def test_what_cannot_be_called_is_said():
    model = convzoo.create_model("resnet18")
    model.layer2.register_forward_hook(lambda module, args, output: seen.append(output.max().item()))
    message = r"resnet18 is counted without the hooks of layer2 \(.*reads the values of a map"
    for run in (convzoo.profile, convzoo.summary):
        with pytest.warns(UserWarning, match=message) as caught:
            run(model, (3, 224, 224))
        assert caught[0].filename == __file__
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: None)
    with pytest.warns(UserWarning, match=r"without the hooks of the model, conv1, bn1 and 66 more \("):
        assert convzoo.profile(model, (3, 224, 224)).macs == MACS


def test_hooks_for_all_modules_are_said():
    keep = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(output))
    with keep, pytest.warns(UserWarning, match="lenet5 is counted without the hooks of all modules"):
        convzoo.profile(convzoo.create_model("lenet5"))
    assert seen == []


@pytest.mark.parametrize("forgets", [False, True])
def test_a_model_that_needs_its_hooks(forgets):
    net = convzoo.create_model("resnet18")
    model = Collects(net, ["layer1", "layer4", "conv1"], forgets)
    prune.l1_unstructured(net.conv1, "weight", 0.5)
    plain = profile(convzoo.create_model("resnet18"))
    for size in (32, 224):  # what was kept of a batch of another size is not read
        counted = profile(model)
        assert counted.macs == MACS
        assert counted.layers[0].output_shape == (1, 64)
        paths = [(f"net.{layer.path}".rstrip("."), *layer[1:]) for layer in plain.layers]
        assert [tuple(layer) for layer in counted.layers[1:]] == paths
        with torch.no_grad():
            model(torch.rand(2, 3, size, size))
    if forgets:
        with pytest.raises(ValueError, match=r"thop cannot count Collects \(.*\); convzoo's own count is there"):
            counted.check("thop")
        with pytest.raises(ValueError, match="torchinfo has no table for Collects"):
            convzoo.summary(model, (3, 224, 224))


def test_hooks_of_every_kind():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8 * 4 * 4, 5))
    model[0].register_forward_hook(lambda module, args, output: output[:, :3])
    model[1].register_forward_pre_hook(lambda module, args: args[0][..., ::2, ::2])
    model[1].register_forward_pre_hook(lambda module, args, kwargs: None, with_kwargs=True)
    model[2].register_forward_pre_hook(lambda module, args, kwargs: (args, kwargs), with_kwargs=True)
    model[3].register_forward_hook(lambda module, args, kwargs, output: output[:, :2], with_kwargs=True)
    model[3].register_forward_hook(lambda module, args, output: None)
    counted = profile(model, (3, 8, 8))
    assert counted.macs == 3 * 8 * 64 + 3 * 8 * 16 + 128 * 5
    assert [layer.output_shape for layer in counted.layers] == [(1, 2), (1, 8, 8, 8), (1, 8, 4, 4), (1, 128), (1, 5)]
    with torch.no_grad():
        assert model(torch.rand(1, 3, 8, 8)).shape == (1, 2)


def test_the_error_is_that_of_the_run_with_hooks():
    model = Collects(convzoo.create_model("resnet18"), ["layer4"])
    model.net.layer1.register_forward_hook(lambda module, args, output: output * output.max().item())
    with pytest.raises(ValueError, match="reads the values of a map"):
        convzoo.profile(model, (3, 64, 64))
