"""Counts of every registered model, against published tables and two counts that share no code with ours."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convzoo

TABLE = Path(__file__).resolve().parents[1] / "fixtures" / "macs.csv"
with TABLE.open(encoding="utf-8") as lines:
    PUBLISHED = list(csv.DictReader(line for line in lines if not line.startswith("#")))


def empty_model(name, **options):
    with torch.device("meta"):
        return convzoo.create_model(name, **options).eval()


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row['model']}-{row['height']}")
def test_published_figures(row):
    size = tuple(int(row[key]) for key in ("chans", "height", "width"))
    profile = convzoo.profile(empty_model(row["model"]), size)
    assert (profile.params, profile.macs) == (int(row["params"]), int(row["macs"]))
    assert profile.flops == 2 * int(row["macs"])
    if row["published"]:
        digits = len(row["published"].partition(".")[2])
        assert round(profile.macs / 1e9, digits) == float(row["published"])


@pytest.mark.parametrize("name", convzoo.list_models())
def test_every_model_by_two_other_counts(name):
    model = empty_model(name)
    counted = {"layers": 0}

    def convolution(module, args, output):
        inputs_per_output = module.in_channels // module.groups * math.prod(module.kernel_size)
        counted["layers"] += output.numel() * inputs_per_output

    def linear(module, args, output):
        counted["layers"] += output.numel() * module.in_features

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(convolution)
        elif isinstance(module, nn.Linear):
            module.register_forward_hook(linear)
    size = (model.in_chans, *model.img_size)
    with torch.no_grad(), FlopCounterMode(display=False) as operators:
        model(torch.empty(1, *size, device="meta"))

    profile = convzoo.profile(model, size)
    assert profile.uncounted == ()
    assert profile.macs == operators.get_total_flops() // 2  # every operator that torch runs
    own = sum(layer.own_macs for layer in profile.layers if layer.type in ("Conv2d", "Linear"))
    assert own == counted["layers"]  # every convolution and linear layer, from the shapes its hook saw
    assert profile.params == sum(parameter.numel() for parameter in model.parameters())
    assert sum(layer.own_macs for layer in profile.layers) == profile.layers[0].macs == profile.macs
    assert sum(layer.own_params for layer in profile.layers) == profile.layers[0].params == profile.params


@pytest.mark.parametrize("name", ["lenet5", "alexnet", "googlenet_bn", "resnet18", "mnist_resnet", "t2t_vit_7"])
def test_real_and_empty_models_profile_alike(name):
    model = convzoo.create_model(name)
    size = (model.in_chans, *model.img_size)
    assert convzoo.profile(model, size) == convzoo.profile(empty_model(name), size)


def test_auxiliary_heads_are_parameters_that_do_not_run():
    plain, trained = (convzoo.profile(empty_model("googlenet_bn", aux=aux), (3, 224, 224)) for aux in (False, True))
    assert trained.params == 13_004_888 > plain.params == 6_624_904
    assert trained.macs == plain.macs == 1_498_376_192
    idle = [layer for layer in trained.layers if layer.params and not layer.calls]
    assert sum(layer.own_params for layer in idle) == 13_004_888 - 6_624_904


@pytest.mark.parametrize("name", ["resnet18", "googlenet_bn", "t2t_vit_7"])
def test_peak_memory_against_the_allocator(name):
    """What the allocator hands out during a real pass, within the kernels' own workspace of the estimate."""
    model = convzoo.create_model(name).eval()
    size = (model.in_chans, *model.img_size)
    images = torch.rand(1, *size)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as trace:
        model(images)
    live = peak = images.nbytes
    events = sorted((event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"),
                    key=lambda event: event.start_ns())  # fmt: skip
    for event in events:
        live += event.nbytes()
        peak = max(peak, live)
    estimate = convzoo.profile(model, size).peak_activation_bytes
    assert 0.5 * peak <= estimate <= 1.01 * peak
