"""Other people's weights: timm's repositories, and tensors that a user already has."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from helpers.weight_folders import make_folder
from safetensors.torch import save

import convzoo
from convzoo import WeightsMismatch
from convzoo.models._init import build_empty
from convzoo.registry import make_config
from convzoo.weights.layouts import convert

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "torchvision"
# the nets that timm has under the same names
TIMM = [
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "inception_v3"),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
]
VGG_RENAMES = {"classifier.0.": "pre_logits.fc1.", "classifier.3.": "pre_logits.fc2.", "classifier.6.": "head.fc."}


def shapes(name):
    """The keys and shapes that torchvision's net has."""
    rows = [(line + "\t").split("\t")[:2] for line in (FIXTURES / f"{name}.keys.tsv").read_text().splitlines()]
    return {key: tuple(map(int, shape.split("x"))) if shape else () for key, shape in rows}


def as_timm(name, state):
    """torchvision's tensors as timm lays them out: VGG's hidden layers are convolutions, Inception has one head."""
    out = {}
    for key, value in state.items():
        if key.startswith("AuxLogits."):
            continue
        for ours, theirs in VGG_RENAMES.items() if name.startswith("vgg") else ():
            if key.startswith(ours):
                if key == "classifier.0.weight":
                    value = value.reshape(len(value), 512, 7, 7)
                elif key == "classifier.3.weight":
                    value = value.reshape(*value.shape, 1, 1)
                key = theirs + key.removeprefix(ours)
        out[key] = value
    return out


def dtype_of(key, floating):
    return torch.int64 if key.endswith("num_batches_tracked") else floating


def random_state(name, classes=1000, floating=torch.float16):
    """Random tensors, quickly: the same block of numbers over and over, from another place for every key."""
    block = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)).abs().to(floating)
    state = {}
    for key, shape in shapes(name).items():
        if shape[:1] == (1000,):
            shape = (classes, *shape[1:])
        if dtype_of(key, floating) == torch.int64:
            state[key] = torch.zeros(shape, dtype=torch.int64)
            continue
        count = torch.Size(shape).numel()
        start = int(hashlib.sha256(key.encode()).hexdigest(), 16) % len(block)
        state[key] = block.roll(start).repeat(-(-count // len(block)))[:count].reshape(shape)
    return state


def timm_config(name, classes=1000, **more):
    size = 299 if name == "inception_v3" else 224
    return {
        "architecture": name,
        "num_classes": classes,
        "num_features": 512,
        "pretrained_cfg": {
            **{"tag": "a1_in1k", "custom_load": False, "input_size": [3, size, size], "fixed_input_size": False},
            **{"interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center", "num_classes": classes},
            **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "license": "apache-2.0"},
            **{"first_conv": "conv1", "classifier": "fc", "pool_size": [7, 7]},
        },
        **more,
    }


@pytest.mark.parametrize("name", TIMM)
def test_keys_and_shapes_of_timm_become_ours(name):
    theirs = {
        key: torch.empty(shape, device="meta", dtype=dtype_of(key, torch.float32))
        for key, shape in shapes(name).items()
    }
    theirs = as_timm(name, theirs)
    model = build_empty(make_config(name))
    converted = convert(theirs, model, "timm")
    assert {key: value.shape for key, value in converted.items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    assert convert(theirs, model).keys() == converted.keys()  # found out without being told


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "inception_v3", "vgg11_bn"])  # each layout
def test_a_repository_of_timm_is_read(hub, name):
    classes = 20
    state = random_state(name, classes, torch.bfloat16)
    labels = [f"n{index:08}" for index in range(classes)]
    config = timm_config(name, classes, label_names=labels)
    repo_id = f"timm/{name}.a1_in1k"
    hub.commit(repo_id, {"config.json": json.dumps(config), "model.safetensors": save(as_timm(name, state))})
    model = convzoo.create_model(name, pretrained=repo_id)
    loaded = model.state_dict()
    for key, value in loaded.items():
        assert torch.equal(value, state[key].to(value.dtype)), key
    info = model.weights
    assert (info.name, info.repo_id, info.license) == (f"{name}.a1_in1k", repo_id, "apache-2.0")
    assert (info.classes, info.interpolation, info.crop_pct) == (tuple(labels), "bicubic", 0.95)
    assert info.mean == (0.485, 0.456, 0.406)
    assert model.preprocess(torch.rand(3, 320, 400)).shape == (1, 3, *info.img_size)


def test_classes_and_channels_of_a_timm_repository_can_be_changed(hub):
    state = random_state("resnet18", 20)
    config = json.dumps(timm_config("resnet18", 20))
    hub.commit("timm/resnet18.x", {"config.json": config, "model.safetensors": save(state)})
    model = convzoo.create_model("resnet18", 5, 1, pretrained="timm/resnet18.x")
    assert torch.allclose(model.conv1.weight, state["conv1.weight"].float().sum(1, keepdim=True))
    assert model.fc.weight.shape == (5, 512)
    with pytest.raises(WeightsMismatch, match="holds weights of resnet18, and resnet50 was asked for"):
        convzoo.create_model("resnet50", pretrained="timm/resnet18.x")


def test_the_older_config_of_timm(hub):
    flat = {"architecture": "resnet18", **timm_config("resnet18")["pretrained_cfg"], "num_classes": 3}
    flat |= {"labels": ["a", "b", "c"], "model_args": {"num_classes": 3, "global_pool": "avg", "drop_rate": 0.1}}
    state = save(random_state("resnet18", 3))
    hub.commit("timm/old", {"config.json": json.dumps(flat), "model.safetensors": state})
    assert convzoo.create_model("resnet18", pretrained="timm/old").weights.classes == ("a", "b", "c")


