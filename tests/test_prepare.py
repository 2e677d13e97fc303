"""Hand-drawn digits in four ways, read by the bundled weights after MNIST's own preparation."""

import math

import pytest
import torch
from drawn_digits import draw
from PIL import Image

import convzoo
from convzoo._prepare import is_prepared, prepare_digit

EACH = 4  # digits of a kind in each way
LABELS = torch.arange(10).repeat_interleave(EACH)


def between(low, high, generator):
    return low + (high - low) * float(torch.rand((), generator=generator))


def placed(digit, size, side, generator):
    """Ink (size, size), with a digit of ``side`` pixels somewhere in it."""
    ink = torch.zeros(size, size)
    top, left = (int(torch.randint(0, size - side + 1, (), generator=generator)) for _ in range(2))
    ink[top : top + side, left : left + side] = draw(digit, side, generator)[0]
    return ink


def white_on_black(digit, generator):
    return draw(digit, 28, generator)


def dark_on_white(digit, generator):
    return 1 - draw(digit, int(between(28, 200, generator)), generator)


def photo(digit, generator, size=500):
    """Blue ink on grey paper, lit from one side, with the sensor's noise."""
    ink = placed(digit, size, int(between(150, 480, generator)), generator)
    angle = between(0, 2 * math.pi, generator)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    light = 1 + between(0.1, 0.35, generator) * (x * math.cos(angle) + y * math.sin(angle)) / 1.4
    paper = torch.full((3, 1, 1), between(0.55, 0.8, generator))
    blue = torch.tensor([0.15, 0.2, between(0.45, 0.7, generator)])[:, None, None]
    noise = 0.02 * torch.randn(3, size, size, generator=generator)
    return ((paper * (1 - ink) + blue * ink) * light + noise).clamp(0, 1)


def small_and_off_centre(digit, generator):
    size = int(between(28, 120, generator))
    return placed(digit, size, max(12, int(size * between(0.35, 0.65, generator))), generator)[None]


WAYS = (white_on_black, dark_on_white, photo, small_and_off_centre)


def drawn(way, step=1):
    """Pictures of the ten digits, ``EACH`` of each; of these every ``step``-th."""
    places = [divmod(number, EACH) for number in range(0, 10 * EACH, step)]
    return [way(digit, torch.Generator().manual_seed(100 * digit + index)) for digit, index in places]


@pytest.fixture(scope="module")
def models():
    return {name: convzoo.create_model(name, pretrained=True) for name in convzoo.list_weights("*.mnist*")}


@pytest.mark.parametrize("way", WAYS)
def test_own_digits_are_read(way, models):
    images = next(iter(models.values())).transform.batch([picture[None] for picture in drawn(way)], prepare=True)
    right = {}
    with torch.inference_mode():
        for name, model in models.items():
            right[name] = float((model(images).argmax(1) == LABELS).float().mean())
    assert len(right) >= 16
    assert sum(right.values()) / len(right) >= 0.97, right
    assert min(right.values()) >= 0.85, right  # of forty digits
    assert sum(value >= 0.95 for value in right.values()) >= 0.8 * len(right), right


def board(digit, generator, size=300):
    """Chalk on a green board."""
    ink = placed(digit, size, 200, generator)
    green, chalk = torch.tensor([0.1, 0.25, 0.18])[:, None, None], torch.tensor([0.85, 0.85, 0.8])[:, None, None]
    return green * (1 - ink) + chalk * ink


def table_edge(digit, generator):
    """A photo with the dark edge of a table at its left."""
    picture = photo(digit, generator)
    picture[:, :, : int(between(5, 15, generator))] = 0.15
    return picture


def hard_shadow(digit, generator):
    """A photo with a shadow over half of it."""
    picture = photo(digit, generator)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 500), torch.linspace(-1, 1, 500), indexing="ij")
    return picture * (1 - 0.45 * torch.sigmoid((x + y - 0.15) * 28))


