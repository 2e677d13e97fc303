"""What a classifier refuses to read, in words; and that nothing which works is refused."""

import copy
import warnings

import pytest
import torch
from helpers.sizes import size_of
from torch import nn

import convzoo

NETS = ("lenet5", "lenet5_1998", "fcn_gap", "mnist_resnet", "resnet18", "vgg11", "googlenet_bn", "inception_v3",
        "cnn_all_tricks", "alexnet", "t2t_vit_7", "t2t_vit_t_14_small")  # fmt: skip


def build(name, **options):
    head = {"head": "gap"} if name == "vgg11" else {}
    return convzoo.create_model(name, num_classes=3, img_size=size_of(name), **head, **options).eval()


@pytest.fixture(scope="module", params=NETS)
def model(request):
    return build(request.param)


def batch(model, count=2):
    return torch.rand(count, model.in_chans, *model.img_size)


BYTES = r"has parameters of torch.float32, got images of {}; scale them to 0..1 and normalise"
KINDS = {
    torch.uint8: BYTES, torch.int64: BYTES, torch.int8: BYTES, torch.bool: BYTES,
    torch.float16: r"got images of torch.float16; convert them, images.to\(torch.float32\), or the model",
    torch.bfloat16: r"got images of torch.bfloat16; convert them",
    torch.float64: r"got images of torch.float64; convert them",
    torch.complex64: r"got images of torch.complex64; pass real numbers",
}  # fmt: skip


@pytest.mark.parametrize("call", ["__call__", "forward_features", "check_input"])
def test_types(model, call):
    name = model.config.name
    for dtype, words in KINDS.items():
        with pytest.raises(TypeError, match=f"{name} .*" + words.format(dtype)):
            getattr(model, call)(batch(model).to(dtype))
    with pytest.raises(TypeError, match=r"has parameters of torch.float64, got images of torch.float32"):
        copy.deepcopy(model).double()(batch(model))


def quantised(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)


def nested(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor(list(x))


REFUSED = {
    "quantised": (quantised, TypeError, r"got images of torch.quint8; pass images.dequantize\(\)"),
    "sparse": (lambda x: x.to_sparse(), TypeError, r"takes dense images, .*sparse_coo; pass images.to_dense\(\)"),
    "nested": (nested, TypeError, "takes images of one size, got a nested tensor"),
    "jagged": (lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged), TypeError, "got a nested tensor"),
    "meta": (lambda x: x.to("meta"), ValueError, "is on cpu, got images on meta; images on the meta device have no"),
    "none": (lambda x: x[:0], ValueError, r"takes one image or more, got a batch of none, \(0, "),
    "array": (lambda x: x.numpy(), TypeError, "takes a tensor of images, got ndarray"),
    "list": (list, TypeError, "takes a tensor of images, got list"),
    "nothing": (lambda x: None, TypeError, "takes a tensor of images, got NoneType"),
    "one": (lambda x: x[0], ValueError, r"add the batch dimension: images\[None\]"),
    "video": (lambda x: x[None], ValueError, "stack the images into one batch"),
    "no channels": (lambda x: x[:, :0], ValueError, "stack the images into one batch"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_tensors(model, kind):
    change, error, words = REFUSED[kind]
    with pytest.raises(error, match=f"{model.config.name} {words}" if words.startswith("takes") else words):
        model(change(batch(model)))


def test_channels_last_by_shape():
    with pytest.raises(ValueError, match=r"got \(2, 32, 32, 3\); put the channels second: images.movedim\(3, 1\)"):
        build("resnet18")(torch.rand(2, 32, 32, 3))


def test_a_model_without_numbers():
    with torch.device("meta"):
        model = build("resnet18")
    with pytest.raises(ValueError, match=r"is on meta, got images on cpu; the model has no numbers yet: .*to_empty"):
        model(torch.rand(1, 3, 32, 32))
    images = torch.rand(1, 3, 32, 32, device="meta")
    assert model(images).is_meta
    with pytest.raises(TypeError, match=r"parameters of torch.float32, got images of torch.float16; convert them"):
        model(images.half())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(model, dtype):
    with torch.autocast("cpu", torch.bfloat16):
        assert model(batch(model).to(dtype)).shape == (2, 3)
        with pytest.raises(TypeError, match=r"got images of torch.float64"):
            model(batch(model).double())
        with pytest.raises(TypeError, match=r"got images of torch.uint8"):
            model(batch(model).byte())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_type(model, dtype):
    assert copy.deepcopy(model).to(dtype)(batch(model).to(dtype)).dtype == dtype


def test_transforms_of_functions():
    """Per-sample gradients and ensembles replace the parameters by tensors of other kinds."""
    model = build("lenet5")
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters, image):
        return torch.func.functional_call(model, parameters, (image[None],)).sum()

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, batch(model))
    assert gradients["conv1.weight"].shape == (2, 6, 1, 5, 5)
    stacked = {name: torch.stack([value, value]) for name, value in parameters.items()}
    out = torch.func.vmap(lambda each, x: torch.func.functional_call(model, each, (x,)), (0, None))(
        stacked, batch(model)
    )
    assert out.shape == (2, 2, 3)


class ToFloat(nn.Module):
    def forward(self, x):
        return x.float() / 255


class Grey(nn.Module):
    def forward(self, x):
        return x.mean(1, keepdim=True)


def test_a_front_of_ones_own():
    """What stands before the first layer may take anything; what it takes is not ours to say."""
    model = build("resnet18")
    first = model.conv1
    model.conv1 = nn.Sequential(ToFloat(), first)
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 3)
    model.conv1 = nn.Sequential(Grey(), nn.Conv2d(1, 64, 7, 2, 3))
    assert model(torch.rand(2, 5, 32, 32)).shape == (2, 3)
    model.conv1 = first
    first.register_forward_pre_hook(lambda module, inputs: (inputs[0].float(),))
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 3)


def test_a_moved_forward():
    """Tools that load layers on demand replace ``forward`` of each of them."""
    model = build("resnet18")
    forward = model.conv1.forward
    model.conv1.forward = lambda x: forward(x.float())
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.float64)).shape == (2, 3)


@pytest.mark.parametrize(("name", "options"), [
    ("resnet18", {"depths": (1, 1, 1, 1)}), ("lenet5", {}), ("t2t_vit_7", {"depth": 1}),
])  # fmt: skip
def test_export_and_compilation(name, options):
    model = build(name, **options)
    x = batch(model)
    with torch.no_grad():
        want = model(x)
        dynamic = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        torch.testing.assert_close(dynamic(x), want)
        more = batch(model, 5)
        torch.testing.assert_close(dynamic(more), model(more))
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), want)
    torch._dynamo.reset()
