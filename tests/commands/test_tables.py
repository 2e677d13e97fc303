"""``list``, ``info``, ``weights``, ``profile``, ``compare``: tables for people and for programs."""

import csv
import io
import json

import pytest

import convzoo
from convzoo.__main__ import main
from convzoo.commands import _options
from convzoo.commands.models import find, read_catalogue


@pytest.fixture
def run(capsys):
    def run(*arguments):
        status = main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_the_catalogue_is_what_the_registry_gives():
    catalogue = read_catalogue()
    assert sorted(catalogue) == sorted(convzoo.list_models())
    for name in ("lenet5", "resnet18", "t2t_vit_7"):
        info, entry = convzoo.model_info(name), catalogue[name]
        assert (entry["family"], entry["params"], entry["num_classes"]) == (info.family, info.params, info.num_classes)
        assert tuple(entry["input_size"]) == (info.in_chans, *info.img_size)
        assert entry["macs"] == convzoo.compare(name)[0]["macs"]


class TestList:
    def test_as_a_table(self, run):
        status, out, err = run("list")
        assert (status, err) == (0, "")
        lines = out.splitlines()
        assert len(lines) == 1 + len(convzoo.list_models())
        assert lines[0].split() == [
            "model", "family", "params", "MACs", "input", "classes", "year", "top-1", "weights",
        ]  # fmt: skip
        assert next(line for line in lines if line.startswith("resnet34 ")).split() == [
            "resnet34", "resnet", "21.8", "M", "3.66", "G", "3x224x224", "1000", "2015",
        ]  # fmt: skip

        best = max(convzoo.weight_info(name).metrics["top1"] for name in convzoo.list_weights("lenet5.*"))
        assert f"{best:.2f} %" in next(line for line in lines if line.startswith("lenet5 "))

    def test_what_fits(self, run):
        wanted = {
            name
            for name, entry in read_catalogue().items()
            if entry["params"] <= 5e6 and entry["macs"] <= 1e9 and entry["family"] == "lenet"
        }
        status, out, _ = run("list", "--max-params", "5M", "--max-macs", "1G", "--family", "lenet", "--names")
        assert status == 0
        assert set(out.split()) == wanted
        assert wanted
        macs = [row["macs"] for row in json.loads(run("list", "--sort", "macs", "--json")[1])]
        assert macs == sorted(macs)
        years = [row["year"] for row in json.loads(run("list", "--sort", "year", "--json")[1])]
        assert None not in years[: len([year for year in years if year])]  # what has none comes last

    def test_patterns(self, run):
        assert run("list", "resnet*", "--names")[1].split() == convzoo.list_models("resnet*")
        assert run("list", "t2t", "--names")[1].split() == convzoo.list_models("*t2t*")
        assert run("list", "lenet5", "--names")[1].split() == ["lenet5"]
        assert run("list", "lenet5", "vgg1?", "--names")[1].split() == ["lenet5", "vgg11", "vgg13", "vgg16", "vgg19"]

    @pytest.mark.parametrize("arguments", [["foo"], ["foo*"], ["--max-params", "10"], ["alexnet*", "--pretrained"]])
    def test_no_match_is_said(self, run, arguments):
        status, out, err = run("list", *arguments)
        assert (status, out) == (1, "")
        assert "no model matches" in err
        assert err.count("\n") == 1

    def test_a_close_name_is_offered(self, run):
        assert "did you mean 'resnet18'" in run("list", "resnett18")[2]
        status, _, err = run("list", "--family", "vggs")
        assert status == 2
        assert "did you mean 'vgg'" in err

    def test_weights_of_models(self, run):
        assert run("list", "--pretrained", "--names")[1].split() == convzoo.list_models(pretrained=True)


class TestWeights:
    def test_as_a_table(self, run):
        status, out, _ = run("weights")
        assert status == 0
        assert len(out.splitlines()) == 1 + len(convzoo.list_weights())
        rows = {row["name"]: row for row in json.loads(run("weights", "--json")[1])}
        info = convzoo.weight_info("lenet5.mnist")
        assert rows["lenet5.mnist"]["top1"] == info.metrics["top1"]
        assert rows["lenet5.mnist"]["where"] == "in the package"

    def test_patterns(self, run):
        assert run("weights", "*.mnist_aug", "--names")[1].split() == convzoo.list_weights("*.mnist_aug")
        assert run("weights", "fcn", "--names")[1].split() == convzoo.list_weights("fcn*")
        status, out, err = run("weights", "foo")
        assert (status, out) == (1, "")
        assert "no weights match 'foo'" in err

    def test_forms(self, run):
        rows = list(csv.DictReader(io.StringIO(run("weights", "--csv")[1])))
        assert [row["name"] for row in rows] == convzoo.list_weights()
        assert rows[0]["input_size"] == "1x28x28"
        assert run("weights", "--markdown")[1].splitlines()[1].startswith("| --- | ---: |")


