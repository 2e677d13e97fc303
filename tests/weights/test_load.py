"""Checkpoints as people have them: wrapped, nested, old, averaged, pickled, for other classes; and what is refused."""

from __future__ import annotations

import argparse
import copy
import os
import random
import warnings

import pytest
import torch
from helpers.weight_folders import make_folder, same
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

import convzoo
from convzoo import WeightsCorrupted, WeightsMismatch, WeightsNotFound, WeightsUnsafe
from convzoo.models._init import build_empty
from convzoo.registry import make_config
from convzoo.weights.adapt import head_keys
from convzoo.weights.layouts import convert


def make(name="resnet18", **options):
    torch.manual_seed(1)
    return convzoo.create_model(name, **{"num_classes": 6, **options}).eval()


@pytest.fixture(scope="module")
def source():
    model = make()
    for key, value in model.state_dict().items():  # statistics that are not the trivial ones
        if key.endswith("running_mean"):
            value.normal_()
        elif key.endswith("num_batches_tracked"):
            value.fill_(7)
    return model


def compiled(module):
    return torch.compile(module, backend="eager")


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


# -- names


def wrap_at_random(names: list[str], draw: random.Random) -> dict[str, str]:
    """Each name as a model would have it whose root and some of whose parts were wrapped, several times perhaps."""
    words = ("module", "_orig_mod", "model", "net", "backbone", "ema", "encoder_q", "1", "features", "body")
    front = [draw.choice(words) for _ in range(draw.randrange(4))]
    parts = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    inside = {part: draw.choice(words[:2]) for part in sorted(parts) if draw.random() < 0.1}
    wrapped = {}
    for name in names:
        words_of = list(front)
        pieces = name.split(".")
        for depth, piece in enumerate(pieces, 1):
            words_of.append(piece)
            if depth < len(pieces) and ".".join(pieces[:depth]) in inside:
                words_of.append(inside[".".join(pieces[:depth])])
        wrapped[name] = ".".join(words_of)
    return wrapped


@pytest.mark.parametrize("name", convzoo.list_models())
def test_wrappers_in_any_order_and_depth_around_any_net(name):
    model = build_empty(make_config(name))
    own = model.state_dict()
    draw = random.Random(name)
    for _ in range(6):
        wrapped = wrap_at_random(list(own), draw)
        state = {wrapped[key]: tensor for key, tensor in own.items()}
        items = list(state.items())
        draw.shuffle(items)
        found = convert(dict(items), model)
        assert found.keys() == own.keys(), list(state)[:3]
        assert all(found[key] is own[key] for key in own)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.", "net.", "backbone.", "ema.module.",
     "model._orig_mod.", "student.encoder.0."],
)  # fmt: skip
def test_a_common_prefix_is_left_out(source, prefix):
    model = convzoo.load_weights(make(), prefixed(prefix, source.state_dict()))
    assert same(model, source)


def test_what_torch_wraps(source):
    for wrapped in (
        AveragedModel(source),
        compiled(source),
        nn.DataParallel(source),
        nn.DataParallel(compiled(AveragedModel(source))),
    ):
        assert same(convzoo.load_weights(make(), wrapped.state_dict()), source)


def test_parts_that_were_wrapped(source):
    model = copy.deepcopy(source)
    model.layer1 = compiled(model.layer1)
    model.layer2[0] = nn.DataParallel(model.layer2[0])
    model.conv1 = compiled(model.conv1)
    assert same(convzoo.load_weights(make(), model.state_dict()), source)


def test_into_a_wrapped_model(source):
    for wrap in (nn.DataParallel, compiled, AveragedModel, lambda model: compiled(nn.DataParallel(model))):
        inner = make()
        wrapped = wrap(inner)
        assert convzoo.load_weights(wrapped, source.state_dict()) is wrapped
        assert same(wrapped.module if isinstance(wrapped, AveragedModel) else inner, source)


def test_without_counts_of_batches(source):
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    model = convzoo.load_weights(make(), state)
    assert torch.equal(model.layer1[0].bn1.running_mean, source.layer1[0].bn1.running_mean)
    assert int(model.bn1.num_batches_tracked) == 0
    del state["bn1.running_mean"]
    with pytest.raises(WeightsMismatch, match=r"1 missing: bn1.running_mean;"):
        convzoo.load_weights(make(), state)


def test_what_stands_beside_the_prefix_is_told(source):
    state = {**prefixed("model.", source.state_dict()), "criterion.weight": torch.ones(6)}
    with pytest.warns(UserWarning, match=r"begin with 'model.' are used; 1 others are not: criterion.weight"):
        assert same(convzoo.load_weights(make(), state), source)
    state = {**prefixed("model.", source.state_dict()), "model.extra.weight": torch.ones(6)}
    with pytest.raises(WeightsMismatch, match=r"1 unexpected: extra.weight"):
        convzoo.load_weights(make(), state)


