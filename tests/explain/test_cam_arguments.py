"""What may be asked of ``cam``, what is refused and in which words; every net of the zoo."""

import re

import numpy as np
import pytest
import torch
from helpers.cam_nets import UserNet, images, make
from torch import nn

import convzoo
from convzoo import cam, cam_layers


@pytest.fixture(scope="module")
def net():
    return make("fcn_gap").float()


@pytest.fixture(scope="module")
def digits():
    return images(3, 1, 28).float()


class TestTargets:
    def test_kinds(self, net, digits):
        logits = net(digits).detach()
        order = logits.argsort(1, descending=True)
        cases = {
            "predicted": (None, order[:, :1]),
            "one": (4, torch.tensor([[4]] * 3)),
            "an array's number": (np.int64(4), torch.tensor([[4]] * 3)),
            "one an image": ([4, 0, 9], torch.tensor([[4], [0], [9]])),
            "one an image, tensor": (torch.tensor([4, 0, 9]), torch.tensor([[4], [0], [9]])),
            "table": ([[4, 1], [0, 2], [9, 9]], torch.tensor([[4, 1], [0, 2], [9, 9]])),
            "table, array": (np.array([[4], [0], [9]]), torch.tensor([[4], [0], [9]])),
            "top": (("top", 3), order[:, :3]),
            "all": ("all", torch.arange(10).expand(3, 10)),
        }
        everything = cam(net, digits, "all").maps
        for kind, (target, wanted) in cases.items():
            r = cam(net, digits, target)
            assert torch.equal(r.target, wanted), kind
            assert r.target.dtype == torch.int64
            assert r.maps.shape == (3, wanted.shape[1], 22, 22)
            assert torch.allclose(r.logits, logits, atol=1e-5)
            chosen = everything.gather(1, wanted[..., None, None].expand(-1, -1, 22, 22))
            assert torch.allclose(r.maps, chosen, atol=1e-5 * float(everything.abs().max())), kind

    @pytest.mark.parametrize(
        ("target", "error", "words"),
        [
            ([1, 2], ValueError, "target has shape (2,) for 3 images"),
            (torch.tensor([1]), ValueError, "target has shape (1,) for 3 images"),
            ([[1, 2], [3, 4]], ValueError, "pass one class, a list of 3, or a table of shape (3, K)"),
            ([], ValueError, "target has shape (0,) for 3 images"),
            (10, ValueError, "target names class 10, but the model has 10 classes, 0 to 9"),
            ([0, 5000, 1], ValueError, "target names class 5000, but the model has 10 classes"),
            (-1, ValueError, "target names class -1"),
            (("top", 0), ValueError, "k of target=('top', k) must be at least 1, got 0"),
            (("top", 11), ValueError, "k of target=('top', k) must be at most 10, got 11"),
            (("top", 1.5), TypeError, "k of target=('top', k) must be a whole number, got 1.5"),
            ([0.5, 1.0, 2.0], TypeError, "classes are whole numbers, got torch.float32"),
            ("every", TypeError, "target cannot be 'every'; target takes None (the predicted class)"),
            (True, TypeError, "target cannot be True"),
            (object(), TypeError, "('top', k), 'all' or a callable"),
        ],
    )
    def test_refused(self, net, digits, target, error, words):
        with pytest.raises(error, match=re.escape(words)):
            cam(net, digits, target)

    def test_refused_for_nets_of_unknown_classes(self):
        with pytest.raises(ValueError, match="target names class 10, but the model has 10 classes"):
            cam(UserNet(), images().float(), 10, layer="conv2")


