"""Initial weights: large ones are drawn side by side, and it must not show."""

import contextlib
import threading

import pytest
import torch
from torch import nn

import convzoo
from convzoo.models import ModelConfig
from convzoo.models._init import LARGE, _is_untouched, drawing_in_parallel, he_normal_, normal_, orthogonal, uniform_


def weights(**options):
    torch.manual_seed(3)
    return convzoo.create_model("resnet18", num_classes=3, **options).state_dict()


@pytest.fixture(scope="module")
def expected():
    return weights()


def same(first, second):
    return all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_numbers_do_not_depend_on_the_threads(threads, expected):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert same(weights(), expected)
    finally:
        torch.set_num_threads(before)


def test_numbers_do_not_depend_on_the_callers_modes(expected):
    with torch.inference_mode():
        assert same(weights(), expected)
        assert torch.is_inference_mode_enabled()
    with torch.no_grad():
        assert same(weights(), expected)
    drawn = {}
    thread = threading.Thread(target=lambda: drawn.update(weights()))
    thread.start()
    thread.join()
    assert same(drawn, expected)


def test_the_default_generator_moves_on(expected):
    torch.manual_seed(3)
    first = convzoo.create_model("resnet18", num_classes=3).state_dict()
    second = convzoo.create_model("resnet18", num_classes=3).state_dict()
    assert same(first, expected)
    large = [key for key, value in first.items() if value.numel() >= LARGE]
    assert len(large) >= 10
    assert not any(torch.equal(first[key], second[key]) for key in large)


def test_every_large_weight_has_numbers_of_its_own(expected):
    large = {key: value for key, value in expected.items() if value.numel() >= LARGE}
    firsts = {key: tuple((value.flatten()[:4] / value.std()).tolist()) for key, value in large.items()}
    assert len(set(firsts.values())) == len(firsts)


@pytest.mark.parametrize(("width", "put_off"), [(16, False), (512, True)])
def test_what_is_drawn_follows_the_rule(width, put_off):
    layers = [nn.Linear(width, width) for _ in range(2)]
    with drawing_in_parallel():
        before = layers[0].weight.clone()
        he_normal_(layers[0])
        uniform_(layers[1], 0.25)
        assert torch.equal(layers[0].weight, before) == put_off
    normal, uniform = (layer.weight.detach() for layer in layers)
    assert normal.std() == pytest.approx((2 / width) ** 0.5, rel=0.2)
    assert uniform.abs().max() == pytest.approx(0.25, rel=0.05)
    assert uniform.abs().max() <= 0.25


def test_an_exception_draws_nothing_more_and_leaves_nothing():
    layer = nn.Linear(512, 512)
    before = layer.weight.clone()

    def stumble():
        with drawing_in_parallel():
            normal_(layer, 1.0)
            raise KeyError

    with pytest.raises(KeyError):
        stumble()
    assert torch.equal(layer.weight, before)
    normal_(layer, 1.0)  # at once
    assert not torch.equal(layer.weight, before)


def test_tensors_of_other_kinds_are_drawn_where_they_are():
    fake_tensor = pytest.importorskip("torch._subclasses.fake_tensor")
    with fake_tensor.FakeTensorMode():
        model = convzoo.create_model("resnet18")
    assert isinstance(model.fc.weight, fake_tensor.FakeTensor)
    assert convzoo.create_model("resnet18").fc.weight.detach().std() == pytest.approx(0.01, rel=0.1)


