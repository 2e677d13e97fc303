"""create_model, list_models, model_info: what they take, what they refuse and in which words."""

import subprocess
import sys

import pytest
import torch

import convzoo

ALL = """
lenet5 lenet5_1998 lenet_sigmoid mnist_net basic_cnn inception_cnn residual_cnn fcn_gap mnist_resnet
alexnet alexnet_2012 vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn
vgg13_sparse_bn vgg16_sparse_bn vgg19_sparse_bn googlenet googlenet_bn googlenet_sparse_bn inception_v3
resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2
resnext50_32x4d resnext101_32x8d resnext101_64x4d
t2t_vit_7 t2t_vit_10 t2t_vit_12 t2t_vit_14 t2t_vit_19 t2t_vit_24 t2t_vit_t_14 t2t_vit_t_19 t2t_vit_t_24
t2t_vit_14_wide t2t_vit_14_resnext t2t_vit_14_small t2t_vit_t_14_small
cnn_sigmoid cnn_bn cnn_leaky_relu cnn_gap cnn_dropout cnn_3x3 cnn_concat cnn_all_tricks
""".split()


def test_every_name_is_there():
    assert sorted(convzoo.list_models()) == sorted(ALL)


def test_listing():
    assert convzoo.list_models("resnet*") == ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    assert convzoo.list_models("*_bn", family="vgg")[0] == "vgg11_bn"
    assert convzoo.list_models("nothing*") == []
    with pytest.raises(ValueError, match="unknown family 'vggs'; the families are ablation, alexnet"):
        convzoo.list_models(family="vggs")


REFUSED = [
    (("resnet19",), {}, ValueError, r"unknown model 'resnet19'; did you mean 'resnet1.*list_models\(\) names all 57"),
    (("ResNet-18",), {}, ValueError, "did you mean 'resnet18'"),
    (("zzz",), {}, ValueError, r"unknown model 'zzz'; list_models\(\) names all"),
    ((18,), {}, TypeError, "a model name is a string, got 18"),
    (("resnet18", 0.5), {}, TypeError, "num_classes must be a whole number, got 0.5"),
    (("resnet18", -1), {}, ValueError, "num_classes must be at least 0, got -1"),
    (("resnet18", True), {}, TypeError, "num_classes must be a whole number, got True"),
    (("resnet18", 10, 0), {}, ValueError, "in_chans must be at least 1, got 0"),
    (("resnet18", 10, "3"), {}, TypeError, "in_chans must be a whole number, got '3'"),
    (("resnet18",), {"img_size": 0}, ValueError, "img_size must be at least 1, got 0"),
    (("resnet18",), {"img_size": (1, 2, 3)}, ValueError, r"one number or \(height, width\), got \(1, 2, 3\)"),
    (("resnet18",), {"img_size": "64"}, TypeError, "img_size must be a whole number, got '64'"),
    (("resnet18",), {"stm": "small"}, TypeError, "resnet18 has no option 'stm'; its options are block, depths"),
    (("lenet5",), {"stem": "small"}, TypeError, "lenet5 has no option 'stem'; it has no options"),
    (("resnet18",), {"stem": "tiny"}, ValueError, "stem of resnet18 must be 'imagenet' or 'small', got 'tiny'"),
    (("resnet18",), {"shortcut": 0}, TypeError, "shortcut of resnet18 must be True or False, got 0"),
    (("resnet18",), {"depths": (1, 2)}, ValueError, r"depths of resnet18 must name 4 stages, got \(1, 2\)"),
    (("resnet18",), {"depths": 3}, TypeError, "depths of resnet18 must be a tuple of whole numbers, got 3"),
    (("resnet18",), {"depths": (1, 2, 0, 1)}, ValueError, "every entry of depths of resnet18 must be at least 1"),
    (("resnet18",), {"groups": 2}, ValueError, "belong to bottlenecks"),
    (("vgg11",), {"depths": (1,)}, ValueError, "depths of vgg11 must name 5 blocks"),
    (("vgg11",), {"dropout": 1.0}, ValueError, r"dropout of vgg11 must be in \[0, 1\), got 1.0"),
    (("vgg11",), {"dropout": "a"}, TypeError, "dropout of vgg11 must be a number, got 'a'"),
    (("cnn_bn",), {"branched": (4,)}, ValueError, "branched of cnn_bn may name stages 5 and 6"),
    (("alexnet_2012",), {"groups": 3}, ValueError, "groups of alexnet_2012 must be 1 or 2, got 3"),
    (("vgg19",), {"img_size": 28}, ValueError, r"vgg19 needs at least 32x32 pixels \(five 2x2 poolings\), got 28x28"),
]


@pytest.mark.parametrize(("args", "options", "error", "words"), REFUSED)
def test_refusals(args, options, error, words):
    with pytest.raises(error, match=words):
        convzoo.create_model(*args, **options)


def test_a_name_is_taken_once():
    from convzoo.models import resnet

    with pytest.raises(ValueError, match="the model name 'resnet18' is taken"):
        convzoo.registry.register(resnet.ResNet, resnet.RESNETS, family="x", paper="x", source="x")


def test_info_of_lenet5():
    info = convzoo.model_info("lenet5")
    assert (info.family, info.year, info.params, info.min_size) == ("lenet", 1998, 61_706, 16)
    assert info.fixed_size
    with pytest.raises(ValueError, match="did you mean 'lenet5'"):
        convzoo.model_info("lenet_5")


def test_building_on_a_device():
    with torch.device("meta"):
        model = convzoo.create_model("vgg19")
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_auxiliary_heads_speak_in_training_only():
    for name, size, count in (("googlenet", 64, 2), ("googlenet_bn", 64, 2), ("inception_v3", 299, 1)):
        model = convzoo.create_model(name, num_classes=5, img_size=size, aux=True)
        x = torch.rand(2, 3, size, size)
        out = model.train()(x)
        assert isinstance(out, convzoo.AuxLogits)
        assert out.logits.shape == (2, 5)
        assert [head.shape for head in out.aux] == [(2, 5)] * count
        model.reset_classifier(3)
        assert [head.shape for head in model(x).aux] == [(2, 3)] * count
        assert model.eval()(x).shape == (2, 3)
    with pytest.raises(ValueError, match="needs maps of 17x17 or more in training, got 7x7"):
        model.train()(torch.rand(2, 3, 150, 150))


def test_log_softmax_is_an_option():
    model = convzoo.create_model("mnist_net", log_softmax=True).eval()
    assert torch.allclose(model(torch.rand(2, 1, 28, 28)).exp().sum(1), torch.ones(2))


def test_import_is_light():
    heavy = ("huggingface_hub", "thop", "torchinfo", "PIL", "matplotlib", "pyarrow", "safetensors", "torchvision")
    code = f"import sys, torch; before = set(sys.modules); import convzoo; print({heavy!r}, set(sys.modules) - before)"
    code += f"; sys.exit(any(name in sys.modules for name in {heavy!r}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
