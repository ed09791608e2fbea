"""The definitions of the 2-D recurrences: one cell at a time, any dtype, plain autograd.

Symbols, as in 2DMamba (arXiv 2412.00678), Mamba2D (arXiv 2412.16146) and V2M (arXiv 2410.10382).
Inside a shape, B is the batch, H and W the grid, C the channels, N the states a channel. States
outside the grid are zero.

    x       (B, H, W, C)
    dt      (B, H, W, C)   step size before bias and softplus
    dt_bias (C,)
    delta   (B, H, W, C)   softplus(dt + dt_bias)
    A       (C, N)         decay rate, negative
    a       (B, C, N)      exp(delta A), decay into one cell
    B       (B, H, W, N)   input matrix
    C       (B, H, W, N)   output matrix
    D       (C,)           skip
    g, h    (B, C, N)      states of one cell
    y       (B, H, W, C)

Suffixes: _top and _left belong to the neighbour that a state comes from, 2 to V2M's second pass.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def step_sizes(dt: Tensor, dt_bias: Tensor | None) -> Tensor:
    """Delta (B, H, W, C)."""
    return F.softplus(dt if dt_bias is None else dt + dt_bias)


def enter(x: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Decay exp(delta A) and input delta B x of one cell, from its own x, delta and B."""
    step = delta.unsqueeze(-1)
    return torch.exp(step * A), step * B.unsqueeze(1) * x.unsqueeze(-1)


def read_out(h: Tensor, C: Tensor, D: Tensor | None, x: Tensor) -> Tensor:
    """`y = C·h + D x` of one cell, from its own C (B, N) and x (B, C)."""
    y = (h * C.unsqueeze(1)).sum(-1)
    return y if D is None else y + D * x


def stack(cells: list[list[Tensor]]) -> Tensor:
    """Rows of cells (B, C) as one (B, H, W, C)."""
    return torch.stack([torch.stack(row, dim=1) for row in cells], dim=1)


def scan_2dmamba_reference(x, dt, A, B, C, D=None, *, dt_bias=None) -> Tensor:
    """`g_ij = a_ij g_i,j-1 + delta B x`, `h_ij = a_ij h_i-1,j + g_ij`, `y = C·h + D x`."""
    delta = step_sizes(dt, dt_bias)
    zero = x.new_zeros(x.shape[0], *A.shape)
    h = [zero] * x.shape[2]  # of the row above
    y = []
    for i in range(x.shape[1]):
        g, row = zero, []
        for j in range(x.shape[2]):
            a, u = enter(x[:, i, j], delta[:, i, j], A, B[:, i, j])
            g = a * g + u
            h[j] = a * h[j] + g
            row.append(read_out(h[j], C[:, i, j], D, x[:, i, j]))
        y.append(row)
    return stack(y)


def scan_mamba2d_reference(
    x,
    dt_top,
    dt_left,
    A_top,
    A_left,
    B_top,
    B_left,
    C,
    D=None,
    *,
    dt_bias_top=None,
    dt_bias_left=None,
) -> Tensor:
    """`h_ij` is the mean of `a_left h_i,j-1 + u_left` and `a_top h_i-1,j + u_top`; `y = C·h + D x`.

    u is delta B x. Row 0 takes the former alone, the rest of column 0 the latter alone.
    """
    top, left = step_sizes(dt_top, dt_bias_top), step_sizes(dt_left, dt_bias_left)
    h, y = {}, []
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            a, u = enter(x[:, i, j], left[:, i, j], A_left, B_left[:, i, j])
            from_left = a * h[i, j - 1] + u if j else u
            a, u = enter(x[:, i, j], top[:, i, j], A_top, B_top[:, i, j])
            from_top = a * h[i - 1, j] + u if i else u
            h[i, j] = (from_left + from_top) / 2 if i and j else from_top if i else from_left
        y.append([read_out(h[i, j], C[:, i, j], D, x[:, i, j]) for j in range(x.shape[2])])
    return stack(y)


def scan_v2m_reference(
    x, dt, A, B, dt2, A2, C2, D=None, D2=None, *, dt_bias=None, dt_bias2=None
) -> Tensor:
    """Along rows `h = a h + delta B x`, `u = Σ h + D x`; down columns the same of u.

    The first pass has C ≡ 1, the second B ≡ 1 and `y = C2·h + D2 u`.
    """
    delta, delta2 = step_sizes(dt, dt_bias), step_sizes(dt2, dt_bias2)
    h2 = [x.new_zeros(x.shape[0], *A2.shape)] * x.shape[2]  # of the row above
    y = []
    for i in range(x.shape[1]):
        h, row = x.new_zeros(x.shape[0], *A.shape), []
        for j in range(x.shape[2]):
            a, v = enter(x[:, i, j], delta[:, i, j], A, B[:, i, j])
            h = a * h + v
            u = read_out(h, torch.ones_like(B[:, i, j]), D, x[:, i, j])
            a, v = enter(u, delta2[:, i, j], A2, torch.ones_like(C2[:, i, j]))
            h2[j] = a * h2[j] + v
            row.append(read_out(h2[j], C2[:, i, j], D2, u))
        y.append(row)
    return stack(y)
