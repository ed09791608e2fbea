"""Backbones registered with timm, one file a family."""

from ._checkpoint import read_checkpoint, read_plain
from ._official import from_official, list_models, load_official, out_norms_in
from .localvim import LocalVim
from .plainmamba import PlainMamba
from .vim import Vim
from .vmamba import VMamba

__all__ = [
    "LocalVim",
    "PlainMamba",
    "VMamba",
    "Vim",
    "from_official",
    "list_models",
    "load_official",
    "out_norms_in",
    "read_checkpoint",
    "read_plain",
]
