"""Freezing, parameter groups, and timm's names for them."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import convzoo
from convzoo.models._stages import stage_of_parameters

NETS = [
    ("lenet5", {}), ("lenet5_1998", {}), ("fcn_gap", {}), ("mnist_net", {}),
    ("vgg11_bn", {"head": "gap", "img_size": 32}), ("googlenet_bn", {"aux": True, "img_size": 32}),
    ("cnn_all_tricks", {"img_size": 32}), ("resnet18", {"stem": "small", "img_size": 32}),
    ("t2t_vit_7", {"img_size": 32, "depth": 2}),
]  # fmt: skip


def build(name, **options):
    torch.manual_seed(0)
    return convzoo.create_model(name, **options)


@pytest.mark.parametrize("name", convzoo.list_models())
def test_every_stage_has_the_parameters_that_run_in_it(name):
    """In the order of the stages; and the last layer is of the head."""
    with torch.device("meta"):
        model = convzoo.create_model(name)
    stages = stage_of_parameters(model)
    order = list(dict.fromkeys(stages.values()))
    assert order == [stage for stage in (*model.stages, "head") if stage in order]
    assert set(order) >= set(model.stages)
    head = {path for path, stage in stages.items() if stage == "head"}
    assert {f"{model.classifier_name}.{each}" for each, _ in model.get_classifier().named_parameters()} <= head
    places = model.group_matcher()
    assert [places(path) for path in stages] == sorted(places(path) for path in stages)
    for stage, end in model.stages.items():  # what the stage's last layer has is its own
        layer = model.get_submodule(end)
        assert {stages[f"{end}.{each}"] for each, _ in layer.named_parameters()} <= {stage}


@pytest.mark.parametrize(("name", "options"), NETS)
def test_a_frozen_part_stays_as_it_is(name, options):
    """Parameters and statistics, in training, after more than one step, also of a copy."""
    for until in (None, next(iter(build(name, **options).stages))):
        model = build(name, **options)
        report = convzoo.freeze(model, until)
        model = copy.deepcopy(pickle.loads(pickle.dumps(model))).train()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        trained = [path for path, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
        for _ in range(2):
            out = model(torch.randn(4, model.in_chans, *model.img_size))
            loss = (
                out.square().mean() if isinstance(out, torch.Tensor) else sum(each.square().mean() for each in out.aux)
            )
            loss = loss if isinstance(out, torch.Tensor) else loss + out.logits.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        after = model.state_dict()
        moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
        stages = stage_of_parameters(model)
        assert {stages[key] for key in moved if key in stages} == set(report.trained)
        assert moved & stages.keys() == set(trained)
        for path in report.norms:
            assert not any(key.startswith(f"{path}.") for key in moved), path
        assert report.trained_parameters == sum(model.get_parameter(path).numel() for path in trained)
        assert report.parameters + report.trained_parameters == sum(each.numel() for each in model.parameters())


def test_the_report():
    model = convzoo.create_model("resnet18", num_classes=3)
    report = convzoo.freeze(model, "stage1")
    assert report.stages == ("stem", "stage1")
    assert report.trained == ("stage2", "stage3", "stage4", "head")
    assert report.norms[0] == "bn1"
    assert len(report.norms) == 5
    assert str(report) == (
        "resnet18: stem, stage1 frozen (157,504 numbers; 5 batch norms in evaluation mode, also after train()), "
        "stage2, stage3, stage4, head trained (11,020,547)"
    )
    assert str(convzoo.freeze(convzoo.create_model("lenet5"))) == (
        "lenet5: stage1, stage2 frozen (60,856 numbers), head trained (850)"
    )


def test_the_1998_net_has_a_last_layer_that_is_never_trained():
    report = convzoo.freeze(convzoo.create_model("lenet5_1998"))
    assert report.stages == ("stage1", "stage2", "stage3")
    assert report.trained == ("head",)
    assert report.trained_parameters == 84 * 120 + 84


def test_unfreeze_and_freeze_again():
    model = convzoo.create_model("t2t_vit_7", img_size=32, depth=2)
    convzoo.freeze(model, "block2")
    convzoo.freeze(model, "stem")
    assert model.blocks[0].mlp.fc1.weight.requires_grad
    convzoo.unfreeze(model)
    fixed = {path for path, parameter in model.named_parameters() if not parameter.requires_grad}
    assert fixed == set(model.fixed_tables())
    net = convzoo.create_model("fcn_gap").eval()
    convzoo.freeze(net, "stage1")
    assert not net.bn2.training
    assert net.train().bn2.training
    assert not net.bn1.training
    convzoo.unfreeze(net)
    assert net.bn1.training


def test_a_model_with_a_net_inside():
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = convzoo.create_model("resnet18", features_only=True, out_indices=(1, 2))
            self.out = nn.Conv2d(128, 2, 1)

        def forward(self, x):
            return self.out(self.backbone(x)[-1])

    model = Segmenter().train()
    report = convzoo.freeze(model, "stage2")
    assert report.trained == ("head",)
    assert {path for path, each in model.named_parameters() if each.requires_grad} == {"out.weight", "out.bias"}
    assert not model.train().backbone.layer2[0].bn1.training
    assert model.training
    (groups,) = [group for group in convzoo.parameter_groups(model, 0.1) if group["name"] == "head"]
    assert groups["params"] == [model.out.weight]
    convzoo.freeze(model)  # all of the backbone, which has no head of its own
    assert not any(each.requires_grad for each in model.backbone.parameters())
    convzoo.unfreeze(torch.nn.DataParallel(model))
    assert all(each.requires_grad for each in model.parameters())


@pytest.mark.parametrize(("name", "options"), NETS)
def test_parameter_groups(name, options):
    model = build(name, **options)
    groups = convzoo.parameter_groups(model, 0.4, layer_decay=0.5, weight_decay=0.01)
    paths = {id(parameter): path for path, parameter in model.named_parameters()}
    grouped = [paths[id(parameter)] for group in groups for parameter in group["params"]]
    trainable = [path for path, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    stages, order = stage_of_parameters(model), [*model.stages, "head"]
    for group in groups:
        stage = group["name"].removesuffix(", no decay")
        assert {stages[paths[id(parameter)]] for parameter in group["params"]} == {stage}
        assert group["lr"] == pytest.approx(0.4 * 0.5 ** (len(order) - 1 - order.index(stage)))
        assert group["weight_decay"] == (0.0 if group["name"].endswith(", no decay") else 0.01)
        for parameter in group["params"]:
            assert (parameter.ndim > 1 and "cls_token" not in paths[id(parameter)]) == (group["weight_decay"] > 0)
    optimizer = torch.optim.SGD(groups)
    assert len(optimizer.param_groups) == len(groups)
    convzoo.freeze(model)
    left = [parameter for group in convzoo.parameter_groups(model, 0.4) for parameter in group["params"]]
    assert len(left) == sum(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda net: convzoo.freeze(net, "stage9"), ValueError, r"lenet5 has no stage 'stage9'; did you mean 'stage"),
        (lambda net: convzoo.freeze(net, "head"), ValueError, "its stages are stage1, stage2"),
        (lambda net: convzoo.freeze(nn.Linear(2, 2)), TypeError, "and Linear has no such nets inside"),
        (lambda net: convzoo.unfreeze("lenet5"), TypeError, "a model is a torch.nn.Module, got 'lenet5'"),
        (lambda net: convzoo.unfreeze(nn.ModuleList([net, copy.deepcopy(net)])), TypeError, "has 2 such nets inside"),
        (lambda net: convzoo.parameter_groups(net, -1), ValueError, "must be at least 0"),
        (lambda net: convzoo.parameter_groups(net, 0.1, layer_decay=1.5), ValueError, r"layer_decay in \(0, 1\]"),
        (lambda net: convzoo.parameter_groups(net, "fast"), TypeError, "lr must be a number"),
        (lambda net: convzoo.parameter_groups(net.requires_grad_(False), 1), ValueError, "no parameter of lenet5 is"),
        (
            lambda net: convzoo.freeze(convzoo.create_model("lenet5", features_only=True)),
            ValueError,
            "leaves nothing to train",
        ),
    ],
)
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call(convzoo.create_model("lenet5"))


@pytest.mark.parametrize("name", ["resnet18", "mnist_resnet", "googlenet_bn"])
def test_a_frozen_net_that_was_optimised_changes_its_mode(name):
    model = convzoo.create_model(name, 5)
    convzoo.freeze(model)
    fast = convzoo.optimize_for_inference(model)
    assert not any(module.training for module in fast.train().eval().modules())


def test_a_frozen_layer_that_was_taken_out():
    model = convzoo.create_model("resnet18", 5)
    convzoo.freeze(model)
    model.layer1 = nn.Identity()
    assert not model.train().bn1.training
    assert model.layer1.training


@pytest.mark.parametrize("change", [
    parametrizations.spectral_norm,
    parametrizations.weight_norm,
    parametrizations.orthogonal,
    lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    lambda layer: layer.bias is None or prune.random_unstructured(layer, "bias", 0.5),
    pytest.param(nn.utils.weight_norm, marks=pytest.mark.filterwarnings("ignore:.*weight_norm")),
    nn.utils.spectral_norm,
])  # fmt: skip
@pytest.mark.parametrize("path", ["fc", "layer1.0.conv1"])
def test_weights_that_are_made_of_others_decay(change, path):
    model = convzoo.create_model("resnet18", 5)
    model.fc = nn.Linear(512, 5)
    change(model.get_submodule(path))
    groups = convzoo.parameter_groups(model, 1.0, weight_decay=0.1)
    decays = {id(each): group["weight_decay"] > 0 for group in groups for each in group["params"]}
    layer = model.get_submodule(path)
    shape = (5, 512) if path == "fc" else (64, 64, 3, 3)
    assert [decays[id(each)] for each in layer.parameters()] == [each.shape == shape for each in layer.parameters()]
    assert any(each.shape == shape for each in layer.parameters())


def test_weights_of_one_input_decay_and_lengths_do_not():
    model = convzoo.create_model("resnet18", 5)
    model.fc = nn.Sequential(nn.Linear(512, 1), nn.Linear(1, 5))
    parametrizations.weight_norm(model.fc[0], dim=1)
    groups = convzoo.parameter_groups(model, 1.0, weight_decay=0.1)
    decayed = {id(each) for group in groups if group["weight_decay"] for each in group["params"]}
    assert id(model.fc[1].weight) in decayed
    assert id(model.fc[0].parametrizations.weight.original0) not in decayed
    assert id(model.fc[0].parametrizations.weight.original1) in decayed
