"""Operators without a rule: counted by a formula, free by the convention, or named."""

import random
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers.modules import Fn, weight
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula

from convzoo import profile
from convzoo.profiling import operators, register_formula
from convzoo.profiling.tally import map_leaves

X = torch.rand(1, 10, 8)  # ten tokens of eight
Q = torch.rand(1, 2, 16, 8)
ADJACENCY = (torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) > 0.7).float()
EDGES = int(ADJACENCY.sum())
COO = ADJACENCY.to_sparse()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch calls it beta
    CSR = ADJACENCY.to_sparse_csr()


def flex(mask=False, **options):
    def forward(self, q):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        if mask:
            options["block_mask"] = create_block_mask(lambda b, h, i, j: i >= j, None, None, 16, 16, device="cpu")
        return flex_attention(q, q, q, **options)

    return Fn(forward)


compiled = torch.compile(lambda x, w: (x @ w).relu(), backend="eager")
# a model, its inputs, and its MACs as a hand would count them
COUNTED = {
    "vmap of a layer": (Fn(lambda self, x: torch.func.vmap(self.l)(x[0]), l=nn.Linear(8, 5)), X, 10 * 8 * 5),
    "vmap over weights": (Fn(lambda self, x: torch.func.vmap(lambda w: x[0] @ w)(self.w), w=weight(3, 8, 5)), X, 1200),
    "vmap of vecdot": (Fn(lambda self, x: torch.func.vmap(torch.linalg.vecdot)(x[0], x[0])), X, 80),
    "vmap in vmap": (Fn(lambda self, q: torch.func.vmap(torch.func.vmap(torch.mm))(q, q.mT)), Q, 2 * 16 * 16 * 8),
    "vmap of attention": (
        Fn(lambda self, q: torch.func.vmap(F.scaled_dot_product_attention)(q, q, q)), Q, 2 * 2 * 16 * 16 * 8,
    ),
    "gradient": (Fn(lambda self, x: torch.func.grad(lambda y: (y @ self.w).sum())(x), w=weight(8, 5)), X, 2 * 400),
    "nn.Bilinear": (nn.Bilinear(8, 7, 5), (torch.rand(1, 8), torch.rand(1, 7)), 5 * 8 * 7 + 5 * 8),
    "cdist": (Fn(lambda self, x: torch.cdist(x, self.w), w=weight(4, 8)), X, 10 * 4 * 8),
    "cdist, p=1": (Fn(lambda self, x: torch.cdist(x, self.w, p=1), w=weight(4, 8)), X, 10 * 4 * 8),
    "pdist": (Fn(lambda self, x: F.pdist(x[0])), X, 45 * 8),
    "vecdot": (Fn(lambda self, x: torch.linalg.vecdot(x, x)), X, 80),
    "vecdot along an axis": (Fn(lambda self, x: torch.linalg.vecdot(x, x, dim=1)), X, 80),
    "vdot": (Fn(lambda self, x: torch.vdot(x[0, 0], x[0, 1])), X, 8),
    "inner": (Fn(lambda self, x: torch.inner(x, self.w), w=weight(3, 8)), X, 240),
    "addbmm": (Fn(lambda self, q: torch.addbmm(q[0, 0, :, :1], q[0], q[0].mT)), Q, 2 * 16 * 16 * 8),
    "conv_tbc": (
        Fn(lambda self, x: torch.conv_tbc(x.transpose(0, 1), self.w, self.b), w=weight(3, 8, 5), b=weight(5)), X,
        8 * 5 * 3 * 8,
    ),
    "integers": (
        Fn(lambda self, x: torch._int_mm(x[0].to(torch.int8), self.w), w=torch.zeros(8, 8, dtype=torch.int8)),
        torch.rand(1, 17, 8), 17 * 8 * 8,
    ),
    "sparse.mm": (Fn(lambda self, x: torch.sparse.mm(self.a, x[0]), a=COO), X, EDGES * 8),
    "sparse @": (Fn(lambda self, x: self.a @ x[0], a=COO), X, EDGES * 8),
    "sparse, transposed": (Fn(lambda self, x: self.a.t() @ x[0], a=COO), X, EDGES * 8),
    "sparse, by row": (Fn(lambda self, x: self.a @ x[0], a=CSR), X, EDGES * 8),
    "sparse mv": (Fn(lambda self, x: self.a @ x[0, :, 0], a=COO), X, EDGES),
    "sparse on the right": (Fn(lambda self, x: x[0].t() @ self.a, a=COO), X, EDGES * 8),
    "sparse weight": (Fn(lambda self, x: F.linear(x.mT, self.a), a=CSR), X, EDGES * 8),
    "sparse, added": (Fn(lambda self, x: torch.sparse.addmm(x[0], self.a, x[0]), a=COO), X, EDGES * 8),
    "sparse input": (Fn(lambda self, x, a: a @ x[0]), (X, COO), EDGES * 8),
    "sparse, made dense": (Fn(lambda self, x: self.a.to_dense() @ x[0], a=COO), X, 800),
    "flex attention": (flex(), Q, 2 * 2 * 16 * 16 * 8),
    "flex attention, scored": (flex(score_mod=lambda s, b, h, i, j: s + (i - j)), Q, 2 * 2 * 16 * 16 * 8),
    "flex attention, masked": (flex(mask=True), Q, 2 * 2 * 16 * 16 * 8),
    "a compiled function": (Fn(lambda self, x: compiled(x, self.w), w=weight(8, 3)), X, 240),
    "a mask of the model's own": (
        Fn(lambda self, x: x[:, self.m] @ self.w, m=torch.arange(10) > 3, w=weight(8, 3)), X, 6 * 8 * 3,
    ),
    "a value of the model's own": (Fn(lambda self, x: x @ self.w * self.g.item(), g=weight(1), w=weight(8, 3)), X, 240),
    "places of the model's own": (
        Fn(lambda self, x: x[:, torch.unique(self.i)] @ self.w, i=torch.tensor([1, 1, 2]), w=weight(8, 3)), X, 2 * 24,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*flex_attention called without")
@pytest.mark.parametrize("case", COUNTED)
def test_counted_by_hand(case):
    model, inputs, macs = COUNTED[case]
    result = profile(model, inputs)
    assert result.macs == macs
    assert result.uncounted == ()
    assert sum(layer.own_macs for layer in result.layers) == macs


UNCOUNTED = {
    "aten::_fft_r2c": lambda self, x: torch.fft.rfft(x).abs(),
    "aten::linalg_inv_ex": lambda self, x: torch.linalg.inv(x @ x.mT),
    "aten::_linalg_svd": lambda self, x: torch.linalg.svdvals(x),
    "aten::linalg_matrix_exp": lambda self, x: torch.linalg.matrix_exp(x @ x.mT),
    "aten::cholesky_inverse": lambda self, x: torch.cholesky_inverse(x[0] @ x[0].T),
}


@pytest.mark.parametrize("operator", UNCOUNTED)
def test_what_has_no_formula_is_named(operator):
    with pytest.warns(UserWarning, match=f"Fn uses {operator}, of which no formula is known") as caught:
        result = profile(Fn(UNCOUNTED[operator]), X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert result.uncounted == (operator,)
    assert f"not counted: {operator}" in str(result).splitlines()[-1]
    assert result.to_dict()["uncounted"] == [operator]


BY_VALUES = {
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "argwhere": torch.argwhere,
    "unique": torch.unique,
    "unique_consecutive": torch.unique_consecutive,
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "item": lambda x: x.sum().item(),
    "if": lambda x: x if x.sum() > 0 else -x,
    "all": lambda x: torch.isfinite(x).all().item(),
    "assert": lambda x: torch._assert(x.sum() > 0, "no"),
    "int": lambda x: x[:, : int(x.sum())],
    "slice": lambda x: x[:, : x.sum().long()],
    "float": lambda x: x * float(x.mean()),
    "complex": lambda x: complex(x.sum()),
    "range": lambda x: [x for _ in range(x.sum().long())],
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "format": lambda x: f"{x.sum():.3f}",
    "bincount": lambda x: torch.bincount(x[0, 0].long()),
    "one_hot": lambda x: F.one_hot(x.long()),
    "repeat_interleave": lambda x: torch.repeat_interleave(x, x[0, :, 0].long(), 1),
    "arange": lambda x: torch.arange(x.sum()),
    "zeros": lambda x: torch.zeros(x.sum().long()),
    "view": lambda x: x.view(x.sum().long(), -1),
    "narrow": lambda x: torch.narrow(x, 1, x[0, 0, 0].long(), 2),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "contains": lambda x: 1.0 in x,
    "is_nonzero": lambda x: torch.is_nonzero(x.sum()),
    "tensor_split": lambda x: torch.tensor_split(x, x[0, 0].long()),
    "histogram": torch.histogram,
    "combinations": lambda x: torch.combinations(x[0, 0]),
    "max": lambda x: max(x[0, 0]),
    "sorted": lambda x: sorted(x[0, 0]),
    "packed": lambda x: nn.utils.rnn.pack_padded_sequence(x, x[:, 0, 0].long(), batch_first=True),
    "to_sparse": lambda x: x.to_sparse(),
    "nested": lambda x: torch.nested.nested_tensor([x[0], x[0]]),
    "cond": lambda x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: -y, (x,)),
    "lstsq": lambda x: torch.linalg.lstsq(x, x).solution,
}


@pytest.mark.parametrize("case", BY_VALUES)
def test_models_that_decide_by_values_are_refused(case):
    function = BY_VALUES[case]
    model = nn.Sequential(nn.Identity(), Fn(lambda self, x: function(x)))
    with pytest.raises(ValueError, match=r"1 \(Fn\) .*profile takes models whose path follows from shapes alone"):
        profile(model, X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*deprecated", "ignore:.*TypedStorage")
def test_quantized_layers_are_refused_with_a_way_out():
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.ReLU(), nn.Linear(8, 3)), {nn.Linear})
    with pytest.raises(ValueError, match=r"1 \(Linear\) calls quantized::linear_dynamic.*profile the float model"):
        profile(quantized, X)


@pytest.fixture
def custom_operator():
    @torch.library.custom_op("convzoo_tests::scan", mutates_args=())
    def scan(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nothing is computed")

    scan.register_fake(lambda x, w: x.new_empty(*x.shape[:-1], w.shape[1]))
    yield scan
    operators.CUSTOM.clear()
    flop_registry.pop(torch.ops.convzoo_tests.scan, None)


@pytest.mark.parametrize("way", ["ours", "ours, of the operator", "torch's"])
def test_formulas_can_be_added(custom_operator, way):
    model = Fn(lambda self, x: custom_operator(x, self.w) @ self.v, w=weight(8, 3), v=weight(3, 2))
    with pytest.warns(UserWarning, match="convzoo_tests::scan"):
        assert profile(model, X).macs == 10 * 3 * 2
    if way == "torch's":
        register_flop_formula(torch.ops.convzoo_tests.scan)(
            lambda x, w, *args, out_shape=None, **kwargs: 2 * x[1] * x[2] * w[1]
        )
    else:
        register_formula(torch.ops.convzoo_tests.scan if "of" in way else custom_operator)(
            lambda x, w, out: out.numel() * x.shape[-1]
        )
    result = profile(model, X)
    assert (result.macs, result.uncounted) == (10 * 8 * 3 + 10 * 3 * 2, ())


def test_a_formula_takes_the_place_of_any_other():
    model = Fn(lambda self, x: F.cosine_similarity(x, x) + torch.einsum("bld->bl", x).sum())
    assert profile(model, X).macs == 0
    try:
        register_formula(F.cosine_similarity)(lambda left, right, out, **kwargs: 3 * left.numel())
        assert profile(model, X).macs == 240
    finally:
        operators.CUSTOM.clear()
    with pytest.raises(TypeError, match="a formula is registered for a function of torch"):
        register_formula("aten::mm")


# functions of torch, each with a way to draw arguments for it; n, k and m are small numbers
DRAWN = {
    torch.mm: lambda n, k, m: (torch.rand(n, k), torch.rand(k, m)),
    torch.bmm: lambda n, k, m: (torch.rand(2, n, k), torch.rand(2, k, m)),
    torch.addmm: lambda n, k, m: (torch.rand(m), torch.rand(n, k), torch.rand(k, m)),
    torch.baddbmm: lambda n, k, m: (torch.rand(2, n, m), torch.rand(2, n, k), torch.rand(2, k, m)),
    torch.matmul: lambda n, k, m: (torch.rand(3, 1, n, k), torch.rand(2, k, m)),
    torch.tensordot: lambda n, k, m: (torch.rand(n, k, 2), torch.rand(k, 2, m)),
    torch.inner: lambda n, k, m: (torch.rand(n, k), torch.rand(m, k)),
    torch.chain_matmul: lambda n, k, m: (torch.rand(n, k), torch.rand(k, m), torch.rand(m, n)),
    torch.linalg.matrix_power: lambda n, k, m: (torch.rand(n, n), k + 1),
    F.linear: lambda n, k, m: (torch.rand(2, n, k), torch.rand(m, k), torch.rand(m)),
    F.conv1d: lambda n, k, m: (torch.rand(1, 2 * k, n + 9), torch.rand(2 * m, k, 3), None, 1, 1, 2, 2),
    F.conv2d: lambda n, k, m: (torch.rand(1, k, n + 5, m + 5), torch.rand(m, k, 3, 2), torch.rand(m), 2, (1, 0)),
    F.conv3d: lambda n, k, m: (torch.rand(1, k, 5, 5, n + 5), torch.rand(m, k, 2, 2, 2)),
    F.conv_transpose2d: lambda n, k, m: (torch.rand(1, k, n + 2, 4), torch.rand(k, m, 2, 3), None, 2),
    F.multi_head_attention_forward: lambda n, k, m: (
        torch.rand(n, 1, 4), torch.rand(m, 1, 4), torch.rand(m, 1, 4), 4, 2, torch.rand(12, 4), torch.rand(12), None,
        None, False, 0.0, torch.rand(4, 4), torch.rand(4),
    ),
    F.softmax: lambda n, k, m: (torch.rand(n, k), 1),
    F.interpolate: lambda n, k, m: (torch.rand(1, n, k, m), 7),
    F.grid_sample: lambda n, k, m: (torch.rand(1, n, k, m), torch.rand(1, 3, 4, 2), "bilinear", "zeros", False),
    F.pad: lambda n, k, m: (torch.rand(1, n, k), (1, 2), "replicate"),
    F.fold: lambda n, k, m: (torch.rand(1, 4 * k, 9), (4, 4), (2, 2)),
    F.unfold: lambda n, k, m: (torch.rand(1, k, n + 3, m + 3), 3),
    F.embedding: lambda n, k, m: (torch.zeros(n, dtype=torch.long), torch.rand(k, m)),
    F.group_norm: lambda n, k, m: (torch.rand(1, 2 * k, n), 2),
    torch.cumsum: lambda n, k, m: (torch.rand(n, k), 1),
    torch.topk: lambda n, k, m: (torch.rand(n, k + 2), 2),
    torch.gather: lambda n, k, m: (torch.rand(n, k), 1, torch.zeros(n, 2, dtype=torch.long)),
    torch.roll: lambda n, k, m: (torch.rand(n, k), 1, 0),
    torch.var: lambda n, k, m: (torch.rand(n, k + 1), 1),
    torch.outer: lambda n, k, m: (torch.rand(n), torch.rand(k)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:torch.chain_matmul")
@pytest.mark.parametrize("function", DRAWN, ids=lambda function: function.__name__)
def test_drawn_calls_against_torchs_counter(function):
    draw = random.Random(function.__name__)
    for _ in range(5):
        arguments = DRAWN[function](*(draw.randint(1, 6) for _ in range(3)))
        seen = []

        class Call(nn.Module):
            def forward(self, *args, seen=seen, function=function):
                seen.append(function(*args))
                return seen[0]

        result = profile(Call(), arguments, batch_dim=None)
        empty = map_leaves(lambda each: each.to("meta") if isinstance(each, torch.Tensor) else each, arguments)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            truth = function(*empty)
        shapes = [
            [(tuple(each.shape), each.dtype) for each in (one if isinstance(one, (tuple, list)) else [one])
             if each is not None]
            for one in (seen[0], truth)
        ]  # fmt: skip
        assert shapes[0] == shapes[1]
        assert result.macs == counter.get_total_flops() // 2
        assert not result.uncounted
