"""Spatial-Mamba's fusion of neighbouring states: definition, backends and the public operator."""

from .op import state_fusion
from .reference import state_fusion_reference

__all__ = ["state_fusion", "state_fusion_reference"]
