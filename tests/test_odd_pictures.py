"""Generated calls of everything that takes a picture: each ends in a result of the right form, or in words."""

import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import convzoo
from convzoo.explain import colorize, to_picture

SIDES = (0, 1, 2, 3, 4, 5, 28, 30)
TORCH = [
    torch.uint8, torch.int8, torch.int16, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32,
    torch.float64, torch.complex64, torch.float8_e4m3fn, torch.uint16,
]  # fmt: skip
NUMPY = ["uint8", "int8", "uint16", "int64", "bool", "float16", ">f4", "float64", "complex64", "object", "U1", "M8[s]"]
MODES = [
    "1",
    "L",
    "P",
    "LA",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "La",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
    "RGBX",
]
ODD = [
    None, True, False, 0, 1, -1, 2.5, float("nan"), float("inf"), 10**20, "", "x", "auto", "turbo", b"x", (), (1,),
    (28, 28), (0, 0), (1, 2, 3), (0, 0, 5, 5), [], {}, set(), object(), np.float32(0.5), np.int64(3), 1j, "0123456789",
    torch.tensor(2), ["a"] * 10, lambda values: values,
]  # fmt: skip


def tensor(draw):
    shape = [draw.choice(SIDES) for _ in range(draw.choice((0, 1, 2, 3, 3, 4, 4, 5)))]
    values = torch.rand(shape) * draw.choice((1, 1, 1, 0, 255, -3, float("nan"), float("inf")))
    kind = draw.choice(TORCH)
    made = (values * (255 if kind == torch.uint8 else 1)).nan_to_num(0, 0, 0).to(kind)
    made = values if draw.random() < 0.4 else made
    way = draw.random()
    if way < 0.04:
        return made.to("meta")
    if way < 0.08 and made.ndim and made.dtype in (torch.float32, torch.uint8):
        return made.to_sparse()
    if way < 0.12 and made.dtype == torch.float32:
        return torch.quantize_per_tensor(made.nan_to_num(0, 0, 0), 0.1, 0, torch.quint8)
    if way < 0.16 and made.dtype == torch.float32:
        return made.requires_grad_()
    return made


def array(draw):
    kind = draw.choice(NUMPY)
    shape = [draw.choice(SIDES) for _ in range(draw.choice((0, 1, 2, 3, 3, 4, 5)))]
    values = np.random.default_rng(draw.randrange(99)).random(shape) * draw.choice((1, 1, 255))
    try:
        return values.astype(kind)[..., ::-1] if shape else values.astype(kind)
    except (TypeError, ValueError):
        return np.zeros(shape, kind)


def picture(draw):
    size = tuple(draw.choice(SIDES) for _ in range(2))
    try:
        made = Image.new(draw.choice(MODES), size, draw.choice((0, 1)))
    except (TypeError, ValueError):
        made = Image.new("L", size)
    if draw.random() < 0.3:
        made.info["exif"] = draw.choice(
            (b"", b"x", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0")
        )
    if draw.random() < 0.2:
        made.info["transparency"] = draw.choice((0, b"\0\1", (0, 0, 0), "x"))
    return made


def image(draw, depth=0):
    way = draw.random()
    if way < 0.1:
        return draw.choice(ODD)
    if way < 0.25 and depth < 2:
        return [image(draw, depth + 1) for _ in range(draw.choice((0, 1, 2, 3)))]
    return draw.choice((tensor, tensor, array, picture))(draw)


def some(draw, **pools):
    """A few of the keyword arguments, mostly sound, sometimes odd."""
    chosen = draw.sample(list(pools), draw.randint(0, min(2, len(pools))))
    return {name: draw.choice(ODD) if draw.random() < 0.4 else draw.choice(pools[name]) for name in chosen}


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    return [
        convzoo.create_model("fcn_gap", pretrained=True),
        convzoo.create_model("lenet5_1998", pretrained=True),
        convzoo.create_model("resnet18", 2, depths=(1, 1, 1, 1)).eval(),
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(1)),
    ]


TRANSFORMS = [
    convzoo.weight_info("lenet5.mnist").transform,
    convzoo.transform((20, 30), (0.5,) * 3, (0.2,) * 3, crop_pct=0.9),
    convzoo.transform(16, 0.5, 0.2, interpolation="nearest", crop_mode="squash"),
    convzoo.transform(16, (0.5,) * 4, (0.2,) * 4, interpolation="bicubic"),
]


