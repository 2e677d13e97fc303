"""The examples run, as their docstrings say: each once as a program of its own, else in this process."""

import contextlib
import importlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from drawn_digits import draw

import convzoo

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def run(*arguments, cwd):
    """What a script prints, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def refused(script, *arguments, cwd, path=ROOT):
    """What a script that gives up writes to standard error; ``path`` comes first where modules are looked for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{path}{os.pathsep}{ROOT / 'src'}"}
    command = [sys.executable, EXAMPLES / script, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls a script's ``main``, or runs one that has none, in ``tmp_path``; on one thread, as ``run`` does.

    Returns what it prints.
    """

    def call(script, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        threads, out = torch.get_num_threads(), io.StringIO()
        torch.set_num_threads(1)
        try:
            with contextlib.redirect_stdout(out):
                if script == "train_own_images":
                    runpy.run_path(str(EXAMPLES / f"{script}.py"), run_name="__main__")
                else:
                    importlib.import_module(script).main()
        finally:
            torch.set_num_threads(threads)
        return out.getvalue()

    return call


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder laid out like MNIST's, with drawn digits in it."""
    import pyarrow
    from PIL import Image
    from pyarrow import parquet

    sys.path.insert(0, str(EXAMPLES))
    from drawn_digits import draw

    folder = tmp_path_factory.mktemp("digits")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 360), ("test", 50)):
        cells = []
        for index in range(count):
            pixels = (draw(index % 10, generator=generator)[0] * 255).to(torch.uint8).numpy()
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            cells.append({"bytes": stream.getvalue(), "path": None})
        table = pyarrow.table({"image": cells, "label": [index % 10 for index in range(count)]})
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    return folder


def test_train_mnist_learns_stops_and_goes_on(digits, tmp_path, call, monkeypatch):
    options = ["--model", "lenet5", "--data", digits, "--epochs", 6, "--batch", 32, "--held-out", 40, "--ema", 0.9]
    out = call("train_mnist", *options, "--out", tmp_path / "whole")
    log = json.loads((tmp_path / "whole" / "log.json").read_text())
    assert log["held_out_accuracy"][-1] >= 80
    assert log["test_accuracy"] >= 80
    assert f"test: {log['test_accuracy']:.2f} % of 50 digits" in out

    model = convzoo.create_model("lenet5", pretrained=tmp_path / "whole")
    assert model.weights.metrics == {"top1": log["test_accuracy"], "n": 50}
    assert model.weights.classes == tuple("0123456789")

    # stopped after the fourth epoch, and called again in a fresh process: the same weights
    import train_mnist

    write = train_mnist.write

    def write_and_stop(path, save):
        write(path, save)
        if len(json.loads(torch.load(path, weights_only=True)["log"])["held_out_accuracy"]) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_mnist, "write", write_and_stop)
    with pytest.raises(KeyboardInterrupt):
        call("train_mnist", *options, "--out", tmp_path / "parts")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    run(EXAMPLES / "train_mnist.py", *options, "--out", tmp_path / "parts", cwd=tmp_path)
    again = convzoo.create_model("lenet5", pretrained=tmp_path / "parts")
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_an_interrupt_of_train_mnist_is_one_line(digits, tmp_path):
    command = [sys.executable, EXAMPLES / "train_mnist.py", "--model", "lenet5", "--data", digits, "--epochs", "9999"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    options = ["--batch", "40", "--held-out", "40", "--no-test"]
    with subprocess.Popen([*command, *options], cwd=tmp_path, env=environment, **pipes) as process:
        assert process.stdout.readline().startswith("epoch 1: ")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("stopped; the same command goes on")
    assert "Traceback" not in errors


def test_train_mnist_on_shrunk_digits_and_cooled_logits(digits, tmp_path, call):
    options = ["--model", "fcn_gap", "--data", digits, "--batch", 40, "--held-out", 40, "--no-test", "--out", tmp_path]
    call("train_mnist", *options, "--epochs", 3, "--sides", "7,14", "--temperature", 2)
    log = json.loads((tmp_path / "log.json").read_text())
    assert (log["sides"], log["temperature"]) == ([7, 14], 2.0)
    assert len(log["held_out_accuracy"]) == 3
    assert "test_accuracy" not in log


def test_train_mnist_on_parts_of_the_maps(digits, tmp_path, call):
    options = ["--data", digits, "--batch", 40, "--held-out", 40, "--no-test", "--epochs", 1, "--parts", 2]
    call("train_mnist", "--model", "fcn_gap", *options, "--out", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "log.json").read_text())["parts"] == 2
    with pytest.raises(SystemExit, match=r"--parts is for nets that end in global.*lenet5 does not"):
        call("train_mnist", "--model", "lenet5", *options)


