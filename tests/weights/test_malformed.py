"""Malformed files, descriptions and names, by generators: an error of the family, or the right model; nothing else.

The generators are seeded. The fast tests draw a few hundred cases, the slow ones (``-m slow``) many thousands.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import shutil
import socket
import struct
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.weight_folders import edit_json, make_folder, run_python, same

import convzoo
from convzoo import (
    WeightsCorrupted,
    WeightsError,
    WeightsForbidden,
    WeightsMismatch,
    WeightsNotFound,
    WeightsUnavailable,
    WeightsUnsafe,
)
from convzoo.weights.files import MAX_HEADER, check_hash, read_metadata, read_tensors

SECONDS = 5.0  # of the processor, for one case; they take milliseconds
FEW, MANY = 250, 8000


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A sound folder."""
    return make_folder(tmp_path_factory.mktemp("sound") / "lenet5.made_up")


def outcome(call: Callable[[], Any]) -> Any:
    """What ``call`` returns, or the error of our family that it raises; quickly."""
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that are not finite: flipped bits make some
            result = call()
    except WeightsError as error:
        result = error
    assert len(str(result)) < 2500 or not isinstance(result, WeightsError), str(result)[:200]
    assert time.process_time() - started < SECONDS
    return result


# -- files


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header: Any, data: bytes, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ODD = [
    *(None, True, False, -1, 0, 1, 1.5, 10**18, 1e300, float("nan"), float("inf"), 1e-320, 2**31, 2**63, 10**400),
    *("", "x", "F32", "../..", "x" * 100_000, [], [[]], {}, {"a": {"b": []}}, [1, 2, 3], [-1, -1], ["a"], [10**9] * 4),
]


def deep(depth: int) -> Any:
    return json.loads("[" * depth + "]" * depth)


def malformed_file(draw: random.Random, original: bytes) -> bytes:
    header, data = split(original)
    key = draw.choice([key for key in header if key != "__metadata__"])
    kind = draw.randrange(14)
    if kind == 0:
        return original[: draw.randrange(len(original))]
    if kind == 1:
        return original + draw.randbytes(draw.randrange(1, 20))
    if kind == 2:  # bits of the header
        changed = bytearray(original)
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(len(original) - len(data))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if kind == 3:  # bits anywhere
        changed = bytearray(original)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if kind == 4:
        header[key][draw.choice(["dtype", "shape", "data_offsets"])] = draw.choice(ODD)
    elif kind == 5:
        header[key]["dtype"] = draw.choice(
            "BOOL U8 I8 F8_E5M2 F8_E4M3 I16 U16 F16 BF16 I32 U32 F32 F64 I64 U64 C64".split()
        )
    elif kind == 6:
        header[key] = draw.choice(ODD)
    elif kind == 7:
        header["__metadata__"] = draw.choice([*ODD, {"convzoo": draw.choice(["", "{", "[]", "null", "{}", "1"])}])
    elif kind == 8:
        header[draw.choice(["", "x", "conv1", "module.conv1.weight", "\0", "é" * 1000])] = header.pop(key)
    elif kind == 9:
        other = draw.choice([other for other in header if other not in (key, "__metadata__")])
        header[key]["data_offsets"] = header[other]["data_offsets"]
    elif kind == 10:
        shift = draw.choice([-4, 4, 1 << 20, -(1 << 20)])
        header[key]["data_offsets"] = [value + shift for value in header[key]["data_offsets"]]
    elif kind == 11:
        length = len(json.dumps(header).encode())
        wrong = draw.choice(
            [0, 1, length - 1, length + 1, 128, 640, 0x0480, 1 << 20, 1 << 40, (1 << 64) - 1, MAX_HEADER + 1]
        )
        return join(header, data, wrong)
    elif kind == 12:
        text = draw.choice(
            [b"", b"[]", b"null", b"{", b'{"a":', b"\xff" * 40, b"[" * 50_000, b'{"a":' * 50_000, b'"' * 9]
        )
        return join(text, data)
    else:  # another kind of file
        start = draw.choice(
            [b"\x80\x04\x95", b"PK\x03\x04", b"<html>", b"version https://git-lfs", b"\x89HDF", b"GGUF", b"{"]
        )
        return start + draw.randbytes(draw.randrange(600))
    return join(header, data)


