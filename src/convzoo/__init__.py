"""convzoo: the classic image classifiers, by name, hand-written, checked."""

from .explain import CAM, cam, cam_layers, feature_maps, overlay, show_cam, show_feature_maps, show_filters
from .inference import optimize_for_inference
from .models import AuxLogits, Classifier
from .registry import ModelInfo, create_model, list_models, model_info

__version__ = "0.1.0"
__all__ = [
    "CAM",
    "AuxLogits",
    "Classifier",
    "ModelInfo",
    "__version__",
    "cam",
    "cam_layers",
    "create_model",
    "feature_maps",
    "list_models",
    "model_info",
    "optimize_for_inference",
    "overlay",
    "show_cam",
    "show_feature_maps",
    "show_filters",
]
