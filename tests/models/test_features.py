"""Backbones: the maps of every stage, with their gradient, of every net of the zoo."""

import copy
import io
import pickle

import pytest
import torch
from helpers.sizes import abridged
from torch import nn

import convzoo
from convzoo.models._features import to_backbone

ONE_A_FAMILY = [
    ("lenet5", {}), ("lenet5_1998", {}), ("mnist_net", {}), ("fcn_gap", {"head": "conv_then_gap"}), ("alexnet", {}),
    ("vgg11_bn", {}), ("googlenet", {}), ("inception_v3", {}), ("cnn_all_tricks", {}),
    ("resnet18", {"depths": (2, 1, 1, 1)}),
    ("t2t_vit_7", {"depth": 2}), ("t2t_vit_t_14_small", {"depth": 2}),
]  # fmt: skip


def size_for(model):
    """A quick size with more than one cell in every map."""
    largest = max(model.feature_info.reduction())
    return -(-max(2 * largest, model.min_size) // largest) * largest


def build(name, **options):
    """A backbone that was made without memory, and drawn."""
    with torch.device("meta"):
        model = convzoo.create_model(name, in_chans=2, features_only=True, **options)
    torch.manual_seed(0)
    model.to_empty(device="cpu").reset_parameters()
    return model


def images(model, count=2, more=0):
    size = size_for(model) + more
    return torch.randn(count, 2, size, size, generator=torch.Generator().manual_seed(1))


def without_gradient(model):
    return [
        path
        for path, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.abs().max() > 0)
    ]


def check_outputs(maps, info, outputs):
    """The maps are what the layers put out that ``info`` names, as wide as it says."""
    assert [each.shape[1] for each in maps] == info.channels()
    for each, path in zip(maps, info.module_name(), strict=True):
        output = outputs[path]
        if output.ndim == 3:  # tokens, behind the class token
            output = output[:, -each.shape[2] * each.shape[3] :].transpose(1, 2).unflatten(2, each.shape[2:])
        assert torch.equal(each, output), path


@pytest.mark.parametrize("name", convzoo.list_models())
def test_maps_are_as_announced_and_have_a_gradient(name):
    model = build(name, **abridged(name))
    info, x = model.feature_info, images(model).requires_grad_()
    outputs = {}
    for path in model.feature_layers:
        keep = lambda module, inputs, output, path=path: outputs.update({path: output.clone()})  # noqa: E731
        model.get_submodule(path).register_forward_hook(keep)
    maps = model.train()(x)
    check_outputs(maps, info, outputs)
    sum((each * torch.randn_like(each)).sum() for each in maps).backward()
    assert x.grad.abs().max() > 0
    assert without_gradient(model) == []
    largest = max(info.reduction())
    with torch.no_grad():
        more = model.eval()(images(model, more=largest))
    check_outputs(more, info, outputs)
    for each, larger, reduction in zip(maps, more, info.reduction(), strict=True):
        assert larger.shape[2] - each.shape[2] == larger.shape[3] - each.shape[3] == largest // reduction
    with torch.device("meta"):
        classifier = convzoo.create_model(name, in_chans=2, **abridged(name))
    shapes = {key: value.shape for key, value in classifier.state_dict().items()}
    assert {key: value.shape for key, value in model.state_dict().items()}.items() <= shapes.items()
    assert not model.state_dict().keys() & {f"{model.classifier_name}.weight", "head.weight", "fc.weight"}


@pytest.mark.parametrize(("name", "options"), ONE_A_FAMILY)
def test_of_some_maps_nothing_behind_the_last_is_kept(name, options):
    torch.manual_seed(0)
    whole = build(name, **options)
    x = images(whole)
    expected = whole.eval()(x)
    for last in range(len(expected)):
        model = build(name, **options, out_indices=(last,)).eval()
        loaded = model.load_state_dict(whole.state_dict(), strict=False)
        assert not loaded.missing_keys
        (maps,) = model(x)
        assert torch.equal(maps, expected[last])
        (maps * torch.randn_like(maps)).sum().backward()
        assert without_gradient(model) == []
        assert model.feature_info.out_indices == (last,)
        assert model.feature_info.channels() == [maps.shape[1]]


