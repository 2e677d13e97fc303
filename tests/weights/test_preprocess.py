"""Pictures of every kind to the input that weights expect."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import convzoo
from convzoo import WeightInfo
from convzoo.weights.preprocess import preprocess


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
        (torch.rand(5, 8, 8), ValueError, "take 3 channels, got an image of 5"),
        (np.zeros((3, 8, 9), np.uint8), ValueError, "got an image of 9"),
        (torch.randint(0, 255, (3, 8, 8)), ValueError, "torch.int64; convert them"),
        (torch.rand(3, 8, 8) * 255, ValueError, "lie in 0..1.*divide by 255"),
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
