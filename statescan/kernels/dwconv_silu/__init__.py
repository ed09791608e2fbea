"""Depthwise convolution and SiLU on channels-last maps: definition, kernels, public operator."""

from .op import dwconv_silu, is_fused
from .reference import dwconv_silu_reference

__all__ = ["dwconv_silu", "dwconv_silu_reference", "is_fused"]
