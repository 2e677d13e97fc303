"""Optimised models: the same logits, still ordinary modules, the original untouched."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
import torch.fx
from helpers.fused_nets import assert_same, build, images, rows_saved
from safetensors.torch import load, save
from torch import nn

import convzoo
from convzoo.inference import is_optimized
from convzoo.inference.folding import fold
from convzoo.inference.packed import RELU, Activation, PackedConv2d, PackedLinear, activate
from convzoo.inference.winograd import Winograd

# one of each way of putting a model together; the large ones, which take longer, last
KINDS = [
    *("lenet5", "lenet5_1998", "mnist_net", "mnist_resnet", "fcn_gap", "inception_cnn", "residual_cnn"),
    *("googlenet_sparse_bn", "resnet18", "t2t_vit_7", "t2t_vit_t_14_small"),
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("lenet_sigmoid", "alexnet_2012", "vgg11_bn", "vgg13_sparse_bn", "googlenet_bn", "inception_v3")
    ),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnext50_32x4d", "cnn_all_tricks")),
]


BRIEF = {"resnet18": {"depths": (2, 1, 1, 1)}, "t2t_vit_7": {"depth": 2}}  # what is rewritten many times in one test


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in convzoo.list_models()]
)
@torch.no_grad()
def test_same_logits(name):
    # the 4096-wide head of VGG, three quarters of its numbers, once
    model = build(name, **({"head": "fc" if name == "vgg11_bn" else "gap"} if name.startswith("vgg") else {}))
    x = images(model)
    expected = model(x)
    fast = convzoo.optimize_for_inference(model)
    logits = fast(x)
    assert_same(logits, expected)
    assert torch.equal(fast(x), logits)  # from the cache
    assert_same(fast(x[:1]), expected[:1])  # of another shape
    features = fast.forward_features(x)
    assert_same(features, model.forward_features(x))
    assert_same(fast.forward_head(features), expected)
    assert_same(fast.forward_head(features, pre_logits=True), model.forward_head(features, pre_logits=True))
    # what stays is behind an activation that other maps meet in too
    assert norms(fast) == (2 if name == "googlenet_sparse_bn" else 0)
    assert not any(isinstance(module, nn.Dropout) for module in fast.modules())
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", KINDS)
def test_an_ordinary_module(name):
    """State dict, copies, files, other formats, gradients, and the framework's own operators instead of packed ones."""
    model = build(name, **BRIEF.get(name, {}))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = convzoo.optimize_for_inference(model)
    x = images(model)
    with torch.no_grad():
        expected, logits = model(x), fast(x)
        assert isinstance(fast, type(model))
        assert is_optimized(fast)
        assert is_optimized(nn.Sequential(copy.deepcopy(fast)))
        assert not is_optimized(model)
        assert torch.equal(copy.deepcopy(fast)(x), logits)
        assert torch.equal(pickle.loads(pickle.dumps(fast))(x), logits)
        torch.manual_seed(1)
        with torch.random.fork_rng():
            other = convzoo.optimize_for_inference(type(model)(model.config))
        other.load_state_dict(load(save({key: value.contiguous() for key, value in fast.state_dict().items()})))
        assert_same(other(x), expected)
        assert_same(convzoo.optimize_for_inference(model, memory_format="contiguous")(x), expected)
        assert_same(convzoo.optimize_for_inference(fast)(x), expected)  # nothing is left to do
        assert_same(copy.deepcopy(fast).double()(x.double()).float(), expected)
        with torch.inference_mode():
            assert_same(fast(x), expected)
            assert_same(convzoo.optimize_for_inference(model)(x), expected)
        with torch.autocast("cpu", torch.bfloat16):
            assert (fast(x).float() - expected).abs().max() <= 0.1 * expected.abs().max()
    gradient = torch.autograd.grad(fast(x.requires_grad_()).square().sum(), x)[0]
    wanted = torch.autograd.grad(model(x).square().sum(), x)[0]
    # by its length: a unit that rounding moves across the kink of a ReLU changes a few entries by more
    assert (gradient - wanted).norm() <= 5e-3 * wanted.norm()
    fast.reset_classifier(3)
    assert fast(x).shape == (2, 3)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_profile_cam_and_maps(name):
    model = build(name, **BRIEF.get(name, {}))
    fast = convzoo.optimize_for_inference(model)
    x = images(model)
    size = (model.in_chans, *model.img_size)
    saved = convzoo.profile(model, size).macs - convzoo.profile(fast, size).macs
    assert saved == rows_saved(model)
    ours, theirs = convzoo.feature_maps(fast, x), convzoo.feature_maps(model, x)
    assert list(ours) == list(theirs)
    for stage, maps in theirs.items():
        assert_same(ours[stage], maps)
    try:
        expected = convzoo.cam(model, x, 3)
    except ValueError as refusal:  # a single cell, at this size
        with pytest.raises(ValueError, match=str(refusal)[:20]):
            convzoo.cam(fast, x, 3)
    else:
        result = convzoo.cam(fast, x, 3)
        assert result.method == expected.method
        assert_same(result.maps, expected.maps)