@pytest.mark.parametrize(("name", "options"), ONE_A_FAMILY)
def test_the_classifiers_own_maps(name, options):
    torch.manual_seed(0)
    with torch.device("meta"):
        size = size_for(convzoo.create_model(name, in_chans=2, features_only=True, **options))
    if name == "vgg11_bn":
        options = {**options, "head": "gap"}
    model = convzoo.create_model(name, 5, in_chans=2, img_size=size, **options).eval()
    backbone = to_backbone(copy.deepcopy(model))
    x = images(backbone)
    with torch.no_grad():
        features, maps = model.forward_features(x), backbone(x)
        if features.ndim == 3:
            features = features[:, 1:].transpose(1, 2).unflatten(2, maps[-1].shape[2:])
        assert torch.equal(maps[-1], features)
        assert model(x).shape == (2, 5)
    assert backbone.num_classes == 0
    assert model.num_classes == 5


@pytest.mark.parametrize(("name", "options"), [
    ("resnet18", {"stem": "small", "depths": (1, 1, 1, 1)}), ("resnet18", {"stem": "medium", "depths": (1, 1, 1, 1)}),
    ("vgg11_bn", {"depths": (1, 1, 1, 1, 1)}), ("t2t_vit_7", {"depth": 1}), ("googlenet_bn", {}), ("lenet5", {}),
])  # fmt: skip
def test_copied_traced_compiled_exported_and_checkpointed(name, options):
    model = build(name, **options).eval()
    x = images(model)
    with torch.no_grad():
        expected = model(x)
        others = [
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            torch.fx.symbolic_trace(model),
            torch.compile(model, backend="eager", fullgraph=True),
            torch.export.export(model, (x,)).module(),
        ]
        for other in others:
            torch.testing.assert_close(other(x), expected)
    torch._dynamo.reset()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin = build(name, **options).eval()
    twin.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(twin(x), expected)
    if model.can_checkpoint:
        gradients = []
        for enable in (False, True):
            twin.train().set_grad_checkpointing(enable)
            torch.manual_seed(2)
            loss = sum(each.square().mean() for each in twin(x))
            gradients.append(torch.autograd.grad(loss, [each for each in twin.parameters() if each.requires_grad]))
        torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("tag", ["fcn_gap.mnist", "lenet5.mnist", "mnist_resnet.mnist"])
def test_pretrained(tag):
    classifier = convzoo.create_model(tag, pretrained=True)
    backbone = convzoo.create_model(tag, pretrained=True, features_only=True, out_indices=(-2, -1))
    x = torch.rand(2, 1, 28, 28)
    maps = []
    with torch.no_grad():
        classifier.forward_features(x, maps=maps)
        assert all(torch.equal(one, other) for one, other in zip(backbone(x), maps[-2:], strict=True))
    assert not backbone.training
    assert backbone.weights.mean == classifier.weights.mean
    assert backbone.weights.classes == ()
    assert backbone.preprocess(torch.zeros(28, 28)).shape == (1, 1, 28, 28)


@pytest.mark.parametrize(("name", "options"), [("resnet18", {}), ("googlenet_bn", {"aux": True})])
def test_weights_of_a_classifier_go_into_a_backbone(name, options):
    classifier = convzoo.create_model(name, **options).eval()
    backbone = convzoo.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    convzoo.load_weights(backbone, classifier.state_dict())
    x, maps = torch.rand(1, 3, 64, 64), []
    with torch.no_grad():
        classifier.forward_features(x, maps=maps)
        assert torch.equal(backbone(x)[1], maps[3])
    with pytest.raises(convzoo.WeightsMismatch, match="1 unexpected: other"):
        convzoo.load_weights(backbone, {**classifier.state_dict(), "other": torch.zeros(1)})


def test_cam_and_save_pretrained_say_that_there_is_no_head(tmp_path):
    model = convzoo.create_model("resnet18", features_only=True).eval()
    with pytest.raises(ValueError, match="without a head has no classes to explain"):
        convzoo.cam(model, torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"made with features_only=True.*keep its state_dict\(\)"):
        convzoo.save_pretrained(model, tmp_path / "folder", tag="mine", mean=[0.0] * 3, std=[1.0] * 3)
    assert not (tmp_path / "folder").exists()


def test_auxiliary_heads_are_left_out():
    model = to_backbone(convzoo.create_model("googlenet_bn", aux=True))
    assert len(model.train()(torch.randn(2, 3, 64, 64))) == 5
    assert not any("aux" in key for key in model.state_dict())
    assert not model.config.aux


