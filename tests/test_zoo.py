"""create_model, list_models, model_info: what they take, what they refuse and in which words."""

import copy
import inspect
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import convzoo

ALL = """
lenet5 lenet5_1998 lenet_sigmoid mnist_net basic_cnn inception_cnn residual_cnn fcn_gap mnist_resnet
alexnet alexnet_2012 vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg13_bn vgg16_bn vgg19_bn
vgg13_sparse_bn vgg16_sparse_bn vgg19_sparse_bn googlenet googlenet_bn googlenet_sparse_bn inception_v3
resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2
resnext50_32x4d resnext101_32x8d resnext101_64x4d
t2t_vit_7 t2t_vit_10 t2t_vit_12 t2t_vit_14 t2t_vit_19 t2t_vit_24 t2t_vit_t_14 t2t_vit_t_19 t2t_vit_t_24
t2t_vit_14_wide t2t_vit_14_resnext t2t_vit_14_small t2t_vit_t_14_small
cnn_sigmoid cnn_bn cnn_leaky_relu cnn_gap cnn_dropout cnn_3x3 cnn_concat cnn_all_tricks
""".split()


def test_every_name_is_there():
    """A name that was published stays; new ones need not be written down here."""
    assert set(ALL) <= set(convzoo.list_models())
    assert len(ALL) == 57


def test_listing():
    assert convzoo.list_models("resnet*") == ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    assert convzoo.list_models("*_bn", family="vgg")[0] == "vgg11_bn"
    assert convzoo.list_models("nothing*") == []
    with pytest.raises(ValueError, match="unknown family 'vggs'; the families are ablation, alexnet"):
        convzoo.list_models(family="vggs")


