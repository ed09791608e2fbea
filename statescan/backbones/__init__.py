"""Backbones registered with timm, one file a family."""

from ._checkpoint import read_checkpoint, read_plain
from ._official import from_official, list_models, load_official, out_norms_in
from .groupmamba import GroupMamba
from .msvmamba import MSVMamba
from .spatial_mamba import SpatialMamba
from .vmamba import VMamba
from .vssd import VSSD

__all__ = [
    "VSSD",
    "GroupMamba",
    "MSVMamba",
    "SpatialMamba",
    "VMamba",
    "from_official",
    "list_models",
    "load_official",
    "out_norms_in",
    "read_checkpoint",
    "read_plain",
]