def fine_pen(digit, generator):
    """Dark ink on white, a pen of a third of the width."""
    ink = placed(digit, 400, 360, generator)
    for kernel in ((23, 1), (1, 23)):  # the least in a square: in each column, then of these
        ink = -torch.nn.functional.max_pool2d(-ink[None], kernel, 1, (kernel[0] // 2, kernel[1] // 2))[0]
    return 0.9 - 0.7 * ink[None]


@pytest.mark.parametrize(("way", "least"), [(board, 19), (table_edge, 19), (hard_shadow, 16), (fine_pen, 18)])
def test_other_grounds_and_pens(way, least, models):
    model = models["lenet5.mnist_aug"]
    images = model.transform.batch([picture[None] for picture in drawn(way, 2)], prepare=True)  # twenty digits
    with torch.inference_mode():
        assert int((model(images).argmax(1) == LABELS[::2]).sum()) >= least


@pytest.mark.parametrize("way", WAYS)
def test_prepared_pictures_are_as_mnists(way):
    for picture in drawn(way, 3):
        done = prepare_digit(picture)
        pixels = done.pixels[0]
        assert pixels.shape == (28, 28)
        assert 0 == pixels.min() < pixels.max() == 1
        assert done.dark_ink == (way in (dark_on_white, photo))
        for side in (0, 1):
            mass = pixels.sum(side)
            assert 13.9 <= float((mass * (torch.arange(28) + 0.5)).sum() / mass.sum()) <= 15.1
        longest = max(int((pixels.amax(side) > 0).sum()) for side in (0, 1))
        assert longest == 20
        assert is_prepared(pixels)


def test_the_box_is_where_the_ink_was():
    picture = torch.zeros(1, 200, 300)
    picture[0, 50:90, 100:120] = 1  # 40 high: the field is 56 high, its centre that of the ink
    box = prepare_digit(picture).box
    assert (box.height, box.width) == pytest.approx((56, 56), abs=4)
    assert (box.top + box.height / 2, box.left + box.width / 2) == pytest.approx((70, 110), abs=3)


def test_dust_is_left_out_and_separate_strokes_are_not():
    picture = torch.zeros(1, 200, 200)
    picture[0, 80:120, 90:96] = 1
    alone = prepare_digit(picture)
    picture[0, 5:7, 5:7] = 1
    assert torch.equal(prepare_digit(picture).pixels, alone.pixels)
    picture[0, 80:120, 140:144] = 1
    assert prepare_digit(picture).box.height > alone.box.height


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_blank_pictures_have_no_ink(value):
    assert prepare_digit(torch.full((3, 50, 60), value)) is None
    noise = 0.005 * torch.randn(3, 50, 60, generator=torch.Generator().manual_seed(0))
    assert prepare_digit(torch.full((3, 50, 60), value) + noise) is None


class TestAutomatic:
    """What looks as MNIST's pictures do is left alone, the rest is prepared, and it is said."""

    transform = convzoo.weight_info("lenet5.mnist").transform

    def test_prepared_pictures_are_left_alone(self):
        for digit in range(10):
            image = prepare_digit(draw(digit, 28, torch.Generator().manual_seed(digit))).pixels
            (view,) = self.transform.views(image, prepare="auto")
            assert view.notes == ()
            assert torch.equal(view.pixels[0], image)

    @pytest.mark.parametrize("way", WAYS[1:])
    def test_others_are_not(self, way):
        image = way(5, torch.Generator().manual_seed(0))[None]
        (view,) = self.transform.views(image, prepare="auto")
        assert "cut to its ink and centred, as MNIST's were" in view.notes
        assert ("inverted: dark ink made bright" in view.notes) == (way in (dark_on_white, photo))
        assert torch.equal(self.transform.batch(image, prepare="auto"), self.transform.batch(image, prepare=True))

    def test_both_inks_on_a_transparent_ground(self):
        ink = Image.fromarray((draw(3)[0] * 255).byte().numpy())
        seen = [
            self.transform(Image.merge("LA", (Image.new("L", ink.size, level), ink)), prepare=True)
            for level in (0, 255)
        ]
        assert (seen[0] - seen[1]).abs().max() < 0.05
        assert seen[0].std() > 0.5

    def test_weights_without_a_preparation(self):
        plain = convzoo.transform(28, 0.1, 0.3)
        image = dark_on_white(3, torch.Generator().manual_seed(0))
        assert torch.equal(plain.batch(image, prepare="auto"), plain.batch(image))
        with pytest.raises(ValueError, match="had no fixed preparation; leave prepare out"):
            plain.batch(image, prepare=True)
        with pytest.raises(ValueError, match="prepare must be True or False or 'auto', got 'yes'"):
            plain.batch(image, prepare="yes")


class TestUnlike:
    transform = convzoo.weight_info("lenet5.mnist").transform

    def test_a_bright_picture_is_said(self):
        image = 1 - draw(3, 28, torch.Generator().manual_seed(0))
        with pytest.warns(UserWarning, match="mostly bright, and these weights know bright ink on black"):
            self.transform.batch(image)
        inverted = self.transform.batch(image, invert=True)  # no warning: those are errors in the tests
        assert torch.allclose(inverted, self.transform.batch(1 - image), atol=1e-6)

    def test_a_blank_picture_is_said(self):
        for how in ({}, {"prepare": True}):
            with pytest.warns(UserWarning, match="is blank: all its pixels are the same"):
                self.transform.batch(Image.new("L", (50, 50)), **how)
            with pytest.warns(UserWarning, match="is blank: all its pixels are the same"):  # and not: mostly bright
                self.transform.batch(Image.new("L", (50, 50), 255), **how)

    def test_what_was_tried_is_not_advised(self):
        paper = Image.new("L", (50, 50), 250)
        paper.paste(245, (10, 10, 40, 40))  # too faint for ink
        with pytest.warns(UserWarning, match="prepare=True finds the ink"):
            self.transform.batch(paper)
        for prepare in (True, "auto"):
            with pytest.warns(UserWarning, match="mostly bright.*; no ink was found, invert=True"):
                self.transform.batch(paper, prepare=prepare)

    @pytest.mark.parametrize("scale", [0.35, 1.0])
    def test_ink_out_of_place_is_said(self, scale):
        digit = draw(3, 28, torch.Generator().manual_seed(0))
        side = round(28 * scale)
        moved = torch.zeros(1, 28, 28)
        moved[:, :side, :side] = torch.nn.functional.interpolate(digit[None], (side, side), mode="area")[0]
        if scale == 1:
            moved = moved.roll(6, 2)
        for image in (moved, moved.numpy()[0], Image.fromarray((moved[0] * 255).byte().numpy())):
            with pytest.warns(UserWarning, match=r"a picture has its ink elsewhere .* prepare=True does what"):
                self.transform.batch(image)
            self.transform.batch(image, prepare=True)  # no warning: those are errors in the tests
            self.transform.batch(image, prepare="auto")
        with pytest.warns(UserWarning, match="ink elsewhere"):  # one of several
            self.transform.batch(torch.stack([digit, moved]))

    def test_pictures_of_noise_are_said(self):
        noise = (torch.rand(28, 28, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
        with pytest.warns(UserWarning, match="ink elsewhere"):
            self.transform.batch(Image.fromarray(noise))

    def test_digits_in_place_are_not_judged(self):
        generator = torch.Generator().manual_seed(1)
        for digit in range(10):
            self.transform.batch(prepare_digit(draw(digit, 80, generator)).pixels)

    def test_numbers_that_a_program_made_up_are_not_judged_blank(self):
        assert self.transform.batch(torch.zeros(2, 1, 28, 28)).shape == (2, 1, 28, 28)
        assert self.transform.batch(torch.rand(2, 1, 28, 28)).shape == (2, 1, 28, 28)


def test_the_fields_travel_with_the_weights(tmp_path):
    model = convzoo.create_model("lenet5_1998", pretrained=True)
    assert (model.weights.preparation, model.weights.temperature) == ("mnist", 8.0)
    folder = convzoo.save_pretrained(model, tmp_path / "mine", tag="mine")
    again = convzoo.create_model("lenet5_1998", pretrained=folder)
    assert (again.weights.preparation, again.weights.temperature) == ("mnist", 8.0)
    bundled = convzoo.weights.entries.bundled_path("lenet5_1998.mnist")
    assert convzoo.create_model("lenet5_1998", pretrained=bundled).weights.temperature == 8.0
    image = photo(4, torch.Generator().manual_seed(1))[None]
    assert torch.equal(again.preprocess(image, prepare=True), model.preprocess(image, prepare=True))
    logits = torch.tensor([[0.0, -8.0, -16.0]])
    assert torch.allclose(again.probabilities(logits), torch.tensor([[0.0, -1.0, -2.0]]).softmax(1))
    assert torch.allclose(convzoo.create_model("lenet5").probabilities(logits), logits.softmax(1))
