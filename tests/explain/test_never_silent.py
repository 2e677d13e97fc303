"""What shows nothing says so; what cannot be explained is refused."""

import warnings
from pathlib import Path

import pytest
import torch
from drawn_digits import draw
from helpers.cam_nets import UserNet, close, images, make
from PIL import Image
from torch import nn

import convzoo
from convzoo import cam, feature_maps

BUNDLED = [f"{name}.{tag}" for name in ("mnist_net", "residual_cnn", "inception_cnn", "basic_cnn", "lenet5",
           "lenet5_1998", "fcn_gap", "mnist_resnet") for tag in ("mnist", "mnist_aug")]  # fmt: skip
DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@pytest.mark.filterwarnings("ignore:a picture has its ink elsewhere")  # some 7 are off centre as drawn
@pytest.mark.parametrize("name", BUNDLED)
def test_the_default_is_never_empty_for_the_predicted_class(name):
    """Grad-CAM leaves nothing of 9 of these 10 digits with mnist_net.mnist_aug, of 48 of 100 with mnist_net.mnist."""
    model = convzoo.create_model(name, pretrained=True)
    generator = torch.Generator().manual_seed(3)
    drawn = torch.stack([draw(index % 10, 28, generator) for index in range(30)]).view(30, 1, 28, 28)
    for x in (model.preprocess([Image.open(DIGITS / f"{digit}.png") for digit in range(10)]), model.preprocess(drawn)):
        r = cam(model, x)  # a warning would be an error here
        assert not r.empty.any()
        assert (r.heatmap().amax((2, 3)) > 0.99).all()
        assert r.method == model.cam_method


@pytest.mark.parametrize("name", ["mnist_net.mnist", "lenet5.mnist"])
def test_hires_cam_of_a_flattening_head_adds_up_to_what_the_maps_contribute(name):
    """Behind the last activation every net of this kind is piecewise linear: the map's sum is the logit less the
    part that does not depend on the maps."""
    model = convzoo.create_model(name, pretrained=True).double()
    x = model.preprocess([Image.open(DIGITS / f"{digit}.png") for digit in range(3)])
    r = cam(model, x)
    layer = model.get_submodule(r.layer)
    kept = []
    handle = layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = model(x)
    handle.remove()
    scores = logits.gather(1, r.target)
    gradient = torch.autograd.grad(scores.sum(), kept[0])[0]
    close(r.maps.sum((2, 3)), (gradient * kept[0]).sum((1, 2, 3))[:, None].detach(), 1e-9)


def test_an_empty_map_warns():
    model = convzoo.create_model("mnist_net.mnist_aug", pretrained=True)
    x = model.preprocess([Image.open(DIGITS / f"{digit}.png") for digit in range(10)])
    with pytest.warns(UserWarning, match=r"for 9 of 10 images no cell of the grad_cam map at 'conv2' speaks for the"):
        r = cam(model, x, method="grad_cam")
    assert r.empty.sum() == 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        others = (r.target + 1) % 10
        assert cam(model, x, others, method="cam" if model.cam_method == "cam" else "grad_cam").maps.shape[1] == 1


class TestNotNumbers:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("look", [cam, feature_maps])
    def test_of_images_are_refused(self, look, value):
        for model, chans, options in ((make("resnet18"), 3, {}), (UserNet().double(), 3, {"layer": "conv2"})):
            x = images(3, chans)
            x[1, 0, 3, 4] = value
            with pytest.raises(ValueError, match="1 of 3 images hold NaN or infinity, first number 1"):
                look(model, x, **(options if look is cam else {}))

    def test_of_weights_are_refused(self):
        for parameter in ("fc.weight", "conv1.weight"):
            model = make("resnet18")
            model.get_parameter(parameter).data.flatten()[0] = float("nan")
            for method in ("cam", "hires_cam"):
                with pytest.raises(ValueError, match="logits for these images are NaN or infinite"):
                    cam(model, images(), method=method)

    def test_of_a_method_of_the_users_own_are_refused(self):
        with pytest.raises(ValueError, match="maps at 'layer4' are not finite"):
            cam(make("resnet18"), images(), method=lambda a, g: (a / 0).sum(1))


