"""``predict`` and ``cam``: weights of every kind, pictures of every kind, and what is said of them."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_digits import draw
from PIL import Image

import convzoo
from convzoo.__main__ import main

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"


@pytest.fixture
def run(capsys):
    def run(*arguments):
        status = main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Weights of one's own, in a folder."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    model = convzoo.create_model("lenet5", pretrained=True)
    return convzoo.save_pretrained(model, folder, tag="mine", classes=[f"digit {digit}" for digit in range(10)])


@pytest.fixture
def photos(tmp_path):
    """A folder with the digits 3 and 5, dark on white, and a text."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for digit in (3, 5):
        ink = 1 - draw(digit, 120, torch.Generator().manual_seed(digit))[0]
        Image.fromarray((ink * 255).byte().numpy()).save(folder / f"{digit}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


class TestPredict:
    def test_both_orders(self, run):
        status, out, err = run("predict", "lenet5", DIGITS / "3.png", DIGITS / "8.png", "--top", "2")
        assert (status, err) == (0, "")
        assert [line.split(": ")[1].split()[0] for line in out.splitlines()] == ["3", "8"]
        assert run("predict", DIGITS / "3.png", DIGITS / "8.png", "--weights", "lenet5", "--top", "2")[1] == out

    def test_the_probabilities_are_the_models(self, run):
        model = convzoo.create_model("lenet5_1998", pretrained=True)
        with torch.inference_mode():
            chance = (model(model.preprocess(Image.open(DIGITS / "3.png"))) / 8).softmax(1)[0, 3]
        rows = json.loads(run("predict", "lenet5_1998", DIGITS / "3.png", "--json")[1])
        assert rows[0]["classes"][0]["class"] == "3"
        assert rows[0]["classes"][0]["probability"] == pytest.approx(float(chance), abs=1e-6)

    def test_folders_and_patterns(self, run, photos):
        status, out, err = run("predict", "lenet5", photos)
        assert status == 0
        assert [line.partition(": ")[0] for line in out.splitlines()] == [str(photos / "3.png"), str(photos / "5.png")]
        assert [line.partition(": ")[2].split()[0] for line in out.splitlines()] == ["3", "5"]
        assert err.count("inverted: dark ink made bright") == 2
        assert run("predict", "lenet5", photos / "*.png")[1] == out
        rows = list(csv.DictReader(io.StringIO(run("predict", "lenet5", photos, "--format", "csv", "--top", "1")[1])))
        assert [row["class"] for row in rows] == ["3", "5"]

    @pytest.mark.parametrize("kind", ["folder", "file", "bare name"])
    def test_weights_of_ones_own(self, run, own, kind, monkeypatch):
        monkeypatch.chdir(own.parent)
        source = {"folder": own, "file": own / "model.safetensors", "bare name": "mine"}[kind]
        status, out, _ = run("predict", "--weights", source, DIGITS / "3.png")
        assert status == 0
        assert ": digit 3 " in out

    def test_a_file_that_does_not_tell_its_architecture(self, run, own, tmp_path):
        from safetensors.torch import load_file, save_file

        save_file(load_file(own / "model.safetensors"), tmp_path / "bare.safetensors")
        status, _, err = run("predict", "--weights", tmp_path / "bare.safetensors", DIGITS / "3.png")
        assert status == 2
        assert "name it with --arch" in err
        status, _, err = run("predict", "-w", tmp_path / "bare.safetensors", "--arch", "lenet5", DIGITS / "3.png")
        assert "nothing tells what input these weights of lenet5 expect" in err

    def test_standard_input(self):
        command = [sys.executable, "-m", "convzoo", "predict", "lenet5", "-"]
        done = subprocess.run(command, input=(DIGITS / "3.png").read_bytes(), capture_output=True, check=True)
        assert done.stdout.startswith(b"-: 3 ")

    def test_a_bad_file_is_named_and_the_rest_is_read(self, run, tmp_path):
        (tmp_path / "text.png").write_text("no picture")
        (tmp_path / "cut.png").write_bytes((DIGITS / "3.png").read_bytes()[:150])
        (tmp_path / "a.eps").write_bytes(
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
        )
        bad = [tmp_path / name for name in ("text.png", "cut.png", "none.png", "a.eps")]
        status, out, err = run("predict", "lenet5", *bad, DIGITS / "3.png")
        assert status == 1
        assert out.startswith(str(DIGITS / "3.png"))
        assert err.count("\n") == 4
        for path in bad:
            assert str(path) in err
        status, out, err = run("predict", "lenet5", *bad)
        assert (status, out, err.count("\n")) == (2, "", 4)

    @pytest.mark.parametrize("command", ["predict", "cam"])
    @pytest.mark.parametrize("side", [12_000, 20_000, 1_000_000])
    def test_a_huge_picture_is_named_and_the_rest_is_read(self, run, tmp_path, command, side):
        """By its head alone: that much is never made room for."""
        path = tmp_path / "huge.pgm"
        path.write_bytes(b"P5 %d %d 255\n" % (side, side) + bytes(99))
        more = ["-o", tmp_path / "o.png"] if command == "cam" else []
        status, out, err = run(command, "-w", "lenet5", path, DIGITS / "3.png", *more)
        assert status == 1
        assert "3" in out
        assert err.startswith(f"convzoo: {path} ")
        assert "than the 134,217,728" in err
        assert err.count("\n") == 1

    @pytest.mark.parametrize("command", ["predict", "cam"])
    def test_a_bad_source_is_named_and_the_rest_is_read(self, run, tmp_path, command):
        (tmp_path / "empty").mkdir()
        bad = [tmp_path / "empty", "/nowhere/*.png", "https://example.com/a.png", "a" * 300]
        out_of_cam = ["-o", tmp_path / "o.png"] if command == "cam" else []
        status, out, err = run(command, "-w", "lenet5", *bad[:2], DIGITS / "3.png", *bad[2:], *out_of_cam)
        assert status == 1
        assert "3 " in out or "3: " in out
        assert err.count("\n") == len(bad)
        for source in bad:
            assert str(source) in err
        status, out, err = run(command, "-w", "lenet5", *bad[:3], *out_of_cam)
        assert (status, out, err.count("\n")) == (2, "", 1)
        for source in bad[:3]:
            assert str(source) in err

    def test_what_was_done_is_said(self, run, tmp_path):
        dark = Image.open(DIGITS / "3.png").convert("L").point(lambda value: 255 - value)
        dark.save(tmp_path / "dark.png")
        Image.new("L", (28, 28)).save(tmp_path / "blank.png")
        assert "inverted: dark ink made bright" in run("predict", "lenet5", tmp_path / "dark.png")[2]
        ink = Image.new("RGBA", dark.size)
        ink.putalpha(Image.open(DIGITS / "3.png").convert("L"))
        ink.save(tmp_path / "ink.png")
        said = "laid on white; inverted: dark ink made bright; cut to its ink and centred, as MNIST's were\n"
        assert run("predict", "lenet5", tmp_path / "ink.png")[2].endswith(f"ink.png: {said}")
        assert "is blank" in run("predict", "lenet5", tmp_path / "blank.png")[2]
        Image.new("L", (28, 28), 255).save(tmp_path / "white.png")
        white = run("predict", "lenet5", tmp_path / "white.png")[2]
        assert "is blank" in white
        assert "--no-prepare" not in white
        plain = run("predict", "lenet5", tmp_path / "dark.png", "--no-prepare")
        assert "mostly bright" in plain[2]
        assert "--invert" in plain[2]
        inverted = run("predict", "lenet5", tmp_path / "dark.png", "--no-prepare", "--invert")
        assert inverted[1].split(": ")[1].startswith("3 ")
        assert inverted[2].endswith("inverted\n")

    def test_one_answer_for_a_turned_photo(self, run, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        photo = Image.open(DIGITS / "4.png").convert("L").resize((112, 112)).rotate(90)
        photo.save(tmp_path / "turned.jpg", exif=exif)
        assert run("predict", "fcn_gap", tmp_path / "turned.jpg")[1].split(": ")[1].startswith("4 ")
        status, out, err = run("cam", "fcn_gap", tmp_path / "turned.jpg", "-o", tmp_path / "cam.png")
        assert status == 0
        assert out.startswith("4: ")
        assert "turned as its EXIF entry says" in err
        model = convzoo.create_model("fcn_gap", pretrained=True)
        with Image.open(tmp_path / "turned.jpg") as opened:
            assert int(model(model.preprocess(opened)).argmax()) == 4

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["x.png"], "no weights are named"),
            (["a.png", "b.png"], "no weights are named"),
            (["resnet34", "x.png"], "there are no weights for 'resnet34'"),
            (["lenett5", "x.png"], "did you mean 'lenet5'"),
            (["lenet5", "/nowhere/*.png"], "no file matches '/nowhere/*.png'"),
            (["lenet5", "{empty}"], "there is no picture in the folder"),
            (["lenet5", "https://example.com/a.png"], "pipe it: curl -s https://example.com/a.png"),
            (["lenet5", "x.png", "--top", "0"], "not a whole number of at least 1"),
        ],
    )
    def test_refused(self, run, arguments, words, tmp_path):
        status, out, err = run("predict", *(word.format(empty=tmp_path) for word in arguments))
        assert (status, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1


class TestCam:
    def test_a_sheet_of_several_pictures(self, run, photos, tmp_path):
        status, out, err = run("cam", "fcn_gap", photos, "--top", "2", "-o", tmp_path / "new" / "sheet.png")
        assert status == 0
        assert out.splitlines()[0].startswith(f"{photos / '3.png'}: 3: ")
        assert out.splitlines()[-1] == f"cam at relu3: {tmp_path / 'new' / 'sheet.png'}"
        assert "inverted" in err
        with Image.open(tmp_path / "new" / "sheet.png") as sheet:
            assert sheet.size == (3 * (224 + 8) + 8 + 56, 2 * (224 + 36 + 8) + 8)
            words = np.asarray(sheet.convert("L"))[8:44]
            assert all((words[:, left : left + 224] < 128).any() for left in (8, 240, 472))  # each panel has a title

    def test_a_sheet_a_picture(self, run, photos, tmp_path):
        status, out, _ = run("cam", "fcn_gap", photos, "-o", f"{tmp_path}/sheets/")
        assert status == 0
        assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["3.png", "5.png"]
        assert str(tmp_path / "sheets" / "3.png") in out

    def test_pictures_of_one_name_do_not_overwrite_each_other(self, run, photos, tmp_path):
        status, _, _ = run("cam", "fcn_gap", photos / "3.png", DIGITS / "3.png", "-o", f"{tmp_path}/sheets/")
        assert status == 0
        assert sorted(path.name for path in (tmp_path / "sheets").iterdir()) == ["3-2.png", "3.png"]

    def test_the_heat_lies_on_the_digit_at_the_pictures_own_resolution(self, run, tmp_path):
        paper = Image.new("L", (600, 400), 230)
        ink = 1 - draw(3, 100, torch.Generator().manual_seed(0))[0]
        paper.paste(Image.fromarray((ink * 230).byte().numpy()), (40, 250))
        paper.save(tmp_path / "paper.png")
        assert run("cam", "fcn_gap", tmp_path / "paper.png", "-o", tmp_path / "o.png")[0] == 0
        sheet = np.asarray(Image.open(tmp_path / "o.png")).astype(int)
        assert len(sheet) > 400 + 8 + 2 * 18  # a margin below, and two lines of letters above that grow with the panel
        plain, heated = sheet[-408:-8, 8:608], sheet[-408:-8, 616:1216]
        assert abs(plain[..., 0] - np.asarray(paper)).max() <= 1
        change = abs(plain - heated).sum(2)
        assert change[230:370, 20:160].sum() == change.sum() > 0

    def test_as_json(self, run, photos, tmp_path):
        told = json.loads(run("cam", "fcn_gap", photos / "3.png", "-o", tmp_path / "o.png", "--json")[1])
        assert told["written"] == [str(tmp_path / "o.png")]
        assert told["images"][0]["classes"][0]["class"] == "3"
        assert told["images"][0]["method"] == "cam"

    def test_a_bad_file_is_named_and_the_rest_is_drawn(self, run, photos, tmp_path):
        status, _, err = run("cam", "fcn_gap", photos / "notes.txt", photos / "3.png", "-o", tmp_path / "o.png")
        assert status == 1
        assert "notes.txt is not a picture" in err
        assert (tmp_path / "o.png").is_file()
        status, out, _ = run("cam", "fcn_gap", photos / "notes.txt", "-o", tmp_path / "none.png")
        assert (status, out) == (2, "")
        assert not (tmp_path / "none.png").exists()


def test_a_sheet_that_cannot_be_written_is_named(run, tmp_path):
    sheet = tmp_path / f"{'x' * 251}.png"  # there is no room for a temporary name beside it
    status, _, err = run("cam", "lenet5", DIGITS / "3.png", "-o", sheet)
    assert status == 2
    assert err.endswith(f"convzoo: {sheet}: File name too long\n")
