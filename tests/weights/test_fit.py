"""Weights fitted to other classes, channels and image sizes, or refused in words."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers.weight_folders import edit_json, make_folder, put, same

import convzoo
from convzoo import WeightInfo, WeightsMismatch, WeightsNotFound
from convzoo.models._init import build_empty
from convzoo.registry import make_config
from convzoo.weights.adapt import Wanted, fold_chans, load_fitted


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder of random weights a net, made when first asked for."""
    made = {}

    def get(name, **saved):
        if name not in made:
            made[name] = make_folder(tmp_path_factory.mktemp("weights") / name, name, **saved)
        return made[name]

    return get


def randomise(model):
    """Batch-norm statistics that are not the trivial ones."""
    for key, value in model.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_()
        elif key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model


def test_a_fresh_head_and_everything_else_loaded(folders):
    folder = folders("fcn_gap")
    own = convzoo.create_model("fcn_gap", pretrained=folder)
    model = convzoo.create_model("fcn_gap", num_classes=7, pretrained=folder)
    ours, theirs = model.state_dict(), own.state_dict()
    assert [key for key in theirs if ours[key].shape != theirs[key].shape] == ["fc.weight", "fc.bias"]
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs if not key.startswith("fc."))
    assert ours["fc.weight"].abs().sum() > 0
    assert model.num_classes == model.config.num_classes == model.weights.num_classes == 7
    assert model.weights.adapted == ("a fresh head for 7 classes, not 10",)
    assert not model.weights.classes
    assert not model.weights.metrics
    assert model(torch.rand(1, 1, 28, 28)).shape == (1, 7)


def test_as_many_classes_as_the_weights_have_is_no_change(folders):
    model = convzoo.create_model("lenet5", num_classes=10, in_chans=1, img_size=28, pretrained=folders("lenet5"))
    assert model.weights.adapted == ()
    assert model.weights.classes[0] == "0"
    assert same(model, convzoo.create_model("lenet5", pretrained=folders("lenet5")))


def test_no_head_gives_the_features(folders):
    whole = convzoo.create_model("lenet5", pretrained=folders("lenet5"))
    model = convzoo.create_model("lenet5", num_classes=0, pretrained=folders("lenet5"))
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(model(images), whole.forward_head(whole.forward_features(images), pre_logits=True))
    assert model.weights.adapted == ("the head for 10 classes left out",)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_get_the_classes_too(tmp_path, name):
    folder = make_folder(tmp_path / "a", name, options={"aux": True, "num_classes": 10}, dtype="float16")
    model = convzoo.create_model(name, num_classes=3, pretrained=folder)
    assert model.config.aux
    heads = {"googlenet": ("fc", "aux1.fc2", "aux2.fc2"), "inception_v3": ("fc", "AuxLogits.fc")}[name]
    assert [model.get_submodule(head).out_features for head in heads] == [3] * len(heads)


@pytest.mark.parametrize("have", [1, 2, 3, 4])
@pytest.mark.parametrize("want", [1, 2, 3, 4, 5, 6, 7])
def test_folding_keeps_the_sum_over_channels(have, want):
    weight = torch.rand(5, have, 3, 3, dtype=torch.float64)
    folded = fold_chans(weight, want)
    assert folded.shape == (5, want, 3, 3)
    assert torch.allclose(folded.sum(1), weight.sum(1))
    if want == have:
        assert torch.equal(folded, weight)
    if want > have:
        assert torch.allclose(folded[:, have:], folded[:, : want - have]) or want > 2 * have


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("lenet5", 28), ("mnist_resnet", 28)])
@pytest.mark.parametrize("chans", [1, 3, 4])
def test_a_grey_image_gives_the_same_features_in_any_number_of_channels(folders, name, size, chans):
    folder = folders(name)
    own = convzoo.create_model(name, pretrained=folder)
    model = convzoo.create_model(name, in_chans=chans, pretrained=folder)
    grey = torch.rand(2, 1, size, size)
    if own.fixed_size is False:
        own, model = own.double(), model.double()
        grey = grey.double()
    with torch.no_grad():
        expected = own(grey.expand(-1, own.in_chans, -1, -1))
        got = model(grey.expand(-1, chans, -1, -1))
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert model.weights.in_chans == len(model.weights.mean) == chans
    assert bool(model.weights.adapted) == (chans != own.in_chans)
    assert model.preprocess(torch.rand(40, 30)).shape[1] == chans


def test_no_convolution_to_fold(folders):
    with pytest.raises(WeightsMismatch, match="begins with no convolution"):
        convzoo.create_model("t2t_vit_7", in_chans=1, pretrained=folders("t2t_vit_7"))


def test_position_table_for_another_grid(folders):
    folder = folders("t2t_vit_7")
    own = convzoo.create_model("t2t_vit_7", pretrained=folder)
    model = convzoo.create_model("t2t_vit_7", img_size=64, pretrained=folder)
    fresh = convzoo.create_model("t2t_vit_7", img_size=64)
    assert model.pos_embed.shape != own.pos_embed.shape
    assert torch.equal(model.pos_embed, fresh.pos_embed)
    assert not model.pos_embed.requires_grad
    assert torch.equal(model.state_dict()["cls_token"], own.state_dict()["cls_token"])
    assert model.weights.img_size == (64, 64)
    assert model.weights.adapted == ("images of 64x64, trained on 224x224", "pos_embed made for 64x64")
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


