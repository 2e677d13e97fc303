"""The published accuracies of the nets trained on Tiny-ImageNet, measured again where the set is at hand."""

import pytest
from helpers.data_sets import TINY_IMAGENET, needs_tiny_imagenet
from helpers.tiny_imagenet_set import data

import convzoo

NAMES = convzoo.list_weights("*.tiny_imagenet")


@pytest.mark.parametrize("name", NAMES)
def test_entry_says_all_there_is_to_say(name):
    info = convzoo.weight_info(name)
    assert (info.num_classes, info.in_chans) == (200, 3)
    assert len(info.classes) == len(info.class_ids) == 200
    assert "tabby" in info.classes
    assert "espresso" in info.classes
    assert info.class_ids[info.classes.index("tabby")] == "n02123045"
    assert info.metrics["n"] == 10_000
    assert 0 < info.metrics["top1"] < info.metrics["top5"] < 100
    assert info.dataset["split"] in ("valid", "held out of train")
    assert {"epochs", "lr", "batch", "images", "seed"} <= info.recipe.keys()
    assert "non-commercial research and education" in info.dataset_terms


@pytest.mark.slow
@needs_tiny_imagenet
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_is_what_was_published(name):
    """From the file as it is loaded, on the images that the entry names."""
    model = convzoo.create_model(name, pretrained=True)
    if model.weights.dataset["split"] == "valid":
        split = data.load_split(str(TINY_IMAGENET), "valid")
    else:
        split = data.load_split(str(TINY_IMAGENET), "train")
        split = split.select(data.hold_out(len(split.labels))[1])
    right = data.count_right(model, split, model.preprocess)
    assert abs(100 * right[0] / len(split.labels) - model.weights.metrics["top1"]) <= 0.05