@pytest.mark.parametrize("name", ["resnet18", "googlenet_bn", "fcn_gap", "t2t_vit_7"])
def test_export(name):
    """And symbolic tracing, of the nets that it can trace."""
    fast = convzoo.optimize_for_inference(build(name, **BRIEF.get(name, {})))
    x = images(fast)
    with torch.no_grad():
        program = torch.export.export(fast, (x,)).module()
        assert_same(program(x), fast(x))
        assert "mkldnn" not in str(program.graph)
        if name != "t2t_vit_7":
            assert_same(torch.fx.symbolic_trace(fast)(x), fast(x))


@torch.no_grad()
def test_a_change_of_the_weights_is_seen():
    fast = convzoo.optimize_for_inference(build("resnet18"))
    x = images(fast)
    before = fast(x)
    for parameter in fast.parameters():
        parameter.mul_(0.9)
    expected = copy.deepcopy(fast).double()(x.double()).float()
    assert_same(fast(x), expected)
    assert (before - expected).abs().max() > 0.1 * expected.abs().max()


def test_a_block_leaves_its_input_alone():
    fast = convzoo.optimize_for_inference(build("resnet18"))
    for block in (fast.layer1[0], fast.layer2[0]):
        x = torch.randn(2, 64, 8, 8).contiguous(memory_format=torch.channels_last)
        kept = x.clone()
        block(x)
        assert torch.equal(x, kept)


def test_auxiliary_heads_are_left_out():
    for name, size in (("googlenet_bn", 64), ("inception_v3", 80)):
        model = build(name, aux=True, img_size=size)
        fast = convzoo.optimize_for_inference(model)
        assert not any(path.lower().startswith("aux") for path, _ in fast.named_modules())
        assert any(path.lower().startswith("aux") for path, _ in model.named_modules())
        x = images(model)
        with torch.no_grad():
            assert_same(fast(x), model(x))


@pytest.mark.parametrize("inside", [False, True])
@torch.no_grad()
def test_an_auxiliary_head_that_serves_elsewhere_stays(inside):
    model = build("googlenet_bn", aux=True, img_size=64)
    model.fc = nn.Sequential(model.fc, nn.Linear(7, 1024), model.aux1.fc2)
    whole = nn.Sequential(model) if inside else model
    x = images(model)
    fast = convzoo.optimize_for_inference(whole, example=x)
    assert_same(fast(x), whole(x))


