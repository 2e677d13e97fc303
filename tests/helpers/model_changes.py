"""Changes that people make to models, drawn at random: other layers, hooks, wrappers, pruning, shared parts, ..."""

from __future__ import annotations

import functools
import random
import types
import warnings
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import convzoo
from convzoo._wrappers import unwrap
from convzoo.models import resnet, t2t_vit

CHANGES: dict[str, Callable] = {}


def change(function):
    CHANGES[function.__name__] = function
    return function


def places(model: nn.Module, *kinds: type) -> list[str]:
    """Where modules can be replaced: not inside what was compiled, which would go on running the old one."""
    named = [(path, module) for path, module in model.named_modules() if path and not path.endswith("._orig_mod")]
    return [path for path, module in named if isinstance(module, kinds)]


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def pick(model: nn.Module, draw: random.Random, *kinds: type, exact: bool = False) -> str | None:
    found = [path for path in places(model, *kinds) if not exact or type(model.get_submodule(path)) in kinds]
    return draw.choice(found) if found else None


# Layers of other classes


class FrozenBatchNorm(nn.Module):
    """Batch norm by hand, as detection libraries have it."""

    def __init__(self, norm):
        super().__init__()
        scale = (
            norm.weight * (norm.running_var + norm.eps).rsqrt()
            if norm.weight is not None and norm.running_var is not None
            else torch.ones(1)
        )
        self.register_buffer("scale", scale.detach().reshape(-1, 1, 1))

    def forward(self, x):
        return x * self.scale + 0.1


class ShiftedBatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 0.3


class Beside(nn.Module):
    """Adds to a layer what another one's weights say, without owning that one."""

    def __init__(self, layer, other):
        super().__init__()
        self.layer = layer
        self.other = [weakref.ref(other)]

    def forward(self, *args):
        return self.layer(*args) + self.other[0]().weight.mean()


class Scale(nn.Module):
    """A LayerScale of convolutional maps, or of tokens."""

    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, width))

    def forward(self, x):
        return x * (self.gamma[:, None, None] if x.ndim == 4 else self.gamma)


def take_weights(layer: nn.Module, other: nn.Module) -> None:
    """Put the weights that ``other`` has now into ``layer``, also where they are pruned or parametrised."""
    layer.weight = nn.Parameter(other.weight.detach().clone())
    if other.bias is not None:
        layer.bias = nn.Parameter(other.bias.detach().clone())


class LoraLinear(nn.Linear):
    @classmethod
    def of(cls, linear):
        lora = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        take_weights(lora, linear)
        lora.down = nn.Linear(linear.in_features, 2, bias=False)
        lora.up = nn.Linear(2, linear.out_features, bias=False)
        return lora

    def forward(self, x):
        return super().forward(x) + self.up(self.down(x))


class Wrapped(nn.Module):
    """An adapter beside a layer that stays what it is."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer

    def forward(self, *args):
        return self.base_layer(*args) * 1.25


class Standardised(nn.Conv2d):
    """Weight standardisation."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Quantised(Tensor):
    """A tensor subclass, as quantisation libraries put into layers."""

    @staticmethod
    def __new__(cls, data):
        return torch.Tensor._make_subclass(cls, data)


class AlwaysDropout(nn.Dropout):
    """One that works in evaluation mode too (with a fixed mask, to be comparable)."""

    def forward(self, x):
        return x * (torch.arange(x.shape[-1]) % 3 != 0).to(x.dtype)


def norm_instead(norm: nn.BatchNorm2d, draw: random.Random) -> nn.Module:
    width = norm.num_features
    shifted = ShiftedBatchNorm(width)
    shifted.load_state_dict(norm.state_dict(), strict=False)
    plain = nn.BatchNorm2d(width, affine=False, eps=0.1)
    plain.running_mean.uniform_(-0.3, 0.3)
    instance = nn.InstanceNorm2d(width, track_running_stats=True)
    return draw.choice([
        nn.SyncBatchNorm.convert_sync_batchnorm(norm), nn.GroupNorm(1, width), instance, plain, shifted,
        FrozenBatchNorm(norm), nn.BatchNorm2d(width, track_running_stats=False), nn.Identity(),
        nn.Sequential(norm, Scale(width)), Wrapped(norm),
    ])  # fmt: skip