REFUSED = [
    (("resnet19",), {}, ValueError, r"unknown model 'resnet19'; did you mean 'resnet1.*list_models\(\) names all \d+"),
    (("ResNet-18",), {}, ValueError, "did you mean 'resnet18'"),
    (("zzz",), {}, ValueError, r"unknown model 'zzz'; list_models\(\) names all"),
    ((18,), {}, TypeError, "a model name is a string, got 18"),
    (("resnet18", 0.5), {}, TypeError, "num_classes must be a whole number, got 0.5"),
    (("resnet18", -1), {}, ValueError, "num_classes must be at least 0, got -1"),
    (("resnet18", True), {}, TypeError, "num_classes must be a whole number, got True"),
    (("resnet18", 10, 0), {}, ValueError, "in_chans must be at least 1, got 0"),
    (("resnet18", 10, "3"), {}, TypeError, "in_chans must be a whole number, got '3'"),
    (("resnet18",), {"img_size": 0}, ValueError, "img_size must be at least 1, got 0"),
    (("resnet18",), {"img_size": (1, 2, 3)}, ValueError, r"one number or \(height, width\), got \(1, 2, 3\)"),
    (("resnet18",), {"img_size": "64"}, TypeError, "img_size must be a whole number, got '64'"),
    (("resnet18",), {"stm": "small"}, TypeError, "resnet18 has no option 'stm'; did you mean 'stem'. its options are"),
    (("lenet5",), {"stem": "small"}, TypeError, "lenet5 has no option 'stem'; it has no options"),
    (("resnet18",), {"stem": "tiny"}, ValueError, "'imagenet' or 'medium' or 'small', got 'tiny'"),
    (("resnet18",), {"shortcut": 0}, TypeError, "shortcut of resnet18 must be True or False, got 0"),
    (("resnet18",), {"depths": (1, 2)}, ValueError, r"depths of resnet18 must name 4 stages, got \(1, 2\)"),
    (("resnet18",), {"depths": 3}, TypeError, "depths of resnet18 must be a tuple of whole numbers, got 3"),
    (("resnet18",), {"depths": (1, 2, 0, 1)}, ValueError, "every entry of depths of resnet18 must be at least 1"),
    (("resnet18",), {"groups": 2}, ValueError, "belong to bottlenecks"),
    (("vgg11",), {"depths": (1,)}, ValueError, "depths of vgg11 must name 5 blocks"),
    (("vgg11",), {"drop_rate": 1.0}, ValueError, r"drop_rate of vgg11 must be in \[0, 1\), got 1.0"),
    (("vgg11",), {"drop_rate": "a"}, TypeError, "drop_rate of vgg11 must be a number, got 'a'"),
    (("cnn_bn",), {"branched": (4,)}, ValueError, "branched of cnn_bn may name stages 5 and 6"),
    (("alexnet_2012",), {"groups": 3}, ValueError, "groups of alexnet_2012 must be 1 or 2, got 3"),
    (("resnet18", 10.0), {}, TypeError, r"num_classes must be a whole number, got 10.0 \(float\)"),
    (("resnet18", np.float64(10)), {}, TypeError, "num_classes must be a whole number, got np.float64"),
    (("lenet5.mnist", 10.0), {"pretrained": True}, TypeError, "num_classes must be a whole number, got 10.0"),
    (("lenet5.mnist",), {"pretrained": True, "img_size": 28.0}, TypeError, "img_size must be a whole number, got 28.0"),
    (("x" * 10**6,), {}, ValueError, r"^unknown model 'xxx[x.]{60,80}xxx'; list_models"),
    ((b"resnet18",), {}, TypeError, "a model name is a string, got b'resnet18'"),
    ((None,), {}, TypeError, "a model name is a string, got None"),
    ((["resnet18"],), {"pretrained": True}, TypeError, "a model name is a string, got"),
    (("resnet18",), {"device": "cude"}, ValueError, "device must be a torch.device or its name, got 'cude'"),
    (("resnet18",), {"device": 1.5}, ValueError, "device must be a torch.device or its name, got 1.5"),
    (("resnet18",), {"dtype": "float16"}, TypeError, "dtype must be a floating-point torch.dtype, got 'float16'"),
    (("resnet18",), {"dtype": torch.int8}, TypeError, "dtype must be a floating-point torch.dtype, got torch.int8"),
    (("lenet5",), {"pretrained": True, "device": "meta"}, ValueError, "cannot be loaded onto the meta device"),
    (("lenet5",), {"pretrained": True, "mmap": 1}, TypeError, "mmap must be True or False, got 1"),
    (("lenet5",), {"pretrained": True, "verify": 1}, TypeError, "verify must be True or False, got 1"),
    (("lenet5",), {"pretrained": True, "local_files_only": "no"}, TypeError, "local_files_only must be True or False"),
    (("lenet5",), {"pretrained": True, "cache_dir": 3}, TypeError, "cache_dir must be a path, got 3"),
    (("lenet5",), {"pretrained": True, "revision": 3}, TypeError, "revision must be a string, got 3"),
    (("lenet5",), {"pretrained": "./here", "revision": "v1"}, ValueError, "revision='v1' names a version of a repo"),
    (("lenet5",), {"pretrained": "a/b@v1", "revision": "v2"}, ValueError, "'a/b@v1' and revision='v2' name two"),
    (("vgg19",), {"img_size": 28}, ValueError, r"vgg19 needs at least 32x32 pixels \(five 2x2 poolings\), got 28x28"),
]


@pytest.mark.parametrize(("args", "options", "error", "words"), REFUSED)
def test_refusals(args, options, error, words):
    with pytest.raises(error, match=words):
        convzoo.create_model(*args, **options)


@pytest.mark.parametrize(
    ("classes", "error"), [(10.0, TypeError), (True, TypeError), ("10", TypeError), (-1, ValueError)]
)
def test_a_number_of_classes_has_one_answer_everywhere(classes, error):
    said = set()
    for call in (
        lambda: convzoo.create_model("lenet5", classes),
        lambda: convzoo.create_model("lenet5", classes, pretrained=True),
        lambda: convzoo.create_model("lenet5").reset_classifier(classes),
        lambda: convzoo.compare("lenet5", num_classes=classes),
    ):
        with pytest.raises(error, match="num_classes must be") as caught:
            call()
        said.add(str(caught.value))
    assert len(said) == 1


def test_options_that_are_not_named_are_refused():
    with pytest.raises(TypeError, match="resnet18 has no option 1; its options are"):
        convzoo.compare("resnet18", options={1: 2})


