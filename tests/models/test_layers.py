"""What a model says of itself follows its layers, whoever put them there."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import convzoo
from convzoo.models._layers import find_module, first_layer

# one net of each way to end and to begin: fc, convolution, flattened maps, nested paths, codes, tokens, wrapped layers
NETS = ("resnet18", "lenet5", "lenet5_1998", "fcn_gap", "mnist_resnet", "vgg11", "alexnet", "googlenet_bn", "cnn_bn",
        "inception_v3", "t2t_vit_7")  # fmt: skip
CONVOLUTIONS = [name for name in NETS if name != "t2t_vit_7"]


def build(name, **options):
    with torch.device("meta"):
        return convzoo.create_model(name, **({"head": "gap"} if name == "vgg11" else {}) | options)


def put(model, path, fresh):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, fresh)


def heads(width):
    return [
        (nn.Linear(width, 7), 7),
        (nn.Sequential(nn.Dropout(0.5), nn.Linear(width, 7)), 7),
        (nn.Sequential(nn.Linear(width, 16), nn.ReLU(), nn.Linear(16, 7), nn.LogSoftmax(1)), 7),
        (nn.Sequential(nn.Sequential(nn.Linear(width, 7)), nn.BatchNorm1d(7)), 7),
        (nn.Sequential(nn.Unflatten(1, (width, 1, 1)), nn.Conv2d(width, 7, 1), nn.Flatten()), 7),
        (nn.utils.parametrizations.weight_norm(nn.Linear(width, 7)), 7),
        (Cosine(width, 7), 7),
        (Own(width, 7), 7),
        (nn.Identity(), 0),
        (nn.Sequential(nn.Dropout(0.1)), 0),
    ]


class Cosine(nn.Module):
    """A head with a matrix of its own and no word on its size, as metric learning has them."""

    def __init__(self, width, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(classes, width))

    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(x), self.weight)


class Own(nn.Module):
    """A head of the user's own class."""

    def __init__(self, width, classes):
        super().__init__()
        self.hidden, self.last = nn.Linear(width, 5), nn.Linear(5, classes)

    def forward(self, x):
        return self.last(self.hidden(x).relu())


@pytest.mark.parametrize("name", NETS)
def test_classes_follow_the_head(name):
    model = build(name)
    for head, classes in heads(model.num_features):
        put(model, model.classifier_name, head.to("meta"))
        assert (model.num_classes, model.config.num_classes) == (classes, classes)
        assert model.config.options == build(name).config.options
        assert f"{classes} classes" in repr(model)
    model.reset_classifier(np.int64(3))
    assert (model.num_classes, model.config.num_classes) == (3, 3)
    assert type(model.config.num_classes) is int


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_channels_follow_the_first_convolution(name):
    model = build(name)
    path = next(path for path, module in model.named_modules() if module is first_layer(model))
    old = model.get_submodule(path)
    like = {"out_channels": old.out_channels, "kernel_size": old.kernel_size, "stride": old.stride, "device": "meta"}
    first = nn.Conv2d(5, **like, padding=old.padding)
    for fresh in (first, nn.Sequential(first), nn.Sequential(nn.BatchNorm2d(5, device="meta"), first)):
        put(model, path, fresh)
        assert (model.in_chans, model.config.in_chans) == (5, 5)
        model.eval()(torch.empty(2, 5, *model.img_size, device="meta"))  # and the check of the images knows it
        with pytest.raises(ValueError, match=r"takes images of shape \(N, 5, H, W\)"):
            model(torch.empty(2, 3, *model.img_size, device="meta"))
    put(model, path, nn.Sequential(nn.Conv2d(2, 3, 1, device="meta"), first))
    assert model.in_chans == 2