def test_feature_info():
    info = convzoo.create_model("resnet50", features_only=True, out_indices=[1, -1]).feature_info
    assert info.channels() == [256, 2048]
    assert info.reduction() == [4, 32]
    assert info.module_name() == ["layer1", "layer4"]
    assert info.channels(0) == 64
    assert info.reduction([0, 2]) == [2, 8]
    assert info.get_dicts(["reduction"]) == [{"reduction": 4}, {"reduction": 32}]
    assert info[2] == {"num_chs": 512, "reduction": 8, "module": "layer2", "index": 2}
    assert [each["index"] for each in info] == [0, 1, 2, 3, 4]
    assert repr(info) == "FeatureInfo(256 at 1/4, 2048 at 1/32)"
    assert "FeatureInfo(256 at 1/4" in repr(convzoo.create_model("resnet50", features_only=True, out_indices=(1, 4)))
    small = convzoo.create_model("resnet18", features_only=True, stem="small").feature_info
    assert small.reduction() == [1, 1, 2, 4, 8]
    medium = convzoo.create_model("resnet18", features_only=True, stem="medium").feature_info
    assert medium.reduction() == [2, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"out_indices": (1,)}, ValueError, r"out_indices=\(1,\) names maps of a backbone; pass features_only=True"),
        ({"features_only": 1}, TypeError, "features_only must be True or False, got 1"),
        ({"features_only": True, "num_classes": 10}, ValueError, "leaves the head of resnet18 out, and num_classes=10"),
        ({"features_only": True, "out_indices": 3}, TypeError, "out_indices of resnet18 must be a tuple of indices"),
        ({"features_only": True, "out_indices": ()}, ValueError, "must go up from 0 to at most 4"),
        ({"features_only": True, "out_indices": (5,)}, ValueError, r"at most 4 .*got \(5,\); it has 5 maps"),
        ({"features_only": True, "out_indices": (-6,)}, ValueError, "must be at least -5"),
        ({"features_only": True, "out_indices": (2, 1)}, ValueError, r"must go up .*got \(2, 1\)"),
        ({"features_only": True, "out_indices": (4, -1)}, ValueError, r"must go up .*got \(4, -1\)"),
        ({"features_only": True, "out_indices": (1.0,)}, TypeError, "must be a whole number"),
    ],
)
def test_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        convzoo.create_model("resnet18", **arguments)


def test_auxiliary_heads_are_refused():
    with pytest.raises(ValueError, match="aux=True asks for auxiliary heads"):
        convzoo.create_model("googlenet_bn", features_only=True, aux=True)


class Pooled(convzoo.Classifier):
    """A net of somebody else that says nothing of its maps."""

    num_features = 8
    stages = {"stage1": "conv"}

    def __init__(self, config):
        super().__init__(config)
        self.conv = nn.Conv2d(config.in_chans, 8, 3)
        self.fc = self.make_classifier(config.num_classes)

    def forward_features(self, x):
        return self.conv(x)

    def forward_head(self, features, pre_logits=False):
        pooled = features.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)


def test_nets_that_name_no_maps_are_refused(monkeypatch):
    monkeypatch.setattr(convzoo.registry, "_ENTRIES", dict(convzoo.registry._ENTRIES))
    convzoo.register(Pooled, [convzoo.ModelConfig(name="pooled", num_classes=3)], family="pooled")
    with pytest.raises(ValueError, match=r"pooled makes no backbone: its class does not say .*\(feature_layers\)"):
        convzoo.create_model("pooled", features_only=True)


@pytest.mark.parametrize("name", ["resnet18", "lenet5"])
def test_what_has_no_head_says_so(name):
    model = convzoo.create_model(name, features_only=True).eval()
    assert isinstance(model.get_classifier(), nn.Identity)
    with pytest.raises(ValueError, match=f"this {name} was made with features_only=True and has no head to replace"):
        model.reset_classifier(3)
    x = torch.rand(1, model.in_chans, *model.img_size)
    with pytest.raises(ValueError, match=f"this {name} was made with features_only=True and has no head; create_model"):
        model.forward_head(model.forward_features(x))


@pytest.mark.parametrize(("name", "options"), [
    ("resnet18", {"stem": "small"}), ("vgg11_bn", {}), ("googlenet_bn", {}), ("fcn_gap", {}),
    ("t2t_vit_7", {"depth": 2}), ("t2t_vit_t_14_small", {"depth": 1, "out_indices": (0, 1)}),
])  # fmt: skip
def test_optimised_and_counted(name, options):
    model = build(name, **options).eval()
    x = images(model)
    fast = convzoo.optimize_for_inference(model)
    with torch.no_grad():
        for maps, expected in zip(fast(x), model(x), strict=True):
            torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    counted = convzoo.profile(model, tuple(x.shape[1:]))
    assert counted.trainable_params == sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert counted.macs > 0