@torch.no_grad()
def test_other_modules():
    """Sequences of layers are rewritten, everything else is left as it is; a batch norm without statistics too.
    Without an example, how the layers are called is not known."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.Dropout(),
        nn.Conv2d(8, 8, 3, padding="same"), nn.Dropout(), nn.ReLU(), nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8, track_running_stats=False), nn.GELU(),
        nn.ConvTranspose2d(8, 4, 2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 81, 5), nn.GELU(),
    )  # fmt: skip
    model[1].running_mean.normal_()
    model.eval()
    x = torch.randn(3, 3, 10, 10)
    fast = convzoo.optimize_for_inference(model)
    assert_same(fast(x), model(x))
    assert norms(fast) == norms(model)
    fast = convzoo.optimize_for_inference(model, example=x[:1])
    assert_same(fast(x), model(x))
    assert norms(fast) == 3
    assert isinstance(fast[2], nn.Identity)
    assert convzoo.optimize_for_inference(model[0])(x).shape == (3, 8, 8, 8)


@pytest.mark.parametrize("padding", [0, 1, (2, 1)])
@pytest.mark.parametrize(("shape", "width"), [((1, 5, 19, 22), 3), ((3, 16, 30, 13), 8), ((2, 4, 60, 100), 2)])
def test_winograd(shape, width, padding):
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(shape[1], width, 3, padding=padding).requires_grad_(False)
    conv.weight.normal_(generator=generator)
    x = torch.randn(shape, generator=generator)
    expected = copy.deepcopy(conv).double()(x.double()).float()
    ours = Winograd(conv.weight, conv.bias, conv.padding, x.shape)
    assert (ours(x) - expected).abs().max() <= 3e-5 * expected.abs().max()
    without = Winograd(conv.weight, None, conv.padding, x.shape)(x) + conv.bias[:, None, None]
    assert (without - expected).abs().max() <= 3e-5 * expected.abs().max()


@pytest.mark.parametrize("activation", [Activation(), RELU, Activation("sigmoid"), Activation("leaky_relu", (0.1,))])
@torch.no_grad()
def test_wide_convolutions_take_the_other_way(activation):
    torch.manual_seed(0)
    conv = PackedConv2d.of(nn.Conv2d(128, 128, 3, padding=1).requires_grad_(False), activation)
    x, add = torch.randn(10, 128, 13, 14), torch.randn(10, 128, 13, 14)
    for more in ((), (add,), (add, True)):
        kept = add.clone()
        expected = activate(activation, nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double(), 1, 1)
                              + (kept.double() if more else 0.0)).float()  # fmt: skip
        assert_same(conv(x, *more), expected)
        assert isinstance(conv._cache[1], Winograd)
        if len(more) < 2:
            assert torch.equal(add, kept)


@torch.no_grad()
def test_resnet_at_a_size_that_has_wide_maps():
    model = build("resnet18", img_size=128, in_chans=3)
    fast = convzoo.optimize_for_inference(model)
    fast.in_slices = None
    x = images(model, 10)
    assert_same(fast(x), model(x))
    assert sum(isinstance(getattr(module, "_cache", (0, 0))[1], Winograd) for module in fast.modules()) >= 3


@torch.no_grad()
def test_packed_linear():
    torch.manual_seed(0)
    for activation in (Activation(), RELU, Activation("gelu", (), "none")):
        linear = PackedLinear.of(nn.Linear(6, 9).requires_grad_(False), activation)
        for x in (torch.randn(6), torch.randn(4, 6), torch.randn(2, 3, 12)[..., ::2], torch.randn(0, 6)):
            assert_same(
                linear(x), activate(activation, nn.functional.linear(x, linear.weight, linear.bias))
            ) if x.numel() else None
            assert linear(x).shape == (*x.shape[:-1], 9)
    add = torch.randn(4, 18)[:, ::2]
    linear.activation = Activation()
    x = torch.randn(4, 6)
    assert_same(linear(x, add), nn.functional.linear(x, linear.weight, linear.bias) + add)


def test_refusals():
    with pytest.raises(TypeError, match=r"takes a torch.nn.Module, got str; create_model\(name\)"):
        convzoo.optimize_for_inference("resnet18")
    with pytest.raises(ValueError, match="memory_format must be 'channels_last' or 'contiguous', got 'nhwc'"):
        convzoo.optimize_for_inference(nn.Identity(), memory_format="nhwc")
    with pytest.raises(ValueError, match=r"could not run the model on the example: .*; pass what the model takes"):
        convzoo.optimize_for_inference(nn.Linear(3, 2), example=torch.rand(1, 4))
    with torch.device("meta"), pytest.raises(ValueError, match="on the meta device or wait for a first batch"):
        convzoo.optimize_for_inference(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="load weights into it, or run it once"):
        convzoo.optimize_for_inference(nn.LazyLinear(2))
    wrapper = nn.DataParallel(nn.Linear(3, 2))
    wrapper.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(ValueError, match=r"the model is a wrapper \(DataParallel\) with hooks"):
        convzoo.optimize_for_inference(wrapper)


def test_a_layer_that_does_the_work_of_others_says_so():
    model = build("vgg11_bn", head="gap")
    fast = convzoo.optimize_for_inference(model)
    x = images(fast)
    with pytest.warns(UserWarning, match=r"the work of what followed it too \(BatchNorm2d, ReLU\)"):
        fast.features[0].register_forward_hook(lambda module, args, output: None)
    with pytest.warns(UserWarning, match=r"the work of what followed it too \(ReLU\)"):
        fast.features[1].register_forward_hook(lambda module, args, output: None)
    with pytest.raises(ValueError, match=r"layer 'features.1' of this optimised model .* \(ReLU\)"):
        convzoo.feature_maps(fast, x, ["features.1"])
    branches = convzoo.optimize_for_inference(build("cnn_all_tricks"))
    with pytest.raises(ValueError, match=r"layer 'stage5.0' of this optimised model .* \(BatchNorm2d, LeakyReLU\)"):
        convzoo.feature_maps(branches, images(branches), ["stage5.0"])
    for layer in ("features.0", fast.features[0]):
        with pytest.raises(ValueError, match=r"layer .features\.0. of this optimised model does the work of"):
            convzoo.cam(fast, x, layer=layer, method="grad_cam")
    with pytest.raises(ValueError, match="look at the model that it was made from"):
        convzoo.feature_maps(fast, x, ["features.0"])
    assert_same(convzoo.feature_maps(fast, x, ["features.2"])["features.2"],
                convzoo.feature_maps(model, x, ["features.2"])["features.2"])  # fmt: skip


def test_without_the_kernels():
    """On a torch that has them not, the ordinary layers serve."""
    code = """
