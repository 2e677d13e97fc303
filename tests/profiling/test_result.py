"""What a profile shows and hands on; and what it is asked about: sizes, batches, arguments."""

import csv
import io
import sys

import pytest
import torch
from helpers.modules import Fn, weight
from torch import nn

import convzoo
from convzoo import profile

T = torch.rand(1, 10, 8)


def test_a_notebook_shows_the_table():
    result = profile(nn.Sequential(nn.Linear(8, 3), Fn(lambda self, x: torch.fft.rfft(x).abs() if x is None else x)), T)
    text = result._repr_html_()
    assert text.startswith("<table>")
    assert '<td style="text-align: right">240</td>' in text
    assert "Sequential at 10x8" in text


def test_rows_leave_as_csv_dicts_and_frames(monkeypatch):
    result = profile(convzoo.create_model("lenet5"))
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    assert [row["path"] for row in rows] == [layer.path for layer in result.layers[1:]]
    assert sum(int(row["own_macs"]) for row in rows) + result.layers[0].own_macs == result.macs
    assert result.table(1).to_dict()[0]["output_shape"] == list(result.layers[1].output_shape)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.to_dataframe()


def test_a_layer_called_twice_says_the_sum_and_the_calls():
    model = Fn(lambda self, x: self.c(self.c(x)[..., :4, :4]), c=nn.Conv2d(8, 8, 1))
    images = torch.rand(1, 8, 6, 6)
    result = profile(model, images)
    assert (result.layers[1].macs, result.layers[1].calls) == (64 * (36 + 16), 2)
    assert str(result).splitlines()[2].split() == ["c", "Conv2d", "8x6x6", "2", "72", "3,328", "100.0", "%"]
    table = str(convzoo.summary(model, images)).splitlines()
    rows = [line for line in table if "Conv2d" in line]
    assert [row.split()[-1] for row in rows] == ["calls)", "--"]
    assert "3,328 (2 calls)" in rows[0]


def test_check_asks_for_the_same_model():
    model = convzoo.create_model("lenet5")
    model.reset_classifier(3)
    result = profile(model)
    kept = result.check()
    del model
    assert result.check() == kept  # built again as it was, with three classes
    model = convzoo.create_model("lenet5")
    result = profile(model)
    model.reset_classifier(3)
    with pytest.raises(ValueError, match="the model of this profile is another by now"):
        result.check()
    result = profile(convzoo.optimize_for_inference(convzoo.create_model("resnet18", 10)), 64)
    with pytest.raises(ValueError, match="the model of this profile is gone"):
        result.check()


@pytest.mark.parametrize("size", [None, 28, "28", (28, 28), "28x28", (1, 28, 28), "1x28x28", (5, 1, 28, 28)])
def test_sizes_of_the_zoo(size):
    model = convzoo.create_model("lenet5")
    assert profile(model, size) == profile(nn.DataParallel(model), size) == profile(model, torch.rand(2, 1, 28, 28))


def test_the_batch_of_inputs():
    layer = nn.TransformerEncoderLayer(8, 2, 16).eval()
    macs = 4 * 10 * 64 + 2 * 100 * 8 + 2 * 10 * 128
    assert profile(layer, torch.rand(10, 4, 8), batch_dim=1).macs == macs
    assert profile(layer, torch.rand(10, 4, 8), batch_dim=None).macs == 4 * macs
    decoder = nn.TransformerDecoderLayer(8, 2, 16).eval()
    pair = torch.rand(10, 4, 8), torch.rand(7, 4, 8)
    assert profile(decoder, pair, batch_dim=1) == profile(decoder, tuple(each[:, :1] for each in pair), batch_dim=None)
    with pytest.raises(ValueError, match="the inputs disagree on how many images they hold: 7 and 10"):
        profile(decoder, pair)
    masked = Fn(lambda self, x, mask: (x * mask) @ self.w, w=weight(8, 3))
    assert profile(masked, (torch.rand(4, 10, 8), torch.ones(1, 10, 1))).macs == 240  # one mask for all
    for batch_dim in (-1, 1.0, True, "x"):
        with pytest.raises(ValueError, match="batch_dim is the dimension of the batch"):
            profile(layer, T, batch_dim=batch_dim)
    with pytest.raises(ValueError, match="no input has so many dimensions"):
        profile(layer, T, batch_dim=5)


def test_lists_dicts_flags_and_numbers_among_the_inputs():
    model = Fn(lambda self, x, flag=False, n=1: sum(each @ self.w for each in x) * n if flag else x, w=weight(8, 3))
    assert profile(model, ([T, T], True, 3)).macs == 2 * 240
    assert profile(model, {"x": [T], "flag": True}).macs == 240
    nested = Fn(lambda self, d, mode: d["a"]["b"][0] @ self.w if mode == "go" else d, w=weight(8, 3))
    assert profile(nested, ({"a": {"b": [T.repeat(5, 1, 1)]}}, "go")).macs == 240
    with pytest.raises(TypeError, match=r"the inputs do not fit Linear.forward\(input.*too many positional arguments"):
        profile(nn.Linear(8, 3), (T, T))


def test_quantized_weights_take_the_memory_that_they_take():
    class Packed(torch.Tensor):
        """A tensor made of two others."""

        @staticmethod
        def __new__(cls, numbers, scale):
            fresh = torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=scale.dtype)
            fresh.numbers, fresh.scale = numbers, scale
            return fresh

        def __tensor_flatten__(self):
            return ["numbers", "scale"], None

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            if func == torch.ops.aten.detach.default:
                return Packed(args[0].numbers, args[0].scale)
            raise NotImplementedError(func)

    model = Fn(lambda self, x: x)
    model.w = nn.Parameter(Packed(torch.zeros(4, 8, dtype=torch.int8), torch.zeros(4)))
    assert profile(model, T).param_bytes == 32 + 16
