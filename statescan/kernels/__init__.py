"""Operators on plain tensors. Nothing here knows a model."""

import torch

from .noncausal_ssd import noncausal_ssd
from .noncausal_ssd.op import BACKEND as NONCAUSAL_SSD_BACKEND
from .selective_scan import selective_scan
from .selective_scan.op import describe_backend
from .ssd import ssd
from .ssd.op import BACKEND as SSD_BACKEND

__all__ = ["backends", "noncausal_ssd", "selective_scan", "ssd"]


def backends() -> dict[str, dict[str, str]]:
    """Which backend serves each operator on each device of this machine, and why."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        "selective_scan": {device: describe_backend(torch.device(device)) for device in devices},
        "noncausal_ssd": dict.fromkeys(devices, NONCAUSAL_SSD_BACKEND),
        "ssd": dict.fromkeys(devices, SSD_BACKEND),
    }
