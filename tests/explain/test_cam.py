"""Class activation maps against what must hold of them, written out by hand, and without any other library."""

import pytest
import torch
from helpers.cam_nets import UserNet, close, images, make
from torch import nn

from convzoo import cam

GRADIENT_METHODS = ("grad_cam", "grad_cam_pp", "hires_cam", "layer_cam")


def gradient_by_hand(model, tail, features, target):
    leaf = features.detach().requires_grad_()
    return torch.autograd.grad(tail(leaf)[:, target].sum(), leaf)[0]


class TestZhou:
    def test_maps_by_hand(self):
        model, x = make("resnet18"), images()
        with torch.no_grad():
            features = model.forward_features(x)
        r = cam(model, x, "all")
        by_hand = torch.zeros(2, 10, 2, 2, dtype=torch.float64)
        for n in range(2):
            for c in range(10):
                for k in range(512):
                    by_hand[n, c] += model.fc.weight[c, k].item() * features[n, k]
        close(r.maps, by_hand)
        assert r.method == "cam"
        assert r.layer == "layer4"

    @pytest.mark.parametrize(
        ("name", "options", "chans", "size"),
        [
            ("resnet18", {}, 3, 64),
            ("resnext50_32x4d", {}, 3, 64),
            ("fcn_gap", {"head": "linear"}, 1, 28),
            ("fcn_gap", {"head": "conv_then_gap"}, 1, 28),
            ("fcn_gap", {"head": "gap_then_conv"}, 1, 28),
            ("mnist_resnet", {}, 1, 28),
            ("googlenet_bn", {}, 3, 64),
            ("inception_v3", {}, 3, 107),
            ("cnn_gap", {}, 3, 64),
            ("cnn_all_tricks", {}, 3, 64),
        ],
    )
    def test_the_mean_of_the_map_is_the_logit_without_its_bias(self, name, options, chans, size):
        model, x = make(name, **options), images(2, chans, size)
        r = cam(model, x, "all")
        assert r.method == "cam"
        close(r.maps.mean((2, 3)) + r.bias, model(x).detach())
        assert r.bias.shape == (2, 10)
        assert r.maps.std((2, 3)).min() > 0

    def test_layer_norm_is_taken_at_the_images_own_statistics(self):
        model, x = make("fcn_gap", head="linear"), images(1, 1, 28)
        nn.init.normal_(model.norm.weight)
        nn.init.normal_(model.norm.bias)
        with torch.no_grad():
            features = model.forward_features(x)[0]
        pooled = features.mean((1, 2))
        deviation = ((pooled - pooled.mean()).square().mean() + model.norm.eps).sqrt()
        by_hand = torch.zeros(22, 22, dtype=torch.float64)
        for i in range(22):
            for j in range(22):
                cell = features[:, i, j]
                normed = model.norm.weight * (cell - cell.mean()) / deviation
                by_hand[i, j] = (model.fc.weight[3] * normed).sum()
        r = cam(model, x, 3)
        close(r.maps[0, 0], by_hand.detach())
        shift = (model.fc.weight[3] * model.norm.bias).sum() + model.fc.bias[3]
        close(r.bias[0, 0], shift.detach())

    def test_convolution_before_the_pooling_gives_the_maps(self):
        model, x = make("fcn_gap", head="conv_then_gap"), images(2, 1, 28)
        with torch.no_grad():
            class_maps = model.fc(model.forward_features(x))
        r = cam(model, x, "all")
        close(r.maps, class_maps - model.fc.bias.detach()[:, None, None])
        assert r.layer == "fc"

    def test_a_change_of_bias_changes_no_map(self):
        model, x = make("resnet18"), images()
        before = cam(model, x, 4).maps
        nn.init.constant_(model.fc.bias, -100.0)  # every logit negative: no map may flip its sign
        close(cam(model, x, 4).maps, before)

    def test_replaced_head_that_is_still_linear(self):
        model, x = make("resnet18"), images()
        model.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 4)).double()
        model.num_classes = 4
        r = cam(model, x)
        assert r.method == "hires_cam"  # its linear layer is not where the contract says, so gradients tell
        assert r.maps.std() > 0
        close(r.maps, cam(model, x, method="grad_cam").maps)  # behind a pooling all cells have one gradient

    def test_replaced_head_that_is_not_linear(self):
        model, x = make("resnet18"), images()
        model.fc = nn.Sequential(nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, 10)).double()
        assert cam(model, x).method == "hires_cam"
        with pytest.raises(ValueError, match=r"no class activation map.*method='hires_cam'"):
            cam(model, x, method="cam")

    def test_a_net_of_the_users_own(self):
        model, x = UserNet().double(), images()
        r = cam(model, x, "all", method="cam", layer="relu")
        close(r.maps.mean((2, 3)) + r.bias, model(x).detach())
        with pytest.raises(ValueError, match=r"no class activation map at 'conv2'"):
            cam(model, x, method="cam", layer="conv2")  # between it and the pooling stands a ReLU


