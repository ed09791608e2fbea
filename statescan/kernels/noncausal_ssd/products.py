"""Non-causal SSD as two matrix products: `h = Bᵀ (w x)` and `y = C h`.

No matrix of positions by positions exists, and the backward pass needs nothing but the inputs
and h. Symbols are those of `reference.py`; the heads lie side by side, (H·P), so that one product
serves them all.

On a GPU, where B and C are bfloat16 or float16, so are the factors of every product, each rounded
once, for its tensor cores; sums and the state stay float32. What float16 could not hold is divided
by a number of its sample first.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .._arguments import compute_dtype
from ..selective_scan.streaming import softplus

LOW = (torch.bfloat16, torch.float16)
LARGEST = 2.0**15  # of a divided factor in float16
SMALLEST = 2.0**-99  # divisor


class Factor(NamedTuple):
    """A factor of matrix products."""

    value: Tensor  # (B, ·, ·)
    scale: Tensor | None = None  # (B, 1, 1), what the value was divided by

    @property
    def mT(self) -> "Factor":
        """The transposed factor."""
        return Factor(self.value.mT, self.scale)


class Inputs(NamedTuple):
    """The operator's inputs in the compute dtype, and what follows from them at each position."""

    x: Tensor  # (B, L, H, P), as given where factors are narrow
    A: Tensor  # (H,)
    B: Factor  # (B, L, N)
    C: Factor  # (B, L, N)
    D: Tensor | None  # (H, 1)
    z: Tensor  # (B, L, H) before softplus
    delta: Tensor  # (B, L, H)
    w: Tensor  # (B, L, H, 1)
    wx: Factor  # (B, L, H·P)


def factor_dtype(B: Tensor, C: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The type of the products' factors, given that of their sums."""
    narrow = B.dtype == C.dtype and B.dtype in LOW and dtype == torch.float32
    return B.dtype if narrow and has_wide_products(B.device) else dtype


def has_wide_products(device: torch.device) -> bool:
    """Whether torch multiplies low precision into float32 there: on NVIDIA's GPUs, since 2.8."""
    cuda = device.type == "cuda" and torch.version.cuda is not None
    return cuda and "dtype" in torch.ops.aten.bmm.overloads()


def wide_bmm(a: Tensor, b: Tensor) -> Tensor:
    """Products of matrices in low precision, in float32."""
    return torch.bmm(a, b, out_dtype=torch.float32)


def prepare(x, dt, A, B, C, D, dt_bias) -> Inputs:
    """Upcast the operator's arguments."""
    dtype = compute_dtype(x, dt, A, B, C, D, dt_bias)
    factors = factor_dtype(B, C, dtype)
    x = x.to(dtype) if factors == dtype else x
    A = A.to(dtype)
    z = dt.to(dtype) if dt_bias is None else dt.to(dtype) + dt_bias.to(dtype)
    delta = softplus(z)
    w = (delta * -A).unsqueeze(-1)
    D = None if D is None else D.to(dtype).unsqueeze(-1)
    B, C = (Factor(t.to(factors)) for t in (B, C))
    return Inputs(x, A, B, C, D, z, delta, w, weigh(w, x, factors))


def weigh(w: Tensor, x: Tensor, dtype: torch.dtype) -> Factor:
    """`w x` as a factor (B, L, H·P), in one pass over x."""
    scale = divisor(w, x) if dtype == torch.float16 else None
    if scale is not None:
        w = w / scale.unsqueeze(-1)
    wx = torch.mul(w, x, out=x.new_empty(x.shape, dtype=dtype))
    return Factor(wx.flatten(2), scale)


def factor(t: Tensor, dtype: torch.dtype) -> Factor:
    """T (B, ·, ·) as a factor of a dtype."""
    if dtype != torch.float16 or t.dtype == dtype:
        return Factor(t.to(dtype))
    scale = divisor(t)
    return Factor(t.to(dtype) if scale is None else (t / scale).to(dtype), scale)


def divisor(*tensors: Tensor) -> Tensor | None:
    """What brings a product of entries within LARGEST, (B, 1, 1); None if there are no entries."""
    if any(t.numel() == 0 for t in tensors):
        return None
    scale = 1 / LARGEST
    for t in tensors:
        rows = t.flatten(1)
        scale = scale * torch.linalg.vector_norm(rows, torch.inf, dim=1, dtype=torch.float32)
    return scale.clamp_min(SMALLEST).view(-1, 1, 1)


def product(a: Factor, b: Factor) -> Tensor:
    """Matrix product of two factors, (B, ·, ·) in float32 (float64 if they are)."""
    out = (wide_bmm if a.value.dtype in LOW else torch.bmm)(a.value, b.value)
    for scale in (a.scale, b.scale):
        if scale is not None:
            out.mul_(scale)
    return out


def forward(x, dt, A, B, C, D, dt_bias) -> tuple[Tensor, Tensor]:
    """Y as in `reference.py`, and the state (B, N, H·P)."""
    i = prepare(x, dt, A, B, C, D, dt_bias)
    h = product(i.B.mT, i.wx)
    y = product(i.C, factor(h, i.C.value.dtype)).view(x.shape)
    if i.D is not None:
        y.addcmul_(i.D, i.x)
    return y.to(x.dtype), h


def backward(dy, h, x, dt, A, B, C, D, dt_bias) -> tuple[Tensor | None, ...]:
    """Gradients of x, dt, A, B, C, D and dt_bias; None for those not given."""
    i = prepare(x, dt, A, B, C, D, dt_bias)
    factors = i.C.value.dtype
    rows = factor(dy.flatten(2), factors)
    dy = dy.to(h.dtype)
    dh = factor(product(i.C.mT, rows), factors)
    dwx = product(i.B, dh).view(x.shape)
    dw = (dwx * i.x).sum(-1)
    dx, dD = dwx.mul_(i.w), None
    if i.D is not None:
        dx.addcmul_(i.D, dy)
        dD = (dy * i.x).sum((0, 1, 3))
    dz = dw * -i.A * torch.sigmoid(i.z)
    dA = -(dw * i.delta).sum((0, 1))
    dB, dC = product(i.wx, dh.mT), product(rows, factor(h, factors).mT)
    given = (x, dt, A, B, C, D, dt_bias)
    grads = (dx, dz, dA, dB, dC, dD, dz.sum((0, 1)))
    return tuple(
        None if t is None else g.to(t.dtype).contiguous() for g, t in zip(grads, given, strict=True)
    )
