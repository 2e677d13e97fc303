"""No model breaks the compiler's graph: plain or optimised, each is captured whole."""

import pytest
import torch
from helpers.fused_nets import assert_same, build, images, rows_saved
from helpers.sizes import abridged

import convzoo
from convzoo.registry import find_entry


@pytest.fixture(autouse=True)
def fresh_compiler():
    """What one test compiled is nothing to the next."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def shallow(name):
    """Options that leave one block a stage: the kinds of layers break graphs, not their number."""
    options = find_entry(name).config.options
    if "embed_dim" in options:
        return {"depth": 1, "embed_dim": 48, "num_heads": 4, "strides": (4, 2, 2)}
    if "depths" not in options:
        return abridged(name)
    head = {"head": "fc"} if options.get("batch_norm") == "none" else {}  # VGG's wide one, once
    return {**abridged(name), **head, "depths": (1,) * len(options["depths"])}


def without_twins():
    """A name for every model there is; nets that are the same when they are shallow share the first one's."""
    first = {}
    for name in convzoo.list_models():
        settings = {**find_entry(name).config.options, **shallow(name)}
        if "mlp_ratio" in settings:
            settings["mlp_ratio"] = "any"
        if "width_per_group" in settings:
            settings |= {"width_per_group": "any", "groups": settings["groups"] > 1}
        first.setdefault((find_entry(name).model_class, str(settings)), name)
    return list(first.values())


SLOW = (  # to capture; each has a sibling of the same layers that is not
    "cnn_bn", "cnn_dropout", "cnn_gap", "cnn_leaky_relu", "cnn_sigmoid", "googlenet", "googlenet_sparse_bn",
    "inception_v3", "squeezenet1_0",
)  # fmt: skip
NAMES = [
    pytest.param(name, marks=[pytest.mark.xdist_group(name), *([pytest.mark.slow] if name in SLOW else [])])
    for name in without_twins()
]


@pytest.mark.parametrize("optimised", [False, True], ids=["eager", "optimised"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_one_graph(name, optimised):
    model = build(name, **shallow(name))
    if optimised:
        model = convzoo.optimize_for_inference(model)
    x = images(model)
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count, fullgraph=True, dynamic=False)
    assert_same(compiled(x), model(x))
    assert len(graphs) == 1
    assert "mkldnn" not in graphs[0].code


def test_one_graph_in_training():
    model = build("resnet18", **shallow("resnet18")).train()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    compiled(images(model)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the framework's own making
@pytest.mark.parametrize("name", ["resnet18", "googlenet_bn", "t2t_vit_7", "lenet5"])
def test_compiled_for_real(name):
    """``compile=True`` with the compiler that users get: the same logits, and still a model of the zoo."""
    model = build(name, **shallow(name))
    x = images(model)
    fast = convzoo.optimize_for_inference(model, compile=True)
    with torch.no_grad():
        expected = model(x)
        assert_same(fast(x), expected)
        assert_same(fast.forward_head(fast.forward_features(x)), expected)
    assert isinstance(fast, convzoo.Classifier)
    assert convzoo.profile(model, x).macs - convzoo.profile(fast, x).macs == rows_saved(model)
    assert not any(key.startswith("_orig_mod") for key in fast.state_dict())