def check_malformed_files(sound: Path, folder: Path, count: int) -> None:
    """In each of four ways: an error of the family, or a model with the tensors that are in the file."""
    draw = random.Random(count)
    original = (sound / "model.safetensors").read_bytes()
    config = json.loads((sound / "config.json").read_text())
    del config["convzoo"]["sha256"]
    (folder / "folder").mkdir()
    (folder / "folder" / "config.json").write_text(json.dumps(config))
    path = folder / "folder" / "model.safetensors"
    refused = 0
    for index in range(count):
        content = malformed_file(draw, original)
        path.unlink(missing_ok=True)  # what is mapped must not be overwritten
        path.write_bytes(content)
        model = convzoo.create_model("lenet5")
        results = [
            outcome(lambda: convzoo.create_model("lenet5", pretrained=path)),
            outcome(lambda: convzoo.create_model("lenet5", pretrained=path, mmap=False)),
            outcome(lambda: convzoo.create_model("lenet5", pretrained=path.parent)),
            outcome(lambda model=model: convzoo.load_weights(model, path)),
        ]
        errors = [isinstance(result, WeightsError) for result in results]
        if not any(errors):
            tensors = read_tensors(path, mmap=False)
            for result in results:
                state = result.state_dict()
                assert all(torch.equal(state[key].nan_to_num(), tensors[key].nan_to_num()) for key in state), index
        if isinstance(results[0], WeightsUnsafe):
            assert content[:4] in (b"\x80\x04\x95" + content[3:4], b"PK\x03\x04"), index
        refused += all(errors)
    assert refused > count / 2


def test_malformed_files(sound, tmp_path):
    check_malformed_files(sound, tmp_path, FEW)


@pytest.mark.slow
def test_many_malformed_files(sound, tmp_path):
    check_malformed_files(sound, tmp_path, MANY)


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x010280, 0x280480])
@pytest.mark.parametrize("cut", [4, 8, 9, 12, 200, 600])
def test_a_cut_file_is_not_called_a_pickle(tmp_path, length, cut):
    """The first bytes of a header's length may be those of a pickle."""
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(length).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes((struct.pack("<Q", length) + text + bytes(4))[:cut])
    with pytest.raises(WeightsCorrupted, match="not a sound safetensors file"):
        read_tensors(path)


def test_a_header_of_many_tensors_costs_nothing(tmp_path):
    for count, words in ((30_000, "30,000 tensors, where at most 20,000"), (400_000, r"a header of .* 16,777,216 are")):
        entries = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % index for index in range(count))
        (tmp_path / "a.safetensors").write_bytes(join(b"{" + entries + b"}", b""))
        started = time.process_time()
        with pytest.raises(WeightsCorrupted, match=words):
            convzoo.create_model("lenet5", pretrained=tmp_path / "a.safetensors")
        assert time.process_time() - started < 2


def test_reading_whole_maps_nothing(sound):
    code = f"""
import convzoo, pathlib
path = pathlib.Path({str(sound)!r}) / "model.safetensors"
held = [convzoo.create_model("lenet5", pretrained=place, mmap=False) for place in (path, path.parent)]
print(str(path) in pathlib.Path("/proc/self/maps").read_text())
held.append(convzoo.create_model("lenet5", pretrained=path))
print(str(path) in pathlib.Path("/proc/self/maps").read_text())
"""
    assert run_python(code).split() == ["False", "True"]


# -- descriptions


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def malformed_config(draw: random.Random, config: dict[str, Any]) -> str:
    config = json.loads(json.dumps(config))
    if draw.random() < 0.1:
        text = json.dumps(config)
        cut = draw.randrange(len(text))
        return draw.choice(
            [
                text[:cut],
                text[:cut] + "\0" + text[cut:],
                "[" * 100_000,
                '{"a":' * 20_000,
                "[]",
                "",
                "null",
                "\ufeff" + text,
            ]
        )
    for _ in range(draw.randrange(1, 3)):
        path = draw.choice([path for path in places(config) if path])
        at = config
        for key in path[:-1]:
            at = at[key]
            if not isinstance(at, (dict, list)):
                break
        if not isinstance(at, (dict, list)):
            continue
        with contextlib.suppress(LookupError, TypeError):
            if draw.random() < 0.2:
                del at[path[-1]]
            else:
                at[path[-1]] = draw.choice([*ODD, deep(300), ["y" * 1000] * 1000])
    return json.dumps(config)


