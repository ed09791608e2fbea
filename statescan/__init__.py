"""Mamba-style vision backbones: scans as data, one operator, nothing to compile."""

__version__ = "0.1.0"
