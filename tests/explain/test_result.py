"""A result of ``cam`` that shows itself, and pictures of maps that are empty."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cam_nets import UserNet
from PIL import Image

import convzoo
from convzoo import cam

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def digits():
    model = convzoo.create_model("mnist_net.mnist_aug", pretrained=True)
    return model, model.preprocess([Image.open(DIGITS / f"{digit}.png") for digit in range(10)])


def test_shows_itself_as_a_sheet_of_pictures(digits):
    model, x = digits
    r = cam(model, x, ("top", 2))
    sheet = Image.open(io.BytesIO(r._repr_png_()))
    assert sheet.size == (3 * 116 - 4, 8 * 116 - 4)  # the first eight images, each with two maps
    wanted = r.overlay(x, 1, normalize="joint", min_side=112)[3]
    place = sheet.crop((2 * 116, 3 * 116, 2 * 116 + 112, 3 * 116 + 112))
    assert np.array_equal(np.asarray(place), np.asarray(wanted))


def test_shows_itself_as_a_table_with_names_and_probabilities(digits):
    model, x = digits
    page = cam(model, x[:2], ("top", 2))._repr_html_()
    assert page.count("<img") == 6
    assert page.count("%") == 4
    assert "CAM(hires_cam at conv2: 2 images, 2 classes each" in page
    assert "and 8 images" not in page
    assert "and 2 images more" in cam(model, x)._repr_html_()


def test_what_is_no_picture_stays_words():
    class FiveChannels(UserNet):
        def forward(self, x):
            return super().forward(x[:, :3])

    torch.manual_seed(0)
    model = FiveChannels()
    model.conv1.in_channels = 5
    r = cam(model, torch.rand(1, 5, 32, 32), 3, layer="relu")
    assert r._repr_png_() is None
    assert r._repr_html_() is None


def test_shows_the_images_that_were_given_and_copies_none(digits):
    model, x = digits
    assert cam(model, x).images.data_ptr() == x.data_ptr()


def test_an_empty_map_is_crossed_out(digits):
    model, x = digits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = cam(model, x, method="grad_cam")
    pictures, plain = r.overlay(x, min_side=56), r.overlay(x, min_side=56, alpha=0)
    for picture, image, empty in zip(pictures, plain, r.empty[:, 0], strict=True):
        difference = np.abs(np.asarray(picture, int) - np.asarray(image, int)).max(2)
        corners = np.asarray(picture)[[0, -1], [-1, 0]]
        if empty:  # the line, and nothing else
            assert (corners == 128).all()
            assert (difference > 0).sum() <= 60
        else:
            assert (difference > 0).sum() > 60
            assert not (corners == 128).all()
    assert r.empty.sum() == 9


def test_rows_of_classes(digits):
    """A row for each class of each image, in the order of the maps."""
    model, x = digits
    r = cam(model, x[:3], ("top", 2))
    table = r.table()
    assert [(row["image"], row["class"]) for row in table] == [
        (image, int(number)) for image in range(3) for number in r.target[image]
    ]
    assert [row["probability"] for row in table] == r.probabilities.gather(1, r.target).flatten().tolist()
    assert table[0]["name"] == model.weights.classes[table[0]["class"]]
    heat = r.heatmap()
    for number, row in enumerate(table):
        empty = bool(r.empty.flatten()[number])
        assert row["empty"] == empty
        assert (row["y"] is None) == empty
        if not empty:
            assert heat.flatten(0, 1)[number, row["y"], row["x"]] > 0.9
    assert table.to_csv().splitlines()[0] == "image,class,name,probability,y,x,empty"


def test_rows_of_a_target_that_is_no_class(digits):
    model, x = digits
    (row,) = cam(model, x[:1], lambda logits: logits[:, 4] - logits[:, 9]).table()
    assert (row["class"], row["name"], row["probability"]) == (None, None, None)
    assert row["y"] is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        r = cam(model, x, method="grad_cam")
    assert [row["empty"] for row in r.table()] == r.empty.flatten().tolist()
    assert any(row["x"] is None for row in r.table())
