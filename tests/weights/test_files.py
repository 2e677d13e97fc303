"""Weight files from folders and by path: read without trust, mapped without surprises."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct

import pytest
import torch
from helpers.weight_folders import edit_json, make_folder, run_python, same
from safetensors.torch import save_file

import convzoo
from convzoo import WeightsCorrupted, WeightsMismatch, WeightsNotFound, WeightsUnsafe
from convzoo.models._init import on_meta, without_default_init
from convzoo.weights.files import read_metadata, read_tensors, write_tensors


class Bomb:
    """A pickle that tells when it is opened, by making a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "lenet5.made_up")


def header(entries, data=b"", **more):
    text = json.dumps({**entries, **more}).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


SOUND = header({"a": tensor()}, bytes(8))
MALFORMED = {
    "empty": b"",
    "seven bytes": SOUND[:7],
    "cut header": SOUND[:30],
    "cut data": SOUND[:-1],
    "data too long": SOUND + b"x",
    "header of 100 MB and more": struct.pack("<Q", 100_000_001) + b"{" + bytes(64),
    "header longer than the file": struct.pack("<Q", 1 << 20) + b"{}",
    "header of 2**63": struct.pack("<Q", 1 << 63) + b"{}",
    "not JSON": struct.pack("<Q", 8) + b"nonsense",
    "not UTF-8": struct.pack("<Q", 8) + b'{"\xff": 1}',
    "a list": struct.pack("<Q", 8) + b"[1, 2]  ",
    "overlap": header({"a": tensor(), "b": tensor()}, bytes(8)),
    "a hole": header({"a": tensor(), "b": tensor(offsets=(16, 24))}, bytes(24)),
    "wrong shape": header({"a": tensor(shape=(3,))}, bytes(8)),
    "huge shape": header({"a": tensor(shape=(1 << 40, 1 << 40))}, bytes(8)),
    "negative shape": header({"a": tensor(shape=(-2,))}, bytes(8)),
    "offsets backwards": header({"a": tensor(offsets=(8, 0))}, bytes(8)),
    "unknown dtype": header({"a": tensor(dtype="F99")}, bytes(8)),
    "no dtype": header({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "metadata that is no text": header({"a": tensor(), "__metadata__": {"n": 1}}, bytes(8)),
    "zeros": bytes(64),
    "a web page": b"<!doctype html><html></html>",
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files_are_refused(tmp_path, kind, mmap):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(MALFORMED[kind])
    with pytest.raises(WeightsCorrupted, match="not a sound safetensors file"):
        read_tensors(path, mmap=mmap)
    with pytest.raises(WeightsCorrupted):
        convzoo.create_model("lenet5", pretrained=path, mmap=mmap)


def test_the_sound_one_is_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(SOUND)
    assert read_tensors(path)["a"].tolist() == [0.0, 0.0]
    with pytest.raises(
        WeightsMismatch, match=r"10 missing: conv1.weight, conv1.bias, conv2.weight, ...; 1 unexpected: a"
    ):
        convzoo.create_model("lenet5", pretrained=path)


@pytest.mark.parametrize("cut", [0, 9, 200, 2000, -1])
def test_a_model_file_cut_anywhere(folder, cut):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(WeightsCorrupted, match=r"config.json states another file"):
        convzoo.create_model("lenet5", pretrained=folder)
    with pytest.raises(WeightsCorrupted, match="not a sound safetensors file"):
        convzoo.create_model("lenet5", pretrained=path)


def test_a_flipped_bit_in_a_folder(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsCorrupted, match="sha256"):
        convzoo.create_model("lenet5", pretrained=folder)


@pytest.mark.parametrize("name", ["weights.bin", "weights.pth", "weights.pt", "weights.ckpt", "renamed.safetensors"])
@pytest.mark.parametrize("wrap", [False, True], ids=["pickle", "torch.save"])
def test_pickles_are_refused_unopened(tmp_path, name, wrap):
    path, trace = tmp_path / name, tmp_path / "opened"
    if wrap:
        torch.save({"bomb": Bomb(trace)}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(WeightsUnsafe, match="can run code"):
        convzoo.create_model("lenet5", pretrained=path)
    with pytest.raises(WeightsUnsafe, match="can run code"):
        convzoo.create_model("lenet5", pretrained=str(path))
    with pytest.raises(WeightsUnsafe, match="can run code"):
        convzoo.load_weights(convzoo.create_model("lenet5"), path)
    assert not trace.exists()


def test_a_folder_with_nothing_but_a_pickle(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "opened")))
    with pytest.raises(WeightsNotFound, match=r"holds no model.safetensors"):
        convzoo.create_model("lenet5", pretrained=tmp_path)


def test_a_path_that_leads_nowhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path / "no", "./no", "no.safetensors", "~/there/is/no/such.safetensors"):
        with pytest.raises(WeightsNotFound, match="no file or folder"):
            convzoo.create_model("lenet5", pretrained=source)


def test_a_relative_folder_with_a_slash_goes_before_a_repository(tmp_path, monkeypatch):
    make_folder(tmp_path / "someone" / "mine")
    monkeypatch.chdir(tmp_path)
    assert convzoo.create_model("lenet5", pretrained="someone/mine").weights.source == "someone/mine"


def test_our_file_alone_carries_its_description(folder, tmp_path):
    path = (folder / "model.safetensors").rename(tmp_path / "alone.safetensors")
    model = convzoo.create_model("lenet5", pretrained=path)
    assert model.weights.mean == (0.13,)
    assert json.loads(read_metadata(path)["convzoo"])["architecture"] == "lenet5"


def test_a_bare_file_is_taken_for_the_model_asked_for(tmp_path):
    model = convzoo.create_model("lenet5", num_classes=7, in_chans=2)
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    loaded = convzoo.create_model("lenet5", 7, 2, pretrained=tmp_path / "bare.safetensors")
    assert same(loaded, model)
    assert loaded.weights is None
    with pytest.raises(ValueError, match=r"no pretrained weights.*input they expect"):
        loaded.preprocess(torch.zeros(28, 28))
    again = convzoo.create_model("lenet5", pretrained=tmp_path / "bare.safetensors")  # its own sizes are read off
    assert (again.num_classes, again.in_chans) == (7, 2)
    assert same(again, model)


@pytest.mark.parametrize("mmap", [True, False])
def test_training_on_mapped_weights_leaves_the_file_alone(folder, mmap):
    path = folder / "model.safetensors"
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    model = convzoo.create_model("lenet5", pretrained=path, mmap=mmap)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(torch.rand(2, 1, 28, 28)).sum().backward()
    optimizer.step()
    assert not same(model, convzoo.create_model("lenet5", pretrained=path))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_replacing_a_mapped_file_changes_nothing(folder, tmp_path):
    path = folder / "model.safetensors"
    model = convzoo.create_model("lenet5", pretrained=path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    other = make_folder(tmp_path / "other", seed=1) / "model.safetensors"
    other.replace(path)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_file_cut_short_in_use_cannot_hurt_what_was_read_whole(folder):
    """With mmap=True the kernel ends the process: what mmap=False is for."""
    code = f"""
import convzoo, torch, pathlib
path = pathlib.Path({str(folder / "model.safetensors")!r})
model = convzoo.create_model("lenet5", pretrained=path, mmap=False)
with path.open("r+b") as file:
    file.truncate(100)
print(bool(model(torch.rand(1, 1, 28, 28)).isfinite().all()))
"""
    assert run_python(code) == "True"


def test_float16_on_disk_is_float32_in_the_model(tmp_path):
    folder = make_folder(tmp_path / "half", "mnist_resnet", dtype="float16")
    assert {value.dtype for value in read_tensors(folder / "model.safetensors").values()} == {
        torch.float16,
        torch.int64,
    }
    model = convzoo.create_model("mnist_resnet", pretrained=folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.weights.dtype == "float16"


def test_the_default_dtype_is_honoured(folder):
    torch.set_default_dtype(torch.float64)
    try:
        model = convzoo.create_model("lenet5", pretrained=folder)
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.fc1.weight.dtype == torch.float64


def test_not_onto_the_meta_device(folder):
    with torch.device("meta"), pytest.raises(ValueError, match="meta device"):
        convzoo.create_model("lenet5", pretrained=folder)


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, {})
    before = path.read_bytes()
    with pytest.raises(KeyError):
        write_tensors(path, {"a": torch.ones(2, dtype=torch.complex128)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_mask()


def current_mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_shared_and_strided_tensors_are_written(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "b": shared, "row": shared[1], "t": shared.T}
    image = torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    write_tensors(tmp_path / "a.safetensors", {**tensors, "image": image}, {"note": {"x": 1}})
    back = read_tensors(tmp_path / "a.safetensors")
    assert all(torch.equal(back[key], value) for key, value in {**tensors, "image": image}.items())
    assert read_metadata(tmp_path / "a.safetensors") == {"note": '{"x": 1}'}


def test_a_config_of_another_version(folder):
    edit_json(folder / "config.json", lambda config: config["convzoo"].update(sha256="0" * 64))
    with pytest.raises(WeightsCorrupted, match="get the two of one version"):
        convzoo.create_model("lenet5", pretrained=folder)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
)
def test_small_tensors_are_read_as_large_ones_are(tmp_path, dtype):
    state = {
        "large": torch.arange(40_000).to(dtype),
        "small": torch.arange(12).to(dtype).view(3, 4),
        "one": torch.tensor(7).to(dtype),
        "none": torch.empty(0, 3, dtype=dtype),
    }
    save_file(state, tmp_path / "model.safetensors", {"dtype": "F32", "data_offsets": "no such thing"})
    found = read_tensors(tmp_path / "model.safetensors")
    assert set(found) == set(state)
    for key, tensor in state.items():
        assert found[key].dtype == dtype
        assert found[key].shape == tensor.shape
        assert torch.equal(found[key], tensor)
    found["small"][0, 0] = 5  # a copy of its own: the file stays
    assert read_tensors(tmp_path / "model.safetensors")["small"][0, 0] == 0


def test_an_empty_model_is_made_on_meta_and_drawing_goes_on_afterwards():
    with on_meta():
        with without_default_init():  # as the families do inside
            layer = torch.nn.Conv2d(3, 4, 3)
        norm = torch.nn.BatchNorm2d(4)
        assert {each.device.type for each in (layer.weight, norm.weight, norm.running_var)} == {"meta"}
    after = torch.nn.BatchNorm2d(4)
    assert after.weight.device.type == "cpu"
    assert after.running_var.sum() == 4
    with without_default_init(), on_meta():
        assert torch.nn.Linear(2, 2).weight.is_meta
    with pytest.raises(ZeroDivisionError), on_meta():
        1 / 0  # noqa: B018
    assert torch.nn.Linear(2, 2).weight.abs().sum() > 0