# -- tensors that a user has


def test_tensors_of_torchvision(hub):
    """The file holds the auxiliary head; a model built without it has no use for it."""
    state = random_state("inception_v3", floating=torch.float32)
    model = convzoo.load_weights(convzoo.create_model("inception_v3"), state, layout="torchvision")
    assert torch.equal(model.fc.weight, state["fc.weight"])
    with pytest.raises(WeightsMismatch, match="unexpected: AuxLogits"):
        convzoo.load_weights(model, state, layout="convzoo")


def test_loading_keeps_the_parameters_their_types_and_the_mode():
    model = convzoo.create_model("lenet5").double().train()
    before = dict(model.named_parameters())
    source = convzoo.create_model("lenet5").state_dict()
    assert convzoo.load_weights(model, source) is model
    assert all(before[key] is parameter for key, parameter in model.named_parameters())
    assert model.fc1.weight.dtype == torch.float64
    assert model.training
    assert torch.equal(model.fc1.weight.float(), source["fc1.weight"])
    assert model.weights is None


def test_wrapped_names():
    model, source = convzoo.create_model("lenet5"), convzoo.create_model("lenet5").state_dict()
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        convzoo.load_weights(model, {prefix + key: value for key, value in source.items()})
        assert torch.equal(model.fc1.weight, source["fc1.weight"])


def test_tensors_of_the_t2t_vit_authors():
    source = convzoo.create_model("t2t_vit_7", num_classes=5)
    official = {f"module.{key}": value for key, value in source.state_dict().items()}
    model = convzoo.create_model("t2t_vit_7", num_classes=5)
    convzoo.load_weights(model, official, layout="t2t-official")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def as_transformers(state, before="resnet."):
    """A ResNet's tensors under the names of transformers' ``ResNetForImageClassification``."""
    renamed = {}
    for key, value in state.items():
        path, _, last = key.rpartition(".")
        if path in ("conv1", "bn1"):
            path = f"{before}embedder.embedder." + {"conv1": "convolution", "bn1": "normalization"}[path]
        elif path == "fc":
            path = before.removesuffix("resnet.") + "classifier.1"
        else:
            stage, block, *layer = path.split(".")
            kind = "normalization" if layer[0].startswith("bn") or layer[-1] == "1" else "convolution"
            place = "shortcut" if layer[0] == "downsample" else f"layer.{int(layer[0][-1]) - 1}"
            path = f"{before}encoder.stages.{int(stage[-1]) - 1}.layers.{block}.{place}.{kind}"
        renamed[f"{path}.{last}"] = value
    return renamed


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("before", ["resnet.", "", "model.resnet."])
def test_tensors_of_transformers(name, before, tmp_path):
    source = convzoo.create_model(name, num_classes=5, depths=(1, 2, 1, 1))
    theirs = as_transformers(source.state_dict(), before)
    assert f"{before}encoder.stages.1.layers.0.shortcut.normalization.running_mean" in theirs
    for layout in (None, "transformers"):
        model = convzoo.create_model(name, num_classes=5, depths=(1, 2, 1, 1))
        convzoo.load_weights(model, theirs, layout=layout)
        assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_file_of_transformers_for_other_classes(tmp_path):
    source = convzoo.create_model("resnet18", num_classes=5)
    (tmp_path / "model.safetensors").write_bytes(save(as_transformers(source.state_dict())))
    with pytest.warns(UserWarning, match="5"):
        model = convzoo.create_model("resnet18", num_classes=3, pretrained=tmp_path / "model.safetensors")
    assert torch.equal(model.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert model.fc.weight.shape == (3, 512)


def test_all_or_nothing():
    model = convzoo.create_model("lenet5")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    source = convzoo.create_model("lenet5").state_dict()
    del source["fc3.bias"]
    with pytest.raises(WeightsMismatch, match=r"the tensors given do not fit lenet5.*1 missing: fc3.bias"):
        convzoo.load_weights(model, source)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_is_no_state_dict():
    model = convzoo.create_model("lenet5")
    with pytest.raises(TypeError, match="a state dict holds tensors by name, got int under 'epoch'"):
        convzoo.load_weights(model, {"epoch": 3, "state_dict": None})
    with pytest.raises(TypeError, match="got an empty mapping"):
        convzoo.load_weights(model, {})
    with pytest.raises(TypeError, match="got list"):
        convzoo.load_weights(model, [1])
    with pytest.raises(
        ValueError, match="unknown layout 'keras'; it is one of convzoo, torchvision, t2t-official, timm, transformers"
    ):
        convzoo.load_weights(model, model.state_dict(), layout="keras")


@pytest.mark.parametrize(
    ("layout", "error", "words"),
    [
        ("keras", ValueError, "unknown layout 'keras'"),
        ("", ValueError, "unknown layout ''"),
        (0, TypeError, "layout must be a string"),
        (False, TypeError, "layout must be a string"),
        (torch.zeros(2), TypeError, "layout must be a string"),
    ],
)
def test_a_layout_is_checked_whatever_the_source(tmp_path, layout, error, words):
    """And before the source is read."""
    model = convzoo.create_model("lenet5")
    for source in (model.state_dict(), make_folder(tmp_path / "net"), tmp_path / "nothing"):
        with pytest.raises(error, match=words):
            convzoo.load_weights(model, source, layout=layout)