def test_more_epochs_and_other_nets_are_refused_in_words(digits, tmp_path, call):
    options = ["--data", digits, "--batch", 40, "--held-out", 40, "--no-test", "--out", tmp_path / "run"]
    out = call("train_mnist", "--model", "lenet5", *options, "--epochs", 1)
    assert f"saved in {tmp_path / 'run'}; use it: python -m convzoo predict --weights {tmp_path / 'run'}" in out
    for more, words in (
        (
            ["--model", "lenet5", "--epochs", 2],
            r"other settings \(epochs: 1, now 2\); repeat its command, pass another",
        ),
        (["--model", "mnist_net", "--epochs", 1], r"other settings \(model: lenet5, now mnist_net\)"),
        (["--model", "lenet6"], r"^unknown model 'lenet6'; did you mean 'lenet5'"),
        (["--model", "lenet5", "--data", "/nowhere"], r"^there is no folder /nowhere; pass --data a folder"),
    ):
        with pytest.raises(SystemExit, match=words):
            call("train_mnist", *options, *more)
    more = ["--model", "lenet5", "--init", tmp_path / "run", "--epochs", 1, "--out", tmp_path / "run_2"]
    call("train_mnist", *options, *more)
    assert len(json.loads((tmp_path / "run_2" / "log.json").read_text())["held_out_accuracy"]) == 1


