"""Merging, layer norm and gate of a scan's outputs: definition, kernels and public operator."""

from .op import is_fused, merge_norm
from .reference import merge_norm_reference

__all__ = ["is_fused", "merge_norm", "merge_norm_reference"]
