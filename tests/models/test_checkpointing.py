"""Training with blocks computed again: the same step, less kept."""

import pytest
import torch
from torch import nn

import convzoo

MODELS = [
    ("resnet18", 32, {}),
    ("vgg11_bn", 32, {"head": "gap"}),
    ("googlenet_bn", 32, {}),
    ("inception_v3", 80, {}),
    ("t2t_vit_7", 32, {}),
]


def step(model, x):
    """Gradients and state after one training step, and the bytes that the graph keeps."""
    model.train()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(x).square().sum()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held = sum(size for place, size in kept.items() if place not in own)
    loss.backward()
    return [parameter.grad for parameter in model.parameters()], model.state_dict(), held


@pytest.mark.parametrize(("name", "size", "options"), MODELS)
def test_the_same_step(name, size, options):
    torch.manual_seed(0)
    x = torch.randn(4, 3, size, size)
    steps = []
    for enable in (False, True):
        torch.manual_seed(1)
        model = convzoo.create_model(name, 5, img_size=size, **options)
        model.set_grad_checkpointing(enable)
        steps.append(step(model, x))
    (gradients, state, held), (again, state_again, held_again) = steps
    for one, other in zip(gradients, again, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-5 * one.abs().max().item())
    for key, value in state.items():
        assert torch.allclose(value, state_again[key], rtol=1e-5), key
    assert all(module.momentum == 0.1 for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert held_again < 0.7 * held
    model.set_grad_checkpointing(False)
    assert not model.grad_checkpointing


def test_shallow_nets_refuse():
    with pytest.raises(ValueError, match="lenet5 has no blocks to compute again"):
        convzoo.create_model("lenet5").set_grad_checkpointing()