class TestInfo:
    def test_of_a_model_and_of_weights(self, run):
        status, out, _ = run("info", "resnet18")
        assert status == 0
        assert "params        11,689,512" in out
        assert "macs          1,814,073,344" in out
        assert 'stem                "imagenet" (the default), 7x7/2' in out
        weights = json.loads(run("info", "lenet5_1998.mnist", "--json")[1])
        assert (weights["temperature"], weights["preparation"]) == (8.0, "mnist")
        assert weights["recipe"]["epochs"] == 24
        several = json.loads(run("info", "lenet*", "--json")[1])
        assert [one["name"] for one in several] == convzoo.list_models("lenet*")

    def test_refused(self, run):
        for name, words in (
            ("lenet_5", "did you mean 'lenet5'"),
            ("lenet5.x", "lenet5.x"),
            ("foo*", "no model matches"),
        ):
            status, out, err = run("info", name)
            assert (status, out) == (2, "")
            assert words in err
            assert err.count("\n") == 1


class TestCosts:
    def test_options_and_sizes(self, run):
        arguments = ("resnet18", "-o", "stem=small", "--input", "64", "--num-classes", "200", "--json")
        profile = json.loads(run("profile", *arguments)[1])
        model = convzoo.create_model("resnet18", 200, stem="small", img_size=64)
        wanted = convzoo.profile(model, (3, 64, 64))
        assert (profile["params"], profile["macs"]) == (wanted.params, wanted.macs)

    @pytest.mark.parametrize("size", [["64"], ["64x64"], ["3x64x64"], ["3", "64", "64"], ["64", "64"]])
    def test_ways_to_write_a_size(self, run, size):
        row = json.loads(run("compare", "resnet18", "--input", *size, "--json")[1])[0]
        assert row["input_size"] == [3, 64, 64]

    def test_wildcards_and_weights(self, run):
        rows = json.loads(run("compare", "lenet*", "*.mnist", "--json")[1])
        assert [row["model"] for row in rows] == [*convzoo.list_models("lenet*"), *convzoo.list_weights("*.mnist")]
        assert next(row for row in rows if row["model"] == "lenet5.mnist")["top1"] == 99.38
        profiles = json.loads(run("profile", "vgg1[13]", "--json")[1])
        assert [profile["model"] for profile in profiles] == ["vgg11", "vgg13"]

    def test_forms(self, run):
        rows = list(csv.DictReader(io.StringIO(run("compare", "lenet5", "--csv")[1])))
        assert rows[0]["params"] == "61706"
        assert run("compare", "lenet5", "--markdown")[1].startswith("| model | input |")
        layers = list(csv.DictReader(io.StringIO(run("profile", "lenet5", "--format", "csv")[1])))
        assert sum(int(layer["macs"]) for layer in layers) == 416_520

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["profile", "resnet18", "-o", "stm=small"], "resnet18 has no option 'stm'"),
            (["profile", "resnet18", "-o", "stem"], "not of the form NAME=VALUE"),
            (["profile", "resnet18", "--input", "64x"], "is not a size"),
            (["profile", "resnet18", "--input", "0"], "is not a size"),
            (["profile", "resnet18", "--depth", "0"], "not a whole number of at least 1"),
            (["compare", "vgg19", "--input", "28"], "needs at least 32x32"),
            (["compare", "foo*"], "no model matches"),
            (["list", "--max-params", "5Q"], "not a number such as 5M"),
            (["list", "--max-params", "-5"], "'-5' is not a number such as 5M"),
        ],
    )
    def test_refused(self, run, arguments, words):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1


def test_numbers():
    assert [_options.number(text) for text in ("5M", "1.5g", "61706", "2k")] == [5e6, 1.5e9, 61706, 2e3]
    assert dict(map(_options.option, ["a=1", "b=true", "c=2,2", "d=small", "e=0.5", "f="])) == {
        "a": 1, "b": True, "c": (2, 2), "d": "small", "e": 0.5, "f": "",
    }  # fmt: skip


def test_a_name_is_found_before_a_part_of_one():
    assert find(["a"], ["a", "ab"]) == ["a"]
    assert find(["b"], ["a", "ab"]) == ["ab"]
    assert find([], ["a", "ab"]) == ["a", "ab"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["profile", "lenet99"], "? 'convzoo list' names all "),
        (["compare", "zz*"], "; 'convzoo list' names all"),
        (["profile", "lenet5", "-o", "x=1"], "lenet5 has no option 'x'; it has no options; leave it out"),
        (["profile", "resnet18", "-o", "x=1"], "; 'convzoo info resnet18' gives their defaults"),
        (["info", "lenet5.nope"], "? 'convzoo weights' names all "),
        (
            ["predict", "resnet34", "x.png"],
            "; 'convzoo weights' names those there are, and --weights of predict and cam",
        ),
    ],
)
def test_errors_point_to_commands_not_to_python(run, arguments, words):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert "()" not in err
    assert "pretrained=" not in err
