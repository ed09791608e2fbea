"""V2M's two passes, each a selective scan with every row, or column, as a sample of its own."""

from torch import Tensor

from .._arguments import check_tensors
from ..selective_scan import selective_scan
from .op import check_grid


def scan_v2m(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    dt2: Tensor,
    A2: Tensor,
    C2: Tensor,
    D: Tensor | None = None,
    D2: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
    dt_bias2: Tensor | None = None,
) -> Tensor:
    """V2M's recurrence: a scan of every row with C ≡ 1, then one of its columns with B ≡ 1.

    `scan_v2m_columns(scan_v2m_rows(x, dt, A, B, D), dt2, A2, C2, D2)`, for where dt2 and C2 are
    known; where they depend on the rows' result, as in V2M, call the two passes.

    Inside a shape, B is the batch, H and W the grid, C the channels and N the states a channel, of
    which the passes may have different numbers. Precision and errors are those of
    `selective_scan`.

    Args:
        x: (B, H, W, C).
        dt: (B, H, W, C) step sizes along rows, before bias and softplus.
        A: (C, N) decay rates along rows; negative for a stable state.
        B: (B, H, W, N) input matrix of the rows.
        dt2: (B, H, W, C) step sizes down columns, before bias and softplus.
        A2: (C, N) decay rates down columns.
        C2: (B, H, W, N) output matrix of the columns.
        D: (C,) skip weights of the rows.
        D2: (C,) skip weights of the columns.
        dt_bias: (C,) added to dt before softplus.
        dt_bias2: (C,) added to dt2 before softplus.

    Returns:
        (B, H, W, C) in the dtype of x.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.

    Source: V2M, arXiv 2410.10382.
    """
    u = scan_v2m_rows(x, dt, A, B, D, dt_bias=dt_bias)
    return scan_v2m_columns(u, dt2, A2, C2, D2, dt_bias2=dt_bias2)


def scan_v2m_rows(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
) -> Tensor:
    """V2M's first pass: `h_ij = exp(delta A) h_i,j-1 + delta B x`, `u = Σ_N h + D x`.

    Arguments and result are those of `scan_v2m`.
    """
    channels, N = check_grid(x=x, A=A)
    check_tensors(
        x=(x, tuple(x.shape)),
        dt=(dt, tuple(x.shape)),
        A=(A, (channels, N)),
        B=(B, (*x.shape[:3], N)),
        D=(D, (channels,)),
        dt_bias=(dt_bias, (channels,)),
    )
    return _scan_rows(x, dt, A, B, B.new_ones(B.shape), D, dt_bias)


def scan_v2m_columns(
    u: Tensor,
    dt2: Tensor,
    A2: Tensor,
    C2: Tensor,
    D2: Tensor | None = None,
    *,
    dt_bias2: Tensor | None = None,
) -> Tensor:
    """V2M's second pass: `h_ij = exp(delta2 A2) h_i-1,j + delta2 u`, `y = C2·h + D2 u`.

    u is the first pass's result, (B, H, W, C); arguments and result are those of `scan_v2m`.
    """
    channels, N = check_grid(u=u, A2=A2)
    check_tensors(
        u=(u, tuple(u.shape)),
        dt2=(dt2, tuple(u.shape)),
        A2=(A2, (channels, N)),
        C2=(C2, (*u.shape[:3], N)),
        D2=(D2, (channels,)),
        dt_bias2=(dt_bias2, (channels,)),
    )
    u, dt2, C2 = (t.transpose(1, 2) for t in (u, dt2, C2))
    return _scan_rows(u, dt2, A2, C2.new_ones(C2.shape), C2, D2, dt_bias2).transpose(1, 2)


def _scan_rows(x, dt, A, B, C, D, dt_bias) -> Tensor:
    """Selective scan of every row of x (B, H, W, C)."""
    dt, B, C = (t.flatten(0, 1).unsqueeze(2) for t in (dt, B, C))
    A, D, dt_bias = (None if t is None else t.unsqueeze(0) for t in (A, D, dt_bias))
    y = selective_scan(x.flatten(0, 1), dt, A, B, C, D, dt_bias=dt_bias)
    return y.unflatten(0, x.shape[:2])
