"""convzoo: the classic image classifiers, by name, hand-written, checked."""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:  # what editors and type checkers read; the table below says the same when the code runs
    from ._transform import transform as transform
    from .comparison import compare as compare
    from .explain import CAM as CAM
    from .explain import cam as cam
    from .explain import cam_layers as cam_layers
    from .explain import feature_maps as feature_maps
    from .explain import overlay as overlay
    from .explain import show_cam as show_cam
    from .explain import show_feature_maps as show_feature_maps
    from .explain import show_filters as show_filters
    from .finetune import Frozen as Frozen
    from .finetune import freeze as freeze
    from .finetune import parameter_groups as parameter_groups
    from .finetune import unfreeze as unfreeze
    from .inference import optimize_for_inference as optimize_for_inference
    from .models import AuxLogits as AuxLogits
    from .models import Classifier as Classifier
    from .models import ModelConfig as ModelConfig
    from .profiling import Profile as Profile
    from .profiling import profile as profile
    from .profiling import summary as summary
    from .weights import WeightInfo as WeightInfo
    from .weights import WeightsCorrupted as WeightsCorrupted
    from .weights import WeightsError as WeightsError
    from .weights import WeightsForbidden as WeightsForbidden
    from .weights import WeightsMismatch as WeightsMismatch
    from .weights import WeightsNotFound as WeightsNotFound
    from .weights import WeightsUnavailable as WeightsUnavailable
    from .weights import WeightsUnsafe as WeightsUnsafe
    from .weights import list_weights as list_weights
    from .weights import load_weights as load_weights
    from .weights import push_to_hub as push_to_hub
    from .weights import save_pretrained as save_pretrained
    from .weights import weight_info as weight_info
    from .zoo import ModelInfo as ModelInfo
    from .zoo import create_model as create_model
    from .zoo import list_models as list_models
    from .zoo import model_info as model_info
    from .zoo import register as register

__version__ = "0.1.0"

# The public names by the module that they live in. A module is imported when one of its names is first used, which
# keeps ``import convzoo`` short.
_PUBLIC = {
    "_transform": "transform",
    "comparison": "compare",
    "explain": "CAM cam cam_layers feature_maps overlay show_cam show_feature_maps show_filters",
    "finetune": "Frozen freeze parameter_groups unfreeze",
    "inference": "optimize_for_inference",
    "models": "AuxLogits Classifier ModelConfig",
    "profiling": "Profile profile summary",
    "weights": "WeightInfo WeightsCorrupted WeightsError WeightsForbidden WeightsMismatch WeightsNotFound "
    "WeightsUnavailable WeightsUnsafe list_weights load_weights push_to_hub save_pretrained weight_info",
    "zoo": "ModelInfo create_model list_models model_info register",
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names.split()}
__all__ = sorted([*_MODULE_OF, "__version__"])  # noqa: PLE0605 - the table is its only source


def __getattr__(name: str) -> object:
    if name in _MODULE_OF:
        value = globals()[name] = getattr(_import_module(f".{_MODULE_OF[name]}", __name__), name)
        return value
    if name in _PUBLIC or name == "registry":
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module 'convzoo' has no attribute {name!r}; dir(convzoo) names what it has")


def __dir__() -> list[str]:
    return [*__all__, *(module for module in _PUBLIC if not module.startswith("_"))]
