"""Heat-maps, overlays, sheets, feature maps, and the command line."""

import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from drawn_digits import draw, side_by_side
from helpers.cam_nets import UserNet
from PIL import Image, ImageFont

import convzoo
from convzoo import CAM, cam, feature_maps, overlay, show_cam, show_feature_maps, show_filters
from convzoo.__main__ import main
from convzoo.explain import colorize, to_picture


def result(maps, size=(8, 8), **more):
    maps = torch.as_tensor(maps, dtype=torch.float32)
    count, classes = maps.shape[:2]
    target = torch.zeros(count, classes, dtype=torch.int64)
    return CAM(maps, torch.zeros(count, 3), target, "cam", "x", size, **more)


def pixels(picture):
    return np.asarray(picture).astype(int)


class TestHeatmap:
    def test_evidence_against_a_class_never_becomes_a_peak(self):
        r = result([[[[-1.0, -5.0], [-2.0, -3.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, -5.0], [0.0, 0.0]]]])
        assert r.empty.tolist() == [[True, True, False]]
        for normalize in ("max", "joint"):
            heat = r.heatmap(normalize=normalize)
            assert heat[0, :2].count_nonzero() == 0
            assert heat[0, 2].max() == 1

    def test_zero_stays_zero_and_an_all_positive_map_keeps_its_floor(self):
        heat = result([[[[3.0, 4.0], [3.0, 3.0]]]]).heatmap()
        assert heat.max() == 1
        assert heat.min() == pytest.approx(0.75)  # not stretched down to 0

    def test_joint_compares_classes(self):
        heat = result([[[[4.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]]]).heatmap(normalize="joint")
        assert heat[0, 0].max() == 1
        assert heat[0, 1].max() == pytest.approx(0.25)

    def test_minmax_shows_both_signs(self):
        heat = result([[[[-2.0, 0.0], [2.0, 0.0]]]]).heatmap((2, 2), "minmax")
        assert heat.flatten().tolist() == [0.0, 0.5, 1.0, 0.5]
        assert result([[[[2.0, 2.0], [2.0, 2.0]]]]).heatmap(normalize="minmax").count_nonzero() == 0

    def test_enlarged_with_the_centres_of_the_cells_in_place(self):
        maps = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
        r = result(maps, (33, 47))
        raw = r.heatmap(normalize=None)
        wanted = torch.nn.functional.interpolate(maps, (33, 47), mode="bilinear", align_corners=False)
        assert torch.equal(raw, wanted)
        centre = result([[[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]], (9, 9)).heatmap()[0, 0]
        assert centre.argmax() == 40
        assert torch.allclose(centre, centre.flip(0), atol=1e-6)
        assert torch.allclose(centre, centre.flip(1), atol=1e-6)

    def test_sizes(self):
        r = result(torch.ones(1, 2, 3, 3), (10, 12))
        assert r.heatmap().shape == (1, 2, 10, 12)
        assert r.heatmap(6).shape == (1, 2, 6, 6)
        assert r.heatmap((6, 5)).shape == (1, 2, 6, 5)
        with pytest.raises(ValueError, match="normalize must be 'max' or 'minmax' or 'joint' or None, got 'sum'"):
            r.heatmap(normalize="sum")
        with pytest.raises(ValueError, match="img_size must be at least 1"):
            r.heatmap(0)

    def test_repr(self):
        assert repr(result(torch.ones(2, 3, 4, 5))) == "CAM(cam at x: 2 images, 3 classes each, maps 4x5)"


class TestOverlay:
    def test_without_heat_the_image_is_untouched(self):
        grey = torch.full((1, 6, 6), 0.2)
        assert (pixels(overlay(grey, torch.zeros(6, 6))) == 51).all()
        colour = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        assert np.array_equal(pixels(overlay(colour, np.zeros((3, 3)))), colour)

    def test_heat_is_mixed_in_by_its_strength(self):
        heat = torch.tensor([[0.0, 0.5, 1.0]])
        white = lambda values: np.ones((*values.shape, 3))  # noqa: E731 - the simplest colour map
        got = pixels(overlay(torch.zeros(1, 1, 3), heat, alpha=0.8, colormap=white))
        assert got[0, :, 0].tolist() == [0, 102, 204]  # linear in the heat: not squared, no undershoot

    def test_colours_are_red_green_blue(self):
        red = overlay(torch.zeros(3, 2, 2), torch.ones(2, 2), alpha=1.0, colormap="jet")
        assert red.mode == "RGB"
        assert red.getpixel((0, 0)) == (128, 0, 0)
        image = torch.zeros(3, 4, 4)
        image[2] = 1.0
        assert overlay(image, torch.zeros(4, 4)).getpixel((1, 1)) == (0, 0, 255)

    def test_kinds_of_images(self):
        grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
        colour = np.stack([grey, grey + 50, grey + 100], -1)
        heat = np.zeros((6, 8))
        as_grey = np.stack([grey] * 3, -1)
        kinds = [
            (Image.fromarray(grey), as_grey),
            (grey, as_grey),
            (grey[..., None], as_grey),
            (grey[None], as_grey),
            (grey.astype(np.float32) / 255, as_grey),
            (torch.from_numpy(grey), as_grey),
            (torch.from_numpy(grey)[None].float() / 255, as_grey),
            (torch.from_numpy(grey)[None].double() / 255, as_grey),
            (grey.astype(np.int64), as_grey),
            (grey > 20, np.stack([(grey > 20) * 255] * 3, -1)),
            (Image.fromarray(colour), colour),
            (colour, colour),
            (colour.transpose(2, 0, 1), colour),
            (torch.from_numpy(colour).permute(2, 0, 1).float() / 255, colour),
            (np.concatenate([colour, np.full((6, 8, 1), 255, np.uint8)], -1), colour),  # the last is opacity
            (np.concatenate([colour, np.zeros((6, 8, 1), np.uint8)], -1), np.full((6, 8, 3), 255)),
        ]
        for image, wanted in kinds:
            assert np.array_equal(pixels(overlay(image, heat)), wanted)

    def test_normalisation_is_undone(self):
        image = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
        normalised = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        wanted = pixels(to_picture(image))
        assert abs(pixels(to_picture(normalised, mean, std)) - wanted).max() <= 1
        stretched = pixels(to_picture(normalised))  # nothing known: from the least to the largest value
        assert stretched.min() == 0
        assert stretched.max() == 255
        model = convzoo.create_model("resnet18", 10, depths=(1, 1, 1, 1)).eval()
        r = cam(model, normalised.repeat(1, 1, 10, 10)[:, :, :50, :50].reshape(1, 3, 50, 50))
        assert r.mean is None
        shown = r.overlay(normalised.repeat(1, 10, 10)[None], alpha=0.0, mean=mean, std=std)[0]
        assert abs(pixels(shown)[:5, :5] - wanted).max() <= 1

    def test_size_and_heat_of_another_size(self):
        got = overlay(torch.zeros(1, 10, 12), torch.tensor([[1.0, 0.0]]), size=(30, 36), alpha=1.0, colormap="grey")
        assert got.size == (36, 30)
        line = pixels(got)[15, :, 0]
        assert line[0] == 255
        assert line[-1] == 0
        assert (np.diff(line) <= 0).all()

    @pytest.mark.parametrize(
        ("arguments", "options", "error", "words"),
        [
            (
                (torch.zeros(3, 4, 4), torch.full((4, 4), 3.0)),
                {},
                ValueError,
                "a heat-map is in 0..1, got values from 3",
            ),
            ((torch.zeros(3, 4, 4), torch.full((4, 4), float("nan"))), {}, ValueError, "a heat-map is in 0..1"),
            ((torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)), {}, ValueError, "a heat-map has shape"),
            ((torch.zeros(2, 3, 4, 4), torch.zeros(4, 4)), {}, ValueError, "pick one image"),
            ((torch.zeros(5, 4, 7), torch.zeros(4, 4)), {}, ValueError, "one image has shape"),
            (
                ("image.png", torch.zeros(4, 4)),
                {},
                TypeError,
                "an image is a PIL picture, an array or a tensor, got str",
            ),
            ((torch.zeros(3, 4, 4), torch.zeros(4, 4)), {"alpha": 2}, ValueError, "alpha must be from 0 to 1, got 2"),
            ((torch.zeros(3, 4, 4), torch.zeros(4, 4)), {"colormap": "hot"}, ValueError, "unknown colour map 'hot'"),
            (
                (torch.zeros(3, 4, 4), torch.zeros(4, 4)),
                {"mean": (0.1, 0.2), "std": (1, 1)},
                ValueError,
                "one a channel",
            ),
        ],
    )
    def test_refused(self, arguments, options, error, words):
        with pytest.raises(error, match=words):
            overlay(*arguments, **options)

    def test_colour_maps(self):
        values = np.linspace(0, 1, 12).reshape(3, 4)
        for name in ("turbo", "viridis", "inferno", "jet", "grey", "signed"):
            colours = colorize(values, name)
            assert colours.shape == (3, 4, 3)
            assert colours.min() >= 0
            assert colours.max() <= 1
        assert np.allclose(colorize(values, "signed")[1, 1] * 255, 247, atol=12)  # one half is white
        with pytest.raises(ValueError, match="must add 3 channels"):
            colorize(values, lambda v: v)

    def test_of_a_result(self):
        model = convzoo.create_model("fcn_gap").eval()
        x = torch.stack([draw(3), draw(8)])
        r = cam(model, x, ("top", 2))
        pictures = r.overlay(x, 1, size=56)
        assert [picture.size for picture in pictures] == [(56, 56)] * 2
        with pytest.raises(ValueError, match="maps of 2 images, got 1"):
            r.overlay(x[:1])
        with pytest.raises(ValueError, match="k must be from 0 to 1, got 2"):
            r.overlay(x, 2)


class TestFeatures:
    def test_stages_and_layers(self):
        model = convzoo.create_model("resnet18", 10, depths=(1, 1, 1, 1))
        x = torch.rand(2, 3, 64, 64)
        maps = feature_maps(model, x)
        assert list(maps) == ["stem", "stage1", "stage2", "stage3", "stage4"]
        assert [tuple(value.shape[1:]) for value in maps.values()] == [
            (64, 16, 16), (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)
        ]  # fmt: skip
        assert model.training
        assert torch.equal(maps["stage4"], model.eval().forward_features(x).detach())
        some = feature_maps(model, x, ["fc", "layer2.0.conv1", "stage1"])
        assert list(some) == ["stage1", "layer2.0.conv1", "fc"]  # in the order of the forward pass
        assert torch.equal(some["fc"], model(x).detach())
        assert list(feature_maps(model, x, "bn1")) == ["bn1"]

    def test_an_activation_in_place_behind_the_layer_does_not_show(self):
        model, x = UserNet(), torch.rand(1, 3, 32, 32)
        maps = feature_maps(model, x, "conv1")["conv1"]
        assert torch.equal(maps, model.conv1(x).detach())
        assert maps.min() < 0
        assert list(feature_maps(model, x)) == ["conv1", "conv2", "relu", "pool", "head"]

    def test_refused(self):
        model, x = convzoo.create_model("lenet5"), torch.rand(1, 1, 28, 28)
        with pytest.raises(ValueError, match="the model has no layer 'stage9'"):
            feature_maps(model, x, "stage9")
        net = torch.nn.Sequential(torch.nn.Identity())
        net.unused = torch.nn.Identity()
        net.forward = lambda x: x
        with pytest.raises(ValueError, match="layer 'unused' takes no part"):
            feature_maps(net, x, "unused")

    def test_maps_whose_channels_come_last_are_turned(self):
        class ChannelsLast(torch.nn.Module):
            def forward(self, x):
                return x.permute(0, 2, 3, 1)

        class OneSize(ChannelsLast):
            def forward(self, x):
                assert x.shape[2:] == (8, 12)
                return super().forward(x)

        model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), ChannelsLast()), torch.rand(1, 3, 8, 12)
        figure = show_feature_maps(model, x, columns=5)
        assert [ax.get_title(loc="left") for ax in figure.axes] == ["0: 5 of 5 maps, 8x12", "1: 5 of 5 maps, 8x12"]
        first, last = (ax.images[0].get_array() for ax in figure.axes)
        assert (first == last).all()
        model[1] = OneSize()
        assert len(show_feature_maps(model, x).axes) == 1
        with pytest.raises(ValueError, match=r"layer '1' gives \(1, 8, 12, 5\).*not certain"):
            show_feature_maps(model, x, ["0", "1"])

    def test_sheets(self, tmp_path):
        model, x = convzoo.create_model("lenet5"), torch.rand(1, 28, 28)
        figure = show_feature_maps(model, x, ["conv1", "conv2"], max_maps=8)
        assert [ax.get_title(loc="left") for ax in figure.axes] == [
            "conv1: 6 of 6 maps, 28x28", "conv2: 8 of 16 maps, 10x10"
        ]  # fmt: skip
        figure.savefig(tmp_path / "maps.png")
        with pytest.raises(ValueError, match="takes one image, got 2"):
            show_feature_maps(model, torch.rand(2, 1, 28, 28))
        with pytest.raises(ValueError, match="gives maps"):
            show_feature_maps(model, x, "fc1")
        assert show_filters(model).axes[0].get_title(loc="left") == "conv1: 6 of 6 kernels, 5x5, 1 channel"
        resnet = convzoo.create_model("resnet18", 10, depths=(1, 1, 1, 1))
        show_filters(resnet).savefig(tmp_path / "filters.png")
        with pytest.raises(ValueError, match="no convolution 'fc' in the model; pass one of conv1"):
            show_filters(resnet, "fc")

    def test_filters_share_one_scale_with_zero_in_the_middle(self):
        model = convzoo.create_model("lenet5")
        with torch.no_grad():
            model.conv1.weight.zero_()
            model.conv1.weight[0, 0, 0, 0] = 2.0
            model.conv1.weight[1, 0, 4, 4] = -1.0
        sheet = show_filters(model).axes[0].images[0].get_array()
        assert sheet[0, 0].tolist() == [1.0] * 3
        assert sheet[4, 10].tolist() == [0.25] * 3  # the second kernel begins behind a border of one pixel
        kernels = np.delete(sheet, np.arange(5, sheet.shape[1], 6), axis=1)[..., 0]
        assert (np.delete(kernels.flatten(), [0, 4 * kernels.shape[1] + 9]) == 0.5).all()
        assert (sheet[:, 5::6] == 1.0).all()  # white between the kernels
        bar = show_filters(model).axes[1]
        assert bar.get_ylim() == (-2.0, 2.0)


