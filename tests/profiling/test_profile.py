"""Counts of small modules, each against a sum done by hand; and the door: what it takes, refuses and shows."""

import gc
import json
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

import convzoo
from convzoo import profile


class Fn(nn.Module):
    """A module whose forward is the function given; ``parts`` are its children."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def weight(*shape):
    return nn.Parameter(torch.rand(*shape))


X = torch.rand(1, 8, 6, 6)
T = torch.rand(1, 10, 8)  # ten tokens of eight
Q = torch.rand(1, 2, 10, 4)

# a model, its inputs, and its MACs as a hand would count them
CASES = {
    "convolution": (nn.Conv2d(8, 4, 3), X, 4 * 16 * 8 * 9),
    "grouped": (nn.Conv2d(8, 4, 3, groups=2), X, 4 * 16 * 4 * 9),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), X, 8 * 36 * 9),
    "dilated": (nn.Conv2d(8, 4, 3, dilation=2), X, 4 * 4 * 8 * 9),
    "strided": (nn.Conv2d(8, 4, 3, stride=2, padding=1), X, 4 * 9 * 8 * 9),
    "padding same": (nn.Conv2d(8, 4, (3, 5), padding="same"), X, 4 * 36 * 8 * 15),
    "circular padding": (nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"), X, 4 * 36 * 8 * 9),
    "transposed": (nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2), X, 8 * 36 * 2 * 4),
    "one axis": (nn.Conv1d(10, 3, 3), T, 3 * 6 * 10 * 3),
    "three axes": (nn.Conv3d(2, 3, 2), torch.rand(1, 2, 4, 4, 4), 3 * 27 * 2 * 8),
    "linear over tokens": (nn.Linear(8, 3), T, 10 * 8 * 3),
    "F.conv2d": (Fn(lambda self, x: F.conv2d(x, self.w), w=weight(4, 8, 3, 3)), X, 4 * 16 * 8 * 9),
    "F.linear": (Fn(lambda self, x: F.linear(x, self.w), w=weight(3, 8)), T, 10 * 8 * 3),
    "@": (Fn(lambda self, x: x @ self.w), T, None),
    "matmul of batches": (Fn(lambda self, q: torch.matmul(q, q.mT)), Q, 2 * 10 * 10 * 4),
    "matrix by vector": (Fn(lambda self, x: x[0] @ x[0, 0]), T, 10 * 8),
    "dot": (Fn(lambda self, x: torch.dot(x[0, 0], x[0, 1])), T, 8),
    "bmm": (Fn(lambda self, x: torch.bmm(x, x.transpose(1, 2))), T, 100 * 8),
    "addmm": (Fn(lambda self, x: torch.addmm(x[0, 0, :3], x[0], self.w), w=weight(8, 3)), T, 10 * 8 * 3),
    "addmv": (Fn(lambda self, x: torch.addmv(x[0, :, 0], x[0], x[0, 0])), T, 10 * 8),
    "einsum": (Fn(lambda self, x: torch.einsum("bld,md->blm", x, self.w), w=weight(5, 8)), T, 10 * 8 * 5),
    "einsum of two batches": (Fn(lambda self, q: torch.einsum("bhid,bhjd->bhij", q, q)), Q, 2 * 10 * 10 * 4),
    "einsum without a sum": (Fn(lambda self, x: torch.einsum("bld,bld->bld", x, x)), T, 0),
    "einsum with dots": (Fn(lambda self, x: torch.einsum("...d,md->...m", x, self.w), w=weight(5, 8)), T, 400),
    "tensordot": (Fn(lambda self, x: torch.tensordot(x, self.w, dims=1), w=weight(8, 3)), T, 10 * 8 * 3),
    "attention": (Fn(lambda self, q: F.scaled_dot_product_attention(q, q, q)), Q, 2 * 2 * 10 * 10 * 4),
    "attention, masked": (
        Fn(lambda self, q: F.scaled_dot_product_attention(q, q, q, is_causal=True)), Q, 2 * 2 * 10 * 10 * 4,
    ),
    "nn.MultiheadAttention": (
        Fn(lambda self, x: self.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)), T,
        4 * 10 * 8 * 8 + 2 * 10 * 10 * 8,
    ),
    "nn.TransformerEncoderLayer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), T, 4 * 10 * 8 * 8 + 2 * 10 * 10 * 8 + 2 * 10 * 8 * 16,
    ),
    "LSTM, two ways": (
        nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True), T, 10 * 2 * 4 * 5 * ((8 + 5) + (10 + 5)),
    ),
    "LSTM, projected": (nn.LSTM(8, 5, proj_size=3, batch_first=True), T, 10 * (20 * (8 + 3) + 5 * 3)),
    "GRU": (nn.GRU(8, 5, batch_first=True), T, 10 * 3 * 5 * (8 + 5)),
    "RNN cell": (nn.RNNCell(8, 5), torch.rand(1, 8), 5 * (8 + 5)),
    "LSTM cell": (nn.LSTMCell(8, 5), torch.rand(1, 8), 20 * (8 + 5)),
    "called twice": (Fn(lambda self, x: self.c(self.c(x)), c=nn.Conv2d(8, 8, 1)), X, 2 * 36 * 64),
    "never called": (Fn(lambda self, x: x.relu(), c=nn.Conv2d(8, 8, 1)), X, 0),
    "forward called directly": (Fn(lambda self, x: self.c.forward(x), c=nn.Conv2d(8, 8, 1)), X, 36 * 64),
    "weight used by hand": (Fn(lambda self, x: x @ self.l.weight.T, l=nn.Linear(8, 3)), T, 10 * 8 * 3),
    "checkpointed": (
        Fn(lambda self, x: checkpoint(self.c, x, use_reentrant=False), c=nn.Conv2d(8, 8, 1)), X, 36 * 64,
    ),
    "dict output": (Fn(lambda self, x: {"out": self.c(x), "in": x}, c=nn.Conv2d(8, 8, 1)), X, 36 * 64),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 4, 3)), X, 4 * 16 * 8 * 9),
    "spectral norm": (nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 4, 3)), X, 4 * 16 * 8 * 9),
    "pruned": (prune.l1_unstructured(nn.Conv2d(8, 4, 3), "weight", 0.5), X, 4 * 16 * 8 * 9),
    "data parallel": (nn.DataParallel(nn.Conv2d(8, 4, 3)), X, 4 * 16 * 8 * 9),
}  # fmt: skip
CASES["@"] = (Fn(lambda self, x: x @ self.w, w=weight(8, 3)), T, 10 * 8 * 3)


@pytest.mark.parametrize("case", CASES)
def test_by_hand(case):
    model, inputs, macs = CASES[case]
    result = profile(model, inputs)
    assert result.macs == macs
    assert result.flops == 2 * macs
    assert result.params == sum(parameter.numel() for parameter in model.parameters())
    assert sum(layer.own_macs for layer in result.layers) == macs


class SubConv(nn.Conv2d):
    def forward(self, input):
        return super().forward(input) * 2 + 1


def test_subclassed_layers_and_unregistered_modules():
    model = nn.Sequential(SubConv(8, 4, 3), nn.BatchNorm2d(4))
    assert profile(model, X).macs == 4 * 16 * 8 * 9
    outside = nn.Conv2d(8, 8, 1)
    model = Fn(lambda self, x: self.hidden[0](x))
    model.hidden = [outside]
    result = profile(model, X)
    assert (result.macs, result.params) == (36 * 64, 0)  # it works, but the model does not own it


def test_tied_and_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    model[2].weight = model[0].weight
    result = profile(model, T)
    assert (result.params, result.macs) == (64, 2 * 10 * 64)
    assert [layer.own_params for layer in result.layers] == [0, 64, 0, 0]
    shared = nn.Linear(8, 8)
    result = profile(nn.Sequential(shared, nn.ReLU(), shared), T)
    assert (result.params, result.macs) == (72, 2 * 10 * 64)
    assert result.layers[1].calls == 2


def test_bare_frozen_and_idle_parameters_and_buffers():
    model = Fn(
        lambda self, x: self.bn(x) + self.bare, bare=weight(1, 8, 1, 1), bn=nn.BatchNorm2d(8), idle=nn.Linear(2, 2)
    )
    model.bn.requires_grad_(False)
    result = profile(model.half(), X.half())
    assert (result.params, result.trainable_params, result.buffers) == (8 + 16 + 6, 8 + 6, 17)
    assert result.param_bytes == 2 * result.params


def test_several_inputs():
    model = Fn(lambda self, x, y: self.a(x) + self.b(y), a=nn.Linear(8, 3), b=nn.Linear(5, 3))
    x, y = torch.rand(4, 8), torch.rand(4, 5)
    assert profile(model, (x, y)).macs == profile(model, {"y": y, "x": x}).macs == 8 * 3 + 5 * 3
    model = Fn(lambda self, tokens, mask=None: self.e(tokens) @ self.w, e=nn.Embedding(9, 8), w=weight(8, 3))
    assert profile(model, torch.zeros(2, 10, dtype=torch.long)).macs == 10 * 8 * 3


@pytest.mark.parametrize("size", [(3, 32, 32), (1, 3, 32, 32), (7, 3, 32, 32), [3, 32, 32]])
def test_figures_are_per_image(size):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(1), nn.Linear(4 * 900, 2))
    result = profile(model, size)
    assert result == profile(model, torch.rand(5, 3, 32, 32))
    assert result.input_shape == (1, 3, 32, 32)
    assert result.macs == 4 * 900 * 27 + 3600 * 2
    assert result.activations == 4 * 900 + 2
    assert result.peak_activation_bytes == 4 * (3 * 1024 + 4 * 900 + 2)  # flattening is a view


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_and_memory_format(dtype):
    model = convzoo.create_model("resnet18", num_classes=10)
    reference = profile(model, (3, 64, 64))
    other = profile(model.to(dtype=dtype, memory_format=torch.channels_last), (3, 64, 64))
    assert (other.macs, other.params) == (reference.macs, reference.params)
    assert other.peak_activation_bytes * 4 == reference.peak_activation_bytes * dtype.itemsize
    assert profile(nn.ReLU(), (3, 8, 8), dtype=dtype).peak_activation_bytes == 2 * 192 * dtype.itemsize


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_compiled_models_and_parts():
    model = convzoo.create_model("resnet18")
    expected = profile(model, (3, 64, 64))
    assert profile(torch.compile(model), (3, 64, 64)) == expected
    model.layer1 = torch.compile(model.layer1)
    model.layer2.compile()
    assert profile(model, (3, 64, 64)) == expected


def test_unknown_functions_fall_back_on_torch():
    model = Fn(
        lambda self, x: F.interpolate(torch.cumsum(x, 1).roll(1, 2), scale_factor=2).var((2, 3)) @ self.w,
        w=weight(8, 3),
    )
    assert profile(model, X).macs == 24
    model = Fn(lambda self, x: torch.linalg.multi_dot([x[0], x[0].T, x[0]]))
    assert profile(model, T).macs == 2 * 8 * 8 * 10  # torch takes the cheaper order


def test_attributes_and_constants_made_in_forward():
    def forward(self, x):
        grid = torch.arange(6, device=x.device) + torch.zeros(6)
        scale = float(self.scale)  # a value of the model's own
        return self.c(x * scale + grid.to(x.dtype).cuda() + torch.rand(6))

    model = Fn(forward, c=nn.Conv2d(8, 8, 1), scale=weight(1))
    assert profile(model, X).macs == 36 * 64


def test_values_of_maps_are_refused_with_the_module():
    model = nn.Sequential(nn.Conv2d(8, 8, 1), Fn(lambda self, x: x if x.sum() > 0 else -x))
    with pytest.raises(ValueError, match=r"1 \(Fn\) reads the values of a map \(__bool__\)"):
        profile(model, X)


def test_refusals():
    conv = nn.Conv2d(3, 4, 3)
    with pytest.raises(TypeError, match="profile takes a module, got str 'resnet18'"):
        profile("resnet18", (3, 8, 8))
    with pytest.raises(ValueError, match="counter must be 'convzoo' or 'thop', got 'fvcore'"):
        profile(conv, (3, 8, 8), counter="fvcore")
    for size in (224, "224", (8, 8), "3x224", (), (3, 0, 8), (1, 2, 3, 4, 5, 6)):
        with pytest.raises(ValueError, match=r"input_size must be \(C, H, W\).*pass e\.g\. \(3, "):
            profile(conv, size)
    for size in ("3x224xb", "", (3, 8.0, 8), {"x": 3}, {}, None, (True, 8, 8), 8.0, [None], b"3x8x8", conv):
        with pytest.raises(TypeError, match="pass \\(C, H, W\\)"):
            profile(conv, size)
    with pytest.raises(TypeError, match=r"dtype must be a torch\.dtype"):
        profile(conv, (3, 8, 8), dtype="half")
    with pytest.raises(ValueError, match=r"1 \(LazyConv2d\) is lazy and its weight has no shape yet"):
        profile(nn.Sequential(nn.ReLU(), nn.LazyConv2d(4, 3)), (3, 8, 8))
    with pytest.raises(ValueError, match="resnet18 takes images of shape"):
        profile(convzoo.create_model("resnet18"), (1, 64, 64))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_modules_are_refused():
    with pytest.raises(TypeError, match="0 is a scripted module"):
        profile(nn.Sequential(torch.jit.script(nn.Linear(2, 2))), (3, 8, 2))


def test_errors_of_the_model_come_through_and_say_where():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(5, 4, 3)))
    with pytest.raises(RuntimeError, match="channel") as caught:
        profile(model, (3, 16, 16))
    assert any("1.0 (Conv2d)" in note for note in getattr(caught.value, "__notes__", ["1.0 (Conv2d)"]))


def test_layers_and_shapes():
    model = convzoo.create_model("resnet18")
    result = profile(model, (3, 64, 96))
    names = [name for name, _ in model.named_modules()]
    assert [layer.path for layer in result.layers] == names
    rows = {layer.path: layer for layer in result.layers}
    conv = rows["layer1.0.conv1"]
    assert (conv.type, conv.input_shape, conv.output_shape) == ("Conv2d", (1, 64, 16, 24), (1, 64, 16, 24))
    assert conv.macs == conv.own_macs == 64 * 16 * 24 * 64 * 9
    assert conv.share == conv.macs / result.macs
    assert rows["layer1"].params == sum(p.numel() for p in model.layer1.parameters())
    assert rows["layer1.0.relu"].calls == 2


def test_the_table_in_all_its_forms():
    result = profile(convzoo.create_model("resnet50"), (3, 224, 224))
    text = str(result)
    assert "25.557 M parameters" in text
    assert "4.089 GMACs = 8.178 GFLOPs" in text
    assert text.splitlines()[2].split() == ["conv1", "Conv2d", "64x112x112", "9,408", "118,013,952", "2.9", "%"]
    assert "  0" in result.tree(depth=2)
    assert "layer4.2.conv3" in result.to_markdown(depth=3)
    assert result.to_markdown().splitlines()[-1] == (
        "| **total** | ResNet | 1000 | 25,557,032 | 4,089,184,256 | 100.0 % |"
    )
    figures = json.loads(json.dumps(result.to_dict()))
    assert figures["macs"] * 2 == figures["flops"] == 8_178_368_512
    assert figures["layers"][1]["output_shape"] == [1, 64, 112, 112]
    with pytest.raises(ValueError, match="depth must be at least 1"):
        result.tree(depth=0)


def test_the_result_is_frozen_stored_and_keeps_no_model():
    model = convzoo.create_model("lenet5")
    alive = weakref.ref(model), weakref.ref(model.conv1.weight) if hasattr(model, "conv1") else weakref.ref(model)
    gc.disable()
    try:
        result = profile(model, (1, 28, 28))
        del model
        assert [reference() for reference in alive] == [None, None]
    finally:
        gc.enable()
    with pytest.raises(AttributeError):
        result.macs = 0
    assert pickle.loads(pickle.dumps(result)) == result


def test_the_door_is_a_function_whatever_is_imported():
    import convzoo.profiling

    assert convzoo.profile is convzoo.profiling.profile
    assert callable(convzoo.profile)
