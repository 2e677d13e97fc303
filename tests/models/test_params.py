"""Parameter counts: the published tables, to the last digit."""

import pytest
import torch

import convzoo

# name, options, parameters; from the papers, from published tables and from independent implementations
TABLE = [
    ("lenet5", {}, 61_706),
    ("lenet5", {"img_size": 32}, 61_706),
    ("lenet5_1998", {}, 60_000),
    ("lenet5_1998", {"img_size": 32}, 60_000),
    ("lenet_sigmoid", {}, 25_235_156),
    ("mnist_net", {}, 21_840),
    ("basic_cnn", {}, 593_034),
    ("inception_cnn", {}, 1_195_978),
    ("residual_cnn", {}, 25_186),
    ("fcn_gap", {}, 32_266),
    ("mnist_resnet", {}, 1_008_586),
    ("alexnet", {}, 61_100_840),
    ("alexnet_2012", {}, 60_965_224),
    ("alexnet_2012", {"groups": 1}, 62_378_344),
    ("vgg13_sparse_bn", {"num_classes": 16}, 129_017_680),
    ("googlenet", {}, 6_998_552),
    ("googlenet_bn", {"aux": True}, 13_004_888),
    ("googlenet_sparse_bn", {"num_classes": 16}, 5_993_088),
    ("inception_v3", {"aux": True}, 27_161_264),
    ("squeezenet1_0", {}, 1_248_424),
    ("squeezenet1_1", {}, 1_235_496),
    ("resnet18", {"num_classes": 200, "stem": "small"}, 11_271_432),
    ("resnet34", {"num_classes": 200, "stem": "small"}, 21_379_592),
    ("resnet50", {"num_classes": 200, "stem": "small"}, 23_910_152),
    ("resnet50", {"num_classes": 200, "stem": "small", "shortcut": False}, 21_133_576),
    ("resnext50_32x4d", {"num_classes": 200, "stem": "small"}, 23_382_024),
    ("cnn_sigmoid", {}, 95_027_856),
    ("cnn_bn", {}, 95_033_872),
    ("cnn_leaky_relu", {}, 95_033_872),
    ("cnn_gap", {}, 43_652_624),
    ("cnn_dropout", {}, 95_033_872),
    ("cnn_3x3", {}, 89_129_296),
    ("cnn_concat", {}, 85_040_272),
    ("cnn_all_tricks", {}, 8_392_464),
]


def trainable(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("name", "options", "expected"), TABLE)
def test_published_count(name, options, expected):
    with torch.device("meta"):
        assert trainable(convzoo.create_model(name, **options)) == expected


def test_the_published_native_settings():
    for name, chans, size, classes in [
        ("lenet5", 1, 28, 10),
        ("lenet_sigmoid", 3, 224, 16),
        ("basic_cnn", 1, 28, 10),
        ("cnn_sigmoid", 3, 224, 16),
        ("vgg16", 3, 224, 1000),
        ("inception_v3", 3, 299, 1000),
    ]:
        info = convzoo.model_info(name)
        assert (info.in_chans, info.img_size, info.num_classes) == (chans, (size, size), classes)


@pytest.mark.parametrize("head", ["linear", "conv_then_gap", "gap_then_conv"])
def test_the_three_heads_of_fcn_gap(head):
    # 24 and 48 maps with their norms, then: a third convolution, its norm, LayerNorm and linear; or the third
    # convolution gives the classes; or a third convolution, its norm and a 1x1 convolution
    base = (9 * 24 + 24 + 48) + (9 * 24 * 48 + 48 + 96)
    third = 9 * 48 * 48 + 48 + 96
    expected = {
        "linear": base + third + 96 + 490,
        "conv_then_gap": base + 9 * 48 * 10 + 10,
        "gap_then_conv": base + third + 490,
    }
    assert trainable(convzoo.create_model("fcn_gap", head=head)) == expected[head]