def test_convolutional_nets_take_another_size(folders):
    model = convzoo.create_model("resnet18", img_size=64, pretrained=folders("resnet18"))
    assert model.img_size == model.weights.img_size == (64, 64)
    assert model.preprocess(torch.rand(3, 100, 80)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("lenet5", 40, "flattened maps, and at 40x40 fc1.weight would be 120x784 instead of 120x400"),
        ("basic_cnn", 32, "flattened maps"),
    ],
)
def test_nets_that_flatten_are_refused_with_the_reason(folders, name, size, words):
    with pytest.raises(WeightsMismatch, match=f"for 28x28 images.*{words}.*resize the images"):
        convzoo.create_model(name, img_size=size, pretrained=folders(name))


@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn", "alexnet"])
def test_nets_with_weights_for_each_cell_are_refused_with_the_reason(name):
    native = build_empty(make_config(name))
    state, info = native.state_dict(), describe(native.config)
    with pytest.raises(WeightsMismatch, match=f"for 224x224 images: {name} has weights for each cell of its last maps"):
        load_fitted(native, state, Wanted(img_size=(64, 64)), info, "the weights", state)


def describe(config):
    """As much of an entry as fitting looks at."""
    size = {"num_classes": config.num_classes, "in_chans": 3, "img_size": (224, 224)}
    return WeightInfo(
        name=f"{config.name}.x", architecture=config.name, tag="x", mean=(0.0,) * 3, std=(1.0,) * 3, **size
    )


def test_vgg_with_a_pooled_head_is_not(tmp_path):
    folder = make_folder(tmp_path / "vgg", "vgg11", options={"num_classes": 2, "head": "gap"}, dtype="float16")
    model = convzoo.create_model("vgg11", img_size=64, pretrained=folder)
    assert model.config.head == "gap"  # an option travels with the weights
    assert model.weights.model_args == {"head": "gap"}
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "adapted"),
    [
        ({}, ()),
        ({"stem": "small", "drop_rate": 0.3, "zero_init_residual": True}, ()),
        ({"stem": "medium"}, ("stem='medium', trained with 'small'",)),
        ({"output_stride": 8, "drop_rate": 0.1}, ("output_stride=8, trained with 32",)),
        ({"global_pool": "max"}, ("global_pool='max', trained with 'avg'",)),
        ({"img_size": 96}, None),
    ],
)
def test_an_accuracy_goes_with_an_option_that_answers_depend_on(tmp_path, options, adapted):
    """However the weights come into the net: made with them, or filled."""
    plain = {"stem": "small", "depths": (1, 1, 1, 1), "num_classes": 5, "img_size": 64}
    folder = make_folder(tmp_path / "small", "resnet18", options=plain, metrics={"top1": 50.0, "n": 100})
    made = convzoo.create_model("resnet18", pretrained=folder, **options)
    filled = convzoo.load_weights(convzoo.create_model("resnet18", **{**plain, **options}), folder)
    for model in (made, filled):
        assert model.weights.metrics == ({"top1": 50.0, "n": 100} if adapted == () else {})
        assert adapted is None or model.weights.adapted == adapted
    assert filled.weights.adapted or adapted == ()


def test_weights_of_another_architecture_keep_no_accuracy(tmp_path):
    folder = make_folder(
        tmp_path / "x",
        "resnet50",
        options={"depths": (1, 1, 1, 1), "width_per_group": 128},
        metrics={"top1": 50.0, "n": 100},
    )
    model = convzoo.load_weights(convzoo.create_model("wide_resnet50_2", depths=(1, 1, 1, 1)), folder)
    assert (model.weights.metrics, model.weights.adapted) == ({}, ("wide_resnet50_2, trained as resnet50",))


def test_options_travel_and_can_be_overruled_where_shapes_allow(tmp_path):
    options = {"stem": "small", "num_classes": 5, "img_size": 64}
    folder = make_folder(tmp_path / "small", "resnet18", options=options)
    model = convzoo.create_model("resnet18", pretrained=folder)
    assert (model.config.stem, model.num_classes, model.img_size) == ("small", 5, (64, 64))
    assert convzoo.create_model("resnet18", pretrained=folder, shortcut=True).config.shortcut
    with pytest.raises(
        WeightsMismatch,
        match=r"with stem='imagenet' asked for: 1 of other shape: conv1.weight 64x3x3x3 instead of 64x3x7x7; leave out",
    ):
        convzoo.create_model("resnet18", pretrained=folder, stem="imagenet")
    with pytest.raises(WeightsMismatch, match=r"18 unexpected: layer2.0.downsample.0.weight"):
        convzoo.create_model("resnet18", pretrained=folder, shortcut=False)
    with pytest.raises(TypeError, match="no option 'depth'"):
        convzoo.create_model("resnet18", pretrained=folder, depth=3)


