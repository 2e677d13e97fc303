"""Pictures of every kind to the input that weights expect."""

from __future__ import annotations

import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import convzoo
from convzoo import WeightInfo


def preprocess(images, weights, **how):
    return weights.transform.batch(images, **how)


def info(chans=3, size=(24, 32), **more):
    values = {"mean": (0.5, 0.4, 0.3)[:chans], "std": (0.2, 0.25, 0.5)[:chans], **more}
    return WeightInfo(name="a.b", architecture="a", tag="b", num_classes=2, in_chans=chans, img_size=size, **values)


PIXELS = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
# smooth, as photographs are: noise alone would show nothing but the filter's rounding
SMOOTH = np.asarray(Image.fromarray(PIXELS[:6, :5]).resize((50, 60), Image.Resampling.BICUBIC))


def test_every_kind_of_image_gives_the_same():
    array, picture = SMOOTH, Image.fromarray(SMOOTH)
    tensor = torch.from_numpy(SMOOTH.copy()).permute(2, 0, 1)
    expected = preprocess(picture, info())
    assert expected.shape == (1, 3, 24, 32)
    assert expected.dtype == torch.float32
    for image in (array, tensor, array[None], tensor[None], [picture], [array], (tensor,), picture.convert("RGBA")):
        assert torch.equal(preprocess(image, info()), expected)
    for image in (array.astype(np.float32) / 255, (tensor / 255.0).double(), tensor.half() / 255):
        assert torch.allclose(preprocess(image, info()), expected, atol=0.03)


def test_the_numbers():
    image = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert preprocess(image, info(1, (1, 2), mean=(0.5,), std=(0.25,))).flatten().tolist() == [-2.0, 2.0]
    grey = preprocess(image, info(3, (1, 2)))
    assert torch.allclose(grey[0, :, 0, 1], torch.tensor([0.5 / 0.2, 0.6 / 0.25, 0.7 / 0.5]))


def test_a_list_of_different_sizes_and_kinds():
    batch = preprocess([Image.fromarray(PIXELS), PIXELS[:30], torch.rand(2, 3, 77, 40), torch.zeros(9, 9)], info())
    assert batch.shape == (5, 3, 24, 32)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "YCbCr"])
@pytest.mark.parametrize("chans", [1, 3])
def test_every_mode_of_pil(mode, chans):
    picture = Image.fromarray(SMOOTH).convert("L").convert("I").convert("I;16") if mode == "I;16" else None
    picture = picture or Image.fromarray(SMOOTH).convert(mode)
    assert preprocess(picture, info(chans)).shape == (1, chans, 24, 32)


def test_sixteen_bits():
    picture = Image.fromarray(np.full((24, 32), 32768, np.uint16))
    weights = info(1, mean=(0.0,), std=(1.0,))
    with pytest.warns(UserWarning, match="is blank"):
        assert torch.allclose(preprocess(picture, weights), torch.tensor(32768 / 65535))
    with pytest.raises(ValueError, match="mode 'F' has no fixed range"):
        preprocess(picture.convert("F"), weights)


def test_grey_is_what_pil_means_by_it():
    weights = info(1, (60, 50), mean=(0.0,), std=(1.0,))
    by_pil = np.asarray(Image.fromarray(SMOOTH).convert("L"), dtype=np.float32)
    assert np.abs(preprocess(SMOOTH, weights).numpy()[0, 0] * 255 - by_pil).max() <= 1.001


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 20), (120, 100)])
def test_resizing_is_pils(interpolation, size):
    weights = info(3, size, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation=interpolation)
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    by_pil = np.asarray(Image.fromarray(SMOOTH).resize(size[::-1], method), dtype=np.float32)
    ours = preprocess(SMOOTH, weights)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - by_pil).max() <= 1.001  # one level of 256


@pytest.mark.parametrize(("height", "width"), [(60, 50), (50, 60), (24, 32), (10, 200), (1, 1), (200, 10), (33, 33)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.5])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_any_shape_comes_out_right(height, width, crop_pct, crop_mode, interpolation):
    weights = info(crop_pct=crop_pct, crop_mode=crop_mode, interpolation=interpolation)
    out = preprocess(torch.full((1, height, width), 0.5), weights)
    assert out.shape == (1, 3, 24, 32)
    assert torch.allclose(out[0, :, 0, 0], (0.5 - torch.tensor(weights.mean)) / torch.tensor(weights.std), atol=1e-5)