def call_transform(draw, nets):
    transform = draw.choice(TRANSFORMS)
    how = some(draw, prepare=[True, False, "auto"], invert=[True, False])
    made = transform.batch(image(draw), **how)
    assert made.ndim == 4
    assert made.shape[1:] == (transform.in_chans, *transform.img_size)
    assert made.dtype == torch.float32
    assert made.isfinite().all()


def call_overlay(draw, nets):
    options = some(
        draw, alpha=[0, 0.5, 1.0], colormap=["turbo", "grey", "signed"], size=[10, (5, 7)], min_side=[1, 40],
        box=[(0, 0, 5, 5), (-3, 2.5, 9, 9)], mean=[(0.5,), (0.1, 0.2, 0.3)], std=[(0.5,), (0.1, 0.2, 0.3)],
        ground=[0, 1],
    )  # fmt: skip
    heat = draw.choice((lambda: torch.rand(4, 4), lambda: np.random.rand(3, 5), lambda: image(draw)))()
    shown = convzoo.overlay(image(draw), heat, **options)
    assert shown.mode == "RGB"
    assert min(shown.size) >= 1


def call_cam_overlay(draw, nets):
    net = nets[draw.randrange(2)]
    result = convzoo.cam(net, torch.rand(2, 1, 28, 28), ("top", 2))
    options = some(
        draw, k=[0, 1, -1], normalize=["max", "joint", "minmax"], prepare=[False, True, "auto", None], alpha=[0.5]
    )
    given = image(draw) if draw.random() < 0.3 else [image(draw), image(draw)]
    shown = result.overlay(given, **options)
    assert len(shown) == 2


def call_show(draw, nets):
    net = draw.choice([*nets, *nets, draw.choice(ODD)])
    given = draw.choice((lambda: torch.rand(1, 28, 28), lambda: torch.rand(3, 30, 30), lambda: image(draw)))()
    show = draw.choice((convzoo.show_cam, convzoo.show_feature_maps, convzoo.show_filters))
    if show is convzoo.show_cam:
        options = some(
            draw, top=[1, 2, 99], names=[list("0123456789"), ["a", "b"]], normalize=["max", "joint"], min_side=[9]
        )
        figure = show(net, given, **options)
    elif show is convzoo.show_feature_maps:
        options = some(draw, layers=["stage1", ["0"], "conv1"], max_maps=[1, 3], columns=[1, 99], colormap=["grey"])
        figure = show(net, given, **options)
    else:
        figure = show(net, **some(draw, layer=["conv1", "0"], max_filters=[1, 3], columns=[1, 99]))
    assert figure.axes


def call_small(draw, nets):
    if draw.random() < 0.5:
        assert to_picture(image(draw), **some(draw, mean=[(0.5,)], std=[(0.5,)])).mode == "RGB"
    else:
        values = draw.choice((np.zeros((2, 2)), np.random.rand(3, 4), draw.choice(ODD)))
        colours = colorize(values, draw.choice(["turbo", "grey", draw.choice(ODD)]))
        assert colours.shape[-1] == 3


CALLERS = {call_transform: 0.45, call_overlay: 0.3, call_cam_overlay: 0.1, call_show: 0.05, call_small: 0.1}


@pytest.mark.parametrize("calls", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.__name__)
def test_every_call_ends_in_a_result_or_in_words(caller, calls, nets):
    failures = []
    for seed in range(round(calls * CALLERS[caller])):
        draw = random.Random(seed)
        torch.manual_seed(seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                caller(draw, nets)
        except (TypeError, ValueError) as error:
            traceback = error.__traceback__
            while traceback.tb_next:
                traceback = traceback.tb_next
            inside = traceback.tb_frame.f_globals.get("__name__", "").startswith("convzoo")
            if not inside or len(str(error)) > 600 or not str(error):
                failures.append((seed, type(error).__name__, str(error)[:160], traceback.tb_frame.f_code.co_name))
        except Exception as error:
            failures.append((seed, type(error).__name__, str(error)[:160]))
    assert not failures, f"{len(failures)}: {failures[:6]}"
