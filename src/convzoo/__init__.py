"""convzoo: the classic image classifiers, by name, hand-written, checked."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .models import AuxLogits, Classifier
from .registry import ModelInfo, create_model, list_models, model_info

if TYPE_CHECKING:
    from .comparison import compare
    from .explain import CAM, cam, cam_layers, feature_maps, overlay, show_cam, show_feature_maps, show_filters
    from .finetune import Frozen, freeze, parameter_groups, unfreeze
    from .inference import optimize_for_inference
    from .profiling import Profile, profile, summary
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
        transform,
        weight_info,
    )

__version__ = "0.1.0"
__all__ = [
    "CAM",
    "AuxLogits",
    "Classifier",
    "Frozen",
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
    "compare",
    "create_model",
    "feature_maps",
    "freeze",
    "list_models",
    "list_weights",
    "load_weights",
    "model_info",
    "optimize_for_inference",
    "overlay",
    "parameter_groups",
    "profile",
    "push_to_hub",
    "save_pretrained",
    "show_cam",
    "show_feature_maps",
    "show_filters",
    "summary",
    "transform",
    "unfreeze",
    "weight_info",
]

# Where the names live that are imported when they are first used, which keeps ``import convzoo`` short.
_LATER = {
    "comparison": "compare",
    "explain": "CAM cam cam_layers feature_maps overlay show_cam show_feature_maps show_filters",
    "finetune": "Frozen freeze parameter_groups unfreeze",
    "inference": "optimize_for_inference",
    "profiling": "Profile profile summary",
    "weights": "WeightInfo WeightsCorrupted WeightsError WeightsForbidden WeightsMismatch WeightsNotFound "
    "WeightsUnavailable WeightsUnsafe list_weights load_weights push_to_hub save_pretrained transform weight_info",
}


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names.split():
            value = globals()[name] = getattr(import_module(f".{module}", __name__), name)
            return value
    raise AttributeError(f"module 'convzoo' has no attribute {name!r}; dir(convzoo) names what it has")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