def test_data_that_cannot_be_had_is_one_line(tmp_path, call, monkeypatch):
    import huggingface_hub
    from tiny_imagenet.data import find_files

    def unreachable(*arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", unreachable)
    words = r"^someone/digits cannot be fetched from the Hub \(ConnectionError\); --data takes a folder too$"
    with pytest.raises(SystemExit, match=words):
        call("train_mnist", "--model", "lenet5", "--data", "someone/digits")
    with pytest.raises(FileNotFoundError, match=words):
        find_files("someone/digits", "train")
    nowhere = refused("train_tiny_imagenet.py", "resnet18", "--epochs", "1", "--data", "nowhere", cwd=tmp_path)
    assert nowhere.startswith("there is no folder nowhere; --data takes a folder")
    assert nowhere.count("\n") == 1


def test_random_parts_lie_inside_the_maps():
    from mnist_recipe.distort import random_part

    maps = torch.arange(28 * 22).view(1, 1, 28, 22)
    seen = torch.zeros(28, 22, dtype=torch.long)
    torch.manual_seed(0)
    for _ in range(4000):
        part = random_part(maps)
        rows, columns = part[0, 0] // 22, part[0, 0] % 22
        assert 2 <= part.shape[2] <= 8
        assert 2 <= part.shape[3] <= 8
        assert 3 <= rows.min() <= rows.max() <= 24
        assert 2 <= columns.min() <= columns.max() <= 19
        seen[rows, columns] += 1
    assert (seen[3:25, 2:20] > 0).all()
    assert random_part(maps[:, :, :1, :3]).shape[2:] in {(1, 2), (1, 3)}


def test_evaluate(digits, tmp_path):
    out = run(EXAMPLES / "evaluate.py", "--weights", "lenet5.mnist", "--data", digits, cwd=tmp_path)
    accuracy = float(out.split(": ")[1].split(" %")[0])
    assert accuracy >= 80  # drawn digits are not what it was trained on


@pytest.mark.filterwarnings("ignore:a picture has its ink elsewhere")  # these are no digits
def test_evaluate_of_a_folder(digits, tmp_path, call):
    convzoo.save_pretrained(convzoo.create_model("lenet5.mnist", pretrained=True), tmp_path / "net", tag="mine")
    out = call("evaluate", "--weights", "net", "--data", digits)
    published = call("evaluate", "--weights", "lenet5.mnist", "--data", digits)
    assert out.strip().removeprefix("net: ") == published.removeprefix("lenet5.mnist: ").split(", published")[0]


def test_evaluate_on_a_folder_per_class(tmp_path, call):
    for digit in (3, 7):
        (tmp_path / "pictures" / str(digit)).mkdir(parents=True)
        picture = (EXAMPLES / "digits" / f"{digit}.png").read_bytes()
        for number in range(2):
            (tmp_path / "pictures" / str(digit) / f"{number}.png").write_bytes(picture)
    assert call("evaluate", "--weights", "fcn_gap.mnist", "--data", "pictures").startswith("fcn_gap.mnist: 100.00 %")


@pytest.mark.parametrize(
    ("weights", "data", "words"),
    [
        ("lenet5.mnits", ".", "--weights lenet5.mnits: there are no weights 'lenet5.mnits'; did you mean"),
        ("lenett5", ".", "did you mean 'lenet5'"),
        ("no/folder", ".", "--weights no/folder"),
        ("empty", ".", "empty/config.json"),
        ("foreign", ".", "--weights foreign: its config.json names no architecture"),
        ("broken", ".", "--weights broken: "),
        ("lenet5.mnist", "nowhere", "nowhere holds no test-"),
        ("lenet5.mnist", "no_parquet", "no_parquet/test-0.parquet is no parquet file that can be read"),
        ("lenet5.mnist", "other_columns", "has the columns {'pixels': 'int64', 'label': 'int64'}; it needs image"),
        ("lenet5.mnist", "label_12", "has the label 12, but the weights know 10 classes"),
        ("lenet5.mnist", "no_picture", "picture 0 of no_picture/test-0.parquet is no picture that can be read"),
        ("lenet5.mnist", "cats", "cats/cat is called like none of the weights' classes, 0, 1, 2"),
        ("lenet5.mnist", "empty_classes", "there is not one picture in empty_classes"),
    ],
)
def test_evaluate_refuses_in_one_line(weights, data, words, tmp_path, call):
    import pyarrow
    from pyarrow import parquet

    folders = ("empty", "foreign", "broken", "no_parquet", "other_columns", "label_12", "no_picture", "cats/cat")
    for folder in (*folders, "empty_classes/3"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "foreign" / "config.json").write_text('{"model_type": "resnet"}')
    (tmp_path / "broken" / "config.json").write_text('{"architecture": "lenet5"}')
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"nothing")
    (tmp_path / "no_parquet" / "test-0.parquet").write_bytes(b"nothing")
    digit = (EXAMPLES / "digits" / "3.png").read_bytes()
    for folder, columns in {
        "other_columns": {"pixels": [1], "label": [1]},
        "label_12": {"image": [{"bytes": digit}], "label": [12]},
        "no_picture": {"image": [{"bytes": b"nothing"}], "label": [1]},
    }.items():
        parquet.write_table(pyarrow.table(columns), tmp_path / folder / "test-0.parquet")
    with pytest.raises(SystemExit) as refusal:
        call("evaluate", "--weights", weights, "--data", data)
    assert words in refusal.value.code
    assert "\n" not in refusal.value.code