@change
def other_norm(model, draw):
    path = pick(model, draw, nn.BatchNorm2d, exact=True)
    if path:
        put(model, path, norm_instead(model.get_submodule(path), draw))


@change
def all_other_norms(model, draw):
    for path in places(model, nn.BatchNorm2d):
        put(model, path, norm_instead(model.get_submodule(path), draw))


@change
def other_activation(model, draw):
    path = pick(model, draw, nn.ReLU, nn.Sigmoid, nn.GELU)
    choices = [
        nn.SiLU(), nn.LeakyReLU(0.2), nn.LeakyReLU(0.3, inplace=True), nn.GELU("tanh"), nn.GELU(), nn.ReLU6(),
        nn.Tanh(), nn.PReLU(), nn.Softplus(), nn.Hardswish(), nn.Identity(), Wrapped(nn.ReLU()), nn.ReLU(),
        nn.Sigmoid(), nn.Sequential(nn.ReLU(), nn.Tanh()), nn.ReLU(inplace=True),
    ]  # fmt: skip
    if path:
        put(model, path, draw.choice(choices))


@change
def other_linear(model, draw):
    path = pick(model, draw, nn.Linear, exact=True)
    if not path:
        return
    linear = model.get_submodule(path)
    put(model, path, draw.choice([LoraLinear.of(linear), Wrapped(linear), nn.Sequential(linear, nn.Dropout(0.3))]))


@change
def other_convolution(model, draw):
    path = pick(model, draw, nn.Conv2d, exact=True)
    if not path:
        return
    conv = model.get_submodule(path)
    if draw.random() < 0.4:
        fresh: nn.Module = Standardised(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            conv.groups, conv.bias is not None,
        )  # fmt: skip
        take_weights(fresh, conv)
    elif draw.random() < 0.5:
        fresh = Wrapped(conv)
    else:
        fresh = conv
        if min(conv.kernel_size) > 1 and max(conv.padding) == 1:
            conv.padding_mode = "replicate"
            conv._reversed_padding_repeated_twice = [1, 1, 1, 1]
    put(model, path, fresh)


@change
def dropout_that_works(model, draw):
    path = pick(model, draw, nn.Dropout, nn.Dropout2d)
    if path:
        put(model, path, AlwaysDropout())


# What runs beside a layer


@change
def hook(model, draw):
    module = unwrap(draw.choice(list(model.modules())))

    def double(module, args, output):
        return output * 1.5 if isinstance(output, Tensor) else None

    def look(module, args, output):
        return None

    def before(module, args):
        return (args[0] * 0.75, *args[1:])

    if draw.random() < 0.3:
        module.register_forward_pre_hook(before)
    else:
        module.register_forward_hook(draw.choice([double, look]))


@change
def own_forward(model, draw):
    """A method put on one instance, which knows the usual one in one of the ways that Python has."""
    module = unwrap(draw.choice([each for each in model.modules() if not isinstance(each, nn.ModuleList)]))
    usual = module.forward

    def forward(self, *args, **kwargs):
        output = usual(*args, **kwargs)
        return output + 0.25 if isinstance(output, Tensor) else output

    def shifted(*args, usual=usual, **kwargs):
        output = usual(*args, **kwargs)
        return output - 0.25 if isinstance(output, Tensor) else output

    bound = types.MethodType(forward, module)
    module.forward = draw.choice([bound, shifted, functools.partial(shifted, usual=usual)])


@change
def weak_reference(model, draw):
    path = pick(model, draw, nn.Linear, nn.Conv2d, exact=True)
    other = pick(model, draw, nn.Linear, nn.Conv2d, exact=True)
    if path and other != path:
        put(model, path, Beside(model.get_submodule(path), model.get_submodule(other)))


