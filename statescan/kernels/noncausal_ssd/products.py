"""Non-causal SSD as two matrix products: `h = Bᵀ (w x)` and `y = C h`.

No matrix of positions by positions exists, and the backward pass needs nothing but the inputs
and h. Symbols are those of `reference.py`; the heads lie side by side, (H·P), so that one product
serves them all.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .._arguments import compute_dtype
from ..selective_scan.streaming import softplus


class Inputs(NamedTuple):
    """The operator's inputs in the compute dtype, and what follows from them at each position."""

    x: Tensor  # (B, L, H, P)
    A: Tensor  # (H,)
    B: Tensor  # (B, L, N)
    C: Tensor  # (B, L, N)
    D: Tensor | None  # (H, 1)
    z: Tensor  # (B, L, H) before softplus
    delta: Tensor  # (B, L, H)
    w: Tensor  # (B, L, H, 1)
    wx: Tensor  # (B, L, H·P)


def prepare(x, dt, A, B, C, D, dt_bias) -> Inputs:
    """Upcast the operator's arguments."""
    dtype = compute_dtype(*(t for t in (x, dt, A, B, C, D, dt_bias) if t is not None))
    x, A, B, C = (t.to(dtype) for t in (x, A, B, C))
    z = dt.to(dtype) if dt_bias is None else dt.to(dtype) + dt_bias.to(dtype)
    delta = softplus(z)
    w = (delta * -A).unsqueeze(-1)
    D = None if D is None else D.to(dtype).unsqueeze(-1)
    return Inputs(x, A, B, C, D, z, delta, w, (w * x).flatten(2))


def forward(x, dt, A, B, C, D, dt_bias) -> tuple[Tensor, Tensor]:
    """Y as in `reference.py`, and the state (B, N, H·P)."""
    i = prepare(x, dt, A, B, C, D, dt_bias)
    h = torch.bmm(i.B.mT, i.wx)
    y = torch.bmm(i.C, h).view(x.shape)
    if i.D is not None:
        y.addcmul_(i.D, i.x)
    return y.to(x.dtype), h


def backward(dy, h, x, dt, A, B, C, D, dt_bias) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D and dt_bias; None for those not given."""
    i = prepare(x, dt, A, B, C, D, dt_bias)
    dy = dy.to(h.dtype)
    rows = dy.flatten(2)
    dh = torch.bmm(i.C.mT, rows)
    dwx = torch.bmm(i.B, dh).view(x.shape)
    dw = (dwx * i.x).sum(-1)
    dx, dD = dwx.mul_(i.w), None
    if i.D is not None:
        dx.addcmul_(i.D, dy)
        dD = (dy * i.x).sum((0, 1, 3))
    dz = dw * -i.A * torch.sigmoid(i.z)
    dA = -(dw * i.delta).sum((0, 1))
    dB, dC = torch.bmm(i.wx, dh.mT), torch.bmm(rows, h.mT)
    given = (x, dt, A, B, C, D, dt_bias)
    grads = (dx, dz, dA, dB, dC, dD, dz.sum((0, 1)))
    return tuple(
        None if t is None else g.to(t.dtype).contiguous() for g, t in zip(grads, given, strict=True)
    )
