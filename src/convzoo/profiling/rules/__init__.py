"""What each function of torch costs, and the shape it gives, from the shapes it is given: see :mod:`.table`."""

from . import free, products
from .table import RULES

__all__ = ["RULES", "free", "products"]
