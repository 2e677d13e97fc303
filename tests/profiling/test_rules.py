"""Every rule of the table against the function it stands for: shape, dtype and count, on random arguments."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from convzoo.profiling.recorder import Recorder
from convzoo.profiling.rules import RULES
from convzoo.profiling.tally import ModuleRecord

MAKE = {}  # function -> a random call of it


def calls(*functions):
    def enter(make):
        MAKE.update(dict.fromkeys(functions, make))
        return make

    return enter


def maps(draw, channels=None, rank=2):
    return torch.rand(
        draw.randint(1, 3), channels or 2 * draw.randint(1, 4), *(draw.randint(6, 12) for _ in range(rank))
    )


for rank, functions in enumerate(
    zip(
        (torch.conv1d, torch.conv2d, torch.conv3d),
        (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
        (F.max_pool1d, F.max_pool2d, F.max_pool3d),
        (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
        (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d),
        (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d),
        strict=True,
    ),
    start=1,
):

    @calls(functions[0])
    def convolution(draw, rank=rank):
        x, groups = maps(draw, rank=rank), draw.choice([1, 2])
        weight = torch.rand(2 * draw.randint(1, 3), x.shape[1] // groups, *(draw.randint(1, 3) for _ in range(rank)))
        padding = draw.choice([0, 1, (1,) * rank, "valid", "same"])
        stride = 1 if padding == "same" else draw.randint(1, 3)
        return (x, weight, None, stride, padding, draw.randint(1, 2), groups), {}

    @calls(functions[1])
    def transposed(draw, rank=rank):
        x, groups, stride = maps(draw, rank=rank), draw.choice([1, 2]), draw.randint(2, 3)
        weight = torch.rand(x.shape[1], draw.randint(1, 3), *(draw.randint(2, 3) for _ in range(rank)))
        return (x, weight, None, stride, draw.randint(0, 1), draw.randint(0, 1), groups, draw.randint(1, 2)), {}

    @calls(functions[2])
    def max_pooling(draw, rank=rank):
        return (maps(draw, rank=rank), draw.randint(2, 3)), {
            "stride": draw.choice([None, 1, 2, 3]), "padding": draw.randint(0, 1), "dilation": draw.randint(1, 2),
            "ceil_mode": draw.choice([True, False]),
        }  # fmt: skip

    @calls(functions[3])
    def average_pooling(draw, rank=rank):
        return (maps(draw, rank=rank), draw.randint(2, 3)), {
            "stride": draw.choice([None, 1, 2, 3]), "padding": draw.randint(0, 1),
            "ceil_mode": draw.choice([True, False]),
        }  # fmt: skip

    @calls(functions[4], functions[5])
    def adaptive_pooling(draw, rank=rank):
        return (maps(draw, rank=rank), draw.randint(1, 5)), {}


@calls(F.linear)
def linear(draw):
    return (maps(draw, rank=draw.randint(0, 2)), None), {}


@calls(torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)
def matmul(draw):
    lead, n, k, m = draw.choice([(), (3,), (2, 1)]), draw.randint(1, 5), draw.randint(1, 5), draw.randint(1, 5)
    left = torch.rand(*lead, *draw.choice([(n, k), (k,)] if not lead else [(n, k)]))
    return (left, torch.rand(*draw.choice([(k, m), (k,), (4, k, m)] if left.ndim < 4 else [(k, m), (2, 5, k, m)]))), {}


@calls(torch.einsum)
def einsum(draw):
    equation = draw.choice(
        ["bld,md->blm", "bti,btj->bij", "bi,bi->b", "bi,bi->bi", "i,j->ij", "bij,bjk->bik", "ab,c->a"]
    )
    sizes = {index: draw.randint(1, 5) for index in "abcdijklmt"}
    terms = equation.partition("->")[0].split(",")
    return (equation, *(torch.rand(*(sizes[index] for index in term)) for term in terms)), {}


@calls(F.scaled_dot_product_attention)
def attention(draw):
    batch, heads, length, width = (draw.randint(1, 4) for _ in range(4))
    key = torch.rand(batch, heads, draw.randint(1, 6), width)
    return (torch.rand(batch, heads, length, width), key, torch.rand(*key.shape[:3], draw.randint(1, 5))), {}


@calls(torch.add, torch.Tensor.add, torch.mul, torch.Tensor.mul, torch.Tensor.sub, torch.Tensor.div)
def arithmetic(draw):
    x = maps(draw).to(draw.choice([torch.float32, torch.float64, torch.float16]))
    return (x, draw.choice([2, 0.5, torch.rand(1, x.shape[1], 1, 1), torch.rand(()), x])), {}


@calls(torch.cat)
def cat(draw):
    x = maps(draw)
    return ([x] * draw.randint(0, 3), draw.randint(-4, 3)), {}


@calls(torch.stack)
def stack(draw):
    x = maps(draw)
    return ([x] * draw.randint(0, 3), draw.randint(-6, 5)), {}


@calls(F.pad)
def pad(draw):
    x = maps(draw)
    sizes = [max(draw.randint(-1, 20), 0) or -draw.randint(0, 1) for _ in range(draw.choice([2, 4, 6, 10]))]
    return (x, sizes), {"value": draw.choice([None, 1.0])}


@calls(torch.Tensor.__getitem__)
def basic_index(draw):
    x = maps(draw)
    items = [draw.choice([0, -1, slice(None), slice(1, 4), slice(None, None, 2), None]) for _ in range(3)]
    odd = [(..., 7), (..., 0, ...), torch.tensor([0]), [0, 0], True]
    return (x, draw.choice([tuple(items), (..., *items[:2]), items[0], draw.choice(odd)])), {}


@calls(torch.mean, torch.Tensor.mean, torch.sum, torch.Tensor.sum)
def reduction(draw):
    return (maps(draw), draw.choice([None, 1, -1, (2, 3), [0, -1]]), draw.choice([True, False])), {}


@calls(F.unfold)
def unfold(draw):
    return (maps(draw), draw.choice([2, 3, (2, 3)])), {"stride": draw.randint(1, 3), "padding": draw.randint(0, 2),
                                                       "dilation": draw.randint(1, 2)}  # fmt: skip


@calls(torch.softmax, torch.Tensor.softmax, F.softmax, F.log_softmax)
def softmax(draw):
    return (maps(draw), draw.randint(-4, 3)), {}


@calls(
    F.relu, F.gelu, F.silu, F.sigmoid, torch.exp, torch.Tensor.sqrt, F.hardtanh, F.leaky_relu, torch.tanh, F.softplus
)
def activation(draw):
    return (maps(draw).to(draw.choice([torch.float32, torch.float64])),), {}


@calls(F.layer_norm)
def layer_norm(draw):
    x = maps(draw)
    return (x, x.shape[-draw.randint(1, 3) :]), {}


@calls(F.batch_norm)
def batch_norm(draw):
    x = maps(draw)
    return (x, torch.rand(x.shape[1]), torch.rand(x.shape[1])), {}


@calls(F.local_response_norm)
def local_response_norm(draw):
    return (maps(draw), draw.randint(2, 5)), {}


@calls(F.dropout)
def dropout(draw):
    return (maps(draw),), {}


@calls(torch.Tensor.half, torch.Tensor.double, torch.Tensor.float)
def cast(draw):
    return (maps(draw),), {}


def recorded(recorder, function, args, kwargs):
    """What a call gives by its rule; where there is none, by torch on the meta device."""
    if function in RULES:
        return RULES[function](recorder, *args, **kwargs)
    try:
        with recorder:
            return function(*args, **kwargs)
    except (RuntimeError, ValueError):
        return NotImplemented


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("function", MAKE, ids=lambda function: getattr(function, "__name__", str(function)))
def test_a_rule_gives_what_the_function_gives(function):
    draw, ruled = random.Random(0), 0
    for _ in range(12):
        args, kwargs = MAKE[function](draw)
        if function is F.linear:
            args = (args[0], torch.rand(3, args[0].shape[-1]))
        recorder = Recorder()
        recorder.module = ModuleRecord(recorder, "", "test")
        result = recorded(recorder, function, args, kwargs)
        try:
            with FlopCounterMode(display=False) as counter:
                moved = [each.to("meta") if isinstance(each, torch.Tensor) else each for each in args]
                if isinstance(args[0], list):
                    moved[0] = [each.to("meta") for each in args[0]]
                function(*moved, **kwargs)
            truth = function(*args, **kwargs)
        except (RuntimeError, ValueError, IndexError):  # not a call that torch allows: then the rule must stand back
            assert result is NotImplemented
            continue
        if result is NotImplemented:  # unsure, and then torch is asked
            continue
        ruled += 1
        assert (tuple(result.shape), result.dtype) == (tuple(truth.shape), truth.dtype)
        vectors = function in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__) and args[1].ndim == 1
        if not vectors:  # the oracle does not know products with vectors
            assert recorder.macs == counter.get_total_flops() // 2
    assert ruled >= 4


def test_the_table_is_covered_and_every_rule_documented():
    assert all(rule.__doc__ for rule in RULES.values())
    counting = {
        rule
        for rule in RULES.values()
        if rule.__module__.endswith(".products") and "recurrent" not in rule.__qualname__
    }
    assert counting <= {RULES.get(function) for function in MAKE}
