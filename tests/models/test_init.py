"""Initial weights: large ones are drawn side by side, and it must not show."""

import threading

import pytest
import torch
from torch import nn

import convzoo
from convzoo.models._init import LARGE, drawing_together, he_normal_, normal_, uniform_


def weights(**options):
    torch.manual_seed(3)
    return convzoo.create_model("resnet18", num_classes=3, **options).state_dict()


@pytest.fixture(scope="module")
def expected():
    return weights()


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_numbers_do_not_depend_on_the_threads(threads, expected):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert same(weights(), expected)
    finally:
        torch.set_num_threads(before)


def test_numbers_do_not_depend_on_the_callers_modes(expected):
    with torch.inference_mode():
        assert same(weights(), expected)
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        assert same(weights(), expected)
    drawn = {}
    thread = threading.Thread(target=lambda: drawn.update(weights()))
    thread.start()
    thread.join()
    assert same(drawn, expected)


def test_the_default_generator_moves_on(expected):
    torch.manual_seed(3)
    first = convzoo.create_model("resnet18", num_classes=3).state_dict()
    second = convzoo.create_model("resnet18", num_classes=3).state_dict()
    assert same(first, expected)
    large = [key for key, value in first.items() if value.numel() >= LARGE]
    assert len(large) >= 10
    assert not any(torch.equal(first[key], second[key]) for key in large)


def test_every_large_weight_has_numbers_of_its_own(expected):
    large = {key: value for key, value in expected.items() if value.numel() >= LARGE}
    firsts = {key: tuple((value.flatten()[:4] / value.std()).tolist()) for key, value in large.items()}
    assert len(set(firsts.values())) == len(firsts)


@pytest.mark.parametrize(("width", "put_off"), [(16, False), (512, True)])
def test_what_is_drawn_follows_the_rule(width, put_off):
    layers = [nn.Linear(width, width) for _ in range(2)]
    with drawing_together():
        before = layers[0].weight.clone()
        he_normal_(layers[0])
        uniform_(layers[1], 0.25)
        assert torch.equal(layers[0].weight, before) == put_off
    normal, uniform = (layer.weight.detach() for layer in layers)
    assert normal.std() == pytest.approx((2 / width) ** 0.5, rel=0.2)
    assert uniform.abs().max() == pytest.approx(0.25, rel=0.05)
    assert uniform.abs().max() <= 0.25


def test_an_exception_draws_nothing_more_and_leaves_nothing():
    layer = nn.Linear(512, 512)
    before = layer.weight.clone()

    def stumble():
        with drawing_together():
            normal_(layer, 1.0)
            raise KeyError

    with pytest.raises(KeyError):
        stumble()
    assert torch.equal(layer.weight, before)
    normal_(layer, 1.0)  # at once
    assert not torch.equal(layer.weight, before)


def test_tensors_of_other_kinds_are_drawn_where_they_are():
    fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")
    with fake_tensor.FakeTensorMode():
        model = convzoo.create_model("resnet18")
    assert isinstance(model.fc.weight, fake_tensor.FakeTensor)
    assert convzoo.create_model("resnet18").fc.weight.detach().std() == pytest.approx(0.01, rel=0.1)
