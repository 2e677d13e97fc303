"""Models that were changed: saved so that they load as the same function, or refused before anything is written."""

from __future__ import annotations

import copy
import random
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm
from torch.optim.swa_utils import AveragedModel

import convzoo


def make(name="resnet18", **options):
    torch.manual_seed(0)
    model = convzoo.create_model(name, **{"num_classes": 10, **options}).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def images_for(model):
    return torch.rand(2, model.in_chans, *(model.img_size if model.fixed_size else (64, 64)))


def save(model, folder):
    return convzoo.save_pretrained(model, folder, tag="mine", mean=0.5, std=0.5)


def saved_as_the_same(model, folder, images):
    """Save, load, and compare with what the model answers."""
    with torch.no_grad():
        expected = model(images)
    loaded = convzoo.create_model("resnet18", pretrained=save(model, folder))
    torch.testing.assert_close(loaded(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    return loaded


def replace(model, kind, make_one):
    for name, child in list(model.named_children()):
        if isinstance(child, kind):
            setattr(model, name, make_one(child))
        else:
            replace(child, kind, make_one)
    return model


class LoRA(nn.Module):
    """What parameter-efficient fine-tuning puts in a layer's place."""

    def __init__(self, layer, scale=1.0):
        super().__init__()
        self.base_layer, self.scale = layer, scale
        self.lora_A = nn.Parameter(torch.randn(4, layer.in_features))
        self.lora_B = nn.Parameter(torch.randn(layer.out_features, 4))

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, x):
        return self.base_layer(x) + self.scale * x @ self.lora_A.T @ self.lora_B.T


class Scaled(nn.Linear):
    """The tensors of a linear layer, another function."""

    def forward(self, x):
        return 3 * super().forward(x)


def compiled(module):
    return torch.compile(module, backend="eager")


# -- saved


def heads():
    yield "linear", lambda model: setattr(model, "fc", nn.Linear(512, 3))
    yield "same size", lambda model: setattr(model, "fc", nn.Linear(512, 10))
    yield "none", lambda model: setattr(model, "fc", nn.Identity())
    yield "reset", lambda model: model.reset_classifier(4)


@pytest.mark.parametrize(("kind", "change"), list(heads()))
def test_heads_of_ones_own(tmp_path, kind, change):
    model = make()
    change(model)
    loaded = saved_as_the_same(model, tmp_path / "a", torch.rand(2, 3, 64, 64))
    assert loaded.num_classes == {"linear": 3, "same size": 10, "none": 0, "reset": 4}[kind]


def test_another_first_convolution(tmp_path):
    model = make()
    model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    assert saved_as_the_same(model, tmp_path / "a", torch.rand(2, 1, 64, 64)).in_chans == 1


def test_synchronised_batch_norms_and_parts_that_are_compiled_or_parallel(tmp_path):
    images = torch.rand(2, 3, 64, 64)
    saved_as_the_same(nn.SyncBatchNorm.convert_sync_batchnorm(make()), tmp_path / "a", images)
    model = make()
    model.layer1, model.layer2[0] = compiled(model.layer1), nn.DataParallel(model.layer2[0])
    saved_as_the_same(model, tmp_path / "b", images)


@pytest.mark.parametrize(
    "wrap", [compiled, nn.DataParallel, AveragedModel, lambda model: nn.DataParallel(compiled(AveragedModel(model)))]
)
def test_wrapped_models_are_saved_as_what_is_inside(tmp_path, wrap):
    model = make("lenet5")
    folder = save(wrap(model), tmp_path / "a")
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(convzoo.create_model("lenet5", pretrained=folder)(images), model(images))


def test_parametrised_tensors_are_saved_as_computed(tmp_path):
    model = make()
    parametrizations.weight_norm(model.layer1[0].conv1)
    parametrizations.spectral_norm(model.fc)
    parametrizations.orthogonal(model.layer4[1].conv2)
    names = list(model.state_dict())
    saved_as_the_same(model, tmp_path / "a", torch.rand(2, 3, 64, 64))
    assert list(model.state_dict()) == names  # the model stays parametrised


def test_a_model_in_training_is_not_touched(tmp_path):
    model = make().train()
    model.layer1[0].bn1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    state = torch.get_rng_state()
    save(model, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert not seen


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_numbers(tmp_path, dtype):
    model = make("lenet5").to(dtype)
    loaded = convzoo.create_model("lenet5", pretrained=save(model, tmp_path / "a"))
    assert torch.equal(loaded.fc1.weight, model.fc1.weight.float())


# -- refused


def refused():
    yield "pruned", lambda model: prune.l1_unstructured(model.layer1[0].conv1, "weight", 0.5)
    yield "weight norm of old", lambda model: weight_norm(model.layer1[0].conv1)
    yield "LoRA", lambda model: setattr(model, "fc", LoRA(model.fc))
    yield "two layers", lambda model: setattr(model, "fc", nn.Sequential(nn.Dropout(), nn.Linear(512, 10)))
    yield "no bias", lambda model: setattr(model, "fc", nn.Linear(512, 10, bias=False))
    yield "another layer", lambda model: setattr(model, "fc", Scaled(512, 10))
    yield "another activation", lambda model: replace(model, nn.ReLU, lambda relu: nn.SiLU())
    yield "another norm", lambda model: replace(model, nn.BatchNorm2d, lambda norm: nn.GroupNorm(8, norm.num_features))
    yield "another stride", lambda model: setattr(model.conv1, "stride", (1, 1))
    yield "a hook", lambda model: model.layer2.register_forward_hook(lambda module, args, out: 2 * out)
    yield "a method", lambda model: setattr(model.layer2, "forward", lambda x: model.layer2[1](model.layer2[0](x)) * 2)
    yield "one more layer", lambda model: model.add_module("extra", nn.Linear(2, 2))
    yield "a part left out", lambda model: setattr(model, "layer4", nn.Identity())
    yield "another momentum", lambda model: setattr(model.layer1[0].bn1, "eps", 1.0)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize(("kind", "change"), list(refused()))
def test_what_create_model_could_not_make_again_is_refused(tmp_path, kind, change):
    model = make()
    change(model)
    with pytest.raises(ValueError, match=r"this resnet18 cannot be saved.*(reset_classifier|prune.remove)"):
        save(model, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_what_is_undone_is_saved(tmp_path):
    model = make()
    prune.l1_unstructured(model.layer1[0].conv1, "weight", 0.5)
    prune.remove(model.layer1[0].conv1, "weight")
    saved_as_the_same(model, tmp_path / "a", torch.rand(2, 3, 64, 64))


@pytest.mark.parametrize("name", ["resnet18", "lenet5", "t2t_vit_7"])
def test_optimised_models_are_refused(tmp_path, name):
    fast = convzoo.optimize_for_inference(make(name))
    with pytest.raises(ValueError, match=r"optimised for inference.*save the model that it was made from"):
        save(fast, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_models_without_plain_numbers_are_refused(tmp_path):
    with torch.device("meta"):
        model = convzoo.create_model("lenet5")
    with pytest.raises(ValueError, match="on the meta device"):
        save(model, tmp_path / "a")
    quantised = torch.ao.quantization.quantize_dynamic(make("lenet5"), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(ValueError, match="cannot be saved"):
        save(quantised, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["lenet5", "fcn_gap", "mnist_net", "lenet5_1998", "googlenet_bn", "t2t_vit_7", "vgg11"]
)
def test_whatever_is_changed_the_loaded_model_is_the_same_or_none_is(tmp_path, name):
    """Random changes of layers of random nets: saved and the same, or refused and nothing written."""
    draw = random.Random(name)
    outcomes = set()
    original = make(name, **({"head": "gap"} if name == "vgg11" else {}))
    changes = {
        "activation": lambda m: replace(m, (nn.ReLU, nn.Tanh, nn.GELU), lambda old: nn.SiLU()),
        "head": lambda m: m.reset_classifier(draw.randrange(1, 9)),
        "half": lambda m: [p.data.mul_(0.5) for p in m.parameters()],
        "scale": lambda m: m.register_forward_hook(lambda module, args, out: out + 1),
        "parametrised": lambda m: parametrizations.weight_norm(layers(m)[0]),
        "pruned": lambda m: prune.random_unstructured(layers(m)[1], "weight", 0.3),
        "compiled": lambda m: m.register_module(next(iter(m._modules)), compiled(next(m.children()))),
        "nothing": lambda m: None,
    }
    images = images_for(original)

    def layers(model):
        return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]

    for index in range(8):
        model = copy.deepcopy(original)
        for change in draw.sample(sorted(changes), draw.randrange(1, 3)):
            changes[change](model)
        folder = tmp_path / str(index)
        try:
            save(model, folder)
        except ValueError:
            outcomes.add("refused")
            assert not folder.exists()
            continue
        outcomes.add("saved")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = model(images)
            found = convzoo.create_model(name, pretrained=folder)(images)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert outcomes == {"saved", "refused"}
