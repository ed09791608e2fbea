"""Backbones registered with timm, one file a family."""

from ._checkpoint import read_checkpoint, read_plain, without_logs
from ._official import from_official, list_models, load_official, out_norms_in
from .efficientvmamba import EfficientVMamba
from .groupmamba import GroupMamba
from .hrvmamba import HRVMamba
from .localvim import LocalVim
from .localvmamba import LocalVMamba
from .mamba_yolo import MambaYOLO
from .mamba_yolo_detector import (
    MambaYOLODetector,
    MambaYOLOHead,
    MambaYOLONeck,
    mamba_yolo_detector,
)
from .mhs_vm import MHSVM, MHSVMUNet
from .msvmamba import MSVMamba
from .plainmamba import PlainMamba
from .spatial_mamba import SpatialMamba
from .vim import Vim
from .vim2 import ViM2
from .vmamba import VMamba
from .vssd import VSSD

__all__ = [
    "MHSVM",
    "VSSD",
    "EfficientVMamba",
    "GroupMamba",
    "HRVMamba",
    "LocalVMamba",
    "LocalVim",
    "MHSVMUNet",
    "MSVMamba",
    "MambaYOLO",
    "MambaYOLODetector",
    "MambaYOLOHead",
    "MambaYOLONeck",
    "PlainMamba",
    "SpatialMamba",
    "VMamba",
    "ViM2",
    "Vim",
    "from_official",
    "list_models",
    "load_official",
    "mamba_yolo_detector",
    "out_norms_in",
    "read_checkpoint",
    "read_plain",
    "without_logs",
]
