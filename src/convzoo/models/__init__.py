"""One file a family; importing this package registers them all."""

from . import ablation, alexnet, googlenet, inception_v3, lenet, mnist, mnist_gap, resnet, t2t_vit, vgg
from ._base import AuxLogits, Classifier
from ._config import ModelConfig
from ._features import FeatureInfo

__all__ = [
    "AuxLogits", "Classifier", "FeatureInfo", "ModelConfig",
    "ablation", "alexnet", "googlenet", "inception_v3", "lenet", "mnist", "mnist_gap", "resnet", "t2t_vit", "vgg",
]  # fmt: skip
