"""Layers that two or more families share."""

from .bi_attention import AttentiveSum, BiAttention
from .conv_mlp import ConvMlp
from .deformable import DeformableSampling, deformable_sample
from .mlla import InvertedDownsample, MllaBlock, PositionEncoding, ResidualStem
from .mlp import Mlp
from .patches import PatchEmbed, pad_to_patches, patch_grid, resample_positions
from .resolution import DOWNSAMPLES, STEMS, ConvDownsample, ConvStem, PatchMerging, PatchStem
from .rope import rotary_table

__all__ = [
    "DOWNSAMPLES",
    "STEMS",
    "AttentiveSum",
    "BiAttention",
    "ConvDownsample",
    "ConvMlp",
    "ConvStem",
    "DeformableSampling",
    "InvertedDownsample",
    "MllaBlock",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "PatchStem",
    "PositionEncoding",
    "ResidualStem",
    "deformable_sample",
    "pad_to_patches",
    "patch_grid",
    "resample_positions",
    "rotary_table",
]
