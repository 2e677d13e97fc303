"""What a call must not leave behind, and the states and modes in which it must work."""

import copy
import gc
import threading
import weakref

import pytest
import torch
from helpers.cam_nets import UserNet
from torch import nn

import convzoo
from convzoo import cam

# what is asked of each: a net, its options, its images, and each way to look into it
CASES = {
    "pooled": ("resnet18", {"depths": (1, 1, 1, 1), "stem": "small"}, (2, 3, 32, 32), ("cam", "grad_cam_pp")),
    "hooked": ("resnet18", {"depths": (1, 1, 1, 1), "stem": "small"}, (2, 3, 32, 32), ("layer2/grad_cam",)),
    "normed": ("fcn_gap", {}, (2, 1, 28, 28), ("cam", "grad_cam")),
    "flat": ("lenet5", {}, (2, 1, 28, 28), ("grad_cam", "hires_cam")),
    "tokens": ("t2t_vit_7", {"depth": 2, "embed_dim": 32}, (2, 3, 64, 64), ("attention", "rollout", "grad_cam")),
}
LOOKS = [(case, look) for case, (*_, looks) in CASES.items() for look in looks]


def make(case):
    name, options, shape, _ = CASES[case]
    torch.manual_seed(3)
    size = {"img_size": 64} if case == "tokens" else {}
    model = convzoo.create_model(name, 10, **size, **options)
    return model, torch.rand(shape, generator=torch.Generator().manual_seed(4))


def ask(model, x, look, target=(("top", 2))):
    layer, _, method = look.rpartition("/")
    return cam(model, x, target, method=method, layer=layer or None)


def close(got, wanted, tolerance=1e-5):
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


