"""T2T-ViT compiled for several uses; one graph, copies and export of all nets are in test_compile.py, test_contract.py
and test_input.py."""

import pytest
import torch
from helpers.t2t_recipe import fill, images

import convzoo


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
