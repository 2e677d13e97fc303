"""Write what comes from the registry: the tables of the README and of docs, and the catalogue of the command line.

python docs/generate.py            # write
python docs/generate.py --check    # fail where a page is not what would be written
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import torch

import convzoo
from convzoo._checks import wilson_interval
from convzoo.registry import entries

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE = ROOT / "src" / "convzoo" / "commands" / "catalogue.json"
BEGIN, END = "<!-- generated: {} -->", "<!-- end -->"


def thousands(count: int) -> str:
    """61706 as 61.7 K: three digits and a unit."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return str(count)


def where_from(info: convzoo.ModelInfo) -> str:
    """The paper, as a link where it has an address; that there is none."""
    if info.arxiv:
        return f"[{info.authors} {info.year}](https://arxiv.org/abs/{info.arxiv})"
    if info.authors:
        return f"{info.authors} {info.year}"
    source, _, address = info.source.partition(": ")
    return f"[{source}]({address})" if address.startswith("https:") else "no paper"


def best(info: convzoo.ModelInfo) -> str:
    """The weights of a net and their accuracy, in percent."""
    entries = [(tag, convzoo.weight_info(f"{info.name}.{tag}").metrics.get("top1")) for tag in info.weights]
    return ", ".join(f"`{tag}` {top1:.2f}" if top1 else f"`{tag}`" for tag, top1 in entries)


def model_rows() -> list[list[str]]:
    """One row a model, family by family: what it costs at its own size, its weights, where it comes from."""
    infos = sorted((convzoo.model_info(name) for name in convzoo.list_models()), key=lambda info: info.family)
    rows = []
    for info in infos:
        with torch.device("meta"):
            model = convzoo.create_model(info.name)
        macs = thousands(convzoo.profile(model, (info.in_chans, *info.img_size)).macs)
        size = f"{info.in_chans}x{'x'.join(map(str, info.img_size))}"
        figures = [f"{info.params:,}", macs, size, str(info.min_size), str(info.num_classes)]
        rows.append([f"`{info.name}`", info.family, *figures, best(info), where_from(info)])
    return rows


def family_rows() -> list[list[str]]:
    """One row a family: its nets."""
    rows: dict[str, list[convzoo.ModelInfo]] = {}
    for name in convzoo.list_models():
        info = convzoo.model_info(name)
        rows.setdefault(info.family, []).append(info)
    return [
        [
            f"`{family}`",
            ", ".join(f"`{info.name}`" for info in infos),
            f"{thousands(min(info.params for info in infos))} to {thousands(max(info.params for info in infos))}",
            ", ".join(dict.fromkeys(where_from(info) for info in infos)),
        ]
        for family, infos in sorted(rows.items())
    ]


def option_tables() -> str:
    """The options of every family: a heading for each config, and what its docstring says of each option."""
    nets: dict[type, dict[str, str]] = {}  # the nets of a config, each with its family
    for name, entry in entries().items():
        nets.setdefault(type(entry.config), {})[name] = entry.about["family"]
    configs = Counter(family for names in nets.values() for family in set(names.values()))
    parts, without = [], []
    for config, names in nets.items():
        listed = ", ".join(f"`{name}`" for name in names)
        families = list(dict.fromkeys(names.values()))
        if not config.option_names():
            without.append(listed)
            continue
        whole = configs[families[0]] == 1
        heading = ", ".join(families) if whole else f"{families[0]}: {listed}"
        rows = [[f"`{option}`", meaning] for option, meaning in config.option_meanings().items()]
        of = f"{listed}\n\n" if whole and len(names) > 1 else ""
        parts.append(f"### {heading}\n\n{of}{table(['option', 'meaning'], rows)}")
    return "\n\n".join([*parts, f"{', '.join(without)} have no options."])


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; columns of figures stand to the right."""
    words = {
        "model",
        "option",
        "meaning",
        "net",
        "nets",
        "family",
        "weights",
        "weights, % right",
        "size",
        "paper",
        "where",
        "measured on",
    }
    marks = ["---" if title in words else "---:" for title in header]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, marks, *rows])


def weight_rows() -> list[list[str]]:
    """One row a set of weights: what it is, and its accuracy as measured."""
    rows = []
    for name in convzoo.list_weights():
        info = convzoo.weight_info(name)
        top1 = info.metrics.get("top1")
        measured = f"{top1:.2f} % of {info.metrics['n']:,}" if top1 is not None else ""
        where = "in the package" if info.bundled else "Hub" if info.revision else "`weights/hub` of a checkout"
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


TINY_IMAGENET_PUBLISHED = {"resnet18": 55.09, "resnet50": 58.97, "resnext50_32x4d": 59.29, "vgg19_bn": 52.79}


def tiny_imagenet_rows() -> list[list[str]]:
    """One row a net trained on Tiny-ImageNet: what it costs as it was trained, our figure, the published one."""
    rows = []
    for name in convzoo.list_weights("*.tiny_imagenet"):
        info = convzoo.weight_info(name)
        arch, count = name.partition(".")[0], info.metrics["n"]
        model = convzoo.create_model(name, pretrained=True)
        counted = convzoo.profile(model, (info.in_chans, *info.img_size))
        low, high = wilson_interval(info.metrics["top1"], count)
        ours = f"{info.metrics['top1']:.2f} ({low:.1f} to {high:.1f})"
        images = f"{count:,} {'validation' if info.dataset['split'] == 'valid' else info.dataset['split']}"
        published = TINY_IMAGENET_PUBLISHED.get(arch)
        size = "x".join(map(str, info.img_size))
        figures = [f"{counted.params:,}", thousands(counted.macs), size, ours, images, f"{published or ''}"]
        rows.append([f"`{name}`", *figures])
    return rows


def pages() -> dict[str, str]:
    """The generated parts, by name."""
    heads = ["model", "family", "parameters", "MACs", "size", "smallest side", "classes", "weights, % right", "paper"]
    models = table(heads, model_rows())
    families = table(["family", "nets", "parameters", "paper"], family_rows())
    weights = table(["weights", "file", "accuracy", "where"], weight_rows())
    mnist = table(["net", "parameters", "MACs", "`.mnist`", "`.mnist_aug`", "published"], mnist_rows())
    tiny_imagenet = table(
        ["weights", "parameters", "MACs", "read at", "top-1 %, 95 % interval", "measured on", "published %"],
        tiny_imagenet_rows(),
    )
    options = option_tables()
    return {
        "models": models,
        "options": options,
        "families": families,
        "weights": weights,
        "mnist": mnist,
        "tiny_imagenet": tiny_imagenet,
    }


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
    new_texts = {path: filled(path.read_text(), parts) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]}
    new_texts[CATALOGUE] = catalogue()
    for path, new in sorted(new_texts.items()):
        if new != (path.read_text() if path.exists() else ""):
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(new)
    for path in stale:
        print(f"{path} {'is not what the registry gives; run: python docs/generate.py' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
