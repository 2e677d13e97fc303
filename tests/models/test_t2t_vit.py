"""T2T-ViT against the original authors' implementation, and what its docstrings promise.

The figures under ``fixtures/t2t_vit`` are float64 values of that implementation, filled by :mod:`t2t_recipe`.
"""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from helpers.t2t_recipe import draw, fill, images
from torch import nn

import convzoo
from convzoo.models._soft_splits import KERNELS, TokenPerformer, TokenTransformer, split_image, split_tokens
from convzoo.models.t2t_vit import drop_path, sinusoid

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "t2t_vit"


def fixture(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())


STATE_DICTS, LOGITS = fixture("state_dict"), fixture("logits")
SMALL = ("t2t_vit_14_small", "t2t_vit_t_14_small")
NAMES = (*STATE_DICTS, *SMALL)


def build(case):
    name, _, sizes = case.partition("@")
    size, classes = map(int, sizes.split("x"))
    return convzoo.create_model(name, classes, img_size=size), size


def close(got, want, tolerance=1e-6):
    want = torch.as_tensor(want, dtype=torch.float64)
    assert (got.double() - want).abs().max() <= tolerance * want.abs().max()


def test_names():
    assert sorted(convzoo.list_models(family="t2t_vit")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_state_dict(name):
    with torch.device("meta"):
        model = convzoo.create_model(name, 1000, img_size=224)
    want = STATE_DICTS[name.removesuffix("_small")]
    entries = [
        *want["before"],
        *([f"blocks.{index}.{key}", *rest] for index in range(want["depth"]) for key, *rest in want["block"]),
        *want["after"],
    ]
    if name in SMALL:  # strides 2, 2, 2 on 224 pixels: 28 x 28 tokens
        entries[1] = ["pos_embed", [1, 785, 384], False]
    trained = {key: parameter.requires_grad for key, parameter in model.named_parameters()}
    assert [[key, list(value.shape), trained[key]] for key, value in model.state_dict().items()] == entries


@pytest.mark.parametrize("case", LOGITS)
def test_parameters(case):
    with torch.device("meta"):
        model, _ = build(case)
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    assert sum(count for count, _ in counts) == LOGITS[case]["params"]
    assert sum(count for count, trained in counts if trained) == LOGITS[case]["trainable"]


@pytest.mark.parametrize(("name", "params"), [*zip(SMALL, (21_186_862, 21_182_382), strict=True)])
def test_small_parameters(name, params):
    info = convzoo.model_info(name)
    assert (info.params, info.img_size, info.num_classes, info.min_size) == (params, (64, 64), 200, 8)


def test_published_parameters():
    """The paper's table 1 in millions, and the 21.23 M that others quote for 200 classes."""
    published = {
        "7": 4.3,
        "10": 5.9,
        "12": 6.9,
        "14": 21.5,
        "19": 39.2,
        "24": 64.1,
        "t_14": 21.5,
        "t_19": 39.2,
        "t_24": 64.1,
    }
    for name, millions in published.items():
        assert round(convzoo.model_info(f"t2t_vit_{name}").params / 1e6, 1) == millions
    with torch.device("meta"):
        model = convzoo.create_model("t2t_vit_t_14", 200)
    assert sum(parameter.numel() for parameter in model.parameters()) == 21_233_070


@pytest.mark.parametrize("case", LOGITS)
@pytest.mark.xdist_group("t2t_logits")  # they share most of their weights
def test_logits(case):
    model, size = build(case)
    fill(model).double()
    with torch.inference_mode():
        logits = model(images(size).double())
    want = LOGITS[case]
    close(logits[:, :16], want["logits"])
    close(logits.norm(dim=1), want["norms"])
    assert logits.argmax(1).tolist() == want["argmax"]


@pytest.mark.parametrize("name", ["performer", "performer_epsilon_regime", "transformer"])
def test_token_modules(name):
    want = fixture("modules")[name]
    module = fill((TokenTransformer if name == "transformer" else TokenPerformer)(147), f"{name}.")
    if want["amplitude"] != 1.0:  # keys and queries so long that the epsilon decides
        amplitude = want["amplitude"] * 0.3 * math.sqrt(3 / 147)
        module.kqv.weight.data = draw(f"{name}.kqv.weight", (192, 147), amplitude)
    tokens = draw("tokens", (2, 256, 147), math.sqrt(3))
    with torch.inference_mode():
        out = module.double()(tokens.double()).flatten()
        single = module.float()(tokens).flatten()
        with torch.autocast("cpu", torch.float16):
            half = module(tokens).flatten()
    close(out[:16], want["first"])
    close(out[-16:], want["last"])
    close(out.sum(), want["sum"])
    close(out.square().sum(), want["square_sum"])
    close(single, out, 1e-5)
    close(half, out, 0.3 if "epsilon" in name else 0.02)  # no NaN, which compares as False


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_t_14"])
def test_gradients(name):
    model = fill(convzoo.create_model(name, 200, img_size=64)).double()
    (model(images(64).double()) * draw("grad_target", (2, 200))).sum().backward()
    got = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    want = fixture(f"gradients_{name}")
    assert got.keys() == want.keys()
    for key, (norm, *first) in want.items():
        assert got[key].norm().item() == pytest.approx(norm, rel=1e-6), key
        assert got[key].flatten()[:4].tolist() == pytest.approx(first, rel=1e-6, abs=1e-6 * norm), key


@pytest.mark.parametrize("size", fixture("sinusoid"))
def test_sinusoid(size):
    want, (length, width) = fixture("sinusoid")[size], map(int, size.split("x"))
    table = sinusoid(length, width)
    assert table.shape == (1, length, width)
    assert table.dtype == torch.float32
    assert table[0, 1, :8].tolist() == want["row1_first8"]
    assert table[0, -1, -8:].tolist() == want["last_row_last8"]
    close(table.double().sum(), want["sum"], 1e-12)
    close(table.double().square().sum(), want["sumsq"], 1e-12)


@pytest.mark.parametrize("name", ["t2t_vit_14_wide", "t2t_vit_14_resnext", "t2t_vit_t_14_small"])
def test_scales_and_epsilons(name):
    """Logits hardly show a LayerNorm epsilon of 1e-6, and the scale of the token modules is of their input's width."""
    with torch.device("meta"):
        model = convzoo.create_model(name)
    assert {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)} == {1e-5}
    heads = {"t2t_vit_14_wide": 12, "t2t_vit_14_resnext": 32, "t2t_vit_t_14_small": 6}[name]
    assert {block.attn.scale for block in model.blocks} == {(model.num_features // heads) ** -0.5}
    if name == "t2t_vit_t_14_small":
        stem = model.tokens_to_token
        assert (stem.attention1.attn.scale, stem.attention2.attn.scale) == (147**-0.5, 576**-0.5)


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_14_small"])
def test_other_sizes_have_the_position_table_of_their_grid(name):
    """A net built for one size and fed another computes what one built for the other does."""
    model = fill(convzoo.create_model(name, 10, img_size=64, depth=2))
    for size in (model.min_size, 48):
        other = fill(convzoo.create_model(name, 10, img_size=size, depth=2))
        with torch.inference_mode():
            x = images(size)
            assert torch.equal(model(x), other(x))
            assert model.embed(x).shape[1] == 1 + (size // model.min_size) ** 2


@pytest.mark.parametrize("strides", [(4, 2, 2), (2, 2, 2), (7, 3, 3), (3, 1, 2), (5, 2, 1)])
def test_soft_splits(strides):
    """Each equals the framework's unfold, and cuts a side of n * stride into n."""
    for kernel, stride in zip(KERNELS, strides, strict=True):
        side = 4 * stride
        maps, padding = torch.randn(2, 5, side, side), (kernel - stride + 1) // 2
        want = nn.functional.unfold(maps, kernel, padding=padding, stride=stride).transpose(1, 2)
        tokens = maps.flatten(2).transpose(1, 2)
        assert want.shape[1] == 16
        assert torch.equal(split_image(maps, kernel, stride), want)
        assert torch.equal(split_tokens(tokens, side, kernel, stride), want)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"img_size": (64, 32)}, ValueError, "takes square images whose side is a multiple of 16, got 64x32; .* 64x64"),
        ({"img_size": 72}, ValueError, "multiple of 16, got 72x72; resize or pad them to 80x80"),
        ({"img_size": 8}, ValueError, r"needs at least 16x16 pixels \(one token stands for 16x16 of them\), got 8x8"),
        ({"num_heads": 5}, ValueError, "must be a multiple of num_heads, got 256 and 5; pass"),
        ({"strides": (4, 2)}, ValueError, r"must be 3 numbers up to 7, 3, 3, got \(4, 2\); pass"),
        ({"strides": (4, 4, 2)}, ValueError, "up to 7, 3, 3"),
        ({"strides": 16}, TypeError, "strides of t2t_vit_7 must be a tuple"),
        ({"tokens": "convolution"}, ValueError, "'performer' or 'transformer', got 'convolution'"),
        ({"drop_path_rate": 1.0}, ValueError, r"must be in \[0, 1\)"),
        ({"depth": 0}, ValueError, "at least 1"),
        ({"qk_scale": 1.0}, TypeError, "has no option 'qk_scale'"),
    ],
)
def test_refused_options(options, error, words):
    with pytest.raises(error, match=words):
        convzoo.create_model("t2t_vit_7", **options)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 3, 64, 32), "square images whose side is a multiple of 16, got 64x32; resize or pad them to 64x64"),
        ((2, 3, 32, 128), "got 32x128"),
        ((2, 3, 65, 65), "got 65x65; resize or pad them to 80x80"),
        ((2, 3, 12, 12), "needs at least 16x16"),
        ((2, 1, 64, 64), "in_chans=1"),
        ((3, 64, 64), "add the batch dimension"),
    ],
)
def test_refused_images(shape, words):
    with torch.device("meta"):
        model = convzoo.create_model("t2t_vit_7")
        with pytest.raises(ValueError, match=words):
            model(torch.empty(shape))


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_14_wide", "t2t_vit_t_14_small"])
def test_fresh_weights(name):
    """Deterministic; the output varies with the input; every trained parameter has a gradient; nothing else has."""
    size = 64
    torch.manual_seed(0)
    model = convzoo.create_model(name, img_size=size, depth=3)
    torch.manual_seed(0)
    again = convzoo.create_model(name, img_size=size, depth=3).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
    logits = model.eval()(torch.rand(2, 3, size, size))
    assert (logits[0] - logits[1]).std() > 1e-4 * logits.std()
    (logits * torch.randn_like(logits)).sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().max() > 0, key
        else:
            assert key == "pos_embed" or key.endswith(".w")
            assert parameter.grad is None
    assert model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for key, parameter in model.named_parameters():
        if key.endswith(".w"):
            torch.testing.assert_close(parameter @ parameter.T, 32 * torch.eye(32), rtol=0, atol=1e-4)
        elif key.endswith("bias"):
            assert not parameter.any(), key


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_t_14_small"])
def test_fixed_tables_stay_what_they_are(name):
    """Whatever is switched on, in either of the usual ways, and with weight decay."""
    model = convzoo.create_model(name, 10, img_size=32, depth=2).requires_grad_(False).requires_grad_(True)
    fixed = model.fixed_tables()
    assert [path for path, parameter in model.named_parameters() if not parameter.requires_grad] == fixed
    assert len(fixed) == (3 if name == "t2t_vit_7" else 1)
    before = {path: model.get_parameter(path).detach().clone() for path in fixed}
    for parameter in model.parameters():
        parameter.requires_grad = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model(images(32)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(model.get_parameter(path), table) for path, table in before.items())


