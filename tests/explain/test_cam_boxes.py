"""Maps on boxes: the pointing game of ``benchmarks/cam_boxes.py``, on planted objects and on Tiny-ImageNet's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from helpers.data_sets import TINY_IMAGENET, needs_tiny_imagenet
from helpers.tiny_imagenet_set import ROOT, augment, data
from PIL import Image
from torch.nn import functional

import convzoo

CLASSES = tuple(range(0, 200, 20))  # ten, far apart in the data set's own order


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("cam_boxes", ROOT / "benchmarks" / "cam_boxes.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_heat_is_scored_by_its_peak_and_by_its_share(benchmark):
    boxes = torch.tensor([[0, 0, 31, 63], [8, 16, 15, 23], [60, 61, 63, 63]])
    inside = benchmark.masks(boxes)
    assert inside.sum((1, 2)).tolist() == [32 * 64, 8 * 8, 4 * 3]
    assert inside[2, 61:, 60:].all()  # x goes along the columns
    assert benchmark.score(inside, inside) == (100.0, 100.0)
    assert benchmark.score(1 - inside, inside) == (0.0, 0.0)
    heat = torch.zeros(3, 64, 64)
    heat[:, 20, 10] = 3.0  # in the first two boxes
    heat[:, 40, 50] = 1.0  # in none
    assert benchmark.score(heat, inside) == (pytest.approx(200 / 3), pytest.approx(50.0))


def brightness_net(folder: Path) -> Path:
    """Weights, made by hand, of a net whose map of class 1 is the picture's brightness, of class 0 its negative."""
    net = convzoo.create_model("fcn_gap", 2, 3, head="gap_then_conv")
    with torch.no_grad():
        for conv in (net.conv1, net.conv2, net.conv3, net.fc):
            conv.weight.zero_()
            conv.bias.zero_()
        net.conv1.weight[0, :, 1, 1] = 1 / 3
        net.conv2.weight[0, 0, 1, 1] = net.conv3.weight[0, 0, 1, 1] = 1.0
        net.fc.weight[0, 0], net.fc.weight[1, 0] = -1.0, 1.0
    convzoo.save_pretrained(net, folder, tag="planted", classes=["dark", "bright"], mean=(0,) * 3, std=(1,) * 3)
    return folder


def test_the_table_on_planted_objects(benchmark, tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    rows = []
    for index in range(12):
        top, left = rng.integers(4, 40, 2)
        pixels = np.full((64, 64, 3), 20, np.uint8)
        pixels[top : top + 16, left : left + 12] = 240
        path = tmp_path / f"{index}.png"
        Image.fromarray(pixels).save(path)
        box = [int(edge) for edge in (left, top, left + 11, top + 15)]
        rows.append({"image": {"bytes": path.read_bytes(), "path": None}, "label": 1, "bbox": box})
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "valid-00000-of-00001.parquet")
    net = brightness_net(tmp_path / "fcn_gap.planted")
    monkeypatch.setattr(sys, "argv", ["cam_boxes.py", str(net), "--data", str(tmp_path), "--images", "12"])
    benchmark.main()
    table = {}
    for line in capsys.readouterr().out.splitlines()[2:]:
        title, method, cells, count, pointing, share = (cell.strip() for cell in line.strip("|").split("|"))
        table[title] = (method, cells, int(count)), float(pointing), float(share)
    about, pointing, share = table[str(net)]
    assert about == ("cam", "58x58", 12)  # it gets all of them right
    assert pointing == table["brightness"][1] == 100.0
    whole = 100 * 12 * 16 / 64**2
    assert table["the whole picture"][2] == pytest.approx(whole, abs=0.05)
    assert 5 * whole < share < table["brightness"][2]  # unpadded: its 58 cells, spread over 64 pixels, are a bit wide
    assert table["a blob in the centre"][1] < 100.0


def test_no_data_is_said(benchmark, tmp_path):
    with pytest.raises(SystemExit, match=r"no valid-\*\.parquet in .*--data"):
        benchmark.read(tmp_path, 10)


def read_ten(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The images (N, 3, 64, 64) of the ten classes, and their labels 0 to 9 (N,)."""
    images, labels = [], []
    for file in data.find_files(str(TINY_IMAGENET), split):
        table = pq.read_table(file, columns=["image", "label"])
        table = table.filter(pc.is_in(table["label"], pa.array(CLASSES)))
        images += [data.decode(cell["bytes"]) for cell in table["image"].to_pylist()]
        labels += [CLASSES.index(label) for label in table["label"].to_pylist()]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor(labels)


@pytest.mark.slow
@needs_tiny_imagenet
def test_a_net_of_ten_classes_finds_their_objects(benchmark, tmp_path):
    """Residual blocks, one a stage, trained for minutes on ten classes' images, at last enlarged: maps of 4x4 cells."""
    images, labels = read_ten("train")
    assert len(labels) == 5000
    torch.manual_seed(0)
    net = convzoo.create_model("resnet18", 10, depths=(1, 1, 1, 1)).to(memory_format=torch.channels_last)
    sides, batch, crop = [64] * 8 + [128] * 2, 50, 56
    steps = len(sides) * len(labels) // batch
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, steps, cycle_momentum=False)
    for side in sides:
        for part in torch.randperm(len(labels)).split(batch):
            top, left = torch.randint(64 - crop + 1, (2,)).tolist()
            x = augment.normalise(images[part, :, top : top + crop, left : left + crop])
            x = functional.interpolate(x, (side, side), mode="bilinear")
            x = (x.flip(3) if torch.rand(()) < 0.5 else x).contiguous(memory_format=torch.channels_last)
            loss = functional.cross_entropy(net(x), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    folder = tmp_path / "resnet18.ten"
    names = [str(label) for label in CLASSES]
    convzoo.save_pretrained(net, folder, tag="ten", classes=names, mean=augment.MEAN, std=augment.STD)

    pictures, truth, boxes = benchmark.read(TINY_IMAGENET, 10_000)
    of_ten = [index for index, label in enumerate(truth.tolist()) if label in CLASSES]
    pictures, boxes = [pictures[index] for index in of_ten], boxes[of_ten]
    truth = torch.tensor([CLASSES.index(int(truth[index])) for index in of_ten])
    trained = benchmark.load(str(folder))
    about, heat, right = benchmark.ask(trained, pictures, truth, size=128)
    assert about == "cam | 4x4"
    about, finer, _ = benchmark.ask(trained, pictures, truth, size=128, method="grad_cam", layer="layer3")
    assert about == "grad_cam | 8x8"
    assert right.float().mean() >= 0.5  # there is something to see
    inside = benchmark.masks(boxes)
    found = {"cam": heat, "grad_cam of layer3": finer} | benchmark.baselines(pictures)
    found = {title: benchmark.score(shown[right], inside[right]) for title, shown in found.items()}
    print(f"{len(right)} images, {100 * float(right.float().mean()):.1f} % right")
    for title, (pointing, share) in found.items():
        print(f"{title}: pointing {pointing:.1f} %, heat in the box {share:.1f} %")
    for ours in ("cam", "grad_cam of layer3"):
        for index in range(2):  # the pointing game, the share of the heat
            assert found[ours][index] > found["brightness"][index]
            assert found[ours][index] > found["contrast"][index]
            assert found[ours][index] > found["the whole picture"][index]
