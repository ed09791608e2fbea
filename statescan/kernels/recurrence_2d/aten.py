"""The 2-D recurrences in torch's own operators: loops over columns, rows or anti-diagonals.

Symbols are those of `reference.py`. Slower than `streaming.py`, whose slices no graph can hold for
any height and width, but it runs wherever a graph of torch runs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._arguments import compute_dtype
from .._aten import loop


def entry(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Decay exp(delta A) and input delta B x of every cell, (B, H, W, C, N)."""
    delta = F.softplus(dt + dt_bias)
    return torch.exp(delta.unsqueeze(-1) * A), (delta * x).unsqueeze(-1) * B.unsqueeze(-2)


def next_slice(h: Tensor, a: Tensor, driven: Tensor) -> tuple[Tensor, Tensor]:
    """The states of a column or row, from those of the one before."""
    h = a * h + driven
    return h, h.clone()


def read_out(h: Tensor, C: Tensor, D: Tensor, x: Tensor) -> Tensor:
    """`y = C·h + D x` of all cells."""
    return (h * C.unsqueeze(-2)).sum(-1) + D * x


def scan_2dmamba(x, dt, A, B, C, D, dt_bias) -> Tensor:
    """As `scan_2dmamba_reference`: along the rows, then down the columns."""
    arguments = (x, dt, A, B, C, D, dt_bias)
    dtype = compute_dtype(*arguments)
    u, dt, A, B, C, D, dt_bias = (t.to(dtype) for t in arguments)
    a, driven = entry(u, dt, A, B, dt_bias)
    zero = torch.zeros_like(driven[:, :, 0])
    g = loop(next_slice, zero, (a.movedim(2, 0), driven.movedim(2, 0)), []).movedim(0, 2)
    zero = torch.zeros_like(g[:, 0])
    h = loop(next_slice, zero, (a.movedim(1, 0), g.movedim(1, 0)), []).movedim(0, 1)
    return read_out(h, C, D, u).to(x.dtype)


def shares(x: Tensor) -> tuple[Tensor, Tensor]:
    """How much of a cell's state comes from the top and from the left, (H, W, 1, 1) each."""
    H, W = x.shape[1:3]
    below = torch.arange(H, device=x.device)[:, None, None, None] > 0
    beside = torch.arange(W, device=x.device)[None, :, None, None] > 0
    top = torch.where(below, torch.where(beside, 0.5, 1.0), 0.0).to(x.dtype)
    return top, 1 - top


def slant(t: Tensor) -> Tensor:
    """Cells (B, H, W, ...) by anti-diagonal and row, (H + W - 1, B, H, ...); zero outside."""
    H, W = t.shape[1:3]
    rows = torch.arange(H, device=t.device)
    columns = torch.arange(H + W - 1, device=t.device)[:, None] - rows
    outside = ((columns < 0) | (columns >= W)).view(1, *columns.shape, *[1] * (t.dim() - 3))
    cells = t[:, rows.expand_as(columns), columns.clamp(0, W - 1)]
    return cells.masked_fill(outside, 0).movedim(1, 0)


def upright(t: Tensor, W: int) -> Tensor:
    """Slanted cells (H + W - 1, B, H, ...) in their places, (B, H, W, ...)."""
    rows = torch.arange(t.shape[2], device=t.device)[:, None]
    diagonals = rows + torch.arange(W, device=t.device)
    return t[diagonals, :, rows.expand_as(diagonals)].movedim(2, 0)


def next_diagonal(
    h: Tensor, a_top: Tensor, a_left: Tensor, driven: Tensor, above: Tensor
) -> tuple[Tensor, Tensor]:
    """States (B, H, C, N) of an anti-diagonal, from those of the one before.

    There the left neighbour is in the same row, and the top one in the row `above` (H,).
    """
    h = a_left * h + a_top * h.index_select(1, above) + driven
    return h, h.clone()


def scan_mamba2d(
    x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left
) -> Tensor:
    """As `scan_mamba2d_reference`: an anti-diagonal after the other."""
    arguments = (x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left)
    dtype = compute_dtype(*arguments)
    u, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left = (
        t.to(dtype) for t in arguments
    )
    top, left = shares(u)
    a_top, u_top = entry(u, dt_top, A_top, B_top, dt_bias_top)
    a_left, u_left = entry(u, dt_left, A_left, B_left, dt_bias_left)
    cells = (top * a_top, left * a_left, top * u_top + left * u_left)
    above = (torch.arange(u.shape[1], device=u.device) - 1).clamp_min(0)  # row 0 takes none of it
    h = loop(next_diagonal, torch.zeros_like(u_top[:, :, 0]), list(map(slant, cells)), [above])
    return read_out(upright(h, u.shape[2]), C, D, u).to(x.dtype)
