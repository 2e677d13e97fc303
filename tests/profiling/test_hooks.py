"""Forward hooks of the model that is counted."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import convzoo
from convzoo.profiling.hooks import returns_nothing

MACS = 1_814_073_344  # of resnet18 at 224x224


def looks(module, args, output):
    seen.append(output)


def looks_at_some(module, args, output):
    if output.ndim == 4:
        return
    for each in output:
        seen.append(each)


def returns_an_expression(module, args, output):
    return None if output.ndim == 4 else output * 2


def returns_one_of_two(module, args, output):
    if output.ndim == 2:
        return output * 2
    return None


def yields(module, args, output):
    return (yield output)


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

    def method(self, module, args, output):
        self.found["method"] = output

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


def test_what_returns_nothing():
    collects = Collects(nn.Identity(), ())
    assert all(map(returns_nothing, (looks, looks_at_some, collects.keep("x"), collects.method)))
    others = (lambda module, args, output: seen.append(output), returns_an_expression, returns_one_of_two, seen.append)
    assert not any(map(returns_nothing, (*others, yields)))


def test_hooks_that_only_look_are_left_out():
    model = convzoo.create_model("resnet18")
    for module in model.modules():
        module.register_forward_hook(looks)
        module.register_forward_pre_hook(Collects(nn.Identity(), ()).keep("x"))
    assert profile(model).macs == MACS
    assert seen == []


def test_hooks_of_torch_are_left_out():
    model = convzoo.create_model("resnet18")
    prune.l1_unstructured(model.conv1, "weight", 0.5)
    parametrizations.weight_norm(model.layer1[0].conv1)
    assert profile(model).macs == MACS


def test_others_are_said():
    model = convzoo.create_model("resnet18")
    model.layer2.register_forward_pre_hook(lambda module, args: (args[0][:, :, ::2, ::2],))
    message = r"hooks are not called while resnet18 is counted \(layer2\): what they change in the maps is not"
    for run in (convzoo.profile, convzoo.summary):
        with pytest.warns(UserWarning, match=message) as caught:
            run(model, (3, 224, 224))
        assert caught[0].filename == __file__
    for module in model.modules():
        module.register_forward_hook(returns_one_of_two)
    with pytest.warns(UserWarning, match=r"\(the model, conv1, bn1 and 66 more\)"):
        assert convzoo.profile(model, (3, 224, 224)).macs == MACS


@pytest.mark.parametrize("forgets", [False, True])
def test_a_model_that_needs_its_hooks(forgets):
    net = convzoo.create_model("resnet18")
    model = Collects(net, ["layer1", "layer4", "conv1"], forgets)
    prune.l1_unstructured(net.conv1, "weight", 0.5)
    plain = profile(convzoo.create_model("resnet18"))
    for size in (32, 64):  # what was kept of a batch of another size is not counted
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


def test_hooks_on_a_wrapper_and_for_all_modules_are_said():
    wrapper = nn.DataParallel(convzoo.create_model("lenet5"))
    wrapper.register_forward_hook(returns_one_of_two)
    with pytest.warns(UserWarning, match=r"while lenet5 is counted \(the model\)"):
        convzoo.profile(wrapper)
    keep = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append(output))
    with keep, pytest.warns(UserWarning, match=r"while lenet5 is counted \(all modules\)"):
        convzoo.profile(convzoo.create_model("lenet5"))
    assert seen == []


def test_hooks_of_every_kind_are_called_where_the_model_needs_them():
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


def test_the_error_is_that_of_the_run_without_hooks():
    model = Collects(convzoo.create_model("resnet18"), ["layer4"])
    model.net.layer1.register_forward_hook(lambda module, args, output: output * output.max().item())
    with pytest.raises(KeyError, match="layer4"):
        convzoo.profile(model, (3, 64, 64))