@change
def parametrised(model, draw):
    path = pick(model, draw, nn.Linear, nn.Conv2d, exact=True)
    if not path:
        return
    layer = model.get_submodule(path)
    kind = draw.randrange(6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == 0:
            parametrizations.weight_norm(layer)
        elif kind == 1:
            parametrizations.spectral_norm(layer)
        elif kind == 2:
            nn.utils.weight_norm(layer)
        elif kind == 3:
            nn.utils.spectral_norm(layer)
        else:
            prune.random_unstructured(layer, "weight", 0.5)
            if kind == 5 and layer.bias is not None:
                prune.random_unstructured(layer, "bias", 0.5)


@change
def quantised(model, draw):
    path = pick(model, draw, nn.Linear, nn.Conv2d, exact=True)
    if path:
        layer = model.get_submodule(path)
        layer.weight = nn.Parameter(Quantised(layer.weight.detach().clone()), requires_grad=False)


@change
def compiled_part(model, draw):
    path = pick(model, draw, nn.ReLU, nn.Conv2d, nn.Sequential, resnet.BasicBlock)
    if path:
        put(model, path, torch.compile(model.get_submodule(path), backend="eager"))


# Parts in two places


def same_shapes(first, second):
    return [p.shape for p in first.parameters()] == [p.shape for p in second.parameters()]


@change
def shared(model, draw):
    """One module in two places."""
    kind = draw.choice([nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear, resnet.BasicBlock, t2t_vit.Block])
    found = [path for path in places(model, kind) if type(model.get_submodule(path)) is kind]
    parts = [(path, model.get_submodule(path)) for path in draw.sample(found, len(found))]
    for _, one in parts:
        for path, other in parts:
            if one is not other and same_shapes(one, other) and one.extra_repr() == other.extra_repr():
                put(model, path, one)
                return


@change
def tied(model, draw):
    """One parameter in two layers."""
    layers = [layer for layer in model.modules() if type(layer) in (nn.Conv2d, nn.Linear)]
    for first in draw.sample(layers, len(layers)):
        for second in layers:
            if first is not second and first.weight.shape == second.weight.shape:
                second.weight = first.weight
                return


# Architectures of one's own


@change
def own_shortcut(model, draw):
    """ResNet-D's average pooling, or a scaled shortcut."""
    found = [each for each in model.modules() if getattr(each, "downsample", None) is not None]
    if found:
        block = draw.choice(found)
        conv, norm = block.downsample[0], block.downsample[1]
        stride, conv.stride = conv.stride, (1, 1)
        pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False) if stride != (1, 1) else nn.Identity()
        layers = [pool, conv, norm, Scale(conv.out_channels)]
        block.downsample = nn.Sequential(*layers[: draw.choice([3, 4])])


@change
def other_attention(model, draw):
    found = [each for each in model.modules() if hasattr(each, "qkv") and type(each.qkv) is nn.Linear]
    if not found:
        return
    attention = draw.choice(found)
    kind = draw.randrange(3)
    if kind == 0:
        attention.qkv.bias = nn.Parameter(torch.randn(attention.qkv.out_features) * 0.3)
    elif kind == 1:
        attention.scale *= 1.7
    elif type(attention.proj) is nn.Linear:
        attention.proj = nn.Sequential(attention.proj, Scale(attention.proj.out_features))


@change
def other_token_norm(model, draw):
    path = pick(model, draw, nn.LayerNorm)
    if path:
        norm = model.get_submodule(path)
        fresh = nn.LayerNorm(norm.normalized_shape, eps=0.5)
        put(model, path, draw.choice([fresh, nn.Identity(), nn.Sequential(norm, Scale(norm.normalized_shape[0]))]))


@change
def fewer_blocks(model, draw):
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1:
            del module[draw.randrange(len(module))]
            return


@change
def subclass(model, draw):
    """Of the net itself, with features of its own."""

    class Own(type(model)):
        def forward_features(self, x):
            return super().forward_features(x) * 0.5

    model.__class__ = Own


class Taps(nn.Module):
    """A perceptual loss: what is in the middle of a sequence of layers is read."""

    def __init__(self, net: nn.Module, layers: nn.Sequential) -> None:
        super().__init__()
        self.net, self.layers = net, layers

    def forward(self, x: Tensor) -> Tensor:
        found = [self.net(x)]
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index % 2 == 0:
                found.append(x.flatten(2).mean(2))
        return torch.cat(found, 1)