def test_two_sets_of_weights_are_not_chosen_between(source):
    state = source.state_dict()
    both = {**prefixed("model.", state), **prefixed("ema_model.module.", state)}
    with pytest.raises(WeightsMismatch, match=r"2 sets.*begin with 'model.' and the names that begin with 'ema_model"):
        convzoo.load_weights(make(), both)
    both = {"epoch": 3, "state_dict": prefixed("module.", state), "state_dict_ema": state}
    with pytest.raises(WeightsMismatch, match=r"\['state_dict'\] and \['state_dict_ema'\]; pass one of them"):
        convzoo.load_weights(make(), both)
    assert same(convzoo.load_weights(make(), both["state_dict_ema"]), source)


@pytest.mark.parametrize(
    "rename", ["conv1.base_layer.weight", "conv1.parametrizations.weight.original", "conv1.weight_v"]
)
def test_layers_that_compute_their_weight_are_not_taken_for_plain_ones(source, rename):
    state = dict(source.state_dict())
    kernel = state.pop("conv1.weight")
    beside = {"conv1.base_layer.weight": "conv1.lora_A.default.weight", "conv1.weight_v": "conv1.weight_g"}
    state |= {rename: kernel, beside.get(rename, "conv1.parametrizations.weight.0.scale"): torch.ones(1)}
    with pytest.raises(WeightsMismatch, match=r"1 missing: conv1.weight; 2 unexpected: conv1"):
        convzoo.load_weights(make(), state)


# -- checkpoints


@pytest.mark.parametrize("inside", ["state_dict", "model", "ema", "model_state", "net.weights"])
def test_the_state_inside_a_checkpoint(source, inside):
    optimizer = torch.optim.Adam(source.parameters())
    source(torch.rand(1, 3, 64, 64)).sum().backward()
    optimizer.step()
    held = prefixed("model.", source.state_dict())
    for key in reversed(inside.split(".")):
        held = {key: held}
    checkpoint = {
        **{"epoch": 3, "global_step": 40, "pytorch-lightning_version": "2.6.0", "loops": {"fit_loop": {}}},
        **held,
        **{"optimizer": optimizer.state_dict(), "best": torch.tensor(0.7), "args": argparse.Namespace(lr=1)},
    }
    assert same(convzoo.load_weights(make(), checkpoint), source)
    assert same(convzoo.create_model("resnet18", 6, pretrained=checkpoint), source)


# -- other classes, channels and sizes


@pytest.fixture
def bare(tmp_path, source):
    save_file(source.state_dict(), tmp_path / "bare.safetensors")
    return tmp_path / "bare.safetensors"


def test_a_bare_file_for_other_classes_channels_and_sizes(bare, source):
    own = convzoo.create_model("resnet18", pretrained=bare)
    assert (own.num_classes, own.training) == (6, False)
    assert same(own, source)
    with pytest.warns(UserWarning, match=r"bare.safetensors were changed to fit: a fresh head for 4 classes, not 6"):
        model = convzoo.create_model("resnet18", 4, pretrained=bare)
    assert model.fc.weight.shape == (4, 512)
    assert torch.equal(model.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    with pytest.warns(UserWarning, match="the head for 6 classes left out"):
        assert convzoo.create_model("resnet18", 0, pretrained=bare)(torch.rand(1, 3, 64, 64)).shape == (1, 512)
    with pytest.warns(UserWarning, match="conv1 folded from 3 to 1 channels"):
        grey = convzoo.create_model("resnet18", in_chans=1, img_size=64, pretrained=bare)
    assert torch.allclose(grey.conv1.weight, source.conv1.weight.sum(1, keepdim=True))
    assert grey.weights is None
    with pytest.raises(WeightsMismatch, match=r"missing: layer1.0.conv3.weight"):
        convzoo.create_model("resnet50", 4, pretrained=bare)


def test_tensors_for_other_classes(source):
    state = source.state_dict()
    with pytest.warns(UserWarning, match="the tensors given were changed to fit: a fresh head for 4 classes"):
        model = convzoo.create_model("resnet18", 4, pretrained=state)
    assert torch.equal(model.conv1.weight, source.conv1.weight)
    with torch.no_grad():
        model.conv1.weight.zero_()
    assert source.conv1.weight.abs().sum() > 0  # the model has memory of its own


def test_a_bare_file_of_a_net_whose_first_layer_reads_patches(tmp_path):
    model = make("t2t_vit_7", in_chans=2, img_size=64)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "b.safetensors")
    loaded = convzoo.create_model("t2t_vit_7", img_size=64, pretrained=tmp_path / "b.safetensors")
    assert (loaded.num_classes, loaded.in_chans) == (6, 2)
    assert same(loaded, model)
    with pytest.warns(UserWarning, match="pos_embed made for 48x48"):
        other = convzoo.create_model("t2t_vit_7", img_size=48, pretrained=tmp_path / "b.safetensors")
    assert torch.equal(other.pos_embed, make("t2t_vit_7", img_size=48).pos_embed)


