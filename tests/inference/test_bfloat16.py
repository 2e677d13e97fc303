"""Models optimised in bfloat16: the logits up to that type's rounding, the labels of the bundled weights, refusals."""

import pytest
import torch
from helpers.fused_nets import build, images
from torch import nn

import convzoo
from convzoo.inference import optimize, packed

NAMES = [
    "lenet5",
    "mnist_resnet",
    "inception_cnn",
    "googlenet_sparse_bn",
    "resnet18",
    "t2t_vit_7",
    "t2t_vit_t_14_small",
]


@pytest.fixture(autouse=True)
def _a_processor_that_has_it(monkeypatch):
    """The refusal has a test of its own; emulated, the results are the same."""
    monkeypatch.setattr(optimize, "BFLOAT16", True)
    monkeypatch.setattr(packed, "BFLOAT16", True)


def worst(logits, expected):
    return ((logits.float() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_logits(name):
    model = build(name)
    x = images(model)
    expected, before = model(x), {key: value.clone() for key, value in model.state_dict().items()}
    fast = convzoo.optimize_for_inference(model, dtype=torch.bfloat16)
    tensors = [*fast.parameters(), *fast.buffers()]
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.bfloat16}
    logits = fast(x.bfloat16())
    assert logits.dtype is torch.bfloat16
    assert 0 < worst(logits, expected) < 0.05
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(TypeError, match=r"has parameters of torch.bfloat16, got images of torch.float32; convert them"):
        fast(x)


@torch.no_grad()
def test_the_kernels_run(monkeypatch):
    model = build("resnet18")
    fast = convzoo.optimize_for_inference(model, dtype=torch.bfloat16)
    x, used, ask = images(model).bfloat16(), [], packed.can_use_kernels
    monkeypatch.setattr(packed, "can_use_kernels", lambda *tensors: used.append(ask(*tensors)) or used[-1])
    with_kernels = fast(x)
    assert len(used) > 20
    assert all(used)
    monkeypatch.setattr(packed, "BFLOAT16", False)
    assert worst(fast(x), with_kernels.float()) < 0.05  # torch's own operators do the same


@pytest.mark.parametrize("weights", ["lenet5.mnist", "mnist_net.mnist", "mnist_resnet.mnist", "fcn_gap.mnist"])
@torch.no_grad()
def test_labels_stay(weights):
    model = convzoo.create_model(weights, pretrained=True)
    fast = convzoo.optimize_for_inference(model, dtype=torch.bfloat16)
    digits = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    x = (digits - 0.1307) / 0.3081
    expected, logits = model(x), fast(x.bfloat16()).float()
    first, second = expected.topk(2).values.unbind(1)
    clear = first - second > 0.05 * expected.abs().max()
    assert clear.sum() > 16
    assert torch.equal(logits.argmax(1)[clear], expected.argmax(1)[clear])


def test_preprocess_makes_what_it_takes():
    fast = convzoo.optimize_for_inference(convzoo.create_model("lenet5", pretrained=True), dtype=torch.bfloat16)
    x = fast.preprocess(torch.zeros(1, 28, 28, dtype=torch.uint8))
    assert x.dtype is torch.bfloat16
    assert fast(x).shape == (1, 10)


def test_other_modules_need_an_example():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    with pytest.raises(ValueError, match="is seen on an example, and this one was run on none; pass example="):
        convzoo.optimize_for_inference(net, dtype=torch.bfloat16)
    x = torch.rand(2, 1, 8, 8)
    fast = convzoo.optimize_for_inference(net, example=x, dtype=torch.bfloat16)
    with torch.no_grad():
        assert worst(fast(x.bfloat16()), net(x)) < 0.05


class Difference(nn.Module):
    """Gives what rounding leaves of a small difference of large numbers."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return (self.fc(x) + 1000) - 1000


class Fixed(nn.Linear):
    """Takes float32 only."""

    def forward(self, x):
        return super().forward(x.float())


def test_refusals(monkeypatch):
    model = convzoo.create_model("lenet5")
    with pytest.raises(ValueError, match=r"dtype must be None or torch.bfloat16, got torch.float16"):
        convzoo.optimize_for_inference(model, dtype=torch.float16)
    x = torch.rand(2, 4)
    with pytest.raises(ValueError, match=r"outputs in bfloat16 differ by more than 10% of the largest"):
        convzoo.optimize_for_inference(Difference().eval(), example=x, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"does not run in bfloat16: .*; leave dtype out"):
        convzoo.optimize_for_inference(Fixed(4, 4).eval(), example=x, dtype=torch.bfloat16)
    monkeypatch.setattr(optimize, "BFLOAT16", False)
    with pytest.raises(ValueError, match="bfloat16 would be slower than float32 on this processor"):
        convzoo.optimize_for_inference(model, dtype=torch.bfloat16)