def state_of(model):
    """Everything of a model that a call could change."""
    tensors = {name: (value, value._version, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    return {
        "tensors": {name: (id(value), version, value.requires_grad) for name, (value, version, _) in tensors.items()},
        "values": {name: kept for name, (_, _, kept) in tensors.items()},
        "grads": {
            name: (id(p.grad), None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()
        },
        "flags": [module.training for module in model.modules()],
        "modules": [id(module) for module in model.modules()],
        "hooks": [
            (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for module in model.modules()
        ],
        "names": [sorted(module.__dict__) for module in model.modules()],
        "random": torch.get_rng_state(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def same(before, after):
    for key in before:
        if key in ("values", "grads"):
            assert before[key].keys() == after[key].keys()
            for name, value in before[key].items():
                first, second = (value, after[key][name]) if key == "values" else (value[1], after[key][name][1])
                assert (first is None) == (second is None)
                assert first is None or torch.equal(first, second)
        elif key == "random":
            assert torch.equal(before[key], after[key])
        else:
            assert before[key] == after[key], key


def unsettle(model, x):
    """A model as it is met in the middle of somebody's training: gradients, a frozen part, mixed flags."""
    model.train()
    out = model(x)
    out.square().mean().backward()
    children = list(model.children())
    for parameter in children[0].parameters():
        parameter.requires_grad_(False)
    children[1].eval()
    return model


@pytest.mark.parametrize(("case", "look"), LOOKS)
def test_nothing_is_left_behind(case, look):
    model, x = make(case)
    unsettle(model, x)
    x.requires_grad_()
    before = state_of(model)
    r = ask(model, x, look)
    same(before, state_of(model))
    assert x.grad is None
    for tensor in (r.maps, r.logits, r.heatmap()):
        assert not tensor.requires_grad
        assert tensor.grad_fn is None


@pytest.mark.parametrize(("case", "look"), LOOKS)
def test_nothing_is_left_behind_by_an_exception(case, look):
    model, x = make(case)
    unsettle(model, x)

    def fail(module, inputs):
        raise RuntimeError("in the middle of the head")

    handle = model.get_classifier().register_forward_pre_hook(fail)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="in the middle of the head"):
        ask(model, x, look)
    same(before, state_of(model))
    assert torch.is_grad_enabled()
    handle.remove()


@pytest.mark.parametrize(("case", "look"), LOOKS)
def test_training_mode_gives_the_maps_of_evaluation_mode(case, look):
    model, x = make(case)
    wanted = ask(model.eval(), x, look)
    got = ask(model.train(), x, look)
    assert torch.equal(got.logits, wanted.logits)
    assert torch.equal(got.maps, wanted.maps)


@pytest.mark.parametrize(("case", "look"), LOOKS)
def test_frozen_and_without_gradients(case, look):
    model, x = make(case)
    model.eval()
    wanted = ask(model, x, look).maps
    model.requires_grad_(False)
    close(ask(model, x, look).maps, wanted)
    with torch.no_grad():
        close(ask(model, x, look).maps, wanted)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        inside = x.clone()
        target = torch.tensor([[1, 2], [3, 4]])
        got = ask(model, inside, look, target)
        assert torch.is_inference_mode_enabled()
    close(got.maps, ask(model, x, look, target).maps)


@pytest.mark.parametrize(("case", "look"), LOOKS)
def test_model_made_in_inference_mode(case, look):
    with torch.inference_mode():
        model, x = make(case)
        got = ask(model.eval(), x, look).maps
    model, x = make(case)
    close(got, ask(model.eval(), x, look).maps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("case", "look"), LOOKS)
def test_half_precision(case, look, dtype):
    model, x = make(case)
    target = [[1, 2], [3, 4]]
    wanted = ask(model.eval(), x, look, target).maps
    got = ask(model.to(dtype), x.to(dtype), look, target)
    assert got.maps.dtype == torch.float32
    scale = wanted.abs().amax((2, 3), keepdim=True)
    assert ((got.maps - wanted).abs() / scale).mean() < (0.1 if dtype == torch.bfloat16 else 0.02)


@pytest.mark.parametrize(("case", "look"), LOOKS)
def test_autocast(case, look):
    model, x = make(case)
    target = [[1, 2], [3, 4]]
    wanted = ask(model.eval(), x, look, target).maps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = ask(model, x, look, target)
        assert torch.is_autocast_enabled("cpu")
    assert got.maps.dtype == torch.float32
    scale = wanted.abs().amax((2, 3), keepdim=True)
    assert ((got.maps - wanted).abs() / scale).mean() < 0.1


@pytest.mark.parametrize(("case", "look"), LOOKS)
def test_channels_last(case, look):
    model, x = make(case)
    wanted = ask(model.eval(), x, look).maps
    model = model.to(memory_format=torch.channels_last)
    close(ask(model, x.to(memory_format=torch.channels_last), look).maps, wanted, 2e-5)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("case", "look"), [("pooled", "cam"), ("pooled", "grad_cam"), ("hooked", "layer2/grad_cam")])
def test_compiled(case, look, warm):
    model, x = make(case)
    wanted = ask(model.eval(), x, look).maps
    compiled = torch.compile(model, backend="eager")
    if warm:
        with torch.no_grad():
            compiled(x)
    close(ask(compiled, x, look).maps, wanted)
    model.compile(backend="eager")  # the other way to compile: in place
    if warm:
        with torch.no_grad():
            model(x)
    close(ask(model, x, look).maps, wanted)


def test_compiled_part_and_data_parallel():
    model, x = make("hooked")
    wanted = ask(model.eval(), x, "layer2/grad_cam").maps
    close(ask(nn.DataParallel(model), x, "layer2/grad_cam").maps, wanted)
    model.layer3 = torch.compile(model.layer3, backend="eager")
    close(ask(model, x, "layer2/grad_cam").maps, wanted)


class Calls:
    """A list that a copy of a function does not copy: a class's."""

    seen = []


def test_methods_put_on_the_instance_see_the_hooks():
    """A forward pass that somebody has wrapped on the instance runs on the copy, not on the original."""
    model, x = UserNet().eval(), torch.rand(1, 3, 32, 32)
    wanted = cam(model, x, layer="conv2").maps
    usual, inside = model.forward, []

    def forward(self, x):
        inside.append(x)
        assert len(inside) == 1  # the copy's list, which is new in every call
        Calls.seen.append((self, usual.__self__))
        return usual(x)

    model.forward = forward.__get__(model)
    Calls.seen.clear()
    for _ in range(2):
        close(cam(model, x, layer="conv2").maps, wanted)
    assert inside == []
    assert len(Calls.seen) == 2
    for own, ran in Calls.seen:
        assert own is ran is not model


def test_hooks_of_the_user_run_on_the_copy():
    model, x = UserNet(), torch.rand(1, 3, 32, 32)
    plain = cam(model, x, 3, layer="conv2")
    seen = []
    model.conv1.register_forward_hook(lambda module, inputs, output: seen.append("forward") or 2 * output)
    model.conv2.register_full_backward_hook(lambda *_: seen.append("backward"))
    hooked = cam(model, x, 3, layer="conv2")
    with torch.no_grad():
        close(hooked.logits, model(x))  # the hook's doubling counts
    assert (hooked.logits - plain.logits).abs().max() > 0.01
    assert seen == ["forward"]  # of the model's own pass: a list in a hook is not changed by ours


def test_the_result_keeps_neither_model_nor_graph_alive():
    model, x = make("hooked")
    watch = weakref.ref(model)
    r = ask(model, x, "layer2/grad_cam")
    del model
    gc.collect()
    assert watch() is None
    assert r.maps.shape[:2] == (2, 2)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("case", "look"), LOOKS)
def test_eight_calls_from_each_of_two_threads(case, look, training):
    model, _ = make(case)
    model.train(training)
    batches = [torch.rand(CASES[case][2], generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    wanted = [ask(model, x, look).maps for x in batches]
    before, wrong = state_of(model), []

    def work(order):
        for index in order:
            try:
                if not torch.equal(ask(model, batches[index], look).maps, wanted[index]):
                    wrong.append(index)
            except Exception as error:  # whatever it is, it is counted
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(order,)) for order in (range(8), range(7, -1, -1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    after = state_of(model)
    del before["random"], after["random"]  # other threads' business
    same(before, after)


@pytest.mark.filterwarnings("ignore:for 1 of 1 images no cell")  # of a net with random weights
def test_models_with_layers_shared_between_two_places():
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    x = torch.rand(1, 3, 16, 16)
    twice = cam(model, x, layer="0")  # its last output counts
    apart = copy.deepcopy(model)
    apart[2] = copy.deepcopy(shared)
    close(twice.maps, cam(apart, x, layer="2").maps)
