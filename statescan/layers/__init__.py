"""Layers that two or more families share."""

from .channel_attention import ChannelAttentionMerge
from .mlp import Mlp
from .patches import PatchEmbed, pad_to_patches, patch_grid, resample_positions
from .resolution import DOWNSAMPLES, STEMS, ConvDownsample, ConvStem, PatchMerging, PatchStem
from .rope import rotary_table

__all__ = [
    "DOWNSAMPLES",
    "STEMS",
    "ChannelAttentionMerge",
    "ConvDownsample",
    "ConvStem",
    "Mlp",
    "PatchEmbed",
    "PatchMerging",
    "PatchStem",
    "pad_to_patches",
    "patch_grid",
    "resample_positions",
    "rotary_table",
]