@pytest.mark.filterwarnings("ignore:.*(deprecated|prototype)")
class TestDoor:
    @pytest.mark.parametrize("look", [cam, feature_maps])
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            (lambda x: (255 * x).to(torch.uint8), TypeError, "uint8"),
            (lambda x: x.half(), TypeError, "float16"),
            (lambda x: x.double(), TypeError, "float64"),
            (lambda x: x.long(), TypeError, "int64"),
            (lambda x: x > 0.5, TypeError, "bool"),
            (lambda x: x.to(torch.complex64), TypeError, "complex64"),
            (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), TypeError, "quantised"),
            (lambda x: x.to_sparse(), TypeError, "layout torch.sparse_coo"),
            (lambda x: torch.nested.nested_tensor(list(x)), TypeError, "nested"),
            (lambda x: x.to("meta"), TypeError, "meta"),
            (lambda x: x[:0], ValueError, "none"),
        ],
    )
    def test_images(self, look, change, error, words):
        for name in ("resnet18", "lenet5", "own"):
            model = UserNet() if name == "own" else make(name).float()
            x = change(images(2, *((1, 28) if name == "lenet5" else (3, 32))).float())
            options = {"layer": "conv2"} if name == "own" and look is cam else {}
            if name == "own":  # whatever its forward makes of it: the cause is told when that fails
                error = (TypeError, ValueError)
            with pytest.raises(error, match=words):
                look(model, x, **options)

    def test_another_device(self):
        with torch.device("meta"):
            nets = (convzoo.create_model("resnet18", 10), UserNet())
        for model in nets:
            for look in (cam, feature_maps):
                with pytest.raises(ValueError, match="meta"):
                    look(
                        model,
                        torch.rand(1, 3, 64, 64),
                        **({"layer": "conv2"} if model is nets[1] and look is cam else {}),
                    )

    def test_a_module_that_normalises_bytes_itself(self):
        class Scales(UserNet):
            def forward(self, x):
                return super().forward(x.float() / 255)

        torch.manual_seed(0)
        model, x = Scales(), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        plain = UserNet()
        plain.load_state_dict(model.state_dict())
        close(cam(model, x, 3, layer="relu").maps, cam(plain, x.float() / 255, 3, layer="relu").maps, 1e-6)

    def test_of_what_is_no_module(self):
        for odd in (None, "resnet18", nn.Conv2d, [UserNet()]):
            for look in (cam, feature_maps):
                with pytest.raises(TypeError, match="model must be a torch"):
                    look(odd, images())
            with pytest.raises(TypeError, match="model must be a torch"):
                convzoo.cam_layers(odd)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            scripted = torch.jit.trace(nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8))
        with pytest.raises(TypeError, match="scripted module"):
            cam(scripted, images().float(), layer="")

    @pytest.mark.parametrize("layers", [3, [None], [["conv1"]], "nowhere", [""], {"conv1"}])
    def test_layers_of_feature_maps(self, layers):
        with pytest.raises((TypeError, ValueError), match=r"layers are paths of modules|no layer"):
            feature_maps(UserNet(), images().float(), layers)


def test_models_spread_over_processes_are_refused():
    from torch.distributed import destroy_process_group, init_process_group, is_available
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if not is_available():
        pytest.skip("torch was built without torch.distributed")
    from torch.distributed.fsdp import fully_shard

    init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        model = make("resnet18").float()
        fully_shard(model)
        for look in (cam, feature_maps):
            with pytest.raises(TypeError, match=r"spread over processes.*full_state_dict"):
                look(model, images().float())
    finally:
        destroy_process_group()


class TestSmoothing:
    def test_is_the_mean_over_noisy_copies(self):
        model, x = make("lenet5"), images(2, 1, 28)
        r = cam(model, x, [[3, 4], [5, 6]], smooth=3)
        generator = torch.Generator().manual_seed(0)
        spread = 0.1 * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
        total = 0.0
        for _ in range(3):
            noisy = x + spread * torch.randn(x.shape, generator=generator).double()
            total = total + cam(model, noisy, [[3, 4], [5, 6]]).maps
        close(r.maps, total / 3)
        close(r.logits, model(x).detach())
        assert torch.equal(cam(model, x, [[3, 4], [5, 6]], smooth=3).maps, r.maps)

    def test_explains_the_class_of_the_image_itself_and_draws_from_no_generator_of_the_user(self):
        model, x = make("fcn_gap").float(), images(4, 1, 28).float()
        before = torch.get_rng_state()
        r = cam(model, x, smooth=2)
        assert torch.equal(before, torch.get_rng_state())
        assert torch.equal(r.target, cam(model, x).target)
        assert r.bias is None
