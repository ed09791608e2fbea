"""Operators on plain tensors. Nothing here knows a model."""

from .selective_scan import selective_scan

__all__ = ["selective_scan"]
