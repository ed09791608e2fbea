"""Scan routes as data, and the modules that scan along them."""

from . import routes
from .fusion import StateFusion
from .parameters import SelectiveParameters
from .recurrences import V2M, Mamba2D, TwoDMamba
from .route_attention import RouteAttention
from .routes import ROUTE_SETS, Route
from .scan2d import S6, MultiHeadS6, Scan2d
from .steps import CausalS6, TokenScan

__all__ = [
    "ROUTE_SETS",
    "S6",
    "V2M",
    "CausalS6",
    "Mamba2D",
    "MultiHeadS6",
    "Route",
    "RouteAttention",
    "Scan2d",
    "SelectiveParameters",
    "StateFusion",
    "TokenScan",
    "TwoDMamba",
    "routes",
]
