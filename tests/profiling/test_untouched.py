"""What a profile must leave as it was: everything."""

import copy
import random
import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convzoo
from convzoo import profile


class Stateful(nn.Module):
    """A forward that leaves a trace wherever a forward can."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(4).eval()
        self.register_buffer("seen", torch.zeros(4))
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.history, self.notes, self.count = [], {"calls": 0}, 0
        self.cache = Cache()
        self.conv.register_forward_hook(self.hook)
        self.conv.register_forward_pre_hook(self.hook)
        self.fail = False

    def hook(self, *_):
        self.history.append("hook")

    def forward(self, x):
        x = self.drop(self.frozen(self.bn(self.conv(x))))
        self.history.append(x)
        self.notes["calls"] += 1
        self.count += 1
        self.cache.put(x)
        self.last = x
        self.conv.mark = x
        self.seen += x.mean((0, 2, 3))
        self.seen[0] = 1
        self.scale.data.mul_(2)
        self.scale.grad = torch.ones_like(self.scale)
        self.bn.train()
        self.bn.eval()
        self.bn.running_mean.add_(1)
        self.register_buffer("late", x)
        x = x + torch.rand_like(x) * F.dropout(x, 0.5, True)
        if self.fail:
            raise KeyError("on purpose")
        return x * self.scale


class Cache:
    def __init__(self):
        self.kept = []

    def put(self, x):
        self.kept.append(x)


def snapshot(model):
    """All that can be seen of a model and of torch."""
    modules = []
    for path, module in model.named_modules():
        attributes = {
            name: copy.copy(value) if isinstance(value, (list, dict)) else value
            for name, value in module.__dict__.items()
            if name not in ("_parameters", "_buffers", "_modules")
        }
        modules.append((path, id(module), type(module), sorted(module.__dict__), attributes))
    tensors = [
        (name, id(tensor), tensor.data_ptr(), tensor._version, tensor.requires_grad, tensor.grad, tensor.clone())
        for name, tensor in model.state_dict(keep_vars=True).items()
    ]
    functions = {
        (id(place), name): id(getattr(place, name))
        for place in (torch, F, torch.Tensor, nn.Module, nn.Conv2d, nn.Linear)
        for name in dir(place)
        if callable(getattr(place, name, None)) and name not in ("__class__", "__subclasshook__", "__init_subclass__")
    }
    everywhere = (
        torch.get_rng_state().tolist(), random.getstate(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        torch.get_default_dtype(), len(warnings.filters), torch.overrides._len_torch_function_stack()
        if hasattr(torch.overrides, "_len_torch_function_stack") else torch._C._len_torch_function_stack(),
        len(nn.modules.module._global_forward_hooks), len(nn.modules.module._global_forward_pre_hooks),
    )  # fmt: skip
    return modules, tensors, {key: value for key, value in functions.items() if is_stable(key)}, everywhere


def is_stable(key):
    """Whether an attribute is one object; bound ones are made anew at every look."""
    place, name = key
    owner = next(each for each in (torch, F, torch.Tensor, nn.Module, nn.Conv2d, nn.Linear) if id(each) == place)
    return getattr(owner, name) is getattr(owner, name)


def assert_same(before, after):
    assert [module[:4] for module in before[0]] == [module[:4] for module in after[0]]
    for one, other in zip(before[0], after[0], strict=True):
        for name, value in one[4].items():
            now = other[4][name]
            assert value is now or value == now, f"{one[0]}.{name}"
    for one, other in zip(before[1], after[1], strict=True):
        assert one[:5] == other[:5], one[0]
        assert one[5] is other[5], f"gradient of {one[0]}"
        assert torch.equal(one[6], other[6]), one[0]
    assert before[2] == after[2]
    assert before[3] == after[3]


@pytest.mark.parametrize("counter", ["convzoo", "thop"])
@pytest.mark.parametrize("mode", ["train", "eval", "exception"])
def test_nothing_is_left_behind(mode, counter, capfd):
    model = Stateful()
    model.train(mode != "eval")
    model.frozen.eval()
    model.fail = mode == "exception"
    profile(Stateful(), (3, 8, 8), counter=counter)  # what importing the counter does is not at issue here
    before = snapshot(model)
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = snapshot(model)
        if mode == "exception":
            with pytest.raises(KeyError, match="on purpose"):
                profile(model, (3, 8, 8), counter=counter)
        else:
            profile(model, (3, 8, 8), counter=counter)
        after = snapshot(model)
    assert_same(before, after)
    assert capfd.readouterr() == ("", "")
    assert not caught
    assert torch.nn.functional.relu(torch.tensor([-1.0])).item() == 0  # and torch computes again


@pytest.mark.parametrize("name", ["resnet18", "googlenet_bn", "t2t_vit_7", "mnist_resnet"])
@pytest.mark.parametrize("what", ["profile", "check", "summary"])
def test_models_of_the_zoo_are_untouched(name, what):
    model = convzoo.create_model(name)
    size = (model.in_chans, *model.img_size)
    before = snapshot(model)
    if what == "summary":
        convzoo.summary(model, size)
    else:
        result = profile(model, size)
        if what == "check":
            result.check("thop")
    assert_same(before, snapshot(model))


def test_a_meta_model_is_untouched():
    with torch.device("meta"):
        model = Stateful()
    versions = [tensor._version for tensor in model.state_dict(keep_vars=True).values()]
    profile(model, (3, 8, 8))
    assert [tensor._version for tensor in model.state_dict(keep_vars=True).values()] == versions
    assert model.scale.grad is None


def test_inputs_are_untouched_and_their_values_unread():
    images = torch.full((2, 3, 8, 8), float("nan"))
    version = images._version
    profile(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3)), images)
    assert (images._version, images.shape) == (version, (2, 3, 8, 8))


def test_patched_forwards_and_bound_methods_run_on_the_shadow():
    model = Stateful()
    plain = profile(model, (3, 8, 8))
    original = model.forward
    model.forward = lambda x: original(x) * 2  # closes over the model
    before = snapshot(model)
    assert profile(model, (3, 8, 8)).macs == plain.macs
    assert_same(before, snapshot(model))


def test_within_the_callers_modes():
    model = convzoo.create_model("lenet5")
    expected = profile(model, (1, 28, 28))
    with torch.inference_mode():
        assert profile(model, (1, 28, 28)) == expected
        assert torch.is_inference_mode_enabled()
    with torch.autocast("cpu"):
        assert profile(model, (1, 28, 28)) == expected
        with pytest.raises(TypeError, match=r"lenet5 has parameters of torch.float32, got images of torch.bfloat16"):
            profile(model, (1, 28, 28), dtype=torch.bfloat16)
    with torch.device("meta"):
        assert profile(model, (1, 28, 28)) == expected


def test_threads_profile_one_model_while_another_runs_it():
    model = convzoo.create_model("resnet18", num_classes=10, stem="small").eval()
    other = convzoo.create_model("t2t_vit_7")
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        logits = model(images)
    expected = profile(model, (3, 32, 32)), profile(other, (3, 224, 224))
    wrong = []

    def count(which, size):
        for _ in range(5):
            if profile((model, other)[which], size) != expected[which]:
                wrong.append(which)

    def infer():
        with torch.no_grad():
            for _ in range(10):
                if not torch.allclose(model(images), logits, atol=1e-5):
                    wrong.append("logits")

    def guarded(work, *args):
        try:
            work(*args)
        except Exception as error:  # a thread's exception would go unseen
            wrong.append(error)

    jobs = [(count, 0, (3, 32, 32)), (count, 0, (3, 32, 32)), (count, 1, (3, 224, 224)), (infer,)]
    threads = [threading.Thread(target=guarded, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
