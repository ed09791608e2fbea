"""The definition of SSD along routes: short, any dtype, plain autograd.

Symbols, as in Mamba-2 (Dao & Gu, arXiv 2405.21060). Inside a shape, B is the batch, L the
positions of the image (H·W, row-major), K the routes, T the steps of a route, H the heads, P the
channels a head, G the groups of heads that share B and C, N the states a channel. Consecutive
heads share a group: head i belongs to group i // (H / G).

    x   (B, L, H, P), or (B, L, K, H, P) where each route has an input of its own
    dt  (B, L, K, H)      step size before bias and softplus
    A   (K, H)            decay, negative
    B   (B, L, K, G, N)   input matrix
    C   (B, L, K, G, N)   output matrix
    D   (K, H)            skip
    routes (K, T)         position visited at each step; -1 is no step
    h   (B, H, N, P)      state
    y   (B, L, H, P)      sum over all visits, or (B, L, K, H, P) before the routes are merged
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    routes: Tensor | None = None,
    merge: bool = True,
) -> Tensor:
    """Scan x along every route, one step at a time. Arguments as in `ssd`."""
    batch, length, K, H = dt.shape
    if x.dim() == 4:
        x = x.unsqueeze(2).expand(-1, -1, K, -1, -1)
    delta = F.softplus(dt if dt_bias is None else dt + dt_bias)
    B, C = (t.repeat_interleave(H // t.shape[3], dim=3) for t in (B, C))  # (B, L, K, H, N)
    if routes is None:
        routes = torch.arange(length).unsqueeze(0)

    nothing = x.new_zeros(batch, H, x.shape[-1])
    visits = [[[nothing] for _ in range(K)] for _ in range(length)]
    for k, route in enumerate(routes.tolist()):
        h = x.new_zeros(batch, H, B.shape[-1], x.shape[-1])
        for p in (p for p in route if p >= 0):
            step = delta[:, p, k, :, None, None]
            u = step * B[:, p, k, :, :, None] * x[:, p, k, :, None, :]
            h = torch.exp(step * A[k, :, None, None]) * h + u
            out = (C[:, p, k, :, :, None] * h).sum(2)
            if D is not None:
                out = out + D[k, :, None] * x[:, p, k]
            visits[p][k].append(out)
    y = torch.stack([torch.stack([sum(v) for v in at_p], dim=1) for at_p in visits], dim=1)
    return y.sum(2) if merge else y
