"""Tables: as text, in notebooks, as rows for other programs; and what models cost, side by side."""

import csv
import io
import json
import sys
import types

import pytest
import torch

import convzoo
from convzoo._table import Column, Table, short

TABLE = Table(
    [Column("name", "a name"), Column("size", "size", "x".join), Column("n", "n", "{:,}".format, True)],
    [{"name": "<b>|", "size": ("1", "2"), "n": 12345, "more": 1}, {"name": "c", "size": None, "n": None}],
)


def test_forms():
    assert str(TABLE).splitlines() == ["a name  size       n", "<b>|    1x2   12,345", "c"]
    assert TABLE.to_markdown().splitlines()[2] == "| <b>\\| | 1x2 | 12,345 |"
    assert '<td style="text-align: right">12,345</td>' in TABLE._repr_html_()
    assert "&lt;b&gt;|" in TABLE._repr_html_()
    assert json.loads(json.dumps(TABLE.to_dict())) == [
        {"name": "<b>|", "size": ["1", "2"], "n": 12345}, {"name": "c", "size": None, "n": None}
    ]  # fmt: skip
    assert list(csv.reader(io.StringIO(TABLE.to_csv()))) == [
        ["name", "size", "n"],
        ["<b>|", "1 2", "12345"],
        ["c", "", ""],
    ]
    assert len(TABLE) == 2
    assert [row["name"] for row in TABLE] == ["<b>|", "c"]


def test_a_dataframe_is_made_where_pandas_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="a DataFrame needs pandas: pip install pandas"):
        TABLE.to_dataframe()
    pandas = types.SimpleNamespace(DataFrame=lambda rows, columns: (rows, columns))
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    rows, columns = TABLE.to_dataframe()
    assert columns == ["name", "size", "n"]
    assert rows[0]["n"] == 12345


def test_short_numbers():
    assert [short(number) for number in (7, 999, 1000, 61_706, 999_999, 11_689_512, 1_814_073_344)] == [
        "7", "999", "1 k", "61.7 k", "1 M", "11.7 M", "1.81 G",
    ]  # fmt: skip


class TestCompare:
    def test_names_patterns_weights_and_modules(self):
        model = convzoo.create_model("resnet18", 7, depths=(1, 1, 1, 1))
        conv = torch.nn.Conv2d(3, 4, 3)
        table = convzoo.compare(["lenet5", "vgg1[13]", "lenet5.mnist", model])
        assert [row["model"] for row in table] == ["lenet5", "vgg11", "vgg13", "lenet5.mnist", "resnet18"]
        for name, row in (("lenet5", table[0]), ("vgg13", table[2])):
            info = convzoo.model_info(name)
            assert (row["params"], row["macs"]) == (info.params, info.macs)
        assert table[4]["macs"] == convzoo.profile(model, (3, 224, 224)).macs
        assert [row["top1"] for row in table] == [None, None, None, 99.38, None]
        assert convzoo.compare(conv, (3, 8, 8))[0]["macs"] == 4 * 27 * 36
        assert convzoo.compare(torch.nn.DataParallel(model))[0]["params"] == table[4]["params"]

    def test_sizes_and_options(self):
        for size in (64, (64, 64), (3, 64, 64)):
            row = convzoo.compare("resnet18", size, options={"stem": "small"}, num_classes=5)[0]
            wanted = convzoo.profile(convzoo.create_model("resnet18", 5, stem="small"), (3, 64, 64))
            assert (row["input_size"], row["params"], row["macs"]) == ((3, 64, 64), wanted.params, wanted.macs)
        assert convzoo.compare("lenet5.mnist", 32)[0]["top1"] is None  # no longer the net that was measured

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            (([],), ValueError, "no model in the list"),
            (("foo*",), ValueError, "no model matches 'foo"),
            (("*.foo",), ValueError, "no model matches"),
            ((["lenet_5"],), ValueError, "did you mean 'lenet5'"),
            ((3,), TypeError, "a model is a name or a torch"),
            ((torch.nn.Linear(2, 2),), TypeError, "pass input_size="),
            (("lenet5", (1, 2, 3, 4)), ValueError, "an input has the size"),
            (("lenet5", "28"), TypeError, "an input has the size"),
        ],
    )
    def test_refused(self, arguments, error, words):
        with pytest.raises(error, match=words):
            convzoo.compare(*arguments)


def test_what_is_known_shows_itself_in_a_notebook():
    for thing, words in (
        (convzoo.model_info("resnet18"), "11,689,512"),
        (convzoo.weight_info("lenet5.mnist"), "top1=99.38"),
        (convzoo.compare("lenet5"), "61,706"),
    ):
        html = thing._repr_html_()
        assert html.startswith("<table>")
        assert words in html


def test_what_is_known_leaves_as_a_dict():
    for thing in (convzoo.model_info("resnet18"), convzoo.weight_info("lenet5.mnist")):
        told = thing.to_dict()
        assert json.loads(json.dumps(told)) == told
        assert told["name"] == thing.name
        assert told["img_size"] == list(thing.img_size)
        assert told["macs"] == thing.macs
