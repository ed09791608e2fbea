"""Layers that two or more families share."""

from .conv_mlp import ConvMlp
from .mlla import InvertedDownsample, MllaBlock, PositionEncoding, ResidualStem
from .mlp import Mlp
from .resolution import DOWNSAMPLES, STEMS, ConvDownsample, ConvStem, PatchMerging, PatchStem

__all__ = [
    "DOWNSAMPLES",
    "STEMS",
    "ConvDownsample",
    "ConvMlp",
    "ConvStem",
    "InvertedDownsample",
    "MllaBlock",
    "Mlp",
    "PatchMerging",
    "PatchStem",
    "PositionEncoding",
    "ResidualStem",
]
