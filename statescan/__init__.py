"""Mamba-style vision backbones: scans as data, one operator, nothing to compile.

Importing this package registers its models with timm: `timm.create_model("vmamba_tiny_s1l8")`.
"""

from .backbones import from_official, list_models, read_checkpoint
from .kernels import backends, decompositions, selective_scan
from .scans import Scan2d

__version__ = "0.1.0"
__all__ = [
    "Scan2d",
    "backends",
    "decompositions",
    "from_official",
    "list_models",
    "read_checkpoint",
    "selective_scan",
]