def test_the_crop_is_the_centre():
    image = torch.zeros(1, 40, 80)
    image[:, 10:30, 30:50] = 1
    out = preprocess(image, info(1, (20, 20), mean=(0.0,), std=(1.0,), crop_pct=0.5))
    assert (out == 1).all()


def test_images_of_the_right_size_are_left_alone():
    image = torch.rand(3, 24, 32)
    assert torch.equal(preprocess(image, info(3, mean=(0.0,) * 3, std=(1.0,) * 3))[0], image)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        ([], ValueError, "no image in the list"),
        ("picture.png", TypeError, "got str; open files with PIL.Image.open first"),
        (None, TypeError, "got NoneType"),
        (torch.rand(2, 3, 4, 5, 6), ValueError, "got \\(2, 3, 4, 5, 6\\)"),
        (np.zeros((3,), np.uint8), ValueError, "got \\(3,\\)"),
        (torch.zeros(3, 0, 5), ValueError, "got \\(3, 0, 5\\)"),
        (torch.rand(5, 8, 8)[None], ValueError, "take 3 channels, got an image of 5"),
        (np.zeros((1, 3, 8, 9), np.uint8), ValueError, "got an image of 9"),
        (np.zeros((3, 8, 9), np.uint8), ValueError, "can be 3 grey images or one picture; pass images\\[..., None\\]"),
        (np.zeros((4, 8, 9), np.uint8), ValueError, "can be 4 grey images or one picture"),
        (torch.zeros(4, 8, 9), ValueError, "can be 4 grey images or one picture; pass images\\[:, None\\]"),
        (torch.zeros(3, 8, 8).to_sparse(), TypeError, "sparse"),
        (torch.zeros(3, 8, 8, device="meta"), TypeError, "without data"),
        (torch.zeros(3, 8, 8, dtype=torch.complex64), TypeError, "complex64; convert"),
        (np.zeros((8, 8), object), TypeError, "got object"),
        (torch.randint(0, 255, (3, 8, 8)), ValueError, "torch.int64; convert them"),
        (torch.rand(3, 8, 8) * 255, ValueError, "lie in 0..1.*divide by the number of white, 255 for bytes"),
        (torch.randn(3, 8, 8), ValueError, "lie in 0..1"),
        (torch.full((3, 8, 8), float("nan")), ValueError, "lie in 0..1"),
    ],
)
def test_what_is_no_image(image, error, words):
    with pytest.raises(error, match=words):
        preprocess(image, info())


def test_a_model_without_weights_explains():
    with pytest.raises(ValueError, match="lenet5 has no pretrained weights that would say what input they expect"):
        convzoo.create_model("lenet5").preprocess(torch.rand(28, 28))


def test_the_models_type_is_honoured(tmp_path):
    folder = convzoo.save_pretrained(convzoo.create_model("lenet5"), tmp_path / "a", tag="x", mean=0.0, std=1.0)
    model = convzoo.create_model("lenet5", pretrained=folder).double()
    images = model.preprocess([torch.rand(40, 50), torch.rand(3, 28, 28)])
    assert (images.dtype, images.shape) == (torch.float64, (2, 1, 28, 28))
    assert model(images).shape == (2, 10)


def grey(size=(28, 28), **more):
    return info(1, size, **{"mean": (0.0,), "std": (1.0,), **more})


