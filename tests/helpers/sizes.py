"""How large tests build a net: images a little above its smallest, and no repetition that a relative of it has too."""

import convzoo
from convzoo.registry import find_entry

# With all their layers; they have every kind of block, stem and head of their families, and the greatest depth.
WHOLE = ("cnn_bn", "cnn_sigmoid", "resnet18", "resnet101", "t2t_vit_7", "t2t_vit_t_14", "vgg19")


def size_of(name):
    return max(32, convzoo.model_info(name).min_size + 8)


def abridged(name):
    """Options that leave out of a net what one of ``WHOLE`` has: further equal blocks and convolutions, the wide linear
    layers of VGG, convolutions of 5x5 in the ablation series. What sets the net apart from its relatives stays."""
    options = find_entry(name).config.options
    if name in WHOLE:
        return {}
    if "embed_dim" in options:
        return {"depth": 2}
    if "width_per_group" in options:
        return {"depths": (2, 1, 1, 1)}  # blocks that widen or halve the maps, and one that does neither
    if options.get("head") == "fc" and "batch_norm" in options:
        return {"head": "gap", "depths": (1, 2, 1, 1, 2)}
    return {"convolution": "3x3"} if options.get("convolution") == "5x5" else {}
