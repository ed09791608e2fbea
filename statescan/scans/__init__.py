"""Scan routes as data, and the modules that scan along them."""

from . import routes
from .routes import ROUTE_SETS, Route
from .scan2d import S6, Scan2d

__all__ = ["ROUTE_SETS", "S6", "Route", "Scan2d", "routes"]