class TestGradients:
    @pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "googlenet_bn"])
    def test_class_activation_map_is_grad_cam_times_the_cells(self, name):
        model, x = make(name), images()
        reference = cam(model, x, "all").maps
        cells = reference.shape[2:].numel()
        for method in ("grad_cam", "hires_cam"):
            close(cells * cam(model, x, "all", method=method).maps, reference)

    @pytest.mark.parametrize("method", GRADIENT_METHODS)
    def test_known_gradient_is_the_computed_one(self, method):
        model, x = make("resnet18"), images()
        known = cam(model, x, "all", method=method)
        computed = cam(model, x, "all", method=method, layer="layer4.0")
        close(known.maps, computed.maps)
        close(cam(model, x, [[3, 1], [0, 9]], method=method).maps[1, 1], known.maps[1, 9])

    @pytest.mark.parametrize("method", GRADIENT_METHODS)
    def test_formulas_by_hand(self, method):
        torch.manual_seed(0)
        model, x = make("lenet5"), images(1, 1, 28)
        with torch.no_grad():
            activations = model.relu2(model.conv2(model.pool1(model.relu1(model.conv1(x)))))
        gradients = gradient_by_hand(model, lambda a: model.forward_head(model.pool2(a)), activations, 7)
        by_hand = torch.zeros(10, 10, dtype=torch.float64)
        for k in range(16):
            a, g = activations[0, k], gradients[0, k]
            if method == "grad_cam":
                weight = g.sum() / 100
            elif method == "hires_cam":
                weight = g
            elif method == "layer_cam":
                weight = g.clamp(min=0)
            else:  # the coefficient of the paper, as it stands there, where it is defined
                alpha = torch.where(g != 0, g**2 / (2 * g**2 + a.sum() * g**3), 0.0)
                weight = (alpha * g.clamp(min=0)).sum()
            by_hand += weight * a
        r = cam(model, x, 7, method=method)
        close(r.maps[0, 0], by_hand)
        assert r.layer == "relu2"

    def test_grad_cam_pp_does_not_depend_on_a_small_constant(self):
        """Gradients of 1e-5 to 1e-3: with 1e-6 added to its denominator the method would be off by half and more."""
        model, x = make("resnet18"), images(1)
        r = cam(model, x, 3, method="grad_cam_pp")
        with torch.no_grad():
            features = model.forward_features(x)[0]
        weight = model.fc.weight.detach()[3]
        by_hand = (weight.relu() / (2 + weight * features.mean((1, 2))))[:, None, None] * features
        close(r.maps[0, 0], by_hand.sum(0))

    def test_grad_cam_pp_divides(self):
        """Left undivided, as where a masked copy is divided in place, the weights would be g^2 relu(g)."""
        model, x = make("lenet5"), images(1, 1, 28)
        r = cam(model, x, 7, method="grad_cam_pp").maps[0, 0]
        with torch.no_grad():
            activations = model.relu2(model.conv2(model.pool1(model.relu1(model.conv1(x)))))
        g = gradient_by_hand(model, lambda a: model.forward_head(model.pool2(a)), activations, 7)
        wrong = ((g.square() * g.relu()).sum((2, 3), keepdim=True) * activations).sum(1)[0]
        assert torch.nn.functional.cosine_similarity(r.flatten(), wrong.flatten(), 0) < 0.9999
        assert (r - wrong).abs().max() > 0.5 * r.abs().max()

    def test_layer_followed_by_an_activation_in_place(self):
        model, x = UserNet().double(), images()
        r = cam(model, x, 2, method="hires_cam", layer="conv2")
        with torch.no_grad():
            before = model.conv2(model.conv1(x).relu())
        gradients = gradient_by_hand(model, lambda a: model.head(a.relu().mean((2, 3))), before, 2)
        close(r.maps[:, 0], (gradients * before).sum(1))

    def test_activation_in_place_as_the_layer(self):
        model, x = make("alexnet", img_size=224).float(), images(1, 3, 224).float()
        r = cam(model, x)
        assert r.layer == "features.11"
        assert r.maps.shape == (1, 1, 13, 13)

    def test_layers_of_the_users_own(self):
        model, x = UserNet(), images().float()
        by_path = cam(model, x, layer="relu", method="grad_cam")  # used twice: its last output counts
        assert by_path.maps.shape == (2, 1, 16, 16)
        assert by_path.method == "grad_cam"
        close(cam(model, x, layer=model.relu, method="grad_cam").maps, by_path.maps)
        assert cam(model, x, layer="relu").method == "hires_cam"
        close(cam(model, x, layer="relu").maps, by_path.maps, 1e-6)  # the same, behind a pooling
        close(16 * 16 * by_path.maps, cam(model, x, layer="relu", method="cam").maps, 1e-5)

    def test_callable(self):
        model, x = make("resnet18"), images()

        def mine(activations, gradients):
            return (activations * gradients.clamp(max=0)).sum(1)

        r = cam(model, x, ("top", 2), method=mine)
        assert r.method == "mine"
        positive = cam(model, x, ("top", 2), method="layer_cam").maps
        close(r.maps + positive, cam(model, x, ("top", 2), method="hires_cam").maps)
        with pytest.raises(ValueError, match=r"must return maps of shape \(2, 2, 2\), got \(2, 512, 2, 2\)"):
            cam(model, x, method=lambda activations, gradients: activations)