class TestRefusals:
    def test_cam_of_a_flattening_head(self):
        for name in ("lenet5", "lenet5_1998", "basic_cnn"):
            model = convzoo.create_model(name)
            with pytest.raises(ValueError, match=rf"{name} has no class activation map.*method='hires_cam'"):
                cam(model, torch.rand(1, 1, 28, 28), method="cam")

    def test_cam_of_a_transformer(self):
        model = convzoo.create_model("t2t_vit_7", 10, depth=2, embed_dim=32, img_size=64)
        with pytest.raises(ValueError, match=r"no class activation map.*method='attention'"):
            cam(model, torch.rand(1, 3, 64, 64), method="cam")

    def test_a_single_cell_says_what_to_do(self):
        model = convzoo.create_model("resnet18", 10, depths=(1, 1, 1, 1))
        for method in ("auto", "grad_cam"):
            with pytest.raises(
                ValueError, match=r"at 28x28 pixels leaves a single cell at 'layer4'.*enlarge the images"
            ) as caught:
                cam(model, torch.rand(1, 3, 28, 28), method=method)
            assert "layer='layer3', method='hires_cam'" in str(caught.value)
        with pytest.raises(ValueError, match="single cell"):
            cam(model, torch.rand(1, 3, 32, 32))
        assert cam(model, torch.rand(1, 3, 33, 33)).maps.shape[2:] == (2, 2)  # what it said is so
        assert cam(model, torch.rand(1, 3, 28, 28), layer="layer3", method="hires_cam").maps.shape[2:] == (2, 2)

    def test_a_single_cell_of_the_users_own(self):
        net = nn.Sequential(nn.Conv2d(3, 4, 3, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        with pytest.raises(ValueError, match=r"Sequential at 16x16 pixels.* a single cell at '0'.*enlarge the images"):
            cam(net, torch.rand(1, 3, 16, 16), layer="0")
        assert cam(net, torch.rand(1, 3, 19, 19), layer="0").maps.shape[2:] == (2, 2)

    @pytest.mark.parametrize("layer", ["blocks.1", "blocks.1.norm2", "blocks.1.mlp", "norm"])
    def test_tokens_that_are_no_longer_read(self, layer):
        model = convzoo.create_model("t2t_vit_7", 10, depth=2, embed_dim=32, img_size=64)
        with pytest.raises(ValueError, match=r"no gradient at.*pass layer='blocks.1.norm1'.*or method='attention'"):
            cam(model, torch.rand(1, 3, 64, 64), method="grad_cam", layer=layer)
        assert cam(model, torch.rand(1, 3, 64, 64), method="grad_cam", layer="blocks.0.norm1").maps.std() > 0

    def test_a_gradient_that_vanishes(self):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        nn.init.constant_(net[0].bias, -100.0)
        with pytest.raises(ValueError, match=r"no gradient at '0'.*units that are all off.*pass another layer"):
            cam(net, torch.rand(1, 3, 16, 16), layer="0")

    @pytest.mark.parametrize(
        ("options", "error", "words"),
        [
            ({"method": "score_cam"}, ValueError, "unknown method 'score_cam'; pass one of auto, cam, grad_cam"),
            ({"method": "attention"}, ValueError, "has no attention to explain; pass method='hires_cam'"),
            (
                {"layer": "conv9"},
                ValueError,
                "no layer 'conv9'; pass the path of a module, such as relu1, relu2, relu3",
            ),
            ({"layer": nn.ReLU()}, ValueError, "is not a part of the model"),
            ({"layer": 3}, TypeError, "layer is the path of a module or the module, got 3"),
            ({"layer": "fc"}, ValueError, "layer 'fc' gives (3, 10), a map needs (N, C, h, w)"),
            ({"layer": ""}, ValueError, "no layer ''"),
            ({"layer": "relu1", "method": "cam"}, ValueError, "no class activation map at 'relu1'"),
        ],
    )
    def test_methods_and_layers(self, net, digits, options, error, words):
        with pytest.raises(error, match=re.escape(words)):
            cam(net, digits, **options)

    def test_other_arguments(self, net, digits):
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got str; create_model"):
            cam("resnet18", digits)
        with pytest.raises(TypeError, match="images must be a tensor"):
            cam(net, digits.numpy())
        with pytest.raises(ValueError, match="add the batch dimension"):
            cam(net, digits[0])
        with pytest.raises(ValueError, match=r"does not say which layer to explain.*pass layer="):
            cam(UserNet(), images().float())
        with pytest.raises(ValueError, match="without a head"):
            cam(convzoo.create_model("fcn_gap", 0), digits)

    def test_models_that_return_something_else(self):
        class Dictionary(UserNet):
            def forward(self, x):
                return {"logits": super().forward(x)}

        class Maps(UserNet):
            def forward(self, x):
                return self.conv2(self.conv1(x))

        class Forgetful(UserNet):
            def forward(self, x):
                return self.head(self.conv2(self.conv1(x)).mean((2, 3)))

        class Pair(nn.Module):
            def forward(self, x):
                return x, x

        x = images().float()
        with pytest.raises(TypeError, match="returns a dict, cam explains logits"):
            cam(Dictionary(), x, layer="conv2")
        with pytest.raises(ValueError, match=r"returns \(2, 12, 16, 16\) for 2 images"):
            cam(Maps(), x, layer="conv2")
        with pytest.raises(ValueError, match="layer 'relu' takes no part in the forward pass"):
            cam(Forgetful(), x, layer="relu")
        net = nn.Sequential(Pair(), UserNet())
        with pytest.raises(TypeError, match="layer '0' returns a tuple"):
            cam(net, x, layer="0")


class TestZoo:
    """Every architecture, small where it can be, explained as its family says."""

    SMALL = {"depths": (1, 1, 1, 1)}
    SIDES = {"inception_v3": 107, "alexnet": 127, "lenet_sigmoid": 40}

    def build(self, name):
        info = convzoo.model_info(name)
        side = self.SIDES.get(name, 28 if info.img_size == (28, 28) else 96)
        options = {"depth": 2} if "depth" in info.options else {}
        if "depths" in info.options and info.family != "vgg":
            options["depths"] = (1, 1, 1, 1)
        if info.family == "t2t_vit":
            side = 64
        fixed = {"img_size": side} if info.fixed_size or info.family == "t2t_vit" else {}
        torch.manual_seed(0)
        return convzoo.create_model(name, 10, **fixed, **options).eval(), torch.rand(1, info.in_chans, side, side)

    ONE_OF_A_KIND = (
        "alexnet", "vgg11", "googlenet", "googlenet_bn", "inception_v3", "resnet18", "resnet50",
        "resnext50_32x4d", "lenet5", "lenet5_1998", "lenet_sigmoid", "mnist_net", "basic_cnn", "inception_cnn",
        "residual_cnn", "fcn_gap", "mnist_resnet", "cnn_all_tricks", "t2t_vit_7", "t2t_vit_t_14",
    )  # fmt: skip

    @pytest.mark.parametrize("name", ONE_OF_A_KIND)
    def test_is_explained(self, name):
        model, x = self.build(name)
        r = cam(model, x, ("top", 2))
        assert r.method == model.cam_method
        assert r.layer in dict(model.named_modules())
        assert torch.allclose(r.logits, model(x).detach(), atol=1e-4)
        assert r.maps.isfinite().all()
        assert (r.maps.std((2, 3)) > 0).all()  # nothing blank
        heat = r.heatmap()
        assert heat.shape == (1, 2, *x.shape[2:])
        assert heat.min() >= 0
        assert heat.max() <= 1
        # at the layer that is named, the maps are the same
        if r.method in ("cam", "grad_cam") and r.layer != model.classifier_name:
            named = cam(model, x, ("top", 2), method="grad_cam", layer=r.layer)
            default = cam(model, x, ("top", 2), method="grad_cam")
            assert torch.allclose(named.maps, default.maps, atol=1e-5 * float(default.maps.abs().max()))
        layers = cam_layers(model)
        assert model.cam_method in layers
        assert layers[model.cam_method][0] == r.layer

    @pytest.mark.filterwarnings("ignore:for 1 of 1 images no cell")
    @pytest.mark.parametrize("name", ["resnet18", "lenet5", "fcn_gap", "t2t_vit_7"])
    def test_every_method_at_every_layer_that_is_named(self, name):
        model, x = self.build(name)
        for method, layers in cam_layers(model).items():
            assert layers
            for layer in layers:
                assert cam(model, x, method=method, layer=layer).maps.isfinite().all()

    @pytest.mark.parametrize(
        ("name", "side", "cells"),
        [("alexnet", 224, 13), ("vgg11", 64, 4), ("lenet5", 28, 10), ("lenet5_1998", 28, 10), ("resnet18", 64, 2)],
    )
    def test_maps_are_read_before_the_final_pooling(self, name, side, cells):
        model = convzoo.create_model(name, 10)
        r = cam(model, torch.rand(1, model.in_chans, side, side))
        assert r.maps.shape[2:] == (cells, cells)

    def test_every_family_declares_what_its_nets_have(self):
        for name in convzoo.list_models():
            with torch.device("meta"):
                model = convzoo.create_model(name)
            layers = cam_layers(model)
            paths = dict(model.named_modules())
            assert model.cam_method in layers, name
            assert all(path in paths for group in layers.values() for path in group), name

    def test_layers_of_the_users_own_are_its_convolutions(self):
        assert cam_layers(UserNet())["grad_cam"] == ("conv2", "conv1")

    def test_the_door_is_the_function(self):
        import convzoo.commands.cam  # a module of that name does not get in its way
        import convzoo.explain.maps

        assert convzoo.cam is convzoo.explain.maps.cam
        assert callable(convzoo.cam)