def test_train_own_images_and_the_command_that_it_names(tmp_path, call):
    import shlex

    from PIL import Image, ImageDraw

    for name, shape in (("circle", "ellipse"), ("square", "rectangle")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(15):
            picture = Image.new("RGB", (40, 36), "white")
            corner = (4 + number % 5, 2 + number % 3)
            getattr(ImageDraw.Draw(picture), shape)((*corner, corner[0] + 25, corner[1] + 25), fill="black")
            picture.save(tmp_path / "pictures" / name / f"{number}.png")
    options = ["--model", "fcn_gap", "--size", 28, "--epochs", 4, "--out", "run"]
    out = run(EXAMPLES / "train_own_images.py", "pictures", *options, cwd=tmp_path)
    assert out.count("epoch ") == 4
    model = convzoo.create_model("fcn_gap", pretrained=tmp_path / "run")
    assert model.weights.classes == ("circle", "square")
    assert model.weights.metrics["n"] == 6
    assert (tmp_path / "run" / "training.png").stat().st_size > 5_000

    command = shlex.split(out.partition("use it: python ")[2].replace("PICTURE...", "pictures/circle/0.png"))
    assert "circle" in run(*command, cwd=tmp_path)

    def refused(*arguments):
        with pytest.raises(SystemExit) as refusal:
            call("train_own_images", *arguments)
        assert "\n" not in refusal.value.code
        return refusal.value.code

    assert refused("run") == "run holds 0 folders with 0 pictures; it needs 2 and 10"
    small = ["--epochs", 1, "--out"]
    again = refused("pictures", *small, "run")
    assert again == "run holds a net already: train it further by --weights run, with another --out"
    call("train_own_images", "pictures", "--weights", "run", *small, "more")
    assert convzoo.create_model("fcn_gap", pretrained=tmp_path / "more").weights.classes == ("circle", "square")
    assert refused("pictures", "--model", "resnet19").startswith("unknown model 'resnet19'; did you mean 'resnet18'")
    (tmp_path / "pictures" / "circle" / "0.png").write_bytes(b"nothing")
    broken = refused("pictures", "--model", "fcn_gap", "--size", 28)
    assert broken.startswith(f"{Path('pictures', 'circle', '0.png')} is no picture that can be read")


@pytest.mark.slow
@pytest.mark.parametrize("way", [(), ("--shard",)])
def test_train_distributed(tmp_path, way):
    """Two processes on this machine's processors learn to read the digits that they draw."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    options = ("--digits", 400, "--epochs", 8, "--out", "run")
    out = run(*torchrun, EXAMPLES / "train_distributed.py", *way, *options, cwd=tmp_path)
    assert out.count("epoch ") == 8
    model = convzoo.create_model("mnist_resnet", pretrained=tmp_path / "run")
    torch.manual_seed(5)
    read = model(torch.stack([draw(digit) for digit in range(10)] * 5)).argmax(1)
    assert (read == torch.arange(10).repeat(5)).float().mean() > 0.9


def test_pictures_of_the_zoo_and_of_the_maps(tmp_path, call):
    assert call("params_vs_macs", "--pattern", "lenet*").strip() == str(Path("out", "params_vs_macs.png"))
    assert call("cam_gallery", "--weights", "lenet5.mnist").strip() == str(Path("out", "cam_gallery.png"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cam_gallery.png", "params_vs_macs.png"]


def test_every_dot_has_its_name():
    import params_vs_macs

    nets = [(f"net{index}x", 1e7 * 1.01**index, 1e9 * 1.01**index) for index in range(40)]  # there is no room for all
    figure = params_vs_macs.draw({"one": nets}, stacked=True)
    written = "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)
    assert all(name in written for name, _, _ in nets)


@pytest.mark.parametrize("script", ["evaluate", "train_mnist"])
def test_a_missing_library_is_named_in_one_line(script, tmp_path):
    (tmp_path / "tqdm.py").write_text("raise ImportError('no', name='tqdm')")
    words = refused(f"{script}.py", "--weights", "lenet5", cwd=tmp_path, path=tmp_path)
    assert words.endswith('needs tqdm; run: pip install ".[data]"\n')
    assert words.count("\n") == 1


def test_demo(digits, tmp_path):
    from PIL import Image

    out = run(EXAMPLES / "demo.py", "--data", digits, cwd=tmp_path)
    assert "lenet5: 61,706 parameters, 416,520 MACs = 833,040 FLOPs" in out
    for digit in range(10):
        assert out.count(f"{digit}.png: {digit} (") == 2  # both nets read every drawn digit
    with Image.open(tmp_path / "out" / "cam.png") as picture:
        assert picture.width > 1000
        ink = picture.convert("L").point(lambda value: 255 * (value < 128))
        titles = [(left, top, left + 112, top + 22) for top in (8, 150) for left in range(8, 1200, 120)]
        assert all(ink.crop(title).getbbox() for title in titles)  # each picture has its own
        colours = {pixel for _, pixel in picture.getcolors(1 << 24)}
    assert any(red != blue for red, _, blue in colours)  # there is heat in it
