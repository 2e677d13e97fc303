"""The other counters, and the commands."""

import json

import pytest
import torch
from torch import nn

import convzoo
from convzoo.__main__ import main


def test_thop_and_the_published_figure():
    model = convzoo.create_model("resnet50", num_classes=1000)
    theirs = convzoo.profile(model, (3, 196, 196), counter="thop")
    assert (theirs.params, theirs.macs) == (25_557_032, 3_506_562_304)
    assert "thop" in theirs.counter
    check = convzoo.profile(model, (3, 196, 196)).check("thop")
    assert (check.macs, check.their_macs) == (3_470_766_848, 3_506_562_304)
    assert {term.type: (term.modules, term.amount) for term in check.macs_terms} == {
        "BatchNorm2d": (53, 4 * 8_923_264),
        "AdaptiveAvgPool2d": (1, 50 * 2_048),
    }
    assert "4 per element, 8,923,264 elements" in str(check)
    assert not [name for name in model.state_dict() if "total" in name]


@pytest.mark.parametrize("name", ["lenet5", "mnist_resnet", "googlenet_bn", "t2t_vit_7", "alexnet_2012"])
def test_every_difference_is_explained(name):
    options = {"aux": True} if name == "googlenet_bn" else {}
    model = convzoo.create_model(name, **options)
    check = convzoo.profile(model, (model.in_chans, *model.img_size)).check("thop")
    assert sum(term.amount for term in check.macs_terms) == check.their_macs - check.macs
    assert sum(term.amount for term in check.params_terms) == check.their_params - check.params


def test_shared_and_recurrent_modules_are_explained():
    shared = nn.Linear(8, 8)
    model = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared), nn.LSTM(8, 4, batch_first=True))
    check = convzoo.profile(model, torch.rand(1, 10, 8)).check()
    assert sum(term.amount for term in check.macs_terms) == check.their_macs - check.macs
    assert sum(term.amount for term in check.params_terms) == check.their_params - check.params


def test_check_without_the_model():
    result = convzoo.profile(convzoo.create_model("lenet5"), (1, 28, 28))
    assert result.check().their_macs == 416_520  # a net of the zoo is built again
    result = convzoo.profile(nn.Linear(8, 2), torch.rand(1, 8))
    with pytest.raises(ValueError, match="the model of this profile is gone"):
        result.check()
    with pytest.raises(ValueError, match="counter must be 'thop', got 'fvcore'"):
        result.check("fvcore")
    with pytest.raises(ValueError, match="check compares convzoo's own figures"):
        convzoo.profile(convzoo.create_model("lenet5"), (1, 28, 28), counter="thop").check()


def test_models_that_torchinfo_has_no_table_for():
    class Answer(nn.Module):
        def forward(self, x):
            return x.ndim == 2

    assert convzoo.profile(Answer(), torch.rand(1, 3)).macs == 0
    with pytest.raises(ValueError, match=r"torchinfo has no table for Answer \(.*unsupported input or output type"):
        convzoo.summary(Answer(), torch.rand(1, 3))


def test_summary_has_our_counts():
    table = convzoo.summary(convzoo.create_model("t2t_vit_14"), (3, 224, 224), depth=2)
    assert (table.total_mult_adds, table.total_params) == (4_783_468_544, 21_545_550)
    text = str(table)
    assert "4,783,468,544" in text
    assert "Total mult-adds (G): 4.78" in text
    assert "Largest sum of live maps" in text
    with pytest.raises(TypeError, match="summary has no option 'verbose'"):
        convzoo.summary(nn.Linear(2, 2), torch.rand(1, 2), verbose=1)


def test_commands(capsys):
    assert main(["profile", "resnet50", "--input", "3", "224", "224"]) == 0
    assert "4.089 GMACs = 8.178 GFLOPs" in capsys.readouterr().out
    assert main(["profile", "lenet5", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["macs"] == 416_520
    assert main(["profile", "lenet5", "--depth", "2", "--num-classes", "5", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("| layer |")
    assert main(["profile", "resnet50", "--input", "3", "196", "196", "--check"]) == 0
    assert "3,506,562,304" in capsys.readouterr().out
    assert main(["compare", "resnet50", "resnext50_32x4d"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["model", "resnet50", "resnext50_32x4d"]
    assert "4,230,479,872" in lines[2]
    assert main(["compare", "resnet50", "--format", "markdown", "--input", "1", "64", "64"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("| --- |")
    assert main(["profile", "resnet19"]) == 2
    assert "did you mean" in capsys.readouterr().err
