"""Backbones registered with timm, one file a family."""

from ._checkpoint import read_checkpoint, read_plain
from ._official import from_official, list_models, load_official, out_norms_in
from .efficientvmamba import EfficientVMamba
from .groupmamba import GroupMamba
from .localvim import LocalVim
from .localvmamba import LocalVMamba
from .mhs_vm import MHSVM, MHSVMUNet
from .msvmamba import MSVMamba
from .plainmamba import PlainMamba
from .spatial_mamba import SpatialMamba
from .vim import Vim
from .vmamba import VMamba
from .vssd import VSSD

__all__ = [
    "MHSVM",
    "VSSD",
    "EfficientVMamba",
    "GroupMamba",
    "LocalVMamba",
    "LocalVim",
    "MHSVMUNet",
    "MSVMamba",
    "PlainMamba",
    "SpatialMamba",
    "VMamba",
    "Vim",
    "from_official",
    "list_models",
    "load_official",
    "out_norms_in",
    "read_checkpoint",
    "read_plain",
]
