"""How a layer's output is read as maps: what is known, measured, refused; and several layers at once."""

import pytest
import torch
from helpers.cam_nets import UserNet, close, images, make
from torch import nn
from torch.nn import functional

import convzoo
from convzoo import cam, cam_layers
from convzoo.explain.layers import walk


class Blocks(nn.Module):
    """Two convolutions, and between them and the head whatever a test puts there."""

    def __init__(self, layer, pool=(2, 3), width=6):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 5, 3, padding=1)
        self.conv2 = nn.Conv2d(5, width, 4, 4)
        self.layer = layer
        self.head = nn.Linear(width, 4)
        self.pool = pool

    def forward(self, x):
        return self.head(self.layer(self.conv2(self.conv1(x).relu())).mean(self.pool))


class Permute(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, x):
        return x.permute(self.order)


class Windows(nn.Module):
    """Splits maps into windows that join the batch, and puts them together again."""

    def __init__(self):
        super().__init__()
        self.inner = Permute(0, 1, 2, 3)

    def forward(self, x):
        n, c, h, w = x.shape
        x = self.inner(x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, 2, 2))
        return x.reshape(n, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


class Tokens(nn.Module):
    """A vision transformer's beginning: patches, extra tokens before them, a mixing layer."""

    def __init__(self, extra=1, *, fixed=True, batch_first=True, side=(4, 4)):
        super().__init__()
        torch.manual_seed(0)
        self.extra, self.batch_first = extra, batch_first
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.tokens = nn.Parameter(torch.randn(1, extra, 8)) if extra else None
        self.positions = nn.Parameter(torch.randn(1, extra + side[0] * side[1], 8)) if fixed else 0.0
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.extra:
            x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        x = x + self.positions
        x = self.norm(x if self.batch_first else x.transpose(0, 1))
        return self.head(functional.gelu(x).mean(1 if self.batch_first else 0))


class Arranged(nn.Module):
    """Patches as tokens in an order of the test's own, with two tokens more to put among them, and a block."""

    def __init__(self, arrange, patches=None):
        super().__init__()
        torch.manual_seed(0)
        self.arrange = arrange
        self.patches = patches or nn.Conv2d(3, 8, 8, 8)
        self.more = nn.Parameter(torch.randn(1, 2, 8))
        self.norm = nn.LayerNorm(8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.last = nn.Identity()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x)
        one, two = self.more.expand(len(x), -1, -1).split(1, 1)
        x = self.last(self.block(self.norm(self.arrange(x, one, two))))
        return self.head(functional.gelu(x).mean(1))


def rowwise(x):
    return x.flatten(2).transpose(1, 2)


def columnwise(x):
    return rowwise(x.transpose(2, 3))


def snake(x):
    return rowwise(torch.stack([row.flip(2) if odd % 2 else row for odd, row in enumerate(x.unbind(2))], 2))


def windows(x):
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(n, h * w, c)


def grid_of(h, w, first=0):
    return lambda y: y[:, first : first + h * w].transpose(1, 2).unflatten(2, (h, w))


def grid_by_columns(h, w, first=0):
    return lambda y: grid_of(w, h, first)(y).transpose(2, 3)


class Unfolded(nn.Module):
    """Patches without a convolution."""

    def __init__(self, *, fixed):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(3 * 64, 8)
        self.positions = nn.Parameter(torch.randn(1, 16, 8)) if fixed else 0.0
        self.relu = nn.ReLU()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        patches = functional.unfold(x, 8, stride=8).transpose(1, 2)
        return self.head(self.relu(self.embed(patches) + self.positions).mean(1))


def by_hand(model, x, layer, arrange, target=1):
    """HiResCAM at a module, its output arranged as maps (N, C, h, w)."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: kept.append(output))
    score = model(x)[:, target].sum()
    handle.remove()
    gradient = torch.autograd.grad(score, kept[-1])[0]
    return (arrange(gradient) * arrange(kept[-1])).sum(1).detach()


class TestAxes:
    @pytest.mark.parametrize("size", [(32, 32), (32, 48)])
    @pytest.mark.parametrize(
        ("order", "back", "pool"),
        [
            ((0, 1, 2, 3), (0, 1, 2, 3), (2, 3)),
            ((0, 2, 3, 1), (0, 3, 1, 2), (1, 2)),  # channels last
            ((0, 1, 3, 2), (0, 1, 3, 2), (2, 3)),  # width before height
            ((0, 3, 2, 1), (0, 3, 2, 1), (1, 2)),
        ],
    )
    def test_are_measured(self, order, back, pool, size):
        model, x = Blocks(nn.Sequential(Permute(*order), nn.ReLU()), pool), torch.rand(2, 3, *size)
        r = cam(model, x, 1, layer="layer.1")
        assert r.maps.shape == (2, 1, size[0] // 4, size[1] // 4)
        close(r.maps[:, 0], by_hand(model, x, "layer.1", lambda y: y.permute(back)), 1e-5)

    def test_are_measured_where_as_many_channels_as_columns_make_shapes_the_same(self):
        model, x = (
            Blocks(nn.Sequential(Permute(0, 2, 3, 1), nn.LayerNorm(8)), (1, 2), width=8),
            torch.rand(1, 3, 32, 32),
        )
        r = cam(model, x, 1, layer="layer.1")
        close(r.maps[:, 0], by_hand(model, x, "layer.1", lambda y: y.permute(0, 3, 1, 2)), 1e-5)

    def test_are_measured_for_a_model_that_the_meta_device_cannot_run(self):
        class Decides(nn.Module):
            def forward(self, x):
                return x if float(x.detach().sum()) > 1e9 else x.relu()

        model, x = Blocks(Decides()), torch.rand(1, 3, 32, 32)
        close(cam(model, x, 1, layer="layer").maps[:, 0], by_hand(model, x, "layer", lambda y: y), 1e-5)

    @pytest.mark.parametrize("layer", [nn.AdaptiveAvgPool2d(3), nn.Dropout2d(), nn.Identity(), nn.Softmax2d()])
    def test_of_layers_that_keep_them(self, layer):
        assert cam(Blocks(layer), torch.rand(1, 3, 32, 32), 1, layer="layer").maps.shape[2] == (
            3 if isinstance(layer, nn.AdaptiveAvgPool2d) else 8
        )

    def test_that_cannot_be_known_are_refused(self):
        class Fixed(nn.Module):  # one size only, and no layer that says where the channels are
            def forward(self, x):
                assert x.shape[2:] == (8, 8)
                return x.permute(0, 2, 3, 1)

        x = torch.rand(2, 3, 32, 32)
        model = Blocks(Fixed(), (1, 2))
        with pytest.raises(ValueError, match=r"layer 'layer' gives \(2, 8, 8, 6\).*not certain.*reshape="):
            cam(model, x, layer="layer")
        r = cam(model, x, 1, layer="layer", reshape=lambda y: y.permute(0, 3, 1, 2))
        close(r.maps[:, 0], by_hand(model, x, "layer", lambda y: y.permute(0, 3, 1, 2)), 1e-5)

    def test_of_attention_probabilities_are_refused(self):
        class Attention(nn.Module):
            def forward(self, x):
                flat = x.flatten(2)
                self.softmax = nn.Identity()
                return (flat.transpose(1, 2) @ flat)[:, None].expand(-1, 6, -1, -1).softmax(-1)

        with pytest.raises(ValueError, match="not certain"):
            cam(Blocks(Attention()), torch.rand(1, 3, 32, 32), layer="layer")

    def test_windows_in_the_batch_are_refused(self):
        with pytest.raises(ValueError, match=r"gives \(8, 6, 2, 2\).*not certain"):
            cam(Blocks(Windows()), torch.rand(2, 3, 16, 16), layer="layer.inner")


class TestTokens:
    @pytest.mark.parametrize("fixed", [False, True])
    @pytest.mark.parametrize("extra", [0, 1])
    def test_of_a_grid(self, extra, fixed):
        model, x = Tokens(extra, fixed=fixed), torch.rand(2, 3, 32, 32)
        r = cam(model, x, 1, layer="norm")
        wanted = by_hand(model, x, "norm", lambda y: y[:, extra:].transpose(1, 2).unflatten(2, (4, 4)))
        close(r.maps[:, 0], wanted, 1e-5)

    def test_of_a_grid_that_is_not_square(self):
        model, x = Tokens(side=(2, 8)), torch.rand(2, 3, 16, 64)
        r = cam(model, x, 1, layer="norm")
        close(r.maps[:, 0], by_hand(model, x, "norm", lambda y: y[:, 1:].transpose(1, 2).unflatten(2, (2, 8))), 1e-5)

    @pytest.mark.parametrize("extra", [2, 5])
    def test_with_registers_are_refused_or_told(self, extra):
        """Five extra tokens before 2x2 make 9: not a map of 3x3."""
        side = (2, 2)
        model, x = Tokens(extra, side=side), torch.rand(2, 3, 16, 16)
        with pytest.raises(ValueError, match=r"not certain.*reshape="):
            cam(model, x, layer="norm")

        def grid(y):
            return y[:, extra:].transpose(1, 2).unflatten(2, side)

        close(cam(model, x, 1, layer="norm", reshape=grid).maps[:, 0], by_hand(model, x, "norm", grid), 1e-5)

    @pytest.mark.parametrize("count", [1, 2, 16, 17])
    def test_before_the_batch_are_refused(self, count):
        model = Tokens(batch_first=False)
        with pytest.raises(ValueError, match="not certain"):
            cam(model, torch.rand(count, 3, 32, 32), layer="norm")

    def test_without_a_convolution_are_measured_or_refused(self):
        x = torch.rand(2, 3, 32, 32)
        model = Unfolded(fixed=False)
        r = cam(model, x, 1, layer="embed")
        close(r.maps[:, 0], by_hand(model, x, "embed", lambda y: y.transpose(1, 2).unflatten(2, (4, 4))), 1e-5)
        with pytest.raises(ValueError, match="not certain"):
            cam(Unfolded(fixed=True), x, layer="relu")

    def test_of_the_zoo_inside_a_module_of_the_users_own(self):
        torch.manual_seed(0)
        inner = convzoo.create_model("t2t_vit_7", 5, img_size=64, embed_dim=32, depth=2).eval()
        model, x = nn.Sequential(nn.Identity(), inner), torch.rand(1, 3, 64, 64)
        wanted = cam(inner, x, 3, method="hires_cam", layer="blocks.0.norm1").maps
        close(cam(model, x, 3, layer="1.blocks.0.norm1").maps, wanted, 1e-5)
        embedded = cam(inner, x, 3, layer="tokens_to_token.attention1")
        assert embedded.maps.shape[2:] == (16, 16)
        with pytest.raises(ValueError, match=r"layer 'head' gives \(1, 5\)"):
            cam(inner, x, layer="head")


class TestOrderOfTokens:
    @pytest.mark.parametrize("layer", ["norm", "last"])
    @pytest.mark.parametrize(("h", "w"), [(4, 4), (3, 6), (6, 3), (2, 2), (1, 4), (5, 1)])
    @pytest.mark.parametrize(
        ("arrange", "grid"),
        [
            (lambda x, one, two: rowwise(x), grid_of),
            (lambda x, one, two: torch.cat([one, rowwise(x)], 1), lambda h, w: grid_of(h, w, 1)),
            (lambda x, one, two: torch.cat([rowwise(x), one], 1), grid_of),
            (lambda x, one, two: columnwise(x), grid_by_columns),
            (lambda x, one, two: torch.cat([one, columnwise(x)], 1), lambda h, w: grid_by_columns(h, w, 1)),
            (lambda x, one, two: torch.cat([columnwise(x), one], 1), grid_by_columns),
        ],
        ids=["rows", "class, rows", "rows, class", "columns", "class, columns", "columns, class"],
    )
    def test_is_measured(self, arrange, grid, h, w, layer):
        model, x = Arranged(arrange).eval(), torch.rand(2, 3, 8 * h, 8 * w)
        r = cam(model, x, 1, layer=layer)
        assert r.maps.shape == (2, 1, h, w)
        close(r.maps[:, 0], by_hand(model, x, layer, grid(h, w)), 1e-5)

    def test_of_a_class_token_that_comes_last_where_the_size_tells_the_grid(self):
        model, x = Arranged(lambda x, one, two: torch.cat([rowwise(x), one], 1)).eval(), torch.rand(1, 3, 32, 32)
        model.patches = nn.Sequential(nn.PixelUnshuffle(8), Permute(0, 2, 3, 1), nn.Linear(192, 8), Permute(0, 3, 1, 2))
        assert not any(isinstance(module, nn.Conv2d) for module in model.modules())
        close(cam(model, x, 1, layer="norm").maps[:, 0], by_hand(model, x, "norm", grid_of(4, 4)), 1e-5)

    @pytest.mark.parametrize("value", [0.0, 1.0, 200.0])
    def test_does_not_depend_on_the_picture(self, value):
        model = Arranged(lambda x, one, two: torch.cat([rowwise(x), one], 1)).eval()
        x = torch.full((1, 3, 24, 40), value)
        close(cam(model, x, 1, layer="last").maps[:, 0], by_hand(model, x, "last", grid_of(3, 5)), 1e-5)

    @pytest.mark.parametrize(("kernel", "padding"), [(7, 3), (7, 2), (5, 1)])
    @pytest.mark.parametrize("first", [True, False])
    def test_of_patches_that_overlap(self, kernel, padding, first):
        def arrange(x, one, two):
            return torch.cat([one, rowwise(x)] if first else [rowwise(x), one], 1)

        torch.manual_seed(0)
        model = Arranged(arrange, nn.Conv2d(3, 8, kernel, 4, padding)).eval()
        x = torch.rand(1, 3, 32, 48)
        grid = grid_of(*model.patches(x).shape[2:], int(first))
        close(cam(model, x, 1, layer="last").maps[:, 0], by_hand(model, x, "last", grid), 1e-5)

    @pytest.mark.parametrize("size", [(32, 32), (32, 64), (48, 32)])
    @pytest.mark.parametrize(
        "arrange",
        [
            lambda x, one, two: torch.cat([one, two, rowwise(x)], 1),
            lambda x, one, two: torch.cat([rowwise(x), one, two], 1),
            lambda x, one, two: torch.cat([one, rowwise(x), two], 1),
            lambda x, one, two: torch.cat([rowwise(x)[:, :7], one, rowwise(x)[:, 7:]], 1),
            lambda x, one, two: snake(x),
            lambda x, one, two: windows(x),
            lambda x, one, two: rowwise(x)[:, torch.randperm(x[0, 0].numel(), generator=torch.Generator())],
            lambda x, one, two: rowwise(x).flip(1),
            lambda x, one, two: rowwise(x).mean(1, keepdim=True) + 0 * rowwise(x),  # every token looks everywhere
            lambda x, one, two: rowwise(x.roll(1, 3)),
        ],
        ids=["two first", "two last", "both ends", "between", "snake", "windows", "any", "back", "mixed", "shifted"],
    )
    def test_of_another_kind_is_refused(self, arrange, size):
        model, x = Arranged(arrange).eval(), torch.rand(2, 3, *size)
        with pytest.raises(ValueError, match=r"which of its tokens stands for which place .* not certain.*reshape="):
            cam(model, x, 1, layer="norm")

        def anyhow(y):
            return y[:, :4].transpose(1, 2).unflatten(2, (2, 2))

        close(cam(model, x, 1, layer="norm", reshape=anyhow).maps[:, 0], by_hand(model, x, "norm", anyhow), 1e-5)

    def test_leaves_the_model_and_the_random_numbers_alone(self):
        model, x = Arranged(lambda x, one, two: rowwise(x)).train(), torch.rand(2, 3, 32, 32)
        before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
        with torch.inference_mode():
            cam(model, x, 1, layer="last")
        assert torch.equal(torch.get_rng_state(), state)
        assert model.training
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_of_the_zoo_is_known(self, monkeypatch):
        monkeypatch.delattr("convzoo.explain.layers.token_order")
        model = convzoo.create_model("t2t_vit_7", 5, img_size=64, embed_dim=32, depth=2).eval()
        x = torch.rand(1, 3, 64, 64)
        r = cam(model, x, 3, method="hires_cam", layer="blocks.0.norm1")
        close(r.maps[:, 0], by_hand(model, x, "blocks.0.norm1", grid_of(4, 4, 1), 3), 1e-5)


class TestReshape:
    @pytest.mark.parametrize(
        ("reshape", "error", "words"),
        [
            (lambda y: y[:, 0], ValueError, r"reshape makes \(2, 8, 8\) of the output \(2, 6, 8, 8\) of layer 'conv2'"),
            (lambda y: None, ValueError, "reshape makes NoneType"),
            (lambda y: y[:1], ValueError, r"maps \(N, C, h, w\) of 2 images"),
            (7, TypeError, "reshape is a callable"),
        ],
    )
    def test_is_checked(self, reshape, error, words):
        with pytest.raises(error, match=words):
            cam(Blocks(nn.ReLU()), torch.rand(2, 3, 32, 32), layer="conv2", reshape=reshape)

    def test_needs_a_layer(self):
        with pytest.raises(TypeError, match="reshape is a callable for the output of layer="):
            cam(make("resnet18"), images(), reshape=lambda y: y)


class TestSeveral:
    def test_are_each_as_alone_and_averaged(self):
        model, x = make("resnet18"), images()
        r = cam(model, x, [[1, 7], [9, 0]], method="hires_cam", layer=["layer4", "layer3", "layer1"])
        total = 0.0
        for layer in ("layer4", "layer3", "layer1"):
            maps = cam(model, x, [[1, 7], [9, 0]], method="hires_cam", layer=layer).maps
            scaled = maps / maps.abs().amax((1, 2, 3), keepdim=True)
            total = total + functional.interpolate(scaled, (16, 16), mode="bilinear", align_corners=False)
        close(r.maps, total / 3)
        assert r.layer == "layer4, layer3, layer1"
        assert r.bias is None

    def test_in_any_order_and_one_behind_the_other(self):
        model, x = UserNet().double(), images()
        first = cam(model, x, 3, layer=["conv1", "conv2"]).maps
        close(cam(model, x, 3, layer=[model.conv2, "conv1"]).maps, first)
        close(cam(model, x, 3, layer=["conv2"]).maps, cam(model, x, 3, layer="conv2").maps)

    def test_refusals(self):
        model, x = make("resnet18"), images()
        for layer, words in (([], "names no layer"), (["layer1", model.layer1], "names a layer twice")):
            with pytest.raises(ValueError, match=words):
                cam(model, x, layer=layer)
        with pytest.raises(ValueError, match="got several; pass method='hires_cam'"):
            cam(model, x, layer=["layer3", "layer4"], method="cam")
        net = UserNet().double()
        net.side = nn.Identity()
        net.conv1.register_forward_hook(lambda module, inputs, output: (net.side(output), output)[1])
        with pytest.raises(ValueError, match="no gradient at 'side'"):
            cam(net, x, layer=["conv2", "side"])  # nothing follows it


class TestPaths:
    def test_through_compiled_and_parallel_parts(self):
        model, x = make("resnet18"), images()
        wanted, part = cam(model, x, 3, layer="layer3.0").maps, model.layer3[0]
        model.layer3 = torch.compile(model.layer3, backend="eager")
        close(cam(model, x, 3, layer="layer3.0").maps, wanted)
        close(cam(model, x, 3, layer=part).maps, wanted)
        model.layer2 = nn.DataParallel(model.layer2)
        close(cam(model, x, 3, layer="layer3.0").maps, wanted)
        assert "layer3.0.conv1" in dict(walk(model))

    @pytest.mark.filterwarnings("ignore:for 1 of 1 images no cell")
    def test_of_a_module_in_two_places(self):
        shared = nn.Conv2d(3, 3, 3, padding=1)
        model = nn.Sequential(shared, nn.ReLU(), shared, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
        x = torch.ones(1, 3, 16, 16)
        assert torch.equal(cam(model, x, "all", layer="2").maps, cam(model, x, "all", layer="0").maps)

    def test_averaged_models(self):
        model, x = make("resnet18"), images()
        averaged = torch.optim.swa_utils.AveragedModel(model)
        close(cam(averaged, x).maps, cam(model, x).maps)
        assert cam_layers(averaged) == cam_layers(model)