NETS = {  # with options that are numbers, so that a description can ask for absurd ones
    "lenet5": {},
    "resnet18": {"num_classes": 3, "img_size": 32, "stem": "small", "depths": (1, 1, 1, 1)},
    "t2t_vit_7": {"num_classes": 3, "img_size": 32, "depth": 1, "embed_dim": 64, "num_heads": 2},
}


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> dict[str, Path]:
    """A folder a net whose description has all options and no hash, so that what is changed is read."""
    folders = {}
    for name, options in NETS.items():
        folder = make_folder(tmp_path_factory.mktemp("described") / name, name, options=options)
        known = {key: value for key, value in convzoo.model_info(name).options.items() if not key.endswith("drop_rate")}

        def spell_out(config, known=known):
            config["convzoo"]["sha256"] = None
            config["model_args"] = known | config["model_args"]

        edit_json(folder / "config.json", spell_out)
        folders[name] = folder
    return folders


def check_malformed_configs(described: dict[str, Path], count: int) -> None:
    draw = random.Random(count)
    refused = 0
    for name, folder in described.items():
        path = folder / "config.json"
        original = path.read_text()
        right = convzoo.create_model(name, pretrained=folder)
        try:
            for index in range(count // len(described)):
                text = malformed_config(draw, json.loads(original))
                path.write_text(text)
                result = outcome(lambda name=name, folder=folder: convzoo.create_model(name, pretrained=folder))
                refused += isinstance(result, WeightsError)
                if not isinstance(result, WeightsError):
                    assert same(result, right), (index, text[:300])
                    image = torch.zeros(3 if right.in_chans == 3 else 1, 40, 40)
                    assert result.preprocess(image).isfinite().all(), text[:300]
        finally:
            path.write_text(original)
    assert count / 5 < refused < count * 4 / 5


def test_malformed_configs(described):
    check_malformed_configs(described, FEW)


@pytest.mark.slow
def test_many_malformed_configs(described):
    check_malformed_configs(described, MANY)


ABSURD = [
    lambda config: config["pretrained_cfg"].update(input_size=[200_000_000, 28, 28], mean=[0.5], std=[0.5]),
    lambda config: config["pretrained_cfg"].update(input_size=[3, 2_000_000, 2_000_000]),
    lambda config: config["pretrained_cfg"].update(crop_pct=0.001),
    lambda config: config["model_args"].update(depths=[1_000_000_000, 1, 1, 1]),
    lambda config: config["model_args"].update(depths=[500, 500, 500, 500]),
    lambda config: config["model_args"].update(groups=10**12, width_per_group=10**12),
    lambda config: config.update(num_classes=2_000_000_000),
    lambda config: config.update(label_names=["x"] * 4_000_000),
    lambda config: None,  # and 300 MB long, below
]


def test_a_description_cannot_cost_gigabytes_or_minutes(tmp_path):
    sound, folders = make_folder(tmp_path / "sound", "resnet18", options={"num_classes": 3}, dtype="float16"), []
    for index, change in enumerate(ABSURD):
        folders.append(str(shutil.copytree(sound, tmp_path / str(index), copy_function=os.link)))
        (Path(folders[-1]) / "config.json").unlink()
        shutil.copy(sound / "config.json", folders[-1])
        edit_json(Path(folders[-1]) / "config.json", change)
    os.truncate(Path(folders[-1]) / "config.json", 300 << 20)
    code = f"""
import convzoo, resource, time
convzoo.create_model("lenet5", pretrained=True)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (500 << 20), used + (500 << 20)))
for folder in {folders!r}:
    started = time.process_time()
    try:
        convzoo.create_model("resnet18", pretrained=folder)
    except convzoo.WeightsError as error:
        print("refused" if time.process_time() - started < 2 else "slow")
"""
    assert run_python(code).split() == ["refused"] * len(ABSURD)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("sha256", 5),
        ("sha256", "../../x"),
        ("key_layout", "keras"),
        ("size", -1),
        ("num_params", "many"),
        ("metrics", {"top1": "high", "n": 10}),
        ("metrics", {"top1": 99.0, "n": 0}),
        ("temperature", float("nan")),
        ("recipe", 3),
    ],
)
def test_our_block_is_checked(sound, tmp_path, place, value):
    folder = make_folder(tmp_path / "a")
    edit_json(folder / "config.json", lambda config: config["convzoo"].update({place: value}))
    with pytest.raises(WeightsCorrupted, match="does not describe weights"):
        convzoo.create_model("lenet5", pretrained=folder)


