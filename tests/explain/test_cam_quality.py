"""Whether the maps find what they should: two digits in one picture, and each class's map on its own digit.

Single objects on an empty ground cannot tell a good map from the image itself; two of them can. The share of a map's
heat that falls on its own digit is 1 for a perfect map and 0.5 for one that does not know the classes.
"""

from __future__ import annotations

import pytest
import torch
from drawn_digits import draw, side_by_side
from helpers.data_sets import MNIST, needs_mnist
from torch import nn
from torch.nn import functional

import convzoo
from convzoo import cam

SIDE = 16  # pixels of a digit on the transformer's canvases, two tokens a side
METHODS = ("cam", "grad_cam", "hires_cam", "grad_cam_pp", "layer_cam")
DIGITS = MNIST / "test-00000-of-00001.parquet"


def gap_net() -> nn.Sequential:
    """A small net with global average pooling; its maps come out of layer 13."""
    layers: list[nn.Module] = []
    for index, (chans, width) in enumerate(((1, 8), (8, 24), (24, 48), (48, 48))):
        layers += [nn.Conv2d(chans, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        if index < 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


@pytest.fixture(scope="module")
def trained():
    """The net, after a few seconds of single digits, and the generator that goes on drawing."""
    generator = torch.Generator().manual_seed(1)
    pictures = torch.stack([draw(index % 10, 28, generator) for index in range(300)])
    labels = torch.arange(300) % 10
    torch.manual_seed(0)
    net = gap_net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, 100)
    for _ in range(100):
        chosen = torch.randint(0, 300, (64,), generator=generator)
        shift = torch.randint(-4, 5, (2,), generator=generator).tolist()
        loss = functional.cross_entropy(net(pictures[chosen].roll(shift, (2, 3))), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    held_out = torch.stack([draw(index % 10, 28, generator) for index in range(100)])
    with torch.no_grad():
        assert (net(held_out).argmax(1) == torch.arange(100) % 10).float().mean() >= 0.97  # there is something to see
    return net


@pytest.fixture(scope="module")
def pairs():
    """Forty pictures (40, 1, 28, 56) of two different digits, and their classes (40, 2), the left one first."""
    generator = torch.Generator().manual_seed(2)
    classes = torch.stack([torch.randperm(10, generator=generator)[:2] for _ in range(40)])
    return torch.stack([side_by_side(int(a), int(b), generator) for a, b in classes]), classes


def canvases(pool: torch.Tensor, classes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures (N, 1, 32, 32) with a digit in the left half and one in the right, each at the top or at the bottom:
    of ``classes`` (N, 2), the left one first; -1 is none. Digit d is one of ``pool[d]`` (10, many, 16, 16)."""
    x = torch.zeros(len(classes), 1, 2 * SIDE, 2 * SIDE)
    which = torch.randint(pool.shape[1], classes.shape, generator=generator).tolist()
    tops = (SIDE * torch.randint(2, classes.shape, generator=generator)).tolist()
    for n, row in enumerate(classes.tolist()):
        for side, digit in enumerate(row):
            if digit >= 0:
                place = x[n, 0, tops[n][side] :, SIDE * side :]
                place[:SIDE, :SIDE] = pool[digit, which[n][side]]
    return x


def two_of_ten(count: int, generator: torch.Generator) -> torch.Tensor:
    """Pairs of different classes (count, 2)."""
    return torch.stack([torch.randperm(10, generator=generator)[:2] for _ in range(count)])


def small_transformer(
    pool: torch.Tensor, steps: int, batch: int, generator: torch.Generator, *, pairs: bool
) -> convzoo.Classifier:
    """A T2T-ViT of 4x4 tokens, trained to name the digits on canvases of one digit, or of two."""
    torch.manual_seed(0)
    net = convzoo.create_model(
        "t2t_vit_7", 10, 1, img_size=2 * SIDE, embed_dim=64, depth=3, num_heads=2, strides=(2, 2, 2)
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(steps):
        classes = two_of_ten(batch, generator)
        if not pairs:
            classes[torch.arange(batch), torch.randint(2, (batch,), generator=generator)] = -1
        scores = functional.log_softmax(net(canvases(pool, classes, generator)), 1)
        loss = -scores.gather(1, classes.clamp(min=0))[classes >= 0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def own_share(heat: torch.Tensor) -> float:
    """Mean share of the heat (N, 2, H, W) on the own half: the first map's is the left one."""
    left, right = heat.tensor_split(2, dim=3)
    left, right = left.sum((2, 3)), right.sum((2, 3))
    own = torch.stack([left[:, 0], right[:, 1]], 1) / (left + right)
    assert own.isfinite().all()
    return float(own.mean())


def pointing(heat: torch.Tensor) -> float:
    """How often the peak lies on the own half."""
    column = heat.flatten(2).argmax(2) % heat.shape[3]
    is_left = column < heat.shape[3] // 2
    return float(torch.stack([is_left[:, 0], ~is_left[:, 1]], 1).float().mean())


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Spearman's, of the values of two maps."""
    ranks = torch.stack([first.flatten(), second.flatten()]).argsort(1).argsort(1).double()
    return float(torch.corrcoef(ranks)[0, 1])


class TestDrawnPairs:
    def test_class_activation_maps_keep_to_their_own_digit(self, trained, pairs):
        pictures, classes = pairs
        heat = cam(trained, pictures, classes, method="cam", layer="13").heatmap()
        assert own_share(heat) >= 0.9
        assert pointing(heat) >= 0.95

    def test_methods_without_negative_weights_are_less_particular(self, trained, pairs):
        pictures, classes = pairs
        share = {m: own_share(cam(trained, pictures, classes, method=m, layer="13").heatmap()) for m in METHODS}
        assert share["cam"] == pytest.approx(share["grad_cam"], abs=1e-4)
        assert share["cam"] == pytest.approx(share["hires_cam"], abs=1e-4)
        assert share["cam"] > share["layer_cam"] + 0.05
        assert share["cam"] > share["grad_cam_pp"] + 0.05

    def test_the_image_itself_knows_no_classes(self, pairs):
        """The measure is one that the ink alone, which wins single-object measures, does not satisfy."""
        pictures, _ = pairs
        assert own_share(pictures.expand(-1, 2, -1, -1)) == pytest.approx(0.5, abs=0.05)

    def test_a_random_head_changes_the_maps(self, trained, pairs):
        pictures, classes = pairs
        before = cam(trained, pictures, classes, method="cam", layer="13")
        kept = trained[-1].weight.detach().clone()
        try:
            torch.manual_seed(5)
            with torch.no_grad():
                trained[-1].weight.copy_(kept.std() * torch.randn_like(kept))
            after = cam(trained, pictures, classes, method="cam", layer="13")
        finally:
            with torch.no_grad():
                trained[-1].weight.copy_(kept)
        correlation = [
            rank_correlation(first, second)
            for first, second in zip(before.maps.flatten(0, 1), after.maps.flatten(0, 1), strict=True)
        ]
        assert sum(correlation) / len(correlation) < 0.8


def test_a_transformer_finds_the_digits_of_a_pair():
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([draw(index // 30, 28, generator) for index in range(300)])
    pool = functional.interpolate(drawn, (SIDE, SIDE), mode="area").view(10, 30, SIDE, SIDE)
    net = small_transformer(pool, 140, 24, generator, pairs=True)
    classes = two_of_ten(60, generator)
    pictures = canvases(pool, classes, generator)
    with torch.no_grad():
        found = net(pictures).topk(2).indices.sort().values
    assert (found == classes.sort().values).float().mean() >= 0.9  # there is something to see
    attention = cam(net, pictures, classes)
    assert attention.method == "attention"
    assert own_share(attention.heatmap()) >= 0.7
    assert pointing(attention.heatmap()) >= 0.9
    rollout = cam(net, pictures, classes, method="rollout").heatmap()
    assert own_share(rollout) == pytest.approx(0.5, abs=1e-6)  # it knows no classes


def read_digits(split: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first ``count`` digits (N, 28, 28), 0..1, and their labels (N,)."""
    import io

    import numpy as np
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(DIGITS.with_name(f"{split}-00000-of-00001.parquet")).slice(0, count).to_pydict()
    digits = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"]])
    return torch.from_numpy(digits).float() / 255, torch.tensor(table["label"])


def pair_up(digits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Digits (N, H, W), two of different classes to a picture (P, 1, H, 2 W), and their classes (P, 2)."""
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0)).view(-1, 2)
    order = order[labels[order[:, 0]] != labels[order[:, 1]]]
    return torch.cat([digits[order[:, 0]], digits[order[:, 1]]], 2)[:, None], labels[order]


@pytest.mark.slow
@needs_mnist
class TestMnistPairs:
    def test_a_residual_net_that_has_seen_single_digits_only(self):
        """Its cells see a whole digit and more; padded to 32 pixels, so that no cell lies on both halves."""
        digits, labels = read_digits("train", 6000)
        digits = functional.pad(digits[:, None], (2, 2, 2, 2))
        torch.manual_seed(0)
        net = convzoo.create_model("resnet18", 10, 1, img_size=32, stem="small", depths=(1, 1, 1, 1))
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, 150)
        generator = torch.Generator().manual_seed(1)
        for _ in range(150):
            chosen = torch.randint(len(digits), (64,), generator=generator)
            loss = functional.cross_entropy(net(digits[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        test_digits, test_labels = read_digits("test", 400)
        pictures, classes = pair_up(functional.pad(test_digits, (2, 2, 2, 2)), test_labels)
        heat = cam(net.eval(), pictures, classes, method="cam").heatmap()
        print(f"ResNet: own share {own_share(heat):.3f}, peak on the own digit {pointing(heat):.3f}")
        assert own_share(heat) >= 0.9
        assert pointing(heat) >= 0.95

    @pytest.mark.parametrize(
        ("name", "least"),
        [
            ("fcn_gap.mnist", 0.55),  # each of its cells sees 7x7 pixels: strokes, which many digits share
            ("mnist_resnet.mnist", 0.9),
        ],
    )
    def test_own_digit_gets_the_heat(self, name, least):
        model = convzoo.create_model(name, pretrained=True)
        info = model.weights
        pictures, classes = pair_up(*read_digits("test", 400))
        heat = cam(model, (pictures - info.mean[0]) / info.std[0], classes).heatmap()
        print(f"{name}: own share {own_share(heat):.3f}, peak on the own digit {pointing(heat):.3f}")
        assert own_share(heat) >= least

    def test_a_transformer_that_has_seen_single_digits_only(self):
        pools = []
        for split, many in (("train", 80), ("test", 20)):
            digits, labels = read_digits(split, 3000)
            small = functional.interpolate(digits[:, None], (SIDE, SIDE), mode="area")[:, 0]
            pools.append(torch.stack([small[labels == digit][:many] for digit in range(10)]))
        generator = torch.Generator().manual_seed(1)
        net = small_transformer(pools[0], 600, 32, generator, pairs=False)
        classes = two_of_ten(200, generator)
        heat = cam(net, canvases(pools[1], classes, generator), classes).heatmap()
        print(f"T2T-ViT: own share {own_share(heat):.3f}, peak on the own digit {pointing(heat):.3f}")
        assert own_share(heat) >= 0.7
