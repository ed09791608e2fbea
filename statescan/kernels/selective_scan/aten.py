"""The selective scan in torch's own operators: one loop over the steps of all routes.

Symbols are those of `reference.py`. Slower than `streaming.py`, whose chunks no graph can hold for
any number of steps, but it runs wherever a graph of torch runs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._arguments import compute_dtype
from .._aten import add_up, loop, read, skipped
from .streaming import CHUNK


def forward(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once) -> tuple[Tensor, Tensor]:
    """As `streaming.forward`, but that the states, which only a backward pass reads, are empty."""
    dtype = compute_dtype(x, dt, A, B, C, D, dt_weight, dt_bias)
    batch, length, K, _ = dt.shape
    channels, N = A.shape[1:]
    routes, A, D = routes.long(), A.to(dtype), D.to(dtype)
    u, z, B, C = (read(t, routes).to(dtype) for t in (x, dt, B, C))
    if dt_weight is not None:
        z = torch.einsum("tbkr,kcr->tbkc", z, dt_weight.to(dtype))
    delta = F.softplus(z + dt_bias.to(dtype)).masked_fill(skipped(routes), 0)

    h = x.new_zeros(batch, *A.shape, dtype=dtype)
    out = loop(step, h, (delta, delta * u, B, C), [A]) + D * u
    y = add_up(out, routes, length, merge, once).to(x.dtype)
    chunks = (routes.shape[1] + CHUNK - 1) // CHUNK
    return y, x.new_empty(chunks + 1, K, batch, N, channels, dtype=dtype)


def step(
    h: Tensor, delta: Tensor, driven: Tensor, B: Tensor, C: Tensor, A: Tensor
) -> tuple[Tensor, Tensor]:
    """States (B, K, C, N) after a step that driven = delta x enters, and what they give."""
    h = torch.exp(delta.unsqueeze(-1) * A) * h + driven.unsqueeze(-1) * B.unsqueeze(-2)
    return h, (h * C.unsqueeze(-2)).sum(-1)