class TestBatches:
    @pytest.mark.parametrize(
        ("name", "chans", "size", "method"),
        [
            ("resnet18", 3, 64, "cam"),
            ("resnet18", 3, 64, "layer_cam"),
            ("lenet5", 1, 28, "grad_cam"),
            ("fcn_gap", 1, 28, "cam"),
            ("fcn_gap", 1, 28, "grad_cam"),
        ],
    )
    def test_batch_equals_singles_and_classes_equal_singles(self, name, chans, size, method):
        model, x = make(name), images(2, chans, size)
        table = [[1, 7], [9, 9]]
        together = cam(model, x, table, method=method)
        for n, row in enumerate(table):
            for k, target in enumerate(row):
                alone = cam(model, x[n : n + 1], target, method=method)
                close(alone.maps[0, 0], together.maps[n, k])
                close(alone.heatmap()[0, 0], together.heatmap()[n, k])
        everything = cam(model, x, "all", method=method)
        close(everything.maps[0, 7], together.maps[0, 1])

    @pytest.mark.parametrize("size", [65, 96, 97, 131])
    def test_planted_blob_peaks_on_itself(self, size):
        """A net whose every cell sees its own patch only: the peak of the heat lies in the patch of the blob."""
        model = nn.Sequential(nn.Conv2d(1, 1, 8, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
        with torch.no_grad():
            model[0].weight.fill_(1.0)
            model[0].bias.zero_()
            model[4].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        cells = size // 8
        for row, column in ((0, 0), (2, cells - 1), (cells // 2, 1), (cells - 1, cells - 1)):
            x = torch.zeros(1, 1, size, size)
            x[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1.0
            r = cam(model, x, 0, layer="1")
            heat = r.heatmap()[0, 0]
            peak = divmod(int(heat.argmax()), size)
            scale = size / cells  # the map is stretched over the whole image, the cut-off border included
            for got, cell in zip(peak, (row, column), strict=True):
                assert cell * scale - 1 <= got <= (cell + 1) * scale
            assert not r.empty.any()
            assert cam(model, x, 1, layer="1").empty.all()  # evidence against only: no fake peak
            assert cam(model, x, 1, layer="1").heatmap().count_nonzero() == 0
