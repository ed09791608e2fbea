"""Non-causal SSD in torch's own operators: two matrix products in the compute dtype.

Symbols are those of `reference.py`.
"""

import torch.nn.functional as F
from torch import Tensor

from .._arguments import compute_dtype


def forward(x, dt, A, B, C, D, dt_bias) -> tuple[Tensor, Tensor]:
    """As `products.forward`: y, and the state (B, N, H·P)."""
    dtype = compute_dtype(x, dt, A, B, C, D, dt_bias)
    u, z, A, B, C = (t.to(dtype) for t in (x, dt, A, B, C))
    w = -F.softplus(z if dt_bias is None else z + dt_bias.to(dtype)) * A
    h = B.mT @ (w.unsqueeze(-1) * u).flatten(2)
    y = (C @ h).unflatten(-1, x.shape[2:])
    return (y if D is None else y + D.to(dtype).unsqueeze(-1) * u).to(x.dtype), h