FAMILIES = [
    ("lenet5", {}),
    ("lenet5_1998", {}),
    ("lenet_sigmoid", {"img_size": 36}),
    ("mnist_net", {}),
    ("basic_cnn", {}),
    ("fcn_gap", {}),
    ("mnist_resnet", {}),
    ("vgg11_bn", {"head": "gap", "img_size": 32}),
    ("googlenet", {"img_size": 40}),
    ("inception_v3", {"img_size": 80}),
    ("cnn_all_tricks", {"img_size": 32}),
    ("resnet18", {"img_size": 32}),
    ("t2t_vit_7", {"img_size": 32, "depth": 2}),
    ("t2t_vit_t_14", {"img_size": 32, "depth": 2}),
]  # fmt: skip; AlexNet's 60 million numbers are drawn as VGG's


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), FAMILIES)
def test_made_under_another_default_type(name, options, dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model = convzoo.create_model(name, 5, **options).eval()
        assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {dtype}
        if dtype != torch.float64 and any(isinstance(layer, nn.LocalResponseNorm) for layer in model.modules()):
            model.float()  # the framework has none of 16 bits for the CPU
        with torch.no_grad():
            logits = model(torch.randn(2, model.in_chans, *model.img_size).to(next(model.parameters()).dtype))
    finally:
        torch.set_default_dtype(before)
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {logits.dtype}
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("name", "options"), FAMILIES)
def test_made_empty_and_given_its_numbers(name, options, monkeypatch):
    """On meta, then by either of the framework's two ways: nothing is left without numbers."""
    model = convzoo.create_model(name, 5, **options).eval()
    x, state = torch.randn(2, model.in_chans, *model.img_size), model.state_dict()
    with torch.device("meta"):
        assigned, copied = (convzoo.create_model(name, 5, **options).eval() for _ in range(2))
    assigned.load_state_dict(state, assign=True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)  # memory that nobody has filled holds NaN, or the largest integer
    try:
        copied.to_empty(device="cpu").load_state_dict(state)
    finally:
        torch.use_deterministic_algorithms(False)
    with torch.no_grad():
        assert torch.equal(assigned(x), model(x))
        assert torch.equal(copied(x), model(x))


@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (64, 32), (5, 5)])
def test_orthogonal(rows, columns):
    matrix = orthogonal(rows, columns)
    product = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    torch.testing.assert_close(product, torch.eye(min(rows, columns)), rtol=0, atol=1e-5)


class Drawn(convzoo.Classifier):
    """A net with a rule for its convolution, and with parameters that its constructor draws by the framework's."""

    def __init__(self, config):
        super().__init__(config)
        self.num_features = 4
        self.conv = nn.Conv2d(config.in_chans, 4, 3)
        self.token = nn.Parameter(torch.empty(1000))
        nn.init.normal_(self.token)
        self.scale = nn.Parameter(torch.full((1000,), 7.0))
        nn.init.uniform_(self.scale)
        self.other = nn.Linear(4, 4)
        nn.init.constant_(self.other.bias, 5.0)
        self.fc = self.make_classifier(config.num_classes)

    def init_weights(self, module):
        if isinstance(module, nn.Conv2d):
            he_normal_(module)
        elif module is self.fc:
            normal_(module, 0.01)


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.inference_mode])
def test_the_rule_draws_once_and_the_constructor_is_not_disturbed(mode):
    """Only what the framework's layers draw by themselves is left out, and made up for where the rule leaves it."""
    with mode():
        model = Drawn.build(ModelConfig(name="drawn", num_classes=3, in_chans=1, img_size=32))
    state = {name: value.detach() for name, value in model.named_parameters()}
    assert state["token"].std() == pytest.approx(1.0, abs=0.2)
    assert 0.0 <= state["scale"].min() < state["scale"].max() <= 1.0
    assert torch.equal(state["other.bias"], torch.full((4,), 5.0))
    assert not state["conv.bias"].any()  # the rule's
    assert 0.1 < state["other.weight"].abs().max() <= 0.5  # what the rule leaves, the framework draws
    assert 0 < state["fc.weight"].std() < 0.02


@pytest.mark.parametrize("name", ["resnet18", "lenet5", "t2t_vit_7", "googlenet", "mnist_net", "fcn_gap", "cnn_bn"])
def test_the_rules_of_the_zoo_leave_nothing(name, monkeypatch):
    made_up = []

    def make_up(self):
        made_up.extend(tensor.shape for tensor, version, _ in self._left_out if _is_untouched(tensor, version))

    monkeypatch.setattr("convzoo.models._init.without_default_init.make_up", make_up)
    model = convzoo.create_model(name)
    assert made_up == []
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_no_layer_of_the_zoo_is_drawn_twice():
    """The framework's own draw of each layer is left out: it would move the generator."""
    torch.manual_seed(3)
    model = convzoo.create_model("resnet18", num_classes=3)
    after = torch.rand(())
    torch.manual_seed(3)
    model.reset_parameters()
    assert torch.equal(torch.rand(()), after)
