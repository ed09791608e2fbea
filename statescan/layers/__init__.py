"""Layers that two or more families share."""

from .bi_attention import AttentiveSum, BiAttention
from .conv_mlp import ConvMlp
from .mlla import InvertedDownsample, MllaBlock, PositionEncoding, ResidualStem
from .mlp import Mlp
from .resolution import DOWNSAMPLES, STEMS, ConvDownsample, ConvStem, PatchMerging, PatchStem

__all__ = [
    "DOWNSAMPLES",
    "STEMS",
    "AttentiveSum",
    "BiAttention",
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
