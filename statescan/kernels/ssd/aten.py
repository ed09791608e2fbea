"""SSD in torch's own operators: one loop over the steps of all routes.

Symbols are those of `reference.py`. Slower than `chunked.py`, whose chunks no graph can hold for
any number of steps, but it runs wherever a graph of torch runs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._arguments import compute_dtype
from .._aten import add_up, loop, read, skipped
from .chunked import CHUNK


def forward(x, dt, A, B, C, D, dt_bias, routes, merge, once) -> tuple[Tensor, Tensor]:
    """As `chunked.forward`, but that the states, which only a backward pass reads, are empty."""
    dtype = compute_dtype(x, dt, A, B, C, D, dt_bias)
    batch, length, K, H = dt.shape
    (G, N), P = B.shape[3:], x.shape[-1]
    routes, A = routes.long(), A.to(dtype)
    u, z, B, C = (read(t.flatten(-2), routes).to(dtype) for t in (x, dt.unsqueeze(-1), B, C))
    u = u.unflatten(-1, (H, P))
    B, C = (t.unflatten(-1, (G, N)).repeat_interleave(H // G, 3) for t in (B, C))
    z = z if dt_bias is None else z + dt_bias.to(dtype)
    delta = F.softplus(z).masked_fill(skipped(routes), 0)

    h = x.new_zeros(batch, K, H, N, P, dtype=dtype)
    out = loop(step, h, (torch.exp(delta * A), delta.unsqueeze(-1) * u, B, C), [])
    if D is not None:
        out = out + D.to(dtype).unsqueeze(-1) * u
    y = add_up(out.flatten(-2), routes, length, merge, once).unflatten(-1, (H, P))
    chunks = (routes.shape[1] + CHUNK - 1) // CHUNK
    return y.to(x.dtype), x.new_empty(chunks + 1, K, batch, H, N, P, dtype=dtype)


def step(h: Tensor, a: Tensor, driven: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """States (B, K, H, N, P) after a step that driven = delta x enters, and what they give."""
    h = a[..., None, None] * h + B.unsqueeze(-1) * driven.unsqueeze(-2)
    return h, (C.unsqueeze(-1) * h).sum(-2)
