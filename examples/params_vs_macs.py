"""Draw the zoo: parameters against multiply-accumulates, a dot for each model.

    python examples/params_vs_macs.py params_vs_macs.png

No model is built in memory and none is run; the counts come from shapes.
"""

import math
import sys

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt

import convzoo


def main(path: str = "params_vs_macs.png") -> None:
    """Count every model at its native size and draw the picture."""
    families: dict[str, list[tuple[str, float, float]]] = {}
    for name in convzoo.list_models():
        with torch.device("meta"):
            model = convzoo.create_model(name)
        profile = convzoo.profile(model, (model.in_chans, *model.img_size))
        family = convzoo.model_info(name).family
        families.setdefault(family, []).append((name, profile.params, profile.macs))

    figure, axes = plt.subplots(figsize=(11, 7.5), layout="constrained")
    colours = plt.get_cmap("tab20").colors
    labelled: list[tuple[float, float]] = []
    for index, (family, models) in enumerate(families.items()):
        axes.scatter(
            [params for _, params, _ in models],
            [macs for _, _, macs in models],
            s=45,
            color=colours[index % len(colours)],
            marker="osD^v"[index // len(colours)],
            label=family,
            alpha=0.85,
        )
        for name, params, macs in models:
            # one label where dots lie together
            if all(abs(math.log10(params / x)) > 0.32 or abs(math.log10(macs / y)) > 0.09 for x, y in labelled):
                labelled.append((params, macs))
                axes.annotate(name, (params, macs), xytext=(5, 4), textcoords="offset points", fontsize=7)
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="multiply-accumulates for one image",
             title="The zoo: size against cost, each net at its native image size")  # fmt: skip
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(fontsize=8, title="family", loc="lower right", ncols=2)
    figure.savefig(path, dpi=130)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
