"""Models changed in all the ways that people change them: optimised, they are the same function."""

import copy
import warnings

import pytest
import torch
from helpers.model_changes import LARGE_NETS, NETS, changed_model
from torch import Tensor

import convzoo


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch.compiler.reset()


def state_of(model):
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


@torch.no_grad()
def check(seed, nets):
    model, x, text = changed_model(seed, nets)
    before = state_of(model)
    try:
        expected = model(x)
    except (RuntimeError, AttributeError, TypeError):  # changes that do not go together
        return False
    if not expected.isfinite().all():
        return False
    kept = state_of(model)  # old spectral norm and the like move in the first forward
    alone = isinstance(model, convzoo.Classifier)
    for example in (None, x[:2], (x,)) if seed % 4 == 0 else (None if alone else x,):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of parts that were put back
            fast = convzoo.optimize_for_inference(model, example=example)
        assert before.keys() == kept.keys() == state_of(model).keys(), text
        assert all(torch.equal(value, kept[key]) for key, value in state_of(model).items()), text
        for images in (x, torch.cat([x, x.flip(0), x[:1]]) * 1.5):
            wanted, got = model(images).as_subclass(Tensor), fast(images).as_subclass(Tensor)
            assert got.shape == wanted.shape, text
            error = relative_error(got, wanted)
            if error >= 3e-4:  # the norms of two equal images, say, make any rounding large: the original's own too
                assert error < 5 * relative_error(wanted, in_float64(model, images)), f"{text}: off by {error:.1e}"
    return True


def relative_error(got, wanted):
    return (got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-3)


def in_float64(model, images):
    return copy.deepcopy(model).double()(images.double())


@pytest.mark.parametrize("start", [0, 19])
def test_changed_models(start):
    assert sum(check(seed, NETS) for seed in range(start, start + 19)) > 12


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 2900, 190))
def test_many_changed_models(start):
    assert sum(check(seed, NETS) for seed in range(start, start + 190)) > 120


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 60, 15))
def test_large_changed_models(start):
    assert sum(check(seed, LARGE_NETS) for seed in range(start, start + 15)) > 10
