"""`ssd`: checks its arguments and runs Triton kernels on a GPU, chunked torch elsewhere."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import _triton
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
from . import chunked, gradients


def on_triton(x, dt, A, *others: Tensor | None) -> bool:
    """Whether Triton serves some inputs; not where a state may grow: see `chunked.pieces`."""
    return _triton.serves(x, dt, A, *others) and not bool((A > 0).any())


def describe_backend(device: torch.device) -> str:
    """Which backend serves a device, and why."""
    return _triton.describe(device, "chunked torch")


@torch.library.custom_op("statescan::ssd", mutates_args=())
def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    routes: Tensor,
    merge: bool,
    once: bool,
) -> tuple[Tensor, Tensor]:
    if x.device.type == "cpu":  # elsewhere kernels leave out steps that leave the image
        check_positions(routes, dt.shape[1])
    inputs = (x, dt, A, B, C, D, dt_bias)
    with torch.autocast(x.device.type, enabled=False):  # sums stay in the state's dtype
        if on_triton(*inputs):
            from . import gpu

            return gpu.forward(*inputs, routes, merge, once)
        return chunked.forward(*inputs, routes, merge)


@_forward.register_fake
def _(x, dt, A, B, C, D, dt_bias, routes, merge, once):
    batch, length, K, H = dt.shape
    P, N = x.shape[-1], B.shape[-1]
    y = x.new_empty((batch, length, H, P) if merge else (batch, length, K, H, P))
    states = (routes.shape[1] + chunked.CHUNK - 1) // chunked.CHUNK + 1
    return y, x.new_empty(
        (states, K, batch, H, N, P), dtype=compute_dtype(x, dt, A, B, C, D, dt_bias)
    )


@torch.library.custom_op("statescan::ssd_backward", mutates_args=())
def _backward(
    dy: Tensor,
    saved: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    routes: Tensor,
    merge: bool,
    once: bool,
) -> list[Tensor]:
    inputs = (x, dt, A, B, C, D, dt_bias)
    with torch.autocast(x.device.type, enabled=False):
        if on_triton(*inputs):
            from . import gpu

            grads = gpu.backward(dy, saved, *inputs, routes, merge, once)
        else:
            grads = gradients.backward(dy, saved, *inputs, routes, merge)
    return [g for g in grads if g is not None]


join(_forward, _backward, differentiable=7, saved=1)


@register_flop_formula(torch.ops.statescan.ssd)
def _forward_flops(x, dt, A, B, C, D, dt_bias, routes, merge, once, **kwargs) -> int:
    """Count each multiplication, addition and transcendental function of the definition once.

    The recurrence is counted, one step at a time, whichever way it is computed; every entry of
    the routes counts as a step. For each step and head: softplus, `delta A`, its exponential, and
    the bias where given; for each channel `delta x`, the sum at its position, and the skip's
    product and sum where given; for each state of a channel three products and two sums,
    `h = a h + B u` and `y += C h`.
    """
    head = 3 + (dt_bias is not None)
    channel = 2 + 2 * (D is not None)
    steps = x[0] * A[0] * routes[1]
    return steps * A[1] * (head + x[-1] * (channel + 5 * B[-1]))


@register_flop_formula(torch.ops.statescan.ssd_backward)
def _backward_flops(dy, h, x, dt, A, B, C, D, dt_bias, routes, merge, once, **kwargs) -> int:
    """Count as the forward pass does, with every state computed again.

    For each step and head, beside softplus, `delta A` and its exponential: `ddelta += da A`,
    `dA += da delta`, the sigmoid and its product, the sum into dt, and the bias's sum and
    gradient where given. For each channel: `delta x`, `du delta` and its sum into dx,
    `ddelta += du x`, and the skip's two products and two sums where given. For each state of a
    channel: three operations for `h = a h + B u`; two each for `dh += C dy`, `dC += dy h`,
    `dB += dh u`, `du += dh B` and `da += (a dh) h`; one for `a dh`.
    """
    head = 3 + 7 + 2 * (dt_bias is not None)
    channel = 5 + 4 * (D is not None)
    steps = x[0] * A[0] * routes[1]
    return steps * A[1] * (head + x[-1] * (channel + 14 * B[-1]))


def ssd(
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
    permutation: bool = False,
) -> Tensor:
    """State-space duality (SSD, the scan of Mamba-2) of an image along any set of routes.

    For every route k and head, with `delta = softplus(dt + dt_bias)`:
    `h_t = exp(delta A) h_{t-1} + delta B ⊗ x_t` and `y_t = C h_t + D x_t`, where step t reads its
    inputs at position `routes[k, t]` and adds its output there.

    Inside a shape, B is the batch, L the positions, K the routes, T the steps of a route, H the
    heads, P the channels a head, G the groups of consecutive heads that share B and C, N the
    states a channel. Low-precision inputs are upcast; states and sums are float32 (float64 if
    any input is). Memory grows with L, not with its square. The result is the same, bit for bit,
    in every run. FLOP counters of torch see every multiplication, addition and transcendental
    function of the definition.

    Args:
        x: (B, L, H, P) shared by the routes, or (B, L, K, H, P), one input a route.
        dt: (B, L, K, H) step sizes before bias and softplus.
        A: (K, H) decay rates; negative for a stable state. With any above zero, the operator
            takes one step at a time, which is slow.
        B: (B, L, K, G, N) input matrix; G divides H.
        C: (B, L, K, G, N) output matrix.
        D: (K, H) skip weights.
        dt_bias: (K, H) added to dt before softplus.
        routes: (K, T) integer positions in [0, L); -1 takes no step. By default one route, the
            positions in their order.
        merge: add the routes' outputs up; otherwise keep them apart.
        permutation: the routes are known to visit every position exactly once. Kernels are faster
            where this is known; it is looked at anyway, but not while a graph is traced.

    Returns:
        (B, L, H, P), or (B, L, K, H, P) with `merge=False`, in the dtype of x. Positions that no
        route visits are zero.

    Raises:
        ValueError: if shapes, dtypes, devices or route entries do not fit together, or L is 0.

    Source: Mamba-2, arXiv 2405.21060, section 6.
    """
    if routes is None:
        routes, permutation = in_order(x.shape[1], x), True
    _check(x, dt, A, B, C, D, dt_bias, routes)
    once = check_permutation(routes, x.shape[1], permutation)
    return _forward(x, dt, A, B, C, D, dt_bias, routes, merge, once)[0]


def _check(x, dt, A, B, C, D, dt_bias, routes) -> None:
    """Refuse arguments that do not fit together, naming the first that does not."""
    check_dims(x=(x, (4, 5)), dt=(dt, (4,)), A=(A, (2,)), B=(B, (5,)))
    batch, length, *_, heads, P = x.shape
    (K, H), (G, N) = A.shape, B.shape[3:]
    if length == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected at least one position")
    if heads != H:
        raise ValueError(f"x has {heads} heads, A was made for {H}")
    if G == 0 or H % G:
        raise ValueError(f"B has {G} groups, expected a divisor of the {H} heads")
    check_tensors(
        x=(x, (batch, length, H, P) if x.dim() == 4 else (batch, length, K, H, P)),
        dt=(dt, (batch, length, K, H)),
        A=(A, (K, H)),
        B=(B, (batch, length, K, G, N)),
        C=(C, (batch, length, K, G, N)),
        D=(D, (K, H)),
        dt_bias=(dt_bias, (K, H)),
    )
    check_routes(routes, K, x.device)
