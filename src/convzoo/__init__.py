"""convzoo: the classic image classifiers, by name, hand-written, checked."""

from .models import AuxLogits, Classifier
from .profiling import Profile, profile, summary
from .registry import ModelInfo, create_model, list_models, model_info

__version__ = "0.1.0"
__all__ = [
    "AuxLogits",
    "Classifier",
    "ModelInfo",
    "Profile",
    "__version__",
    "create_model",
    "list_models",
    "model_info",
    "profile",
    "summary",
]
