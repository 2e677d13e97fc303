"""One file a family; importing this package registers them all."""

from . import lenet, mnist, mnist_gap, resnet
from ._base import AuxLogits, Classifier, ModelConfig

__all__ = ["AuxLogits", "Classifier", "ModelConfig", "lenet", "mnist", "mnist_gap", "resnet"]