@pytest.mark.parametrize("name", ["lenet5_1998", "mnist_net", "fcn_gap", "t2t_vit_7"])
def test_built_empty_nothing_is_lost(folders, name):
    """What a net holds besides its state dict must be there as well."""
    torch.manual_seed(0)
    model = randomise(convzoo.create_model(name, num_classes=10))
    folder = convzoo.save_pretrained(model.eval(), folders(name).parent / "own", tag="own", mean=0.0, std=1.0)
    loaded = convzoo.create_model(name, pretrained=folder)
    assert not any(tensor.is_meta for tensor in [*loaded.parameters(), *loaded.buffers()])
    assert same(loaded, model)
    images = torch.rand(
        2, model.in_chans, *(min(side, 64) if not model.fixed_size else side for side in model.img_size)
    )
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


def test_a_model_with_weights_is_an_ordinary_one(folders):
    model = convzoo.create_model("lenet5", pretrained=folders("lenet5"))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same(twin, model)
        assert twin.weights == model.weights
    assert convzoo.create_model("lenet5").weights is None


# -- names


def test_a_tag_without_pretrained_is_refused(folders):
    with pytest.raises(ValueError, match=r"'lenet5.mnist' names weights, and pretrained is False; pass pretrained=T"):
        convzoo.create_model("lenet5.mnist")


@pytest.mark.parametrize(
    ("name", "pretrained", "error", "words"),
    [
        ("lenet5.no_such", True, WeightsNotFound, "no weights 'lenet5.no_such'"),
        ("lenet5", "no_such", WeightsNotFound, "no weights 'lenet5.no_such'"),
        ("lenet6", True, ValueError, "unknown model 'lenet6'; did you mean 'lenet5'"),
        ("vgg11", True, WeightsNotFound, "no weights for 'vgg11'"),
        ("lenet5", 3, TypeError, "pretrained must be True, False, a tag"),
        ("lenet5", "", TypeError, "pretrained must be"),
        ("lenet5", None, TypeError, "pretrained must be"),
        ("lenet5.mnist", "someone/else", ValueError, "and pretrained='someone/else' names others"),
        ("lenet5", "a/b/c", WeightsNotFound, "a repository is written 'owner/name'"),
    ],
)
def test_names_that_do_not_do(name, pretrained, error, words):
    with pytest.raises(error, match=words):
        convzoo.create_model(name, pretrained=pretrained)


def test_another_architecture_is_refused(folders):
    with pytest.raises(WeightsMismatch, match="holds weights of lenet5, and mnist_net was asked for"):
        convzoo.create_model("mnist_net", pretrained=folders("lenet5"))


@pytest.mark.parametrize("name", ["fcn_gap", "mnist_resnet", "fcn_gap.mnist"])
@pytest.mark.parametrize("size", [56, (28, 40)])
def test_another_image_size_is_said_and_has_no_accuracy(name, size):
    """What was measured at one size says nothing of another one."""
    model = convzoo.create_model(name, pretrained=True, img_size=size)
    height, width = model.img_size
    assert model.weights.adapted == (f"images of {height}x{width}, trained on 28x28",)
    assert model.weights.metrics == {}
    same = convzoo.create_model(name, pretrained=True, img_size=28)
    assert same.weights.adapted == ()
    assert same.weights.metrics["n"] == 10_000


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("lenet5", lambda config: config.update(num_classes=12), r"num_classes=12, .*2 of other shape"),
        (
            "lenet5",
            lambda config: config["pretrained_cfg"].update(input_size=[3, 28, 28]),
            r"in_chans=3, .*conv1.weight",
        ),
        ("lenet5", lambda config: config["pretrained_cfg"].update(input_size=[1, 40, 40]), r"img_size=\(40, 40\).*fc1"),
        (
            "resnet18",
            lambda config: config["model_args"].update(depths=[1, 1, 2, 1]),
            r"depths=\(1, 1, 2, 1\).*missing",
        ),
    ],
    ids=["classes", "channels", "size", "option"],
)
def test_a_description_of_another_net_is_what_is_wrong(hub, tmp_path, name, change, words):
    """Nobody asked for what the file cannot be: the config.json says so."""
    options = {"depths": (1, 1, 1, 1), "num_classes": 3} if name == "resnet18" else {}
    folder = make_folder(tmp_path / name, name, options=options)
    edit_json(folder / "config.json", change)
    put(hub, folder, "someone/net")
    for source, where in ((folder, str(folder)), ("someone/net", "someone/net@")):
        for asked in ({}, {"num_classes": 5}):
            with pytest.raises(WeightsMismatch, match=words) as caught:
                convzoo.create_model(name, pretrained=source, **asked)
            assert f"as the description (config.json) of {where}" in str(caught.value)
            assert "correct the description" in str(caught.value)
            assert "asked for" not in str(caught.value)
    model = convzoo.create_model(name, num_classes=7)
    with pytest.raises(WeightsMismatch, match="as it was asked for"):
        convzoo.load_weights(model, folder)
