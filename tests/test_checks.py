"""The checks that all public functions share: what they take, what they refuse, and the texts they make."""

import fractions
import math
import pathlib
import re

import numpy as np
import pytest
import torch

from convzoo import _checks

INTEGERS = [kind(7) for kind in (int, np.int8, np.uint8, np.int32, np.uint64, np.int64)]
NOT_COUNTS = [True, np.bool_(True), 7.0, np.float64(7), "7", None, [7], np.array(7), torch.tensor(7), 7j]


@pytest.mark.parametrize("value", INTEGERS, ids=lambda value: type(value).__name__)
def test_whole_numbers_of_any_kind_become_ints(value):
    count = _checks.check_count("n", value)
    assert (count, type(count)) == (7, int)
    assert _checks.check_img_size([value, value]) == (7, 7)
    assert all(type(side) is int for side in _checks.check_img_size(value))


@pytest.mark.parametrize("value", NOT_COUNTS, ids=repr)
def test_what_is_no_whole_number(value):
    with pytest.raises(TypeError, match=r"^n must be a whole number, got .*; pass an int$"):
        _checks.check_count("n", value)


def test_counts_out_of_range():
    with pytest.raises(ValueError, match="n must be at least 0, got -1; pass 0 or more"):
        _checks.check_count("n", -1, least=0)
    with pytest.raises(ValueError, match="n must be at most 9, got 10; pass 9 or less"):
        _checks.check_count("n", np.int64(10), most=9)
    with pytest.raises(ValueError, match="n must be at most 9, got") as refused:
        _checks.check_count("n", 10**100_000, most=9)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    "value", [0.25, np.float32(0.25), np.float16(0.25), np.float64(0.25), fractions.Fraction(1, 4)]
)
def test_numbers_of_any_kind_become_floats(value):
    for check in (_checks.check_number, _checks.check_rate):
        number = check("x", value)
        assert (number, type(number)) == (0.25, float)


def test_what_is_no_number():
    for value in (True, np.bool_(False), "0.5", None, 1j, torch.tensor(0.5), np.array(0.5)):
        with pytest.raises(TypeError, match="x must be a number, got"):
            _checks.check_number("x", value)
    for value in (math.nan, math.inf, -math.inf, np.float32("nan"), 10**400):
        with pytest.raises(ValueError, match="x must be finite, got"):
            _checks.check_number("x", value)
    for value in (1, 1.0, -0.1, np.float64(2)):
        with pytest.raises(ValueError, match=r"x must be in \[0, 1\), got"):
            _checks.check_rate("x", value)


def test_truth_values_and_texts():
    assert _checks.check_bool("b", np.bool_(True)) is True
    assert _checks.check_bool("b", False) is False
    for value in (0, 1, None, "True", np.int64(1), torch.tensor(True)):
        with pytest.raises(TypeError, match="b must be True or False, got"):
            _checks.check_bool("b", value)
    assert type(_checks.check_text("t", np.str_("a"))) is str
    for value in (b"a", None, 3):
        with pytest.raises(TypeError, match="t must be a string, got"):
            _checks.check_text("t", value)
    with pytest.raises(ValueError, match="t must not be empty"):
        _checks.check_text("t", "", empty=False)


def test_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert _checks.check_path("p", "~/a") == _checks.check_path("p", pathlib.Path("~/a")) == pathlib.Path("/home/me/a")
    assert _checks.check_path("p", "a") == pathlib.Path("a")
    for value in (None, 3, b"x", ["x"]):
        with pytest.raises(TypeError, match="p must be a path, got"):
            _checks.check_path("p", value)
    for value, words in (
        ("", "p must not be empty; the current folder is '.'"),
        ("a\0b", "it holds a null character"),
        ("\ud800", "surrogates not allowed"),
        ("~nouser_of_this_name/a", "home directory"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            _checks.check_path("p", value)
        assert type(caught.value) is ValueError


def test_choices_are_compared_by_value_and_kind():
    assert _checks.check_choice("c", "a", ("a", "b")) == "a"
    assert _checks.check_choice("c", 1, (1, 2)) == 1
    for value in ("d", True, ["a"], np.array(["a", "b"]), None, {}):
        with pytest.raises(ValueError, match="c must be 'a' or 1, got"):
            _checks.check_choice("c", value, ("a", 1))


def test_image_sizes():
    assert _checks.check_img_size(torch.Size([3, 4])) == (3, 4)
    for value in ((1, 2, 3), [], (1,)):
        with pytest.raises(ValueError, match=re.escape(f"one number or (height, width), got {value!r}")):
            _checks.check_img_size(value)
    for value in ("64", None, 64.0, (64, "a"), {64: 64}):
        with pytest.raises(TypeError, match=r"img_size.* must be a whole number"):
            _checks.check_img_size(value)


class Hostile:
    def __repr__(self):
        raise RuntimeError("no")


LONG = ["x" * 10**6, b"x" * 10**6, [["x" * 10**6] * 9] * 9, 10**9000, {"a" * 999: 1}, torch.zeros(40, 40), "a\nb"]


@pytest.mark.parametrize("value", [*LONG, Hostile(), [Hostile()]], ids=lambda value: type(value).__name__)
def test_long_values_are_shortened(value):
    text = _checks.shorten(value)
    assert 0 < len(text) <= 80
    assert "\n" not in text


def test_short_values_are_not():
    for value in ("resnet18", 3, None, (1, 2), [1.5], {"a": 1}):
        assert _checks.shorten(value) == repr(value)


def test_natural_order():
    names = ["resnet101", "resnet18", "a", "", "10", "9", "t2t_vit_7", "t2t_vit_14", "x²", "x" + "1" * 5000, "²"]
    ordered = sorted(names, key=_checks.natural_key)
    assert ordered.index("resnet18") < ordered.index("resnet101")
    assert ordered.index("t2t_vit_7") < ordered.index("t2t_vit_14")
    assert ordered.index("9") < ordered.index("10")


def test_names_by_pattern():
    assert _checks.match_names("r[0-9]*", ["r10", "R1", "r9", "s"]) == ["r9", "r10"]
    for value in (None, 3, ["*"], b"*"):
        with pytest.raises(TypeError, match="pattern must be a string, got"):
            _checks.match_names(value, ["a"])


def test_did_you_mean():
    assert _checks.did_you_mean("ResNet-18", ["resnet18", "vgg11"]) == "did you mean 'resnet18'? "
    assert _checks.did_you_mean("zzz", ["resnet18"]) == ""
    assert _checks.did_you_mean("resnet18" * 10**5, ["resnet18"]) == ""


def test_plural():
    assert [_checks.plural(count, "class", "classes") for count in (0, 1, 2)] == ["0 classes", "1 class", "2 classes"]
    assert _checks.plural(3, "channel") == "3 channels"


def test_wilson_interval():
    assert _checks.wilson_interval(65.0, 10_000) == pytest.approx((64.06, 65.93), abs=0.01)  # by the formula, by hand
    assert _checks.wilson_interval(0.0, 10)[0] == 0.0
    assert _checks.wilson_interval(100.0, 10)[1] == pytest.approx(100.0)
