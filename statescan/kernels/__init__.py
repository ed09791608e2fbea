"""Operators on plain tensors. Nothing here knows a model."""

import torch

from .selective_scan import selective_scan
from .selective_scan.op import describe_backend

__all__ = ["backends", "selective_scan"]


def backends() -> dict[str, dict[str, str]]:
    """Which backend serves each operator on each device of this machine, and why."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {
        "selective_scan": {device: describe_backend(torch.device(device)) for device in devices}
    }
