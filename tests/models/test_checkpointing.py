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
    assert held_again < (0.1 if name.startswith("vgg") else 0.7) * held  # of VGG the pooled maps of five blocks
    model.set_grad_checkpointing(False)
    assert not model.grad_checkpointing


class OwnNorm(nn.Module):
    """Statistics of no layer of the framework's, which the output depends on, and a step that is not linear."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.ones(()))
        self.calls = nn.Buffer(torch.zeros((), dtype=torch.int64)) if hasattr(nn, "Buffer") else None

    def forward(self, x):
        if self.training:
            self.level = self.level * 0.5 + x.detach().square().mean().sqrt()  # a new tensor, not written in place
            if self.calls is not None:
                self.calls += 1
        return x / self.level


class Subclass(nn.BatchNorm2d):
    pass


@pytest.mark.parametrize("make", [
    lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
    lambda width: nn.BatchNorm2d(width, momentum=None),
    lambda width: nn.BatchNorm2d(width, track_running_stats=False),
    Subclass,
    lambda width: OwnNorm(),
], ids=["instance", "cumulative", "untracked", "subclass", "own"])  # fmt: skip
def test_statistics_of_any_kind_take_a_batch_in_once(make):
    torch.manual_seed(0)
    x, steps = torch.randn(4, 3, 32, 32), []
    for enable in (False, True):
        torch.manual_seed(1)
        model = convzoo.create_model("resnet18", 5, stem="small")
        for block in model.layer2:
            block.bn1 = make(128)
        model.set_grad_checkpointing(enable)
        steps.append(step(model, x))
    (gradients, state, _), (again, state_again, _) = steps
    torch.testing.assert_close(state_again, state, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(again, gradients, rtol=1e-4, atol=1e-5)


def test_sync_batch_norm(monkeypatch):
    """On one process it computes what batch norm does; its refusal of processors is the framework's."""
    torch.manual_seed(0)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(convzoo.create_model("resnet18", 5, stem="small")).train()
    model.set_grad_checkpointing()
    monkeypatch.setattr(nn.SyncBatchNorm, "forward", nn.BatchNorm2d.forward)
    monkeypatch.setattr(nn.SyncBatchNorm, "_check_input_dim", lambda self, x: None)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    counts = {int(norm.num_batches_tracked) for norm in model.modules() if isinstance(norm, nn.SyncBatchNorm)}
    assert counts == {1}


def test_a_graph_used_twice_counts_once():
    model = convzoo.create_model("resnet18", 5, stem="small").train()
    model.set_grad_checkpointing()
    loss = model(torch.randn(2, 3, 32, 32)).square().sum()
    first = torch.autograd.grad(loss, model.conv1.weight, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, model.conv1.weight)[0], first)
    assert int(model.layer1[0].bn1.num_batches_tracked) == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler, about itself
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("name", "options"), [("resnet18", {"stem": "small"}), ("t2t_vit_7", {"depth": 2})])
def test_compiles_to_the_same_step(name, options, backend):
    torch.manual_seed(0)
    x, steps = torch.randn(2, 3, 32, 32), []
    for enable in (False, True):
        torch.manual_seed(1)
        model = convzoo.create_model(name, 5, img_size=32, **options).train()
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # a compiled graph draws other numbers
        model.set_grad_checkpointing(enable)
        run = torch.compile(model, backend=backend, fullgraph=True) if enable else model
        run(x).square().sum().backward()
        steps.append(({path: parameter.grad for path, parameter in model.named_parameters()}, model.state_dict()))
    torch._dynamo.reset()
    (gradients, state), (again, state_again) = steps
    torch.testing.assert_close(again, gradients, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(state_again, state, rtol=1e-4, atol=1e-6)


def test_shallow_nets_refuse():
    with pytest.raises(ValueError, match="lenet5 has no blocks to compute again"):
        convzoo.create_model("lenet5").set_grad_checkpointing()