@pytest.mark.parametrize(
    "change",
    [
        *({"mean": [value]} for value in (float("nan"), float("inf"), 1e-320, 1e30, True, "x")),
        *({"std": [value]} for value in (float("nan"), float("inf"), 1e-320, 0, -1, 1e-30)),
        *(
            {"input_size": value}
            for value in ([1.0, 28, 28], [True, 28, 28], [1, 28], [1, 28, 10**18], "128", [1, 0, 28])
        ),
        *({"crop_pct": value} for value in (0, -1, 2, float("nan"), "1")),
    ],
)
def test_numbers_of_the_input_are_checked(tmp_path, change):
    folder = make_folder(tmp_path / "a")
    edit_json(folder / "config.json", lambda config: config["pretrained_cfg"].update(change))
    with pytest.raises(WeightsCorrupted, match="does not describe weights"):
        convzoo.create_model("lenet5", pretrained=folder)


@pytest.mark.parametrize(
    ("model_args", "expected"),
    [
        ({"num_classes": 10, "in_chans": 1, "drop_rate": 0.2, "drop_path_rate": 0.1, "global_pool": "avg"}, (10, 1)),
        ({"num_classes": None, "img_size": None, "act_layer": None}, (10, 1)),
        ({"img_size": [28, 28]}, (10, 1)),
        ({"img_size": 28}, (10, 1)),
    ],
)
def test_timms_model_args(tmp_path, model_args, expected):
    folder = make_folder(tmp_path / "a")

    def as_timm_writes(config):
        del config["convzoo"]
        config["model_args"] = model_args

    edit_json(folder / "config.json", as_timm_writes)
    model = convzoo.create_model("lenet5", pretrained=folder)
    assert (model.num_classes, model.in_chans) == expected
    edit_json(folder / "config.json", lambda config: config["model_args"].update(act_layer="silu"))
    with pytest.raises(WeightsMismatch, match="made with act_layer='silu', which lenet5 has no option for"):
        convzoo.create_model("lenet5", pretrained=folder)


def test_what_timm_made_with_other_channels_than_it_says(tmp_path):
    """timm keeps the channels of the original's images where the model was made for others."""
    folder = make_folder(tmp_path / "a", options={"in_chans": 2, "num_classes": 4}, mean=0.5, std=0.25)

    def as_timm_writes(config):
        del config["convzoo"]
        config["model_args"] = {"in_chans": 2, "num_classes": 4}
        config["pretrained_cfg"] |= {"input_size": [1, 28, 28], "mean": [0.5], "std": [0.25], "num_classes": 10}

    edit_json(folder / "config.json", as_timm_writes)
    model = convzoo.create_model("lenet5", pretrained=folder)
    assert (model.in_chans, model.weights.mean, model.num_classes) == (2, (0.5, 0.5), 4)


# -- names


@contextlib.contextmanager
def odd_places(folder: Path, sound: Path) -> Iterator[list[str]]:
    """Things of the file system that are no weights, by their names."""
    (folder / "empty").mkdir()
    (folder / "pickle.bin").write_bytes(b"\x80\x04")
    (folder / "text.txt").write_text("text")
    (folder / "empty.safetensors").touch()
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("no/such/place")
    (folder / "nowhere.safetensors").symlink_to("no/such/place")
    for name, content in (("piped", "model.safetensors"), ("folders", "model.safetensors")):
        (folder / name).mkdir()
        (os.mkfifo if name == "piped" else os.mkdir)(folder / name / content)
    for name, make in (("config_pipe", os.mkfifo), ("config_folder", os.mkdir), ("config_nowhere", None)):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").symlink_to(sound / "model.safetensors")
        if make:
            make(folder / name / "config.json")
        else:
            (folder / name / "config.json").symlink_to("nowhere")
    (folder / "deep.safetensors").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        old = Path.cwd()
        os.chdir(folder)  # the name of a socket must be short
        listening.bind("socket")
        os.chdir(old)
        yield sorted(path.name for path in folder.iterdir())