class TestArrays:
    """Three dimensions are read by stated rules, so that a batch is never taken for a picture or the reverse."""

    @pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 64])
    def test_arrays_of_grey_images_as_mnist_comes(self, count):
        array = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        batch = preprocess(array, grey())
        assert batch.shape == (count, 1, 28, 28)
        assert torch.equal(batch, preprocess(array[..., None], grey()))
        assert torch.equal(batch, preprocess(list(array), grey()))

    @pytest.mark.parametrize("count", [2, 5, 64])
    def test_tensors_of_grey_images(self, count):
        stack = torch.rand(count, 28, 28)
        assert torch.equal(preprocess(stack, grey()), stack[:, None])
        assert preprocess(stack, info(3)).shape == (count, 3, 24, 32)

    @pytest.mark.parametrize("count", [3, 4])
    def test_three_or_four_grey_tensors_are_not_taken_for_one_picture(self, count):
        stack = torch.rand(count, 28, 28)
        with pytest.raises(ValueError, match=f"can be {count} grey images or one picture"):
            preprocess(stack, grey())
        assert preprocess(stack[:, None], grey()).shape == (count, 1, 28, 28)
        assert preprocess(stack[None], grey()).shape == (1, 1, 28, 28)

    def test_a_picture_of_the_nets_own_channels(self):
        assert preprocess(torch.rand(3, 28, 28), info(3)).shape == (1, 3, 24, 32)
        weights = info(5, mean=(0.5,) * 5, std=(0.5,) * 5)
        assert preprocess(torch.rand(5, 28, 28), weights).shape == (1, 5, 24, 32)
        assert preprocess(np.zeros((28, 28, 5), np.uint8), weights).shape == (1, 5, 24, 32)

    @pytest.mark.parametrize("dtype", [bool, ">f4", "float16", "float64"])
    def test_number_types(self, dtype):
        array = (np.arange(784).reshape(28, 28) % 2).astype(dtype)
        assert torch.equal(preprocess(array, grey())[0, 0], torch.from_numpy(array.astype(np.float32)))


class TestPictures:
    """Pictures are read as they are seen."""

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation(self, orientation):
        upright = np.zeros((28, 28), np.uint8)
        upright[2:10, 3:8], upright[15:26, 20:22] = 255, 100
        turns = {
            1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
            6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1),
        }  # fmt: skip
        picture = Image.fromarray(np.ascontiguousarray(turns[orientation]))
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        picture.save(file, "PNG", exif=exif)
        seen = preprocess(Image.open(file), grey())
        assert torch.equal((seen[0, 0] * 255).round().to(torch.uint8), torch.from_numpy(upright))

    def test_exif_that_cannot_be_read_turns_nothing(self):
        picture = Image.fromarray(SMOOTH)
        expected = preprocess(picture, info())
        picture.info["exif"] = b"Exif\0\0II*\0\xff\xff\xff\xff"
        assert torch.equal(preprocess(picture, info()), expected)

    @pytest.mark.parametrize(("preparation", "ground"), [("mnist", 0), ("", 255)])
    def test_transparent_pictures_lie_on_what_the_weights_know(self, preparation, ground):
        ink = Image.fromarray(SMOOTH).convert("L").resize((28, 28))
        expected = Image.new("L", ink.size, ground)
        expected.paste(Image.new("L", ink.size, 255 - ground), mask=ink)
        layer = Image.new("L", ink.size, 255 - ground)
        weights = grey(preparation=preparation)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            want = preprocess(expected, weights)
            for picture in (Image.merge("LA", (layer, ink)), Image.merge("RGBA", (layer, layer, layer, ink))):
                for image in (picture, np.array(picture), torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]):
                    assert (preprocess(image, weights) - want).abs().max() < 0.003

    def test_what_vanishes_on_the_ground_is_refused(self):
        ink = Image.fromarray(SMOOTH).convert("L").resize((28, 28))
        dark = Image.merge("LA", (Image.new("L", ink.size, 0), ink))
        with pytest.raises(ValueError, match=r"nothing is left of a transparent picture on black.*prepare=True"):
            preprocess(dark, grey(preparation="mnist"))

    def test_a_palette_with_a_transparent_colour(self):
        picture = Image.new("P", (28, 28), 1)
        picture.putpalette([255, 255, 255, 255, 0, 0])
        picture.paste(0, (0, 0, 14, 28))
        picture.info["transparency"] = 0
        seen = preprocess(picture, grey(preparation="mnist"))
        assert seen[0, 0, :, :14].max() == 0
        assert seen[0, 0, 0, 20] == pytest.approx(0.299, abs=0.003)

    def test_programs_are_not_run(self, tmp_path):
        (tmp_path / "a.eps").write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
        )
        with (
            Image.open(tmp_path / "a.eps") as picture,
            pytest.raises(ValueError, match="EPS files hold a program, which is not run"),
        ):
            preprocess(picture, info())

    def test_huge_pictures(self):
        with pytest.raises(ValueError, match="has 20000x20000 pixels, more than the 134,217,728 that are read"):
            preprocess(Image.new("1", (20000, 20000)), info())
        with pytest.raises(ValueError, match="would be scaled to 20000000x200 before the crop"):
            preprocess(np.zeros((1, 100000), np.uint8), grey((200, 200)))
        with pytest.raises(ValueError, match="before the crop"):
            preprocess(torch.zeros(1, 30, 30), grey(crop_pct=0.001))

    def test_the_input_does_not_depend_on_the_mode_of_the_caller(self):
        expected = preprocess(SMOOTH, grey())
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            assert torch.equal(preprocess(SMOOTH, grey()), expected)
        grad = torch.rand(1, 1, 28, 28, requires_grad=True)
        assert not preprocess(grad, grey()).requires_grad


