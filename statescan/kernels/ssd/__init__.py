"""Mamba-2's state-space duality along routes: definition, chunked path, public operator."""

from .op import ssd
from .reference import ssd_reference

__all__ = ["ssd", "ssd_reference"]
