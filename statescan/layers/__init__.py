"""Layers that two or more families share."""

from .mlp import Mlp
from .resolution import DOWNSAMPLES, STEMS, ConvDownsample, ConvStem, PatchMerging, PatchStem

__all__ = [
    "DOWNSAMPLES",
    "STEMS",
    "ConvDownsample",
    "ConvStem",
    "Mlp",
    "PatchMerging",
    "PatchStem",
]
