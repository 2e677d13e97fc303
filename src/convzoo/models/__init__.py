"""One file a family; importing this package registers them all."""

from . import resnet, t2t_vit
from ._base import Classifier, ModelConfig

__all__ = ["Classifier", "ModelConfig", "resnet", "t2t_vit"]
