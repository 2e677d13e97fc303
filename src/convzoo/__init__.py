"""convzoo: the classic image classifiers, by name, hand-written, checked."""

from .models import AuxLogits, Classifier
from .registry import ModelInfo, create_model, list_models, model_info
from .weights import (
    WeightInfo,
    WeightsCorrupted,
    WeightsError,
    WeightsForbidden,
    WeightsMismatch,
    WeightsNotFound,
    WeightsUnavailable,
    WeightsUnsafe,
    list_weights,
    load_weights,
    push_to_hub,
    save_pretrained,
    weight_info,
)

__version__ = "0.1.0"
__all__ = [
    "AuxLogits",
    "Classifier",
    "ModelInfo",
    "WeightInfo",
    "WeightsCorrupted",
    "WeightsError",
    "WeightsForbidden",
    "WeightsMismatch",
    "WeightsNotFound",
    "WeightsUnavailable",
    "WeightsUnsafe",
    "__version__",
    "create_model",
    "list_models",
    "list_weights",
    "load_weights",
    "model_info",
    "push_to_hub",
    "save_pretrained",
    "weight_info",
]