class TestWhereTheNetLooked:
    """Heat over the original pictures lies on the part that the net saw."""

    @staticmethod
    def share_inside(picture, plain, rows, columns):
        change = abs(pixels(picture) - pixels(plain)).sum(2)
        return change[rows, columns].sum() / change.sum()

    def test_a_picture_that_was_cropped(self):
        model = convzoo.create_model("fcn_gap", pretrained=True)
        wide = Image.new("L", (224, 56))
        wide.paste(to_picture(draw(3)).convert("L").resize((56, 56)), (84, 0))
        tall = wide.transpose(Image.Transpose.ROTATE_90)
        images = model.preprocess([wide, tall])
        r = cam(model, images)
        shown = r.overlay([wide, tall])
        assert [picture.size for picture in shown] == [(224, 56), (56, 224)]
        assert self.share_inside(shown[0], wide.convert("RGB"), slice(None), slice(84, 140)) == 1
        assert self.share_inside(shown[1], tall.convert("RGB"), slice(84, 140), slice(None)) == 1
        inside = pixels(shown[0])[:, 84:140]
        alone = pixels(r.overlay([wide.crop((84, 0, 140, 56)), tall])[0])
        assert abs(inside - alone).max() <= 1
        assert r.overlay(images)[0].size == (28, 28)  # what cam was given is shown whole
        assert r.overlay([wide, tall], min_side=112)[0].size == (448, 112)

    def test_a_picture_that_was_prepared(self):
        model = convzoo.create_model("fcn_gap", pretrained=True)
        paper = Image.new("L", (300, 200), 230)
        paper.paste(to_picture(1 - draw(3)).convert("L").resize((50, 50)), (10, 140))
        r = cam(model, model.preprocess(paper, prepare=True))
        for how in ({"prepare": True}, {}):  # said, or found out
            shown = r.overlay(paper, **how)[0]
            assert self.share_inside(shown, paper.convert("RGB"), slice(130, None), slice(0, 70)) == 1
        with pytest.warns(UserWarning, match="mostly bright"):
            plain = cam(model, model.preprocess(paper))
        shown = plain.overlay(paper)[0]
        assert self.share_inside(shown, paper.convert("RGB"), slice(None), slice(50, 250)) == 1

    def test_a_transparent_sketch_in_dark_ink(self):
        model = convzoo.create_model("fcn_gap", pretrained=True)
        ink = to_picture(draw(3)).convert("L").resize((80, 80))
        sketch = Image.merge("LA", (Image.new("L", ink.size, 0), ink))
        r = cam(model, model.preprocess(sketch, prepare=True))
        assert int(r.target) == 3
        assert r.overlay(sketch)[0].size == (80, 80)

    def test_the_orientation_is_the_pictures(self):
        model = convzoo.create_model("fcn_gap", pretrained=True)
        upright = to_picture(draw(3)).convert("L").resize((56, 56))
        turned = upright.rotate(90)
        turned.getexif()[0x0112] = 6
        r = cam(model, model.preprocess([upright, turned]))
        shown = r.overlay([upright, turned])
        assert np.array_equal(pixels(shown[0]), pixels(shown[1]))

    def test_what_is_not_known_is_refused(self):
        r = cam(UserNet(), torch.rand(1, 3, 32, 32), layer="conv2")
        assert r.overlay([torch.rand(3, 64, 64)])[0].size == (64, 64)
        with pytest.raises(ValueError, match="got a picture of 32x64, and how it was cut is not known"):
            r.overlay([torch.rand(3, 32, 64)])
        with pytest.raises(TypeError, match="got str"):
            r.overlay(["a.png"])

    def test_a_box(self):
        shown = pixels(
            overlay(torch.zeros(1, 20, 40), torch.ones(2, 2), box=(5, -10, 10, 30), alpha=1.0, colormap="grey")
        )
        assert (shown[5:15, :20] == 255).all()
        assert shown.sum() == 10 * 20 * 3 * 255
        for box, error in (((1, 2, 3), TypeError), ("abcd", TypeError), ((0, 0, 0, 5), ValueError), (7, TypeError)):
            with pytest.raises(error, match=r"box must be \(top, left, height, width\)"):
                overlay(torch.zeros(1, 20, 40), torch.ones(2, 2), box=box)