import types, torch
torch.ops.__dict__["mkldnn"] = types.SimpleNamespace()
import convzoo
from convzoo.inference import packed
assert not packed.KERNELS
for name in ("resnet18", "t2t_vit_7"):
    model = convzoo.create_model(name, num_classes=5, img_size=128).eval()
    x = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        fast = convzoo.optimize_for_inference(model)
        assert torch.allclose(fast(x), model(x), rtol=1e-4, atol=1e-5)
        assert all(getattr(module, "_cache", None) is None for module in fast.modules())
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@torch.no_grad()
def test_a_part_that_differs_is_put_back(monkeypatch):
    """Were there a fault in the folding, one warning would name the parts, and the function would stay the same."""

    def wrong(conv, factor, offset):
        fold(conv, factor, offset + (0.2 if conv.out_channels == 128 else 0.0))

    monkeypatch.setattr("convzoo.inference.graph.fold", wrong)
    model = build("resnet18")
    x = images(model)
    with pytest.warns(UserWarning, match=r"was put back: layer2.0 \(BasicBlock\), layer2.1 \(BasicBlock\)") as seen:
        fast = convzoo.optimize_for_inference(model)
    assert len(seen) == 1
    assert_same(fast(x), model(x))
    assert 0 < norms(fast) <= 5  # of stage 2
    assert norms(fast.layer2) == norms(fast)


