"""Layers that two or more families share."""

from .mlla import InvertedDownsample, MllaBlock, PositionEncoding, ResidualStem
from .mlp import Mlp
from .resolution import DOWNSAMPLES, STEMS, ConvDownsample, ConvStem, PatchMerging, PatchStem

__all__ = [
    "DOWNSAMPLES",
    "STEMS",
    "ConvDownsample",
    "ConvStem",
    "InvertedDownsample",
    "MllaBlock",
    "Mlp",
    "PatchMerging",
    "PatchStem",
    "PositionEncoding",
    "ResidualStem",
]
