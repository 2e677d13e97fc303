"""A large batch in slices: the same logits, and whole wherever somebody would see the difference."""

import copy
import pickle

import pytest
import torch
from helpers.fused_nets import assert_same, build, images
from torch import nn

import convzoo
from convzoo.inference import slices


def spy(model, monkeypatch):
    """Let slices hold two images; returns a list that will have the size of each that ``model`` computes."""
    seen = []
    name = "_class_token" if hasattr(model, "_class_token") else "forward_features"
    inner = getattr(type(model), name)

    def counted(self, x):
        seen.append(len(x))
        return inner(self, x)

    monkeypatch.setattr(type(model), name, counted)
    least = model.in_slices.numbers * 4 * images(model, 1).shape[2:].numel()
    monkeypatch.setattr(slices, "BYTES_AT_ONCE", 2.5 * least / torch.get_num_threads())
    return seen


@pytest.fixture
def resnet():
    return build("resnet18", depths=(1, 1, 1, 1), img_size=32)


@pytest.mark.parametrize(
    "name", ["resnet18", "vgg11_bn", "googlenet_bn", "mnist_net", "t2t_vit_7", "t2t_vit_t_14_small"]
)
@torch.no_grad()
def test_same_logits(name, monkeypatch):
    model = build(name, **{"vgg11_bn": {"head": "gap"}, "resnet18": {"depths": (1, 1, 1, 1)}}.get(name, {}))
    fast = convzoo.optimize_for_inference(model)
    x = images(model, 4)
    expected = model(x)
    seen = spy(fast, monkeypatch)
    logits = fast(x)
    assert seen == [2, 2]
    assert_same(logits, expected)
    for copied in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(copied(x), logits)
    seen.clear()
    assert_same(fast(x[:2]), logits[:2])
    assert seen == [2]
    with torch.inference_mode():
        assert torch.equal(fast(x), logits)


def test_how_many_images(resnet, monkeypatch):
    fast = convzoo.optimize_for_inference(resnet)
    assert fast.in_slices.numbers == 16  # 64 maps of a quarter of the pixels
    assert convzoo.optimize_for_inference(resnet, example=images(resnet, 3)).in_slices == fast.in_slices
    monkeypatch.setattr(slices, "BYTES_AT_ONCE", 4 * 16 * 32 * 32 * 4 / torch.get_num_threads())  # four images
    seen = []
    monkeypatch.setattr(resnet.__class__, "forward_head", lambda self, features: features)
    monkeypatch.setattr(resnet.__class__, "forward_features", lambda self, x: seen.append(len(x)) or x)
    expected = {3: [3], 4: [4], 5: [5], 6: [3, 3], 7: [7], 9: [3] * 3, 10: [2] * 5, 11: [11], 16: [4] * 4, 25: [25]}
    with torch.no_grad():
        for batch, sizes in expected.items():
            seen.clear()
            fast(torch.zeros(batch, 3, 32, 32))
            assert seen == sizes
        seen.clear()
        fast(torch.zeros(2, 3, 128, 128))  # more than is meant for one
        assert seen == [1, 1]
        seen.clear()
        fast(torch.zeros(8, 3, 32, 32, dtype=torch.float64))  # an error, in the original's words
        assert seen == [8]


def test_whole_where_somebody_looks(resnet, monkeypatch):
    fast = convzoo.optimize_for_inference(resnet)
    x = images(resnet, 4)
    expected = resnet(x)
    seen = spy(fast, monkeypatch)

    def check(expected, sizes=(4,)):
        seen.clear()
        logits = fast(x)
        assert_same(logits, expected)
        assert seen == list(sizes)

    with torch.no_grad():
        check(expected, (2, 2))
        shapes = []
        handle = fast.layer2[0].register_forward_hook(lambda *given: shapes.append(given[2].shape))
        check(expected)
        assert [shape[0] for shape in shapes] == [4]
        handle.remove()
        handle = nn.modules.module.register_module_forward_hook(lambda *given: None)
        check(expected)
        handle.remove()
        fast.layer2[0].forward = fast.layer2[0].forward  # a method of its own
        check(expected)
        del fast.layer2[0].forward
        inner = fast.forward_features
        fast.forward_features = lambda x: inner(x - x.mean(0)) + 0 * x.mean()  # which would differ in slices
        whole = fast(x)
        assert_same(whole, fast.forward_head(fast.forward_features(x)))
        del fast.forward_features
        fast.train()
        check(expected)
        fast.eval()
        check(expected, (2, 2))
    x.requires_grad_()
    check(expected)
    assert_same(torch.autograd.grad(fast(x).sum(), x)[0], torch.autograd.grad(resnet(x).sum(), x)[0])
    ours, theirs = (convzoo.cam(model, x.detach(), 0, method="hires_cam", layer="layer2") for model in (fast, resnet))
    assert_same(ours.maps, theirs.maps)
    assert convzoo.profile(fast, tuple(x.shape)).macs == convzoo.profile(resnet, tuple(x.shape)).macs


class MinusMean(nn.Module):
    """What the batch has in common taken away."""

    def forward(self, x):
        return x - x.mean(0, keepdim=True)


@pytest.mark.parametrize("change", ["statistics", "module", "later"])
@torch.no_grad()
def test_whole_where_images_meet(resnet, change, monkeypatch):
    x = images(resnet, 4)
    if change == "statistics":
        resnet.layer3[0].bn2 = nn.BatchNorm2d(256, track_running_stats=False).eval()
    elif change == "module":
        resnet.layer4 = nn.Sequential(*resnet.layer4, MinusMean())
    fast = convzoo.optimize_for_inference(resnet)
    if change == "later":
        fast.layer4 = nn.Sequential(*fast.layer4, MinusMean())
        resnet.layer4 = nn.Sequential(*resnet.layer4, MinusMean())
    expected = resnet(x)
    seen = spy(fast, monkeypatch)
    assert_same(fast(x), expected)
    assert seen == [4]


@torch.no_grad()
def test_subclasses_and_other_modules_go_through_the_batch_as_they_like(monkeypatch):
    class Centred(type(build("lenet5"))):
        def forward_features(self, x, *, maps=None):
            return super().forward_features(x - x.mean(0, keepdim=True), maps=maps)

    model = build("lenet5")
    model.__class__ = Centred
    fast = convzoo.optimize_for_inference(model)
    monkeypatch.setattr(slices, "BYTES_AT_ONCE", 1)
    x = images(model, 4)
    assert_same(fast(x), model(x))
    assert not hasattr(convzoo.optimize_for_inference(nn.Sequential(model)), "in_slices")
