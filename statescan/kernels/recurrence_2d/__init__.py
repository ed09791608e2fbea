"""True 2-D recurrences: definitions, streaming backend and the public operators."""

from .op import scan_2dmamba, scan_mamba2d
from .reference import scan_2dmamba_reference, scan_mamba2d_reference, scan_v2m_reference
from .v2m import scan_v2m, scan_v2m_columns, scan_v2m_rows

__all__ = [
    "scan_2dmamba",
    "scan_2dmamba_reference",
    "scan_mamba2d",
    "scan_mamba2d_reference",
    "scan_v2m",
    "scan_v2m_columns",
    "scan_v2m_reference",
    "scan_v2m_rows",
]
