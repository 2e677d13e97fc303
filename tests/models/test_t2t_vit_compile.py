"""T2T-ViT copied, exported and compiled."""

import copy
import pickle

import pytest
import torch
from helpers.t2t_recipe import fill, images

import convzoo


def test_copies_and_compilers():
    """Deep copy, pickle, one whole graph for the compiler, and an exported program with any batch size."""
    model = fill(convzoo.create_model("t2t_vit_7", 10, img_size=32, depth=1))
    x = images(32)
    batch = torch.export.Dim("batch", min=2, max=64)
    with torch.no_grad():
        want = model(x)
        assert torch.equal(copy.deepcopy(model)(x), want)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), want)
        program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: batch}}).module()
        torch.testing.assert_close(program(torch.cat([x, x, x]))[:2], want)


@pytest.mark.parametrize("tokens", ["performer", "transformer"])
def test_compiles_as_one_graph(tokens):
    model = fill(convzoo.create_model("t2t_vit_7", 10, img_size=32, depth=1, tokens=tokens))
    torch._dynamo.reset()
    compiled, x = torch.compile(model, fullgraph=True, backend="eager", dynamic=False), images(32)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("tokens", ["performer", "transformer"])
def test_compiles_for_several_sizes_under_autocast_and_for_training(tokens):
    model = fill(convzoo.create_model("t2t_vit_7", 10, img_size=32, depth=1, tokens=tokens))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for size in (32, 48, 64):  # from the second on with symbolic sizes, and the table of another grid
            torch.testing.assert_close(compiled(images(size)), model(images(size)))
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(compiled(images(32)), model(images(32)))
    model.train()
    compiled(images(32)).sum().backward()
    assert model.tokens_to_token.project.weight.grad.any()
