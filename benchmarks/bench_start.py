"""Starting: what `import convzoo` adds to `import torch`, and the first logits from a cold process.

    python benchmarks/bench_start.py

Whole processes, wall clock, in turn. First logits: ResNet-18 with weights from a file, one image, as a service that has
just been started gives them. The usual way is what other libraries do: construct the model with random numbers, read
the file, copy its tensors in; where torchvision and timm can be imported, they do it themselves (and take their own
time to be imported, which "our model, the usual way" does not). Ours is
``create_model("resnet18", pretrained=file)``. All print the same logits, which is checked.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from _common import machine, markdown

import convzoo

IMPORTS = {
    "import torch": "import torch",
    "import convzoo": "import convzoo",
    "import torchvision": "import torchvision",
    "import timm": "import timm",
}
READ = "model.load_state_dict(safetensors.torch.load_file(path)); model.eval()"
TAIL = """
images = torch.linspace(-1, 1, 150528).view(1, 3, 224, 224)
with torch.inference_mode(): print(*(f"{x:.3f}" for x in model(images)[0, :3].tolist()))
"""
FIRST_LOGITS = {
    "torch alone": "import torch",
    "convzoo": "import torch, convzoo\nmodel = convzoo.create_model('resnet18', pretrained=path)" + TAIL,
    "our model, the usual way": "import torch, convzoo, safetensors.torch, _peers\n"
    f"with _peers.usual_construction(): model = convzoo.create_model('resnet18')\n{READ}" + TAIL,
    "torchvision": f"import torch, torchvision, safetensors.torch\nmodel = torchvision.models.resnet18()\n{READ}"
    + TAIL,
    "timm": f"import torch, timm, safetensors.torch\nmodel = timm.create_model('resnet18')\n{READ}" + TAIL,
}


def imports(name: str) -> bool:
    """Whether ``import name`` works here, in a process of its own; a line says so if not."""
    if importlib.util.find_spec(name) is None:
        print(f"- {name} is not installed: left out")
        return False
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"- {name} cannot be imported here ({done.stderr.strip().splitlines()[-1]}): left out")
    return not done.returncode


def run(code: str) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout.strip()


def side_by_side(codes: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, the candidates in turn; the first round warms the file cache and is left out."""
    taken: dict[str, list[float]] = {name: [] for name in codes}
    for index in range(-1, rounds):
        for name, code in codes.items():
            seconds, _ = run(code)
            if index >= 0:
                taken[name].append(seconds)
    return taken


def rows(taken: dict[str, list[float]], unit: str) -> list[list[str]]:
    """Median, quartiles, and the median of the ratios to ``unit``, round by round."""
    table = []
    for name, times in taken.items():
        low, median, high = statistics.quantiles(times, n=4)
        ratio = statistics.median(mine / other for mine, other in zip(times, taken[unit], strict=True))
        table.append([name, f"{1e3 * median:.0f} ({1e3 * low:.0f}-{1e3 * high:.0f})", f"{ratio:.3f}"])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(f"{machine(('torchvision', 'timm', 'safetensors'))}\n")
    here = [name for name in ("torchvision", "timm") if imports(name)]
    codes = {name: code for name, code in IMPORTS.items() if name.split()[1] in ("torch", "convzoo", *here)}
    table = rows(side_by_side(codes, rounds), "import torch")
    print(f"\n### A process that imports, and nothing else\n\n{markdown(('', 'ms', 'to torch'), table)}")

    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        saved = convzoo.save_pretrained(
            convzoo.create_model("resnet18"), folder, tag="any", mean=(0.0,) * 3, std=(1.0,) * 3
        )
        path = f"path = {str(Path(saved) / 'model.safetensors')!r}\n"
        path += f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        codes = {name: path + code for name, code in FIRST_LOGITS.items()
                 if name not in ("torchvision", "timm") or name in here}  # fmt: skip
        answers = {name: run(code)[1] for name, code in codes.items()}
        given = {answer for answer in answers.values() if answer}
        if len(given) != 1:
            raise SystemExit(f"the logits differ: {answers}")
        base = "torchvision" if "torchvision" in codes else "our model, the usual way"
        table = rows(side_by_side(codes, rounds), base)
    print(f"\n### First logits of ResNet-18 from a cold process\n\n{markdown(('', 'ms', 'to ' + base), table)}")


if __name__ == "__main__":
    main()