def test_a_file_without_a_head(tmp_path, source):
    state = {key: value for key, value in source.state_dict().items() if not key.startswith("fc.")}
    save_file(state, tmp_path / "body.safetensors")
    with pytest.raises(WeightsMismatch, match=r"2 missing: fc.weight, fc.bias"):
        convzoo.create_model("resnet18", pretrained=tmp_path / "body.safetensors")
    with pytest.warns(UserWarning, match="a fresh head for 4 classes"):
        model = convzoo.create_model("resnet18", 4, pretrained=tmp_path / "body.safetensors")
    assert torch.equal(model.layer1[0].bn1.running_mean, source.layer1[0].bn1.running_mean)
    assert same(convzoo.load_weights(make(), state, head=False), convzoo.load_weights(make(), state, head=False))


@pytest.mark.parametrize("name", ["resnet18", "lenet5", "lenet5_1998", "googlenet", "inception_v3", "vgg11", "fcn_gap"])
def test_the_tensors_of_a_head(name):
    options = {"aux": True} if name in ("googlenet", "inception_v3") else {}
    keys = head_keys(build_empty(make_config(name, options=options)))
    expected = {
        "lenet5": {"fc3.weight", "fc3.bias"},
        "lenet5_1998": set(),
        "googlenet": {f"{layer}.{kind}" for layer in ("fc", "aux1.fc2", "aux2.fc2") for kind in ("weight", "bias")},
        "inception_v3": {f"{layer}.{kind}" for layer in ("fc", "AuxLogits.fc") for kind in ("weight", "bias")},
        "vgg11": {"classifier.6.weight", "classifier.6.bias"},
    }.get(name, {"fc.weight", "fc.bias"})
    assert keys - {key for key in keys if name == "lenet5_1998"} == expected


def test_the_head_can_be_left_out(source):
    model = make(num_classes=9)
    head = model.fc.weight.clone()
    with pytest.raises(WeightsMismatch, match=r"2 of other shape: fc.weight 6x512 instead of 9x512"):
        convzoo.load_weights(model, source.state_dict())
    convzoo.load_weights(model, source.state_dict(), head=False)
    assert torch.equal(model.fc.weight, head)
    assert torch.equal(model.conv1.weight, source.conv1.weight)
    model.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 2))  # a head of one's own
    convzoo.load_weights(model, make().state_dict(), head=False)
    assert torch.equal(model.conv1.weight, make().conv1.weight)


def test_weights_whose_head_was_left_out_say_nothing_of_classes(tmp_path):
    folder = make_folder(tmp_path / "a", classes=list("abcdefghij"), metrics={"top1": 99.0, "n": 10})
    model = convzoo.load_weights(make("lenet5", num_classes=4), folder, head=False)
    assert (model.weights.num_classes, model.weights.classes, model.weights.metrics) == (4, (), {})


# -- models on the meta device


@pytest.mark.parametrize("name", ["lenet5_1998", "fcn_gap", "t2t_vit_7", "resnet18"])
def test_into_a_model_on_the_meta_device(tmp_path, name):
    folder = make_folder(tmp_path / "a", name, options={"num_classes": 10})
    whole = convzoo.create_model(name, pretrained=folder)
    with torch.device("meta"):
        from_file, from_tensors = (convzoo.create_model(name, num_classes=10).eval() for _ in range(2))
    convzoo.load_weights(from_file, folder)
    state = whole.state_dict()
    convzoo.load_weights(from_tensors, state)
    images = torch.rand(1, whole.in_chans, *(whole.img_size if whole.fixed_size else (64, 64)))
    for model in (from_file, from_tensors):
        assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
        assert torch.equal(model(images), whole(images))
    first = next(from_tensors.parameters())
    assert first.data_ptr() != next(iter(state.values())).data_ptr()


# -- files of torch.save


