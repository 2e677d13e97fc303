"""Wrapped models."""

import copy
import functools
import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

import convzoo
from convzoo._modules import private_copy
from convzoo._wrappers import unwrap

WRAPPERS = {"compiled": torch.compile, "data parallel": nn.DataParallel, "averaged": AveragedModel}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("order", list(itertools.permutations(WRAPPERS)), ids=", ".join)
def test_unwrap_in_any_order(order):
    model = inner = nn.Sequential(nn.Linear(3, 2))
    for name in order:
        model = WRAPPERS[name](model)
        if name == "averaged":  # it holds a copy
            inner = unwrap(model)
    assert type(unwrap(model)) is nn.Sequential
    assert unwrap(model) is inner


def test_unwrap_leaves_modules_that_only_look_wrapped():
    model = nn.Module()
    model.module = model._orig_mod = nn.Linear(3, 2)
    assert unwrap(model) is model


class Doubled(nn.DataParallel):
    def forward(self, *args):
        return super().forward(*args) * 2


def with_hook(layer):
    wrapper = AveragedModel(layer)
    wrapper.register_forward_hook(lambda module, args, output: output * 2)
    return wrapper


def patched(layer, wrap):
    wrapper = wrap(layer)
    usual = wrapper.forward
    wrapper.forward = functools.wraps(usual)(lambda *args: usual(*args) * 2)
    return wrapper


def compiled(layer):
    return torch.compile(layer, backend="eager")


def without_gradient(layer):
    wrapper = nn.DataParallel(layer)
    wrapper.forward = torch.no_grad()(lambda *args: layer(*args) * 2)
    return wrapper


def compiled_forward(layer, wrap):
    wrapper = wrap(layer)
    wrapper.forward = torch.compile(lambda *args: layer(*args) * 2, backend="eager")
    return wrapper


def with_another_inside(layer):
    wrapper = compiled(layer)
    wrapper._orig_mod = nn.Linear(3, 3)
    return wrapper


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (with_hook, r"is a wrapper \(AveragedModel\) with hooks"),
        (Doubled, r"is a wrapper \(Doubled\) with a forward of its own"),
        (functools.partial(patched, wrap=nn.DataParallel), r"is a wrapper \(DataParallel\) with a forward of its own"),
        (functools.partial(patched, wrap=compiled), r"is a wrapper \(OptimizedModule\) with a forward of its own"),
        (without_gradient, r"is a wrapper \(DataParallel\) with a forward of its own"),
        (functools.partial(compiled_forward, wrap=AveragedModel), r"is a wrapper \(AveragedModel\) with a forward of"),
        (functools.partial(compiled_forward, wrap=compiled), r"is a wrapper \(OptimizedModule\) with a forward of"),
        (with_another_inside, r"is a wrapper \(OptimizedModule\) that still runs the module it was compiled from"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("layer", [nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3))], ids=["torch's", "sequence"])
def test_a_wrapper_that_does_more_than_its_module_is_refused(make, message, layer):
    wrapper = make(layer)
    inside = nn.Sequential(nn.Conv2d(3, 3, 1), wrapper)
    for where, model in (("the model", wrapper), ("the model", nn.DataParallel(wrapper)), ("1", inside)):
        for run in (
            private_copy,
            convzoo.optimize_for_inference,
            functools.partial(convzoo.feature_maps, images=torch.rand(1, 3, 3, 3), layers=["0"]),
        ):
            with pytest.raises(ValueError, match=f"^{where} {message}.*pass the module inside"):
                run(model)
        if "hooks" not in message:
            with pytest.raises(ValueError, match=f"^{where} {message}"):
                convzoo.profile(model, (3, 3, 3))
        else:
            with pytest.warns(UserWarning, match=rf"hooks are not called while \w+ is counted \({where}\)"):
                assert convzoo.profile(model, (3, 3, 3)).params in (12, 24)


@pytest.mark.parametrize("layer", [nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3)), nn.Identity(), nn.LazyLinear(3)])
def test_a_wrapper_that_does_no_more_is_not(layer):
    layer(torch.rand(1, 3))
    for wrapper in (
        torch.compile(layer, backend="eager"),
        copy.deepcopy(torch.compile(layer, backend="eager")),
        torch._dynamo.disable(layer),
        torch.compile(nn.DataParallel(layer), backend="eager"),
        AveragedModel(torch.compile(layer, backend="eager")),
    ):
        x = torch.rand(2, 3)
        assert_close(private_copy(wrapper)(x), wrapper(x))


class ReadsThrough(nn.Module):
    """Code that was written for a wrapped part."""

    def __init__(self, part, name):
        super().__init__()
        self.part, self.name = part, name

    def forward(self, x):
        inside = getattr(self.part, self.name)
        return self.part(x) + self.part.get_submodule(self.name).weight.mean() + inside.bias.mean()


@pytest.mark.parametrize(
    ("wrap", "name"), [(compiled, "_orig_mod"), (nn.DataParallel, "module"), (AveragedModel, "module")]
)
@pytest.mark.parametrize("layer", [nn.Linear(3, 3), nn.Conv2d(3, 3, 1)])
@torch.no_grad()
def test_code_that_reads_through_a_wrapper(wrap, name, layer):
    model, x = ReadsThrough(wrap(layer), name).eval(), torch.rand(2, 3, 3, 3)
    expected = model(x)
    assert_close(private_copy(model)(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a layer that was put back
        assert_close(convzoo.optimize_for_inference(model, example=x)(x), expected)
    assert convzoo.profile(model, (3, 3, 3)).macs == 81
    assert model.state_dict().keys() == {f"part.{name}.weight", f"part.{name}.bias"} | (
        {"part.n_averaged"} if wrap is AveragedModel else set()
    )