class Regularised(nn.Module):
    """Reads the layers' weights beside calling them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + sum(p.square().mean() for p in self.net.parameters()) * 10


class ReadsInside(nn.Module):
    """Calls a layer that is inside a block of another model."""

    def __init__(self, net: nn.Module, inner: nn.Module) -> None:
        super().__init__()
        self.net, self.path = net, next(name for name, each in net.named_modules() if each is inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + self.net.get_submodule(self.path)(x).mean((1, 2, 3))[:, None]


class Keeps(nn.Module):
    """Keeps what a layer in the middle gives, for later."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.kept = net, []
        conv = next(each for each in net.modules() if isinstance(each, nn.Conv2d))
        conv.register_forward_hook(lambda module, args, output: self.kept.append(output))

    def forward(self, x: Tensor) -> Tensor:
        self.kept.clear()
        logits = self.net(x)
        return logits + self.kept[0].mean((1, 2, 3))[:, None]


def wrap(model: nn.Module, draw: random.Random) -> nn.Module:
    """The model, or inside a module of the user's."""
    first = next((each for each in model.modules() if isinstance(each, nn.Conv2d)), None)
    kind = draw.randrange(8)
    features = getattr(model, "features", None)
    if kind == 0 and isinstance(features, nn.Sequential):
        return Taps(model, features)
    if kind == 1:
        return Regularised(model)
    if kind == 2 and first is not None:
        return ReadsInside(model, first)
    if kind == 3 and first is not None:
        return Keeps(model)
    if kind == 4:
        return nn.Sequential(model, nn.LogSoftmax(1))
    return model


def fill_statistics(model: nn.Module) -> None:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2.0)
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.uniform_(-0.3, 0.3)


# Small nets of every family: name, options
NETS: tuple[tuple[str, dict], ...] = (
    ("resnet18", {"depths": (1, 2, 1, 1), "img_size": 32}),
    ("resnet50", {"depths": (1, 1, 1, 1), "img_size": 32}),
    ("resnext50_32x4d", {"depths": (1, 1, 1, 1), "img_size": 32}),
    ("vgg11_bn", {"head": "gap", "img_size": 33}),
    ("vgg11", {"head": "gap", "img_size": 32}),
    ("googlenet_bn", {"img_size": 32}),
    ("googlenet", {"img_size": 32, "aux": True}),
    ("googlenet_sparse_bn", {"img_size": 32}),
    ("lenet5", {}),
    ("lenet5_1998", {}),
    ("lenet_sigmoid", {"img_size": 36}),
    ("mnist_net", {}),
    ("basic_cnn", {}),
    ("inception_cnn", {}),
    ("residual_cnn", {}),
    ("fcn_gap", {}),
    ("mnist_resnet", {"img_size": 12}),
    ("t2t_vit_7", {"depth": 2, "embed_dim": 48, "img_size": 32}),
    ("t2t_vit_t_14_small", {"depth": 2, "embed_dim": 48, "num_heads": 4, "img_size": 32}),
)
LARGE_NETS: tuple[tuple[str, dict], ...] = (
    ("cnn_all_tricks", {"img_size": 33}),
    ("inception_v3", {"img_size": 80}),
    ("alexnet_2012", {"img_size": 64}),
)


def changed_model(seed: int, nets=NETS) -> tuple[nn.Module, Tensor, str]:
    """A net, changed; images for it; what it is, in words."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    name, options = nets[seed % len(nets)]
    model = convzoo.create_model(name, num_classes=5, **options).eval()
    fill_statistics(model)
    text = [name]
    with torch.no_grad():
        for _ in range(draw.choice([1, 1, 2, 3])):
            kind = draw.choice(list(CHANGES))
            CHANGES[kind](model, draw)
            text.append(kind)
        images = torch.randn(2, model.in_chans, *model.img_size)
        outer = wrap(model, draw)
    if outer is not model:
        text.append(type(outer).__name__)
    return outer.eval(), images, f"{seed}: " + ", ".join(text)