def test_a_number_that_is_not_true_is_refused():
    model = build("resnet18")
    model.fc = nn.Linear(512, 4)
    model.num_classes, model.in_chans = 4, 3  # true, and so allowed
    with pytest.raises(ValueError, match=r"num_classes of resnet18 is 4, .* got 5; reset_classifier"):
        model.num_classes = 5
    with pytest.raises(ValueError, match=r"in_chans of resnet18 is 3, .* got 1; another module"):
        model.in_chans = 1


def pretrained(name="fcn_gap.mnist"):
    model = convzoo.create_model(name, pretrained=True)
    assert len(model.weights.classes) == 10
    assert model.weights.metrics
    return model


def fresh_heads(model):
    width = model.num_features
    old = model.get_classifier()
    return {
        "reset": lambda: model.reset_classifier(10),
        "reset to others": lambda: model.reset_classifier(12),
        "by hand": lambda: put(model, model.classifier_name, nn.Linear(width, 10)),
        "on top": lambda: put(model, model.classifier_name, nn.Sequential(old, nn.ReLU(), nn.Linear(10, 10))),
        "of one's own": lambda: put(model, model.classifier_name, Own(width, 10)),
        "a twin": lambda: put(model, model.classifier_name, type(old)(old.in_features, old.out_features)),
    }


@pytest.mark.parametrize("way", list(fresh_heads(convzoo.create_model("fcn_gap"))))
def test_a_fresh_head_has_no_labels(way):
    model = pretrained()
    fresh_heads(model)[way]()
    info = model.weights
    assert (info.classes, info.metrics, info.num_classes) == ((), {}, model.num_classes)
    assert info.adapted[-1].startswith(f"a fresh head for {model.num_classes} classes")
    told = convzoo.weight_info("fcn_gap.mnist")
    assert (info.mean, info.std) == (told.mean, told.std)  # the layers that read the images are the same
    assert copy.deepcopy(model).weights == info


def test_no_head_has_no_labels():
    model = pretrained()
    model.fc = nn.Identity()
    assert (model.weights.num_classes, model.weights.classes) == (0, ())
    assert model.weights.adapted == ("the head for 10 classes left out",)


def same_heads(model):
    old = model.get_classifier()
    return {
        "dropout before": nn.Sequential(nn.Dropout(0.5), old),
        "softmax after": nn.Sequential(old, nn.LogSoftmax(1)),
        "wrapped": Wrapped(old),
        "parametrised": nn.utils.parametrizations.spectral_norm(old),
    }


class Wrapped(nn.Module):
    """What adapters such as LoRA put around a layer."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer, self.out_features = layer, layer.out_features
        self.down, self.up = nn.Linear(layer.in_features, 2), nn.Linear(2, layer.out_features)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


@pytest.mark.parametrize("way", list(same_heads(convzoo.create_model("fcn_gap"))))
def test_the_same_head_keeps_its_labels(way):
    model = pretrained()
    model.fc = same_heads(model)[way]
    assert model.weights == convzoo.create_model("fcn_gap.mnist", pretrained=True).weights


def saved(model):
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


def reloaded(model, **options):
    model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, **options)
    return model


def trained(model):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(torch.rand(4, 1, 28, 28)).sum().backward()
    optimizer.step()
    return model.eval()


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "save": saved,
    "load": reloaded,
    "assign": lambda model: reloaded(model, assign=True),
    "double": lambda model: model.double(),
    "channels last": lambda model: model.to(memory_format=torch.channels_last),
    "train": trained,
    "optimize": convzoo.optimize_for_inference,
}


@pytest.mark.parametrize("name", ["fcn_gap.mnist", "lenet5_1998.mnist", "lenet5.mnist_aug", "mnist_net.mnist"])
@pytest.mark.parametrize("way", WAYS)
def test_weights_stay_known(name, way):
    model = pretrained(name)
    info = model.weights
    assert WAYS[way](model).weights == info


@pytest.mark.parametrize("fresh", [nn.Conv2d(1, 24, 3), nn.Conv2d(3, 24, 3), None])
def test_a_fresh_first_layer_expects_nothing_known(fresh):
    model = pretrained()
    model.conv1 = nn.Sequential(nn.Conv2d(3, 1, 1), model.conv1) if fresh is None else fresh
    assert model.weights is None
    with pytest.raises(ValueError, match="fcn_gap has no pretrained weights"):
        model.preprocess(torch.zeros(1, 28, 28))


def test_new_parameters_forget_the_weights():
    model = pretrained()
    model.reset_parameters()
    assert model.weights is None


def test_weights_of_another_head_count():
    """Loaded with other classes, the fresh head is the model's own; then it is replaced, and given back."""
    model = convzoo.create_model("fcn_gap.mnist", num_classes=3, pretrained=True)
    assert model.weights.adapted == ("a fresh head for 3 classes, not 10",)
    head = model.fc
    model.fc = nn.Linear(48, 3)
    assert model.weights.adapted == ("a fresh head for 3 classes, not 10", "a fresh head for 3 classes")
    model.fc = head
    assert model.weights.adapted == ("a fresh head for 3 classes, not 10",)
    bare = convzoo.create_model("fcn_gap.mnist", num_classes=0, pretrained=True)
    assert bare.weights.adapted == ("the head for 10 classes left out",)