def test_a_name_is_taken_once():
    from convzoo.models import resnet

    with pytest.raises(ValueError, match="the model name 'resnet18' is taken"):
        convzoo.register(resnet.ResNet, resnet.RESNETS, family="x", paper="x", source="x")


def test_info_of_lenet5():
    info = convzoo.model_info("lenet5")
    assert (info.family, info.year, info.params, info.min_size) == ("lenet", 1998, 61_706, 16)
    assert info.fixed_size
    with pytest.raises(ValueError, match="did you mean 'lenet5'"):
        convzoo.model_info("lenet_5")


def test_building_on_a_device():
    with torch.device("meta"):
        model = convzoo.create_model("vgg19")
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_auxiliary_heads_speak_in_training_only():
    for name, size, count in (("googlenet", 64, 2), ("googlenet_bn", 64, 2), ("inception_v3", 299, 1)):
        model = convzoo.create_model(name, num_classes=5, img_size=size, aux=True)
        x = torch.rand(2, 3, size, size)
        out = model.train()(x)
        assert isinstance(out, convzoo.AuxLogits)
        assert out.logits.shape == (2, 5)
        assert [head.shape for head in out.aux] == [(2, 5)] * count
        model.reset_classifier(3)
        assert [head.shape for head in model(x).aux] == [(2, 3)] * count
        assert model.eval()(x).shape == (2, 3)
    with pytest.raises(ValueError, match="needs maps of 17x17 or more in training, got 7x7"):
        model.train()(torch.rand(2, 3, 150, 150))


def test_log_softmax_is_an_option():
    model = convzoo.create_model("mnist_net", log_softmax=True).eval()
    assert torch.allclose(model(torch.rand(2, 1, 28, 28)).exp().sum(1), torch.ones(2))