class TestTransform:
    @pytest.mark.filterwarnings("ignore:a picture has its ink elsewhere")  # these are no digits
    def test_one_picture_for_a_data_loader(self):
        model = convzoo.create_model("lenet5", pretrained=True)
        transform = model.transform
        assert transform == convzoo.weight_info("lenet5.mnist_aug").transform
        data = pickle.dumps(transform)
        assert len(data) < 1000
        picture = Image.fromarray(SMOOTH)
        alone = pickle.loads(data)(picture)
        assert alone.shape == (1, 28, 28)
        assert torch.equal(alone[None], model.preprocess(picture))
        with pytest.raises(ValueError, match="a transform takes one picture, got 2"):
            transform([picture, picture])

    @pytest.mark.filterwarnings("ignore:a picture has its ink elsewhere")  # these are no digits
    def test_in_workers(self):
        transform = convzoo.create_model("lenet5", pretrained=True).transform
        digits = [Image.fromarray(SMOOTH).rotate(turn) for turn in range(4)]
        loader = torch.utils.data.DataLoader(Mapped(digits, transform), batch_size=2, num_workers=1)
        assert torch.equal(torch.cat(list(loader)), transform.batch(digits))

    def test_of_a_net_of_ones_own(self, tmp_path):
        model = convzoo.create_model("resnet18", num_classes=3, depths=(1, 1, 1, 1))
        assert model.transform is None
        model.transform = convzoo.transform(48, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), crop_pct=0.9)
        images = model.preprocess(SMOOTH)
        assert images.shape == (1, 3, 48, 48)
        folder = convzoo.save_pretrained(model, tmp_path / "own", tag="own")
        loaded = convzoo.create_model("resnet18", pretrained=folder)
        assert loaded.transform == model.transform
        assert torch.equal(loaded.preprocess(SMOOTH), images)
        model.transform = None
        assert model.transform is None

    @pytest.mark.parametrize(
        ("arguments", "more", "error", "words"),
        [
            ((28, 0.1, 0), {}, ValueError, "std must be above 0"),
            ((28, 0.1, float("nan")), {}, ValueError, "std must be finite"),
            ((28, (0.1, 0.2), 0.3), {}, ValueError, "mean has 2 values and std has 1"),
            ((28, "a", 0.3), {}, TypeError, "mean must be numbers"),
            ((0, 0.1, 0.3), {}, ValueError, "img_size must be at least 1"),
            ((28, 0.1, 0.3), {"crop_pct": 0}, ValueError, "crop_pct must be from 0.01 to 1"),
            ((28, 0.1, 0.3), {"crop_mode": "x"}, ValueError, "crop_mode must be 'center' or 'squash', got 'x'"),
            (
                (28, 0.1, 0.3),
                {"interpolation": "x"},
                ValueError,
                "interpolation must be 'bilinear' or 'bicubic' or 'nearest', got 'x'",
            ),
            ((28, 0.1, 0.3), {"preparation": "x"}, ValueError, "preparation must be '' or 'mnist', got 'x'"),
        ],
    )
    def test_what_is_no_transform(self, arguments, more, error, words):
        with pytest.raises(error, match=words):
            convzoo.transform(*arguments, **more)

    def test_what_a_model_refuses(self):
        model = convzoo.create_model("lenet5")
        with pytest.raises(TypeError, match=r"made by convzoo\.transform, got int"):
            model.transform = 28
        with pytest.raises(ValueError, match="takes 1 channel, and the transform gives 3"):
            model.transform = convzoo.transform(28, (0.1,) * 3, (0.2,) * 3)
        with pytest.raises(ValueError, match="was built for 28x28 images"):
            model.transform = convzoo.transform(32, 0.1, 0.2)


class Mapped(torch.utils.data.Dataset):
    def __init__(self, pictures, transform):
        self.pictures, self.transform = pictures, transform

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.transform(self.pictures[index])
