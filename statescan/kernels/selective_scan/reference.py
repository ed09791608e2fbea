"""The definition of the selective scan: short, any dtype, plain autograd.

Symbols, as in Mamba (Gu & Dao, arXiv 2312.00752) and VMamba (Liu et al., arXiv 2401.10166).
Inside a shape, B is the batch, L the positions of the image (H·W, row-major), C the channels,
K the routes, T the steps of a route, N the states a channel, R the rank of dt.

    x   (B, L, C), or (B, L, K, C) where each route has an input of its own
    dt  (B, L, K, C)   step size before bias and softplus, or
        (B, L, K, R)   its low-rank factor, with dt_weight (K, C, R)
    A   (K, C, N)      decay, negative
    B   (B, L, K, N)   input matrix
    C   (B, L, K, N)   output matrix
    D   (K, C)         skip
    routes (K, T)      position visited at each step; -1 is no step
    h   (B, C, N)      state
    y   (B, L, C)      sum over all visits, or (B, L, K, C) before the routes are merged
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_weight: Tensor | None = None,
    dt_bias: Tensor | None = None,
    routes: Tensor | None = None,
    merge: bool = True,
) -> Tensor:
    """Scan x along every route, one step at a time. Arguments as in `selective_scan`.

    For one route: `delta = softplus(dt + dt_bias)`, `h_t = exp(delta A) h_{t-1} + delta B x_t`,
    `y_t = C h_t + D x_t`, added to the position that step t visits.
    """
    batch, length, K, _ = dt.shape
    if x.dim() == 3:
        x = x.unsqueeze(2).expand(-1, -1, K, -1)
    if dt_weight is not None:
        dt = torch.einsum("blkr,kcr->blkc", dt, dt_weight)
    delta = F.softplus(dt if dt_bias is None else dt + dt_bias)
    if routes is None:
        routes = torch.arange(length).unsqueeze(0)

    nothing = x.new_zeros(batch, x.shape[-1])
    visits = [[[nothing] for _ in range(K)] for _ in range(length)]
    for k, route in enumerate(routes.tolist()):
        h = x.new_zeros(batch, *A.shape[1:])
        for p in (p for p in route if p >= 0):
            step, u = delta[:, p, k, :, None], x[:, p, k, :, None]
            h = torch.exp(step * A[k]) * h + step * B[:, p, k, None, :] * u
            out = (h * C[:, p, k, None, :]).sum(-1)
            if D is not None:
                out = out + D[k] * x[:, p, k]
            visits[p][k].append(out)
    y = torch.stack([torch.stack([sum(v) for v in at_p], dim=1) for at_p in visits], dim=1)
    return y.sum(2) if merge else y
