"""Scores of the user's own, and the two classes of a single logit."""

import pytest
import torch
from helpers.cam_nets import UserNet, close, images, make
from torch import nn

import convzoo
from convzoo import cam


class TestCallables:
    @pytest.mark.parametrize("name", ["resnet18", "lenet5"])
    def test_a_logit_is_a_class(self, name):
        model, x = make(name), images(2, *((3, 64) if name == "resnet18" else (1, 28)))
        r = cam(model, x, lambda logits: logits[:, 7])
        assert (r.method, r.target) == ("hires_cam", None)
        close(r.maps, cam(model, x, 7, method="hires_cam").maps)
        both = cam(model, x, lambda logits: logits[:, [7, 2]])
        close(both.maps, cam(model, x, [[7, 2]] * 2, method="hires_cam").maps)

    def test_what_tells_two_classes_apart(self):
        model, x = make("lenet5"), images(2, 1, 28)
        r = cam(model, x, lambda logits: logits[:, 4] - logits[:, 9])
        close(r.maps, cam(model, x, 4).maps - cam(model, x, 9).maps)

    def test_probabilities(self):
        model, x = UserNet().double(), images()
        r = cam(model, x, lambda logits: logits.softmax(1)[:, 3], layer="relu")
        chances = model(x).softmax(1).detach()
        maps = cam(model, x, "all", layer="relu").maps
        mean = (chances[..., None, None] * maps).sum(1)
        close(r.maps[:, 0], chances[:, 3, None, None] * (maps[:, 3] - mean), 1e-9)

    def test_for_attention(self):
        torch.manual_seed(0)
        model = convzoo.create_model("t2t_vit_7", 5, img_size=64, embed_dim=32, depth=2).eval()
        x = torch.rand(2, 3, 64, 64)
        r = cam(model, x, lambda logits: logits[:, 1])
        assert r.method == "attention"
        close(r.maps, cam(model, x, 1).maps, 1e-6)

    def test_has_no_classes_for_method_cam(self):
        with pytest.raises(ValueError, match="explains classes, got a callable target; pass method='hires_cam'"):
            cam(make("resnet18"), images(), lambda logits: logits[:, 0], method="cam")

    @pytest.mark.parametrize(
        ("target", "error", "words"),
        [
            (lambda logits: 3, TypeError, "target returns a int"),
            (lambda logits: logits[0], ValueError, r"target returns \(10,\) of torch.float64 for logits \(2, 10\)"),
            (lambda logits: logits.argmax(1), ValueError, "of torch.int64"),
            (lambda logits: logits.detach()[:, 0], ValueError, "no gradient to the logits"),
        ],
    )
    def test_is_checked(self, target, error, words):
        with pytest.raises(error, match=words):
            cam(make("resnet18"), images(), target)

    def test_an_error_of_its_own_is_its_own(self):
        with pytest.raises(KeyError, match="mine"):
            cam(make("resnet18"), images(), lambda logits: {}["mine"])


def one_logit(name):
    """A net of one logit, and a net of two whose second is the same and whose first is its negative."""
    single = make(name)
    single.reset_classifier(1)
    twin = make(name)
    twin.reset_classifier(2)
    last = twin.get_classifier()
    rest = {key: value for key, value in single.state_dict().items() if not key.startswith(f"{twin.classifier_name}.")}
    twin.load_state_dict(rest, strict=False)
    with torch.no_grad():
        last.weight.copy_(torch.cat([-single.get_classifier().weight, single.get_classifier().weight]))
        last.bias.copy_(torch.cat([-single.get_classifier().bias, single.get_classifier().bias]))
    return single, twin


class TestOneLogit:
    @pytest.mark.filterwarnings("ignore:for . of 3 images no cell")
    @pytest.mark.parametrize("method", ["auto", "grad_cam", "layer_cam", "grad_cam_pp"])
    @pytest.mark.parametrize("name", ["resnet18", "lenet5", "fcn_gap"])
    def test_decides_between_two_classes(self, name, method):
        chans, size = (3, 64) if name == "resnet18" else (1, 28)
        (single, twin), x = one_logit(name), images(3, chans, size)
        with torch.no_grad():
            shift = single(x).mean()  # so that the images are on both sides
            single.get_classifier().bias -= shift
            twin.get_classifier().bias += torch.stack([shift, -shift])
        for target in (None, 0, 1, [0, 1, 0], "all", ("top", 2)):
            got, wanted = cam(single, x, target, method=method), cam(twin, x, target, method=method)
            assert torch.equal(got.target, wanted.target)
            close(got.maps, wanted.maps)
            assert got.logits.shape == (3, 1)
            if got.bias is not None:
                assert torch.allclose(got.bias, wanted.bias, rtol=0, atol=1e-12)
        predicted = cam(single, x, method=method).target[:, 0]
        assert torch.equal(predicted, (single(x)[:, 0] > 0).long())
        if method != "layer_cam":
            return
        with pytest.raises(ValueError, match="target names class 2, but the model has 2 classes"):
            cam(single, x, 2)

    def test_negative_class_of_a_linear_score_has_the_negated_map(self):
        single, _ = one_logit("resnet18")
        r = cam(single, images(), "all")
        close(r.maps[:, 0], -r.maps[:, 1])
        close(r.maps.mean((2, 3)) + r.bias, torch.cat([-r.logits, r.logits], 1))

    def test_of_a_net_of_the_users_own(self):
        net = UserNet().double()
        net.head = nn.Linear(12, 1).double()
        x = images()
        for method in ("cam", "hires_cam"):
            r = cam(net, x, "all", layer="relu", method=method)
            close(r.maps[:, 0], -r.maps[:, 1])
