"""Where a net looks, and what its layers see.

:func:`convzoo.cam` lives here, not in a module of its own name: ``convzoo.cam`` is always the function.
"""

from .figures import show_cam, show_feature_maps, show_filters
from .layers import cam_layers
from .maps import METHODS, cam
from .pictures import colorize, overlay, to_picture
from .result import CAM
from .run import feature_maps

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
