"""`scan_2dmamba` and `scan_mamba2d`: check their arguments and run the fastest backend."""

import math

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import _triton
from .._arguments import check_dims, check_tensors
from .._registration import join
from . import streaming


def backend(*inputs: Tensor, N: int):
    """The module that serves some inputs, x first: Triton on a GPU, or torch."""
    if N and _triton.serves(*inputs):
        from . import gpu

        if gpu.pays(inputs[0], N):
            return gpu
    return streaming


def describe_backend(device: torch.device) -> str:
    """Which backend serves a device, and why."""
    served = _triton.describe(device, "streaming torch")
    if served != "Triton kernel":
        return served
    return f"{served}; streaming torch for few samples and channels, how few is not measured yet"


@torch.library.custom_op("statescan::scan_2dmamba", mutates_args=())
def _2dmamba(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor
) -> Tensor:
    arguments = (x, dt, A, B, C, D, dt_bias)
    with torch.autocast(x.device.type, enabled=False):  # sums stay in the state's dtype
        return backend(*arguments, N=A.shape[1]).scan_2dmamba(*arguments)


@torch.library.custom_op("statescan::scan_2dmamba_backward", mutates_args=())
def _2dmamba_backward(
    dy: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, dt_bias: Tensor
) -> list[Tensor]:
    arguments = (x, dt, A, B, C, D, dt_bias)
    with torch.autocast(x.device.type, enabled=False):
        return backend(*arguments, N=A.shape[1]).scan_2dmamba_backward(dy, *arguments)


@torch.library.custom_op("statescan::scan_mamba2d", mutates_args=())
def _mamba2d(
    x: Tensor,
    dt_top: Tensor,
    dt_left: Tensor,
    A_top: Tensor,
    A_left: Tensor,
    B_top: Tensor,
    B_left: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias_top: Tensor,
    dt_bias_left: Tensor,
) -> Tensor:
    arguments = (x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left)
    with torch.autocast(x.device.type, enabled=False):
        return backend(*arguments, N=A_top.shape[1]).scan_mamba2d(*arguments)


@torch.library.custom_op("statescan::scan_mamba2d_backward", mutates_args=())
def _mamba2d_backward(
    dy: Tensor,
    x: Tensor,
    dt_top: Tensor,
    dt_left: Tensor,
    A_top: Tensor,
    A_left: Tensor,
    B_top: Tensor,
    B_left: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias_top: Tensor,
    dt_bias_left: Tensor,
) -> list[Tensor]:
    arguments = (x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left)
    with torch.autocast(x.device.type, enabled=False):
        return backend(*arguments, N=A_top.shape[1]).scan_mamba2d_backward(dy, *arguments)


for _operator in (_2dmamba, _mamba2d):
    _operator.register_fake(lambda x, *_: x.new_empty(x.shape))
join(_2dmamba, _2dmamba_backward, differentiable=7)
join(_mamba2d, _mamba2d_backward, differentiable=11)


def _flops(operator, x_at: int, A_at: int, per_channel: int, per_state: int) -> None:
    """Register `B·H·W·C (per_channel + per_state N)` for an operator.

    Every multiplication, addition and function (exp, softplus, sigmoid) counts one, every term of
    a sum one addition, and every cell as one with both neighbours.
    """

    @register_flop_formula(operator)
    def formula(*shapes, out_shape=None, **kwargs) -> int:
        return math.prod(shapes[x_at]) * (per_channel + per_state * shapes[A_at][1])


# Forward. Per channel: dt + bias, softplus, delta x (Mamba2D twice); D x added (2). Per state:
# delta A, exp, times B (Mamba2D twice); 2 for each neighbour, Mamba2D 2 for the mean; 2 for C·h.
_flops(torch.ops.statescan.scan_2dmamba, 0, 2, 3 + 2, 3 + 4 + 2)
_flops(torch.ops.statescan.scan_mamba2d, 0, 3, 6 + 2, 6 + 4 + 2 + 2)
# Backward. The same again without the read-out. Per channel: D dy, dD (2); for each entry dx (2),
# ddelta x (2), sigmoid, its product, dt_bias. Per state: dy C, dC (2), 2 for each neighbour (and
# the mean's half); for each entry decay's gradient (2; 2DMamba 4), and 2 for each of x, dt, A, B.
_flops(torch.ops.statescan.scan_2dmamba_backward, 1, 3, 3 + 3 + 7, 7 + 3 + 4 + 12)
_flops(torch.ops.statescan.scan_mamba2d_backward, 1, 4, 6 + 3 + 14, 12 + 3 + 5 + 20)


