"""convzoo: the classic image classifiers, by name, hand-written, checked."""

from .explain import CAM, cam, cam_layers, feature_maps, overlay, show_cam, show_feature_maps, show_filters
from .models import AuxLogits, Classifier
from .profiling import Profile, profile, summary
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
    "CAM",
    "AuxLogits",
    "Classifier",
    "ModelInfo",
    "Profile",
    "WeightInfo",
    "WeightsCorrupted",
    "WeightsError",
    "WeightsForbidden",
    "WeightsMismatch",
    "WeightsNotFound",
    "WeightsUnavailable",
    "WeightsUnsafe",
    "__version__",
    "cam",
    "cam_layers",
    "create_model",
    "feature_maps",
    "list_models",
    "list_weights",
    "load_weights",
    "model_info",
    "overlay",
    "profile",
    "push_to_hub",
    "save_pretrained",
    "show_cam",
    "show_feature_maps",
    "show_filters",
    "summary",
    "weight_info",
]