def test_info_given_by_hand():
    model = convzoo.create_model("fcn_gap")
    model.weights = convzoo.weight_info("fcn_gap.mnist")
    assert model.preprocess(torch.zeros(1, 28, 28)).shape == (1, 1, 28, 28)
    model.reset_classifier(10)
    assert model.weights.classes == ()


def test_cam_reads_the_same():
    model = convzoo.create_model("resnet18", num_classes=10)
    model.fc = nn.Linear(512, 100)
    assert convzoo.cam(model, torch.rand(1, 3, 64, 64), 50).maps.shape[1] == 1
    with pytest.raises(ValueError, match="the model has 100 classes"):
        convzoo.cam(model, torch.rand(1, 3, 64, 64), 100)


def test_finding_a_module():
    model = build("vgg11")
    assert find_module(model, "classifier.0") is model.classifier[0]
    assert find_module(model, "classifier.9.x") is None


def low_rank(head):
    """An adapter beside the head, as LoRA's."""
    made = nn.Module()
    made.base, made.up = head, nn.Linear(3, head.out_features, bias=False)
    made.down = nn.Linear(head.in_features, 3, bias=False)
    made.forward = lambda x: made.base(x) + made.up(made.down(x))
    return made


def in_reverse(head):
    made = nn.Module()
    made.out, made.norm, made.hidden = nn.Linear(64, 4), nn.BatchNorm1d(64), nn.Linear(head.in_features, 64)
    made.forward = lambda x: made.out(made.norm(made.hidden(x)))
    return made


def in_order(head):
    made = nn.Module()
    made.hidden, made.drop, made.out = nn.Sequential(nn.Linear(head.in_features, 64), nn.ReLU()), nn.Dropout(), None
    made.last = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 4), nn.BatchNorm1d(4))
    made.forward = lambda x: made.last(made.drop(made.hidden(x)))
    return made


def two(head):
    made = nn.Module()
    made.first, made.second = nn.Linear(head.in_features, 9), nn.Linear(head.in_features, 4)
    made.forward = made.second.forward
    return made


@pytest.mark.parametrize(("wrap", "classes"), [(low_rank, 6), (in_reverse, 4), (in_order, 4), (two, 4)])
def test_heads_of_several_layers(wrap, classes):
    model = convzoo.create_model("resnet18", 6, depths=(1, 1, 1, 1)).eval()
    model.fc = wrap(model.fc)
    x = torch.rand(2, 3, 64, 64)
    assert model.num_classes == model(x).shape[1] == classes
    assert convzoo.cam(model.eval(), x, classes - 1).logits.shape == (2, classes)