def scan_2dmamba(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
) -> Tensor:
    """2DMamba's recurrence: along every row, then down every column, with the same decay.

    With `delta = softplus(dt + dt_bias)` and `a = exp(delta A)`, for every cell:
    `g_ij = a_ij g_i,j-1 + delta B x`, `h_ij = a_ij h_i-1,j + g_ij`, `y = C·h + D x`; zero borders.

    Inside a shape, B is the batch, H and W the grid, C the channels and N the states a channel.
    States and sums are float32 (float64 if any input is); the result is the same, bit for bit,
    in every run.

    Args:
        x: (B, H, W, C).
        dt: (B, H, W, C) step sizes before bias and softplus.
        A: (C, N) decay rates; negative for a stable state.
        B: (B, H, W, N) input matrix.
        C: (B, H, W, N) output matrix.
        D: (C,) skip weights.
        dt_bias: (C,) added to dt before softplus.

    Returns:
        (B, H, W, C) in the dtype of x.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.

    Source: 2DMamba, arXiv 2412.00678.
    """
    channels, N = check_grid(x=x, A=A)
    state, channel = (*x.shape[:3], N), (channels,)
    check_tensors(
        x=(x, tuple(x.shape)),
        dt=(dt, tuple(x.shape)),
        A=(A, (channels, N)),
        B=(B, state),
        C=(C, state),
        D=(D, channel),
        dt_bias=(dt_bias, channel),
    )
    D, dt_bias = (A.new_zeros(channels) if t is None else t for t in (D, dt_bias))
    return _2dmamba(x, dt, A, B, C, D, dt_bias)


def scan_mamba2d(
    x: Tensor,
    dt_top: Tensor,
    dt_left: Tensor,
    A_top: Tensor,
    A_left: Tensor,
    B_top: Tensor,
    B_left: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias_top: Tensor | None = None,
    dt_bias_left: Tensor | None = None,
) -> Tensor:
    """Mamba2D's wavefront: every cell's state comes from its top and its left neighbour.

    With `delta = softplus(dt + dt_bias)` and `a = exp(delta A)` of each neighbour, inside:
    `h_ij = (a_left h_i,j-1 + delta_left B_left x + a_top h_i-1,j + delta_top B_top x) / 2`; row 0
    has the terms of left alone, the rest of column 0 those of top alone, neither halved;
    `y = C·h + D x`.

    Symbols, precision and errors are those of `scan_2dmamba`.

    Args:
        x: (B, H, W, C).
        dt_top: (B, H, W, C) step sizes before bias and softplus, from the top neighbour.
        dt_left: (B, H, W, C) the same from the left neighbour.
        A_top: (C, N) decay rates from the top neighbour.
        A_left: (C, N) decay rates from the left neighbour.
        B_top: (B, H, W, N) input matrix beside the top neighbour.
        B_left: (B, H, W, N) input matrix beside the left neighbour.
        C: (B, H, W, N) output matrix.
        D: (C,) skip weights.
        dt_bias_top: (C,) added to dt_top before softplus.
        dt_bias_left: (C,) added to dt_left before softplus.

    Returns:
        (B, H, W, C) in the dtype of x.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.

    Source: Mamba2D, arXiv 2412.16146.
    """
    channels, N = check_grid(x=x, A_top=A_top)
    grid, state, channel = tuple(x.shape), (*x.shape[:3], N), (channels,)
    check_tensors(
        x=(x, grid),
        dt_top=(dt_top, grid),
        dt_left=(dt_left, grid),
        A_top=(A_top, (channels, N)),
        A_left=(A_left, (channels, N)),
        B_top=(B_top, state),
        B_left=(B_left, state),
        C=(C, state),
        D=(D, channel),
        dt_bias_top=(dt_bias_top, channel),
        dt_bias_left=(dt_bias_left, channel),
    )
    D, dt_bias_top, dt_bias_left = (
        A_top.new_zeros(channels) if t is None else t for t in (D, dt_bias_top, dt_bias_left)
    )
    return _mamba2d(
        x, dt_top, dt_left, A_top, A_left, B_top, B_left, C, D, dt_bias_top, dt_bias_left
    )


def check_grid(**x_and_A: Tensor) -> tuple[int, int]:
    """Refuse an x that is no grid, or an A made for other channels; return the sizes of A."""
    (x_name, x), (A_name, A) = x_and_A.items()
    check_dims(**{x_name: (x, (4,)), A_name: (A, (2,))})
    channels, N = A.shape
    if x.shape[-1] != channels:
        raise ValueError(f"{x_name} has {x.shape[-1]} channels, {A_name} was made for {channels}")
    return channels, N