def test_head_and_features():
    model = convzoo.create_model("t2t_vit_7", num_classes=10, in_chans=1, img_size=32).eval()
    x = torch.rand(2, 1, 32, 32)
    tokens = model.forward_features(x)
    assert tokens.shape == (2, 5, 256)
    assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens[:, 0])
    assert torch.equal(model.forward_head(tokens), model(x))
    assert model.get_classifier() is model.head
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert torch.equal(model(x), tokens[:, 0])
    assert convzoo.create_model("t2t_vit_7", num_classes=0, img_size=16)(torch.rand(2, 3, 16, 16)).shape == (2, 256)
    assert list(model.stages) == ["stem", *(f"block{index}" for index in range(1, 8))]
    assert [type(model.get_submodule(path)).__name__ for path in model.stages.values()] == [
        "TokensToToken",
        *["Block"] * 7,
    ]


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_t_14_small"])
def test_attention_probabilities(name):
    model, maps = fill(convzoo.create_model(name, 10, img_size=64, depth=3)).double(), []
    x = images(64).double()
    tokens = model.forward_features(x, maps)
    torch.testing.assert_close(tokens, model.forward_features(x), rtol=1e-9, atol=1e-9)
    heads, length = model.blocks[0].attn.num_heads, tokens.shape[1]
    assert [tuple(item.shape) for item in maps] == [(2, heads, length, length)] * len(model.blocks)
    torch.testing.assert_close(maps[-1].sum(-1), torch.ones(2, heads, length).double())
    gradients = torch.autograd.grad(model.forward_head(tokens)[:, 0].sum(), maps)
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_regularisation_in_training_only():
    model = convzoo.create_model("t2t_vit_7", 10, img_size=32, drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.6)
    assert [block.drop_path_rate for block in model.blocks] == pytest.approx([0.1 * index for index in range(7)])
    assert all(type(block.drop_path_rate) is float for block in model.blocks)
    rates = {key: module.p for key, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert {key: rate for key, rate in rates.items() if rate != 0.2} == {
        f"tokens_to_token.attention{index}.{key}": 0.1 for index in (1, 2) for key in ("drop", "mlp.3")
    }
    x = torch.rand(2, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-4, atol=1e-6)


def test_drop_path_is_per_sample():
    torch.manual_seed(0)
    out = drop_path(torch.ones(4000, 3, 2), 0.25, training=True)
    assert ((out == 0).flatten(1).all(1) | (out == 1 / 0.75).flatten(1).all(1)).all()
    assert (out[:, 0, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("name", ["t2t_vit_7", "t2t_vit_t_14"])
def test_half_precision(name):
    model = fill(convzoo.create_model(name, 10, img_size=32, depth=3))
    x = images(32)
    with torch.inference_mode():
        want = model(x)
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype):
                close(model(x), want, 0.1)
            close(copy.deepcopy(model).to(dtype)(x.to(dtype)), want, 0.1)