def test_import_is_light():
    heavy = ("huggingface_hub", "thop", "torchinfo", "PIL", "matplotlib", "pyarrow", "safetensors", "torchvision")
    code = f"import sys, torch; before = set(sys.modules); import convzoo; print({heavy!r}, set(sys.modules) - before)"
    code += f"; sys.exit(any(name in sys.modules for name in {heavy!r}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_device_and_dtype():
    torch.manual_seed(0)
    plain = convzoo.create_model("lenet5")
    torch.manual_seed(0)
    half = convzoo.create_model("lenet5", device="cpu", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert torch.equal(half.conv1.weight, plain.conv1.weight.bfloat16())
    empty = convzoo.create_model("lenet5_1998", device=torch.device("meta"), dtype=torch.float64)
    assert all(value.is_meta for value in empty.state_dict().values())
    assert empty.c1.weight.dtype == torch.float64
    digits = convzoo.create_model("lenet5.mnist", pretrained=True, device="cpu", dtype=torch.float64)
    assert digits.fc3.weight.dtype == torch.float64
    assert len(digits.weights.classes) == 10
    assert not digits.training


def test_numbers_of_numpy():
    model = convzoo.create_model(
        "vgg11", np.int64(3), np.uint8(1), img_size=np.int32(32), head="gap", drop_rate=np.float32(0.25)
    )
    assert (model.num_classes, model.in_chans, model.img_size) == (3, 1, (32, 32))
    assert type(model.config.drop_rate) is float


def test_the_arguments_of_loading_are_in_the_signature():
    given = inspect.signature(convzoo.create_model).parameters
    named = {"token", "revision", "local_files_only", "cache_dir", "mmap", "verify", "device", "dtype"}
    assert all(given[name].kind is inspect.Parameter.KEYWORD_ONLY for name in named)
    model = convzoo.create_model(
        "lenet5", token=False, revision="main", local_files_only=True, cache_dir="x", mmap=False, verify=True
    )
    assert model.weights is None  # they have no bearing on random weights, so that one call can serve both


def test_listing_by_size():
    assert convzoo.list_models("resnet*", max_params=22e6) == ["resnet18", "resnet34"]
    assert convzoo.list_models("resnet*", max_params=11_689_512) == ["resnet18"]  # at most: its own number is enough
    assert convzoo.list_models("resnet*", max_params=11_689_511) == []
    both = {"max_macs": np.float64(1e6), "max_params": np.int64(10**5)}
    assert convzoo.list_models("lenet*", **both) == ["lenet5", "lenet5_1998"]
    sizes = {name: convzoo.weight_info(name).num_params for name in convzoo.list_weights("*.mnist")}
    small = convzoo.list_models("*.mnist", pretrained=True, max_params=70_000)
    assert set(small) == {name for name, size in sizes.items() if size <= 70_000}
    assert 0 < len(small) < len(sizes)
    for wrong in ({"max_params": "5M"}, {"max_macs": True}, {"pretrained": 1}):
        with pytest.raises(TypeError, match=f"{next(iter(wrong))} must be"):
            convzoo.list_models(**wrong)
    for wrong in (None, 3, ["*"]):
        with pytest.raises(TypeError, match="pattern must be a string, got"):
            convzoo.list_models(wrong)
        with pytest.raises(TypeError, match="pattern must be a string, got"):
            convzoo.list_models(wrong, pretrained=True)
    for wrong in (3, ["vgg"], np.array(["vgg", "resnet"]), "v" * 10**6):
        with pytest.raises(ValueError, match=r"unknown family .{1,90}; the families are"):
            convzoo.list_models(family=wrong)


def test_info_by_what_is_no_name():
    for wrong in (None, 3, ["resnet18"], {"a": 1}):
        with pytest.raises(TypeError, match="a model name is a string, got"):
            convzoo.model_info(wrong)


def test_info_counts():
    info = convzoo.model_info("lenet5")
    assert info.macs == convzoo.profile(convzoo.create_model("lenet5"), (1, 28, 28)).macs
    assert info == convzoo.model_info("lenet5")
    assert info.options == {}


@pytest.mark.filterwarnings("error")
def test_an_option_for_small_images_is_named():
    assert convzoo.model_info("resnet18").small_images == {"stem": "small"}
    assert convzoo.model_info("lenet5").small_images == {}
    for size, left in ((64, "2x2"), (32, "1x1"), ((40, 64), "2x2")):
        with pytest.warns(UserWarning, match=rf"resnet18 leaves maps of {left}; pass stem='small' for larger"):
            convzoo.create_model("resnet18", 10, img_size=size, depths=(1, 1, 1, 1), device="meta")
    meant = ({"stem": "small"}, {"stem": "imagenet"})
    for options in ({"img_size": 96}, {"img_size": 224}, {}, *({"img_size": 64} | each for each in meant)):
        convzoo.create_model("resnet18", 10, depths=(1, 1, 1, 1), device="meta", **options)
    convzoo.create_model("vgg11", 10, img_size=32, device="meta")
    assert "64x64" in repr(convzoo.create_model("resnet18", img_size=64, stem="small", device="meta"))


@dataclass(kw_only=True)
class OwnConfig(convzoo.ModelConfig):
    num_classes: int = 10
    in_chans: int = 1
    img_size: int | tuple[int, int] = 28
    width: int = 8
    slope: float = 1.5  # no rate, and so free


class Own(convzoo.Classifier):
    """A consumer's net, with a parameter that it draws itself."""

    def __init__(self, config):
        super().__init__(config, min_size=5, min_size_why="two convolutions of 3 pixels")
        self.num_features = config.width
        self.relu = nn.LeakyReLU(config.slope)
        self.conv1 = nn.Conv2d(config.in_chans, config.width, 3)
        self.conv2 = nn.Conv2d(config.width, config.width, 3)
        self.scale = nn.Parameter(torch.empty(()))
        nn.init.normal_(self.scale)
        self.fc = self.make_classifier(config.num_classes)

    def forward_features(self, x):
        self.check_input(x)
        return self.relu(self.conv2(self.relu(self.conv1(x))))

    def forward_head(self, features, pre_logits=False):
        pooled = self.scale * features.mean((2, 3))
        return pooled if pre_logits else self.fc(pooled)


@pytest.fixture
def own(monkeypatch):
    monkeypatch.setattr(convzoo.registry, "_ENTRIES", dict(convzoo.registry._ENTRIES))
    convzoo.register(Own, [OwnConfig(name="own"), OwnConfig(name="own_wide", width=16)], family="own", year=2026)


def test_an_architecture_of_ones_own(own, monkeypatch, tmp_path):
    assert convzoo.list_models(family="own") == ["own", "own_wide"]
    info = convzoo.model_info("own_wide")
    assert (info.family, info.paper, info.year, info.params) == ("own", None, 2026, 2651)
    assert info.options == {"width": 16, "slope": 1.5}
    assert "own" in convzoo.list_models(max_params=1000)
    torch.manual_seed(0)
    model = convzoo.create_model("own", num_classes=3, slope=0.5)
    torch.manual_seed(1)
    other = convzoo.create_model("own", num_classes=3)
    assert torch.isfinite(model.scale)
    assert model.scale != other.scale  # drawn, by the net's own code
    assert model.conv1.weight.std() > 0.05  # drawn, by the framework's rule, for the net has none of its own
    x = torch.rand(2, 1, 28, 28)
    assert model.eval()(x).shape == (2, 3)
    counted = convzoo.profile(model, (1, 28, 28))
    assert (counted.params, counted.macs) == (692, 26 * 26 * 8 * 9 + 24 * 24 * 8 * 72 + 24)
    assert convzoo.cam(model, x, layer="conv2").maps.shape == (2, 1, 24, 24)
    with pytest.raises(ValueError, match=r"own does not say which layer to explain.*pass layer="):
        convzoo.cam(model, x)
    monkeypatch.setattr(Own, "stages", {"stage1": "conv1", "stage2": "conv2"})
    assert convzoo.cam(model, x).maps.shape == (2, 1, 24, 24)
    assert list(convzoo.feature_maps(model, x)) == ["stage1", "stage2"]
    with torch.no_grad():
        torch.testing.assert_close(convzoo.optimize_for_inference(model)(x), model(x))
    folder = convzoo.save_pretrained(model, tmp_path / "own", tag="mine", classes=["a", "b", "c"], mean=0.5, std=0.5)
    loaded = convzoo.create_model("own", pretrained=folder)
    assert torch.equal(loaded(x), model(x))
    assert loaded.config == model.config
    assert loaded.weights.classes == ("a", "b", "c")
    loaded.reset_classifier(4)
    assert (loaded.weights.classes, loaded.num_classes) == ((), 4)
    assert torch.equal(copy.deepcopy(loaded)(x), loaded(x))
    with pytest.raises(ValueError, match=r"own needs at least 5x5 pixels \(two convolutions of 3 pixels\), got 4x4"):
        loaded(torch.rand(1, 1, 4, 4))


def test_what_cannot_be_registered(own):
    row = OwnConfig(name="another")
    for wrong in (nn.Linear, "Own", Own(row), None):
        with pytest.raises(TypeError, match="model_class must be a subclass of Classifier, got"):
            convzoo.register(wrong, row, family="own")
    with pytest.raises(TypeError, match="variants are rows of ModelConfig, got 'another'"):
        convzoo.register(Own, ["another"], family="own")
    with pytest.raises(TypeError, match="family must be a string"):
        convzoo.register(Own, row, family=3)
    for name in ("a.b", "a/b", "", "a b"):
        with pytest.raises(ValueError, match="a model's name is letters, digits"):
            convzoo.register(Own, OwnConfig(name=name), family="own")
    with pytest.raises(ValueError, match="the model name 'own' is taken"):
        convzoo.register(Own, [row, OwnConfig(name="own")], family="own")
    assert "another" not in convzoo.list_models()  # all rows or none


def test_public_names():
    """One table; what editors read says the same."""
    shown = inspect.getsource(convzoo).partition("if _TYPE_CHECKING:")[2].partition("__version__")[0]
    read = {line.split()[-1]: line.split()[1].removeprefix(".") for line in shown.splitlines() if " as " in line}
    assert read == convzoo._MODULE_OF
    assert convzoo.__all__ == sorted({*read, "__version__"})
    assert set(convzoo.__all__) <= set(dir(convzoo))
    assert not {"annotations", "import_module", "registry"} & set(dir(convzoo))
    for name in dir(convzoo):
        assert getattr(convzoo, name) is not None
    with pytest.raises(AttributeError, match=r"has no attribute 'resnet18'; dir\(convzoo\)"):
        convzoo.resnet18  # noqa: B018
