"""Operators on plain tensors. Nothing here knows a model."""

import torch

from .decompositions import decompositions
from .dwconv_silu import dwconv_silu
from .dwconv_silu import op as _dwconv_silu
from .merge_norm import merge_norm
from .merge_norm import op as _merge_norm
from .noncausal_ssd import noncausal_ssd
from .noncausal_ssd import op as _noncausal_ssd
from .recurrence_2d import op as _recurrence_2d
from .recurrence_2d import (
    scan_2dmamba,
    scan_mamba2d,
    scan_v2m,
    scan_v2m_columns,
    scan_v2m_rows,
)
from .selective_scan import op as _selective_scan
from .selective_scan import selective_scan, selective_scan_states
from .ssd import op as _ssd
from .ssd import ssd
from .state_fusion import op as _state_fusion
from .state_fusion import state_fusion

__all__ = [
    "backends",
    "decompositions",
    "dwconv_silu",
    "merge_norm",
    "noncausal_ssd",
    "scan_2dmamba",
    "scan_mamba2d",
    "scan_v2m",
    "scan_v2m_columns",
    "scan_v2m_rows",
    "selective_scan",
    "selective_scan_states",
    "ssd",
    "state_fusion",
]

OPERATORS = {
    "selective_scan": _selective_scan,
    "noncausal_ssd": _noncausal_ssd,
    "ssd": _ssd,
    "recurrence_2d": _recurrence_2d,
    "state_fusion": _state_fusion,
    "dwconv_silu": _dwconv_silu,
    "merge_norm": _merge_norm,
}


def backends() -> dict[str, dict[str, str]]:
    """Which backend serves each operator on each device of this machine, and why."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        name: {device: op.describe_backend(torch.device(device)) for device in devices}
        for name, op in OPERATORS.items()
    }