class Noisy(nn.Module):
    """Different each time, so that nothing can be compared."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

    def forward(self, x):
        return self.layers(x) + torch.rand(())


def test_a_model_that_cannot_be_compared_stays_as_it_is():
    with pytest.warns(UserWarning, match=r"was put back: the whole model \(Noisy\)"):
        fast = convzoo.optimize_for_inference(Noisy(), example=torch.rand(1, 3, 8, 8))
    assert norms(fast) == 1
    assert type(fast.layers[0]) is nn.Conv2d


def test_hooks_of_all_modules():
    model = build("lenet5")
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: output * 1.1)
    try:
        with pytest.warns(UserWarning, match="hooks are registered for all modules, so nothing is rewritten"):
            fast = convzoo.optimize_for_inference(model)
        assert_same(fast(images(model)), model(images(model)))
    finally:
        handle.remove()


def test_images_of_the_usual_size_serve_where_small_ones_do_not():
    model = build("resnet18", img_size=128)
    model.avgpool, model.fc = nn.AvgPool2d(4), nn.Linear(512, 7)  # of maps of 4x4 alone
    model.eval()
    fast = convzoo.optimize_for_inference(model)
    assert norms(fast) == 0
    x = images(model)
    with torch.no_grad():
        assert_same(fast(x), model(x))
    model.avgpool = nn.AvgPool2d(9)  # of no maps
    with pytest.warns(UserWarning, match=r"does not take images of shape \(1, 2, 128, 128\) .* pass an example= that"):
        assert norms(convzoo.optimize_for_inference(model)) == norms(model)


@torch.no_grad()
def test_blocks_of_others_are_rewritten_with_an_example():
    """A residual block, a unit of three layers and parallel branches, as another library may have them."""

    class Unit(nn.Module):
        def __init__(self, chans, out, kernel=1):
            super().__init__()
            self.conv = nn.Conv2d(chans, out, kernel, padding=kernel // 2, bias=False)
            self.norm = nn.BatchNorm2d(out)

        def forward(self, x):
            return nn.functional.relu(self.norm(self.conv(x)), inplace=True)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.norm, self.act = nn.BatchNorm2d(8), nn.ReLU()

        def forward(self, x):
            return self.act(x + self.norm(self.second(self.act(self.first(x)))))

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (nn.Conv2d(8, width, 1) for width in (2, 3, 4))
            self.last = nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, x):
            return torch.cat([self.one(x), self.last(self.two(x)), self.three(x)], 1).sigmoid()

    torch.manual_seed(0)
    model = nn.Sequential(Unit(3, 8, 3), Block(), Branches(), nn.Flatten(), nn.LazyLinear(3)).eval()
    x = torch.rand(2, 3, 9, 9)
    expected = model(x)
    fast = convzoo.optimize_for_inference(model, example=x)
    assert_same(fast(x), expected)
    assert_same(fast(x[:1]), expected[:1])
    assert norms(fast) == 0
    assert [type(part).__name__ for part in fast[:3]] == ["FusedBlock"] * 3
    assert sum(isinstance(part, nn.Conv2d) for part in fast[2].modules()) == 3  # two of the four are one
    assert_same(pickle.loads(pickle.dumps(fast))(x), expected)


class CallsAnothersLayer(nn.Module):
    """Calls a layer of the module around it, without owning that one."""

    def __init__(self, around):
        super().__init__()
        self.around, self.bn = [around], nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.around[0].conv(x))


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.block = CallsAnothersLayer(self)

    def forward(self, x):
        return self.block(x).relu()


@torch.no_grad()
def test_a_block_that_calls_a_layer_outside():
    model, x = Around().eval(), torch.rand(2, 3, 8, 8)
    fast = convzoo.optimize_for_inference(model, example=x)
    assert_same(fast(x), model(x))


class Unregistered(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.scales = {"a": nn.Conv2d(3, 4, 1)}, [nn.Parameter(torch.ones(4, 1, 1))]
        self.tied = self.layers["a"].weight

    def forward(self, x):
        return self.layers["a"](x) * self.scales[0] + self.tied.sum()


@torch.no_grad()
def test_no_memory_is_shared_with_what_is_not_registered():
    model, x = Unregistered().eval(), torch.rand(2, 3, 8, 8)
    fast = convzoo.optimize_for_inference(model, example=x)
    before = fast(x)
    assert_same(before, model(x))
    model.layers["a"].weight.add_(1)
    model.scales[0].add_(1)
    assert torch.equal(fast(x), before)
