"""Mamba's selective scan (S6) along routes: definition, backends and the public operator."""

from .op import selective_scan, selective_scan_states
from .reference import selective_scan_reference

__all__ = ["selective_scan", "selective_scan_reference", "selective_scan_states"]
