"""Operators on plain tensors. Nothing here knows a model."""

import torch

from .noncausal_ssd import noncausal_ssd
from .noncausal_ssd.op import BACKEND as NONCAUSAL_SSD_BACKEND
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
from .ssd import ssd
from .ssd.op import BACKEND as SSD_BACKEND
from .state_fusion import op as _state_fusion
from .state_fusion import state_fusion

__all__ = [
    "backends",
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

DESCRIBED = {
    "selective_scan": _selective_scan.describe_backend,
    "noncausal_ssd": lambda device: NONCAUSAL_SSD_BACKEND,
    "ssd": lambda device: SSD_BACKEND,
    "recurrence_2d": _recurrence_2d.describe_backend,
    "state_fusion": _state_fusion.describe_backend,
}


def backends() -> dict[str, dict[str, str]]:
    """Which backend serves each operator on each device of this machine, and why."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        name: {device: describe(torch.device(device)) for device in devices}
        for name, describe in DESCRIBED.items()
    }
