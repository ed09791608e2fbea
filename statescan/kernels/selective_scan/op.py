"""`selective_scan`: checks its arguments and runs the fastest backend for their device."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import _c, _triton
from .._arguments import (
    check_dims,
    check_permutation,
    check_positions,
    check_routes,
    check_tensors,
    compute_dtype,
)
from .._registration import join
from .._tables import in_order
from . import cpu, streaming


def backend(*inputs: Tensor | None, N: int = 1):
    """The module that serves some inputs: C on a CPU, Triton on a GPU, or torch for both."""
    if inputs[0].device.type == "cpu" and _c.library() and N <= cpu.MOST_STATES:
        return cpu
    if _triton.serves(*inputs):
        from . import gpu

        return gpu
    return streaming


def describe_backend(device: torch.device) -> str:
    """Which backend serves a device, and why."""
    return _triton.describe(device, "streaming torch") if device.type != "cpu" else _c.describe()


@torch.library.custom_op("statescan::selective_scan", mutates_args=())
def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    routes: Tensor,
    merge: bool,
    once: bool,
) -> tuple[Tensor, Tensor]:
    inputs = (x, dt, A, B, C, D, dt_weight, dt_bias)
    if x.device.type == "cpu":  # elsewhere kernels leave out steps that leave the image
        check_positions(routes, dt.shape[1])
    with torch.autocast(x.device.type, enabled=False):  # sums stay in the state's dtype
        return backend(*inputs, N=A.shape[-1]).forward(*inputs, routes, merge, once)


@_forward.register_fake
def _(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once):
    batch, length, K, _ = dt.shape
    channels, N = A.shape[1:]
    y = x.new_empty((batch, length, channels) if merge else (batch, length, K, channels))
    states = (routes.shape[1] + streaming.CHUNK - 1) // streaming.CHUNK + 1
    dtype = compute_dtype(x, dt, A, B, C, D, dt_weight, dt_bias)
    return y, x.new_empty((states, K, batch, N, channels), dtype=dtype)


@torch.library.custom_op("statescan::selective_scan_backward", mutates_args=())
def _backward(
    dy: Tensor,
    saved: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_weight: Tensor | None,
    dt_bias: Tensor,
    routes: Tensor,
    merge: bool,
    once: bool,
) -> list[Tensor]:
    inputs = (x, dt, A, B, C, D, dt_weight, dt_bias)
    with torch.autocast(x.device.type, enabled=False):
        grads = backend(*inputs, N=A.shape[-1]).backward(dy, saved, *inputs, routes, merge, once)
    return [g for g in grads if g is not None]


join(_forward, _backward, differentiable=8, saved=1)


@register_flop_formula(torch.ops.statescan.selective_scan)
def _flops(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once, *, out_shape) -> int:
    """One for each multiplication, addition, exponential and softplus, at every step of a route.

    In a channel: dt with its bias (1, or 2R from low rank), softplus, delta x, the skip (2) and the
    sum at its position; in each state: delta A, its exponential, decay and entry of the state (3),
    readout (2).
    """
    _, channels, N = A
    expand = 1 if dt_weight is None else 2 * dt_weight[-1]
    return dt[0] * routes.numel() * channels * (expand + 5 + 7 * N)


@register_flop_formula(torch.ops.statescan.selective_scan_backward)
def _flops_backward(
    dy, saved, x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once, *, out_shape
) -> int:
    """As forward: the states again, then the gradients.

    In a channel: dt (1, or 2R), softplus, sigmoid, delta x, gradients before softplus (3) and of x
    (4), D (2), the bias and dt (1, or 4R with its weight); in each state: 5 for the state itself,
    3 for its gradient, 1 for decay times state and 2 each for x, delta, A, B and C.
    """
    _, channels, N = A
    R = 0 if dt_weight is None else dt_weight[-1]
    return dt[0] * routes.numel() * channels * ((6 * R or 2) + 13 + 19 * N)


def selective_scan(
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
    permutation: bool = False,
) -> Tensor:
    """Selective scan (S6) of an image along any set of routes.

    For every route k, with `delta = softplus(dt + dt_bias)`:
    `h_t = exp(delta A) h_{t-1} + delta B x_t` and `y_t = C h_t + D x_t`, where step t reads its
    inputs at position `routes[k, t]` and adds its output there.

    Inside a shape, B is the batch, L the positions, C the channels, K the routes, N the states a
    channel, R the rank of dt and T the steps of a route. Low-precision inputs are upcast; states
    and sums are float32 (float64 if any input is). The result is the same, bit for bit, in every
    run.

    Args:
        x: (B, L, C) shared by the routes, or (B, L, K, C), one input a route.
        dt: (B, L, K, C) step sizes before bias and softplus, or (B, L, K, R) with `dt_weight`.
        A: (K, C, N) decay rates; negative for a stable state.
        B: (B, L, K, N) input matrix.
        C: (B, L, K, N) output matrix.
        D: (K, C) skip weights.
        dt_weight: (K, C, R) expands a low-rank dt, `dt @ dt_weight.mT`, inside the operator.
        dt_bias: (K, C) added to dt before softplus.
        routes: (K, T) integer positions in [0, L); -1 takes no step. By default one route, the
            positions in their order.
        merge: add the routes' outputs up; otherwise keep them apart.
        permutation: the routes are known to visit every position exactly once. Kernels are faster
            where this is known; it is looked at anyway, but not while a graph is traced.

    Returns:
        (B, L, C), or (B, L, K, C) with `merge=False`, in the dtype of x. Positions that no route
        visits are zero.

    Raises:
        ValueError: if shapes, dtypes, devices or route entries do not fit together.

    Source: Mamba, arXiv 2312.00752, algorithm 2; as a 2-D scan VMamba, arXiv 2401.10166.
    """
    if routes is None:
        routes, permutation = in_order(x.shape[1], x), True
    _check(x, dt, A, B, C, D, dt_weight, dt_bias, routes)
    once = check_permutation(routes, x.shape[1], permutation)
    K, channels, _ = A.shape
    D = A.new_zeros(K, channels) if D is None else D
    dt_bias = A.new_zeros(K, channels) if dt_bias is None else dt_bias
    return _forward(x, dt, A, B, C, D, dt_weight, dt_bias, routes, merge, once)[0]


def selective_scan_states(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    *,
    dt_weight: Tensor | None = None,
    dt_bias: Tensor | None = None,
    routes: Tensor | None = None,
    permutation: bool = False,
) -> Tensor:
    """States of a selective scan where each route has left them, before any readout.

    Arguments and errors are those of `selective_scan`. Where a route comes to a position more than
    once, the states of its visits are added up.

    Returns:
        (B, L, K, C, N) in the dtype of x.

    Source: Spatial-Mamba, arXiv 2410.15091, which fuses states before it reads them out.
    """
    check_dims(dt=(dt, (4,)), A=(A, (3,)), B=(B, (4,)))
    K, _, N = A.shape
    if routes is None:
        routes, permutation = in_order(x.shape[1], x), True
    _check(x, dt, A, B, B, None, dt_weight, dt_bias, routes)

    def by_state(t: Tensor | None, dim: int) -> Tensor | None:  # each state is a route of its own
        return t if t is None or N == 1 else t.repeat_interleave(N, dim)

    h = selective_scan(
        x if x.dim() == 3 else by_state(x, 2),
        by_state(dt, 2),
        A.transpose(1, 2).reshape(K * N, -1, 1),
        B.reshape(*B.shape[:2], K * N, 1),
        torch.ones_like(B).reshape(*B.shape[:2], K * N, 1),
        dt_weight=by_state(dt_weight, 0),
        dt_bias=by_state(dt_bias, 0),
        routes=by_state(routes, 0),
        merge=False,
        permutation=permutation,
    )
    return h.unflatten(2, (K, N)).transpose(-1, -2)


def _check(x, dt, A, B, C, D, dt_weight, dt_bias, routes) -> None:
    """Refuse arguments that do not fit together, naming the first that does not."""
    check_dims(x=(x, (3, 4)), dt=(dt, (4,)), A=(A, (3,)))
    batch, length = x.shape[:2]
    K, channels, N = A.shape
    if x.shape[-1] != channels:
        raise ValueError(f"x has {x.shape[-1]} channels, A was made for {channels}")
    if N == 0:
        raise ValueError(f"A has shape {tuple(A.shape)}, expected at least one state")
    rank = channels if dt_weight is None else dt_weight.shape[-1]
    check_tensors(
        x=(x, (batch, length, channels) if x.dim() == 3 else (batch, length, K, channels)),
        dt_weight=(dt_weight, (K, channels, rank)),
        dt=(dt, (batch, length, K, rank)),
        A=(A, (K, channels, N)),
        B=(B, (batch, length, K, N)),
        C=(C, (batch, length, K, N)),
        D=(D, (K, channels)),
        dt_bias=(dt_bias, (K, channels)),
    )
    check_routes(routes, K, x.device)
