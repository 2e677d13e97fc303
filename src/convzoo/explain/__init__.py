"""Where a net looks, and what its layers see.

:func:`convzoo.cam` lives here, not in a module of its own name: ``convzoo.cam`` is always the function.
"""

from .engine import METHODS, cam
from .features import feature_maps
from .figures import show_cam, show_feature_maps, show_filters
from .known import cam_layers
from .pictures import colorize, overlay, to_picture
from .result import CAM

__all__ = [
    "CAM",
    "METHODS",
    "cam",
    "cam_layers",
    "colorize",
    "feature_maps",
    "overlay",
    "show_cam",
    "show_feature_maps",
    "show_filters",
    "to_picture",
]
