"""One file a family; importing this package registers them all."""

from importlib import import_module as _import_module

from ._base import Classifier
from ._config import ModelConfig, Rate
from ._features import FeatureInfo
from ._functions import AuxLogits

FAMILIES = (
    "ablation",
    "alexnet",
    "googlenet",
    "inception_v3",
    "lenet",
    "mnist",
    "mnist_gap",
    "resnet",
    "squeezenet",
    "t2t_vit",
    "vgg",
)
for _family in FAMILIES:
    _import_module(f".{_family}", __name__)

__all__ = ["FAMILIES", "AuxLogits", "Classifier", "FeatureInfo", "ModelConfig", "Rate"]
