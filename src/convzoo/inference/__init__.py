"""The same function, faster: :func:`optimize_for_inference`."""

from .optimize import optimize_for_inference

__all__ = ["optimize_for_inference"]
