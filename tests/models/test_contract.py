"""Every registered model through one contract.

Nets that have a relative with more of the same layers are built with few of them (:mod:`helpers.sizes`); test_parity.py
and test_t2t_vit.py run the rows of the tables as they are.
"""

import copy
import pickle

import pytest
import torch
from helpers.sizes import abridged, size_of
from torch import nn

import convzoo

CLASSES, CHANS = 7, 2


def build(name, seed=0, **options):
    torch.manual_seed(seed)
    settings = {"num_classes": CLASSES, "in_chans": CHANS, "img_size": size_of(name)} | abridged(name) | options
    return convzoo.create_model(name, **settings)


def images(model, count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, model.in_chans, *model.img_size, generator=generator)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in convzoo.list_models()],
)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return build(name).eval()


@pytest.fixture(scope="module")
def answer(model):
    """Three images, and what the net says of them."""
    x = images(model)
    with torch.no_grad():
        return x, model(x)


@torch.no_grad()
def test_shapes(model, answer):
    x, logits = answer
    assert logits.shape == (3, CLASSES)
    assert logits.dtype == torch.float32
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), logits)
    assert model.forward_head(features, pre_logits=True).shape == (3, model.num_features)
    assert (model.num_classes, model.in_chans) == (CLASSES, CHANS)
    assert isinstance(model, convzoo.Classifier)
    assert model.get_classifier() is model.get_submodule(model.classifier_name)
    for path in model.stages.values():
        model.get_submodule(path)
    assert model.cam_layer == "" or isinstance(model.get_submodule(model.cam_layer), nn.Module)


@torch.no_grad()
def test_an_image_does_not_see_its_batch_mates(model, answer):
    x, logits = answer
    alone = torch.cat([model(image[None]) for image in x])
    assert torch.allclose(logits, alone, rtol=1e-4, atol=1e-4 * alone.abs().max().item())


def test_alive_at_init(model):
    """The output depends on the image, and every trainable parameter is told something."""
    x = images(model, 2)
    logits = model(x)
    spread = (logits[0] - logits[1]).abs().max()
    assert torch.isfinite(logits).all()
    assert spread > 1e-4 * (logits.max() - logits.min())
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    dead = []
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            gradient = parameter.grad
            if gradient is None or not torch.isfinite(gradient).all() or gradient.abs().max() == 0:
                dead.append(path)
        parameter.grad = None
    assert dead == []


def test_trains(model):
    learner = copy.deepcopy(model).train()
    out = learner(images(learner, 2))
    out.square().mean().backward()
    assert out.shape == (2, CLASSES)
    assert all(parameter.grad is not None for parameter in learner.parameters() if parameter.requires_grad)
    assert all(parameter.grad is None for parameter in model.parameters())


@torch.no_grad()
def test_state_dict_and_pickle(model, name, answer):
    """The state is all there is: put into a pickled twin that was never initialised, it gives the same logits."""
    with torch.device("meta"):
        twin = build(name)
    twin = pickle.loads(pickle.dumps(twin)).to_empty(device="cpu").eval()
    loaded = twin.load_state_dict(model.state_dict(), strict=True)
    assert not loaded.missing_keys
    for path, buffer in model.named_buffers():
        if path not in model.state_dict():  # tables that are part of the architecture
            twin.get_buffer(path).copy_(buffer)
    x, logits = answer
    assert torch.equal(twin(x), logits)


@torch.no_grad()
def test_same_seed_same_weights(model, name):
    again = build(name)
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    trainable = {path: parameter for path, parameter in again.named_parameters() if parameter.requires_grad}
    path = max(trainable, key=lambda path: trainable[path].numel())
    before = trainable[path].clone()
    again.init_weights(again.get_submodule(path.rpartition(".")[0]))  # the generator has moved on
    assert not torch.equal(trainable[path], before)


@torch.no_grad()
def test_reset_classifier(model):
    model = copy.deepcopy(model)
    x = images(model)
    model.reset_classifier(4)
    assert model(x).shape == (3, 4)
    assert model.num_classes == 4
    model.reset_classifier(0)
    features = model(x)
    assert features.shape == (3, model.num_features)
    assert torch.equal(features, model.forward_head(model.forward_features(x), pre_logits=True))
    with pytest.raises(ValueError, match="num_classes must be at least 0, got -1"):
        model.reset_classifier(-1)


def test_no_head(name):
    with torch.device("meta"):
        model = build(name, num_classes=0)
        assert model(torch.empty(2, CHANS, *model.img_size)).shape == (2, model.num_features)


def test_every_size_from_the_smallest_up(name):
    """On the meta device; and below the smallest a refusal, at the door and in ``forward``."""
    with torch.device("meta"):
        smallest = build(name).min_size
        if convzoo.model_info(name).family == "t2t_vit":
            sizes = [(2 * smallest, 2 * smallest)]
        else:
            sizes = [(smallest, smallest), (smallest + 13, smallest + 6)]
        if name == "lenet5_1998":
            sizes[1] = (45, 38)
        for size in sizes:
            model = build(name, img_size=size).eval()
            assert model(torch.empty(2, CHANS, *size)).shape == (2, CLASSES)
        if smallest > 1:
            with pytest.raises(ValueError, match=f"{name} .*got {smallest - 1}x{smallest - 1}"):
                build(name, img_size=smallest - 1)
            with pytest.raises(ValueError, match=f"{name} .*got {smallest - 1}x{smallest - 1}"):
                model(torch.empty(2, CHANS, smallest - 1, smallest - 1))


def test_what_it_refuses(model, name):
    height, width = model.img_size
    with pytest.raises(ValueError, match=rf"{name} takes images of shape \(N, 2, H, W\), got .*in_chans=5"):
        model(torch.zeros(1, 5, height, width))
    with pytest.raises(ValueError, match=r"got \(2, .*add the batch dimension: images\[None\]"):
        model(torch.zeros(CHANS, height, width))
    with pytest.raises(TypeError, match=f"{name} takes a tensor of images, got list"):
        model([[0.0]])
    if model.fixed_size:
        with pytest.raises(ValueError, match=rf"was built for {height}x{width} .*img_size=\({height + 8}, {width}\)"):
            model(torch.zeros(1, CHANS, height + 8, width))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_symbolic_trace(model, mode):
    """The graph, which is made without images, computes the same logits."""
    model = copy.deepcopy(model).train(mode == "train")
    graph = torch.fx.symbolic_trace(model)
    assert any(node.op == "call_module" for node in graph.graph.nodes)
    x = images(model, 2)
    torch.manual_seed(5)
    expected = model(x)
    torch.manual_seed(5)
    assert torch.equal(graph(x), expected)


def test_info(name):
    info = convzoo.model_info(name)
    assert info.params > 0
    assert info.source
    assert set(info.options) == set(convzoo.registry.find_entry(name).config.option_names())
