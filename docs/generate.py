"""Write what comes from the registry: the tables of the README and of docs, and the catalogue of the command line.

python docs/generate.py            # write
python docs/generate.py --check    # fail where a page is not what would be written
"""

import argparse
import json
import sys
from pathlib import Path

import torch

import convzoo

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "src" / "convzoo" / "commands" / "catalogue.json"
BEGIN, END = "<!-- generated: {} -->", "<!-- end -->"


def thousands(count: int) -> str:
    """61706 as 61.7 K: three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return str(count)


def model_rows() -> list[list[str]]:
    """One row a model: what it costs at its own size, and where it comes from."""
    rows = []
    for name in convzoo.list_models():
        info = convzoo.model_info(name)
        with torch.device("meta"):
            model = convzoo.create_model(name)
        size = (info.in_chans, *info.img_size)
        macs = convzoo.profile(model, size).macs
        paper = f"[{info.authors} {info.year}](https://arxiv.org/abs/{info.arxiv})" if info.arxiv else info.paper
        if not info.arxiv and info.authors:
            paper = f"{info.authors} {info.year}"
        weights = ", ".join(f"`{tag}`" for tag in info.weights)
        figures = [f"{info.params:,}", thousands(macs), " x ".join(map(str, size)), info.min_size, info.num_classes]
        rows.append([f"`{name}`", *map(str, figures), paper.removeprefix("none: "), weights])
    return rows


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; columns of figures stand to the right."""
    words = {"model", "net", "weights", "native size", "paper", "where"}
    marks = ["---" if title in words else "---:" for title in header]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, marks, *rows])


def weight_rows() -> list[list[str]]:
    """One row a set of weights: what it is, and its accuracy as measured."""
    rows = []
    for name in convzoo.list_weights():
        info = convzoo.weight_info(name)
        top1 = info.metrics.get("top1")
        measured = f"{top1:.2f} % of {info.metrics['n']:,}" if top1 is not None else ""
        where = "in the package" if info.bundled else "Hub"
        rows.append([f"`{name}`", f"{info.size / 1e6:.2f} MB", measured, where])
    return rows


# The figure that each net's source states; of the 1998 nets, without and with distortions.
MNIST_PUBLISHED = {
    "lenet5": "99.05 / 99.20",
    "lenet5_1998": "99.05 / 99.20",
    "mnist_net": "about 99.0",
    "basic_cnn": "99.19",
    "inception_cnn": "99.47",
    "residual_cnn": "99.47",
    "fcn_gap": "99.16",
    "mnist_resnet": "99.62",
}


def mnist_rows() -> list[list[str]]:
    """One row a small net with weights: what it costs, our two figures, the published one."""
    rows = []
    for name, published in MNIST_PUBLISHED.items():
        info = convzoo.model_info(name)
        with torch.device("meta"):
            macs = convzoo.profile(convzoo.create_model(name), (1, 28, 28)).macs
        figures = []
        for tag in ("mnist", "mnist_aug"):
            known = tag in info.weights
            figures.append(f"{convzoo.weight_info(f'{name}.{tag}').metrics['top1']:.2f}" if known else "")
        if any(figures):
            rows.append([f"`{name}`", f"{info.params:,}", thousands(macs), *figures, published])
    return rows


def catalogue() -> str:
    """What ``convzoo list`` shows of each model, so that it needs neither torch nor a network built."""
    entries = {}
    for name in convzoo.list_models():
        info = convzoo.model_info(name)
        with torch.device("meta"):
            model = convzoo.create_model(name)
        size = (info.in_chans, *info.img_size)
        entries[name] = {
            "family": info.family,
            "params": info.params,
            "macs": convzoo.profile(model, size).macs,
            "input_size": list(size),
            "num_classes": info.num_classes,
            "year": info.year,
        }
    lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def pages() -> dict[str, str]:
    """The generated parts, by name."""
    models = table(
        ["model", "parameters", "MACs", "native size", "smallest side", "classes", "paper", "weights"], model_rows()
    )
    weights = table(["weights", "file", "accuracy", "where"], weight_rows())
    mnist = table(["net", "parameters", "MACs", "`.mnist`", "`.mnist_aug`", "published"], mnist_rows())
    return {"models": models, "weights": weights, "mnist": mnist}


def filled(text: str, parts: dict[str, str]) -> str:
    """``text`` with what stands between each pair of marks replaced."""
    for name, part in parts.items():
        begin = BEGIN.format(name)
        if begin in text:
            before, rest = text.split(begin, 1)
            text = f"{before}{begin}\n\n{part}\n\n{END}{rest.split(END, 1)[1]}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    parts, stale = pages(), []
    new_texts = {path: filled(path.read_text(), parts) for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
    new_texts[CATALOGUE] = catalogue()
    for path, new in sorted(new_texts.items()):
        old = path.read_text() if path.exists() else ""
        if new != old:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(new)
    for path in stale:
        print(f"{path} {'is not what the registry gives; run: python docs/generate.py' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
