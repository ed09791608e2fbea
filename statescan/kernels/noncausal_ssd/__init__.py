"""VSSD's non-causal state-space duality: definition, matrix products and the public operator."""

from .op import noncausal_ssd
from .reference import noncausal_ssd_reference

__all__ = ["noncausal_ssd", "noncausal_ssd_reference"]