def test_files_of_torch_save_are_read_when_asked_for(tmp_path, source):
    torch.save(source.state_dict(), tmp_path / "net.pth")
    torch.save({"epoch": 3, "state_dict": prefixed("module.", source.state_dict())}, tmp_path / "run.CKPT")
    torch.save(source.state_dict(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("net.pth", "run.CKPT", "old.bin"):
        with pytest.raises(WeightsUnsafe, match=r"load_weights\(model, path, unsafe_format=True\)"):
            convzoo.load_weights(make(), tmp_path / name)
        with pytest.raises(WeightsUnsafe, match=r"load_weights\(model, path, unsafe_format=True\)"):
            convzoo.create_model("resnet18", pretrained=tmp_path / name)
        assert same(convzoo.load_weights(make(), str(tmp_path / name), unsafe_format=True), source)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_files_of_torch_save_never_run_code(tmp_path, monkeypatch):
    model, trace = make("lenet5"), tmp_path / "opened"
    torch.save({"state_dict": model.state_dict(), "args": Bomb(trace)}, tmp_path / "bomb.pth")
    torch.save({"state_dict": model.state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "args.pth")
    for name in ("bomb.pth", "args.pth"):
        with pytest.raises(WeightsUnsafe, match="holds more than tensors and plain values"):
            convzoo.load_weights(model, tmp_path / name, unsafe_format=True)
    assert not trace.exists()
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(WeightsUnsafe, match="CVE-2025-32434"):
        convzoo.load_weights(model, tmp_path / "args.pth", unsafe_format=True)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", WeightsCorrupted, "no file that torch.save wrote"),
        (b"PK\x03\x04 cut", WeightsCorrupted, "no file that torch.save wrote"),
        (b"{}", WeightsUnsafe, "is not opened"),
        (None, WeightsNotFound, "cannot be found"),
        ([1, 2], WeightsMismatch, "one list, not tensors by name"),
    ],
)
def test_files_that_torch_save_did_not_write(tmp_path, content, error, words):
    path = tmp_path / "a.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(error, match=words):
        convzoo.load_weights(make("lenet5"), path, unsafe_format=True)


# -- what does not fit


def quantised():
    return torch.ao.quantization.quantize_dynamic(make("lenet5"), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state["fc1.weight"].int(), r"fc1.weight \(torch.int32 instead of torch.float32\)"),
        (lambda state: state["fc1.weight"].to(torch.uint8), "torch.uint8"),
        (lambda state: state["fc1.weight"] > 0, "torch.bool"),
        (lambda state: state["fc1.weight"].to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
        (lambda state: state["fc1.weight"].to(torch.complex64), "torch.complex64"),
        (lambda state: state["fc1.weight"].to_sparse(), "torch.sparse_coo"),
        (lambda state: state["fc1.weight"].to("meta"), "on the meta device"),
        (lambda state: torch.quantize_per_tensor(state["fc1.weight"], 0.1, 0, torch.qint8), "qint8"),
        (lambda state: state["fc1.weight"].double() * 1e300, "up to .*e.*, which torch.float32 cannot hold"),
        (lambda state: state["fc1.weight"].T, "84x120|400x120 instead of 120x400"),
    ],
)  # fmt: skip
def test_other_kinds_of_numbers_are_refused(change, words):
    model, source = make("lenet5", num_classes=10), make("lenet5", num_classes=10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {**source.state_dict(), "fc1.weight": change(source.state_dict())}
    with pytest.raises(WeightsMismatch, match=words):
        convzoo.load_weights(model, state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_state_is_refused():
    with pytest.raises(WeightsMismatch, match=r"missing: fc1.weight"):
        convzoo.load_weights(make("lenet5"), quantised().state_dict())


def test_halves_doubles_and_counts_are_taken(source):
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        state = {
            key: value.to(dtype) if value.is_floating_point() else value for key, value in source.state_dict().items()
        }
        model = convzoo.load_weights(make(), state)
        assert torch.equal(model.conv1.weight, source.conv1.weight.to(dtype).float())
    counts = {
        key: value.int() if not value.is_floating_point() else value for key, value in source.state_dict().items()
    }
    assert same(convzoo.load_weights(make(), counts), source)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_told(tmp_path, value):
    model = make("lenet5")
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = value
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="numbers in conv2.weight that are NaN or infinite") as caught:
        convzoo.create_model("lenet5", pretrained=tmp_path / "a.safetensors")
    assert len(caught) == 1
    state = {key: torch.full_like(tensor, value) for key, tensor in model.state_dict().items()}
    with pytest.warns(UserWarning, match="in conv1.weight and 9 more tensors") as caught:
        convzoo.load_weights(make("lenet5"), state)
    assert len(caught) == 1
    with torch.no_grad():
        model.fc1.weight.fill_(3e38)  # finite, though their sum is not
        model.conv2.weight.zero_()
    convzoo.load_weights(make("lenet5"), model.state_dict())


def test_what_is_no_model_of_the_zoo():
    for wrong in (nn.Linear(2, 2), "lenet5", None):
        with pytest.raises(TypeError, match="load_weights fills a model of the zoo"):
            convzoo.load_weights(wrong, {})
    model = make("lenet5")
    with pytest.raises(TypeError, match="a state dict holds tensors by name"):
        convzoo.load_weights(model, {3: torch.ones(1)})
    with pytest.raises(WeightsMismatch, match="10 missing"):
        convzoo.load_weights(model, {"": torch.ones(1), ".": torch.ones(1)})