class TestHostile:
    """Whatever is passed ends in a picture, or in words."""

    @pytest.mark.parametrize(
        "heat",
        [
            "hot", None, [], [[]], torch.zeros(0, 3), [["a"]], {"a": 1}, object(), torch.ones(2, 2) * 1j,
            torch.zeros(2, 2, device="meta"), torch.zeros(2, 2).to_sparse(), torch.full((2, 2), -1.0),
            torch.full((2, 2), float("inf")), np.array([[1, None]]), 3,
        ],
    )  # fmt: skip
    def test_odd_heat(self, heat):
        with pytest.raises((TypeError, ValueError), match="heat-map"):
            overlay(torch.zeros(1, 4, 4), heat)

    @pytest.mark.parametrize(
        "dtype", [torch.uint8, torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.int64]
    )
    def test_heat_and_images_of_any_number_type(self, dtype):
        image = torch.eye(4).to(dtype)[None]
        full = 255 if dtype not in (torch.uint8, torch.int64) else 1
        shown = pixels(overlay(image, torch.zeros(4, 4).to(dtype)))
        assert (shown == full * np.eye(4)[..., None]).all()
        assert overlay(image, torch.ones(4, 4).to(dtype)).size == (4, 4)

    @pytest.mark.parametrize(
        ("image", "error"),
        [
            (torch.full((1, 4, 4), float("nan")), ValueError),
            (torch.zeros(1, 0, 4), ValueError),
            (torch.zeros(1, 4, 4, device="meta"), TypeError),
            (torch.zeros(1, 4, 4) * 1j, TypeError),
            (np.array([["a"]]), TypeError),
            (b"123", TypeError),
            (Image.new("F", (4, 4)), ValueError),
        ],
    )
    def test_odd_images(self, image, error):
        with pytest.raises(error):
            overlay(image, torch.zeros(4, 4))

    def test_odd_arguments(self):
        image, heat = torch.zeros(1, 4, 4), torch.zeros(4, 4)
        for options in (
            {"alpha": "a"}, {"alpha": float("nan")}, {"alpha": True}, {"colormap": 7}, {"size": 0}, {"size": "a"},
            {"min_side": 0}, {"min_side": 2.5}, {"size": (10**6, 10**6)},
        ):  # fmt: skip
            with pytest.raises((TypeError, ValueError)):
                overlay(image, heat, **options)
        for show in (show_feature_maps, show_filters):
            arguments = (image,) if show is show_feature_maps else ()
            model = convzoo.create_model("lenet5")
            for columns in (0, -1, 1.5, "a"):
                with pytest.raises((TypeError, ValueError), match="columns must be"):
                    show(model, *arguments, columns=columns)
            for something in (None, "lenet5", 3, torch.relu):
                with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
                    show(something, *arguments)
        with pytest.raises(ValueError, match="Linear has no Conv2d"):
            show_filters(torch.nn.Linear(2, 2))
        with torch.device("meta"):
            empty = convzoo.create_model("lenet5")
        with pytest.raises(ValueError, match="on the meta device"):
            show_filters(empty)

    def test_show_cam(self):
        model = convzoo.create_model("fcn_gap").eval()
        for names in (["a"], "0123456789", ["a"] * 11):
            with pytest.raises(ValueError, match="names must be one for each of 10 classes"):
                show_cam(model, torch.rand(1, 28, 28), names=names)
        for top in (0, -1, 1.5):
            with pytest.raises((TypeError, ValueError), match="top must be"):
                show_cam(model, torch.rand(1, 28, 28), top)
        with pytest.raises(TypeError, match="the model has no transform"):
            show_cam(model, Image.new("L", (28, 28)))
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
            show_cam("fcn_gap", torch.rand(1, 28, 28))


