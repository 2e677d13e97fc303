"""One file a family; importing this package registers them all."""

from . import resnet
from ._base import Classifier, ModelConfig

__all__ = ["Classifier", "ModelConfig", "resnet"]