def odd_names(draw: random.Random, names: list[str], folder: Path) -> str:
    pieces = [
        *names,
        *(
            "..",
            ".",
            "",
            " ",
            "~",
            "~nouser",
            "\0",
            "\n",
            "é",
            "🦊",
            "x" * 300,
            "y" * 5000,
            "a" * 40,
            "model.safetensors",
        ),
        *(
            "lenet5",
            "mnist",
            "lenet5.mnist",
            "no.such",
            "x.bin",
            "x.pth",
            "x.safetensors",
            "@",
            "@main",
            "hub:",
            "/dev/null",
        ),
        *(
            "/dev/zero",
            "/proc/self/mem",
            "http://x",
            "C:\\x",
            "-",
            "--",
            "%s",
            "{}",
            "*",
            "[",
            "$HOME",
            ";",
            "owner/name",
        ),
    ]
    text = draw.choice(["", "/", "@", ".", "hub:"]).join(draw.choice(pieces) for _ in range(draw.randrange(1, 4)))
    return draw.choice([text, f"{folder}/{text}", f"./{text}", f"~/{text}"])


GOOD = {"lenet5.mnist", "mnist"}


def check_odd_names(folder: Path, sound: Path, count: int) -> None:
    draw = random.Random(count)
    model = convzoo.create_model("lenet5")
    with odd_places(folder, sound) as names:
        for _ in range(count):
            name = odd_names(draw, names, folder)
            calls = [
                lambda name=name: convzoo.create_model("lenet5", pretrained=name),
                lambda name=name: convzoo.create_model("lenet5", pretrained=Path(name)),
                lambda name=name: convzoo.load_weights(model, name),
                lambda name=name: convzoo.load_weights(model, name, unsafe_format=True),
                lambda name=name: convzoo.weight_info(name),
            ]
            for call in calls if name else calls[1:]:
                result = outcome(call)
                if not isinstance(result, WeightsError):
                    assert getattr(result, "weights", result) is not None, name
            if name:
                with contextlib.suppress(ValueError):
                    outcome(lambda name=name: convzoo.create_model(name, pretrained=True))


def test_odd_names(tmp_path, sound, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    check_odd_names(tmp_path, sound, FEW)


@pytest.mark.slow
def test_many_odd_names(tmp_path, sound, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    check_odd_names(tmp_path, sound, MANY)


def test_each_kind_of_place_has_its_error(tmp_path, sound):
    with odd_places(tmp_path, sound) as names:
        assert len(names) > 15
        for name in names:
            result = outcome(lambda name=name: convzoo.create_model("lenet5", pretrained=tmp_path / name))
            assert type(result) in (WeightsNotFound, WeightsCorrupted, WeightsUnsafe), name
            assert name in str(result)
    for name in ("x" * 300, "no/" * 2000 + "x.safetensors", "~nouser/x", "a\0b.safetensors"):
        for call in (
            lambda name=name: convzoo.create_model("lenet5", pretrained=Path(name)),
            lambda name=name: read_metadata(Path(name)),
            lambda name=name: read_tensors(Path(name)),
        ):
            assert isinstance(outcome(call), WeightsNotFound), name[:20]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EACCES, WeightsForbidden),
        (errno.ENOENT, WeightsNotFound),
        (errno.ENAMETOOLONG, WeightsNotFound),
        (errno.ELOOP, WeightsNotFound),
        (errno.EIO, WeightsUnavailable),
        (errno.ESTALE, WeightsUnavailable),
    ],
)
def test_each_word_of_the_file_system_has_its_error(sound, monkeypatch, code, kind):
    """Also where a file vanishes, or becomes unreadable, between one look and the next."""
    original = Path.open

    def fails(self, *args, **options):
        if self.name in ("model.safetensors", "config.json"):
            raise OSError(code, os.strerror(code), str(self))
        return original(self, *args, **options)

    monkeypatch.setattr(Path, "open", fails)
    for call in (
        lambda: convzoo.create_model("lenet5", pretrained=sound),
        lambda: convzoo.load_weights(convzoo.create_model("lenet5"), sound / "model.safetensors"),
        lambda: check_hash(sound / "model.safetensors", "0" * 64, ""),
    ):
        with pytest.raises(kind, match=re.escape(os.strerror(code))):
            call()