@pytest.mark.filterwarnings("ignore:.*(deprecated|prototype)")
@pytest.mark.parametrize("show", [show_cam, show_feature_maps])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: (255 * x).byte(), "uint8"), (torch.Tensor.half, "float16"), (torch.Tensor.double, "float64"),
        (torch.Tensor.long, "int64"), (lambda x: x > 0.5, "bool"), (lambda x: x * 1j, "complex64"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), "quantised"), (torch.Tensor.to_sparse, "sparse"),
        (lambda x: torch.nested.nested_tensor(list(x)), "nested"), (lambda x: x.to("meta"), "meta"),
    ],
)  # fmt: skip
def test_images_that_are_not_shown(show, change, words):
    model = convzoo.create_model("fcn_gap").eval()
    for images in (torch.rand(1, 1, 28, 28), torch.rand(1, 28, 28)):
        with pytest.raises(TypeError, match=words):
            show(model, change(images))
    with pytest.raises(ValueError, match=r"batch of none"):
        show(model, torch.rand(0, 1, 28, 28))


class TestSheet:
    @pytest.mark.filterwarnings("ignore:for 1 of 1 images no cell")  # random weights may leave nothing for a class
    def test_fewer_classes_than_asked_for(self):
        titles = [
            ax.get_title() for ax in show_cam(convzoo.create_model("resnet18", 2).eval(), torch.rand(3, 64, 64)).axes
        ]
        assert [title.split("\n")[0] for title in titles if "class" in title] in (
            ["class 0", "class 1"],
            ["class 1", "class 0"],
        )
        one = show_cam(convzoo.create_model("resnet18", 1).eval(), torch.rand(3, 64, 64)).axes
        chances = [float(ax.get_title().split("\n")[1].split()[0]) for ax in one[1:3]]
        assert sum(chances) == pytest.approx(100, abs=0.11)

    def test_pictures_at_their_own_resolution(self):
        model = convzoo.create_model("lenet5", pretrained=True)
        paper = Image.new("L", (300, 250), 230)
        paper.paste(to_picture(1 - draw(3)).convert("L").resize((50, 50)), (10, 140))
        figure = show_cam(model, [paper, paper], 2, prepare=True)
        assert len(figure.axes) == 7
        assert all(ax.images[0].get_array().shape == (250, 300, 3) for ax in figure.axes[:6])
        assert figure.axes[1].get_title().startswith("3\n")

    def test_probabilities_are_those_of_the_weights_temperature(self):
        model = convzoo.create_model("lenet5_1998", pretrained=True)
        x = model.preprocess(to_picture(draw(3)))
        r = cam(model, x)
        assert torch.equal(r.probabilities, (model(x).detach() / 8).softmax(1))
        title = show_cam(model, x, 1).axes[1].get_title()
        assert title == f"3\n{100 * float(r.probabilities[0, 3]):.1f} %"

    def test_a_figure_shows_itself_in_a_notebook(self):
        figure = show_filters(convzoo.create_model("lenet5"))
        with Image.open(io.BytesIO(figure._repr_png_())) as picture:
            assert picture.format == "PNG"
            assert picture.size[0] == 800

    def test_long_names_are_cut_and_empty_maps_are_said(self):
        from convzoo.explain.figures import class_titles

        r = result([[[[-1.0, -5.0], [-2.0, -3.0]]]], classes=("a name that goes on and on and on", "b", "c"))
        assert class_titles(r) == [["a name that goes on a…\n33.3 %\nnothing speaks for it"]]

    def test_rows_and_names(self, tmp_path):
        model = convzoo.create_model("fcn_gap").eval()
        x = torch.stack([draw(3), draw(8)])
        figure = show_cam(model, x, top=2, names=[f"digit {digit}" for digit in range(10)])
        assert len(figure.axes) == 7  # the last is the colour bar
        chances = model(x)[0].detach().softmax(0)
        best = int(chances.argmax())
        title = figure.axes[1].get_title()
        assert title.startswith(f"digit {best}\n")
        assert title.endswith(f"{100 * float(chances[best]):.1f} %")
        figure.savefig(tmp_path / "sheet.png")
        assert len(show_cam(model, x[0], top=1, method="grad_cam").axes) == 3

    def test_no_window_is_opened(self):
        code = (
            "import convzoo, torch, sys\n"
            "heavy = {'PIL', 'matplotlib', 'cv2', 'scipy', 'sklearn'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
            "convzoo.show_cam(convzoo.create_model('fcn_gap'), torch.rand(1, 28, 28))\n"
            "assert 'matplotlib.pyplot' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestCommand:
    @pytest.fixture
    def digit(self, tmp_path):
        to_picture(side_by_side(3, 8, torch.Generator().manual_seed(0))).save(tmp_path / "digits.png")
        return tmp_path / "digits.png"

    @pytest.fixture
    def weights(self, tmp_path, monkeypatch):
        folder = tmp_path / "hub"
        model = convzoo.create_model("fcn_gap", img_size=(28, 56))
        names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
        convzoo.save_pretrained(model, folder / "fcn_gap.drawn", tag="drawn", classes=names, mean=0.1, std=0.3)
        monkeypatch.setenv("CONVZOO_WEIGHTS", str(folder))
        return "fcn_gap.drawn"

    def test_writes_a_picture(self, weights, digit, tmp_path, capsys):
        out = tmp_path / "out.png"
        assert main(["cam", weights, str(digit), "-o", str(out), "--top", "2"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == 3
        assert printed[2] == f"cam at relu3: {out}"
        line = 448 // 20  # what a line of letters takes, by the width of a panel; two of them above
        bar = 16 + round(ImageFont.load_default(line - 5).getlength("none")) + 8
        with Image.open(out) as picture:
            assert picture.size == (3 * (448 + 8) + 8 + bar, 8 + 2 * line + 224 + 8)
            first = pixels(picture)[8 + 2 * line :, 8:456][:224]
        shown = pixels(Image.open(digit).resize((448, 224), Image.Resampling.NEAREST))
        assert abs(first - shown).max() <= 1  # the image itself, its normalisation undone

    def test_classes_by_name_and_number(self, weights, digit, tmp_path, capsys):
        arguments = ["cam", weights, str(digit), "-o", str(tmp_path / "o.jpg"), "--method", "hires_cam"]
        assert main([*arguments, "--classes", "three, 8"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("three: ")
        assert lines[1].startswith("eight: ")
        assert main([*arguments, "--classes", "eleven"]) == 2
        assert "no class 'eleven'; pass a number from 0 to 9, or one of zero, one" in capsys.readouterr().err

    def test_refused(self, weights, digit, tmp_path, capsys):
        (tmp_path / "text.png").write_text("no picture")
        for arguments, words in (
            ([weights, str(tmp_path / "text.png")], "is not a picture that Pillow can read"),
            ([weights, str(tmp_path / "none.png")], "No such file"),
            ([weights, str(digit), "-o", "out.txt"], "written as .png, .jpg or .webp, got 'out.txt'"),
            (["fcn_gap.none", str(digit)], "fcn_gap.none"),
        ):
            assert main(["cam", *arguments]) == 2
            error = capsys.readouterr().err
            assert words in error
            assert error.count("\n") == 1
