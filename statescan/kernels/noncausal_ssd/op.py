"""`noncausal_ssd`: checks its arguments and runs the matrix products as one operator of torch."""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .._arguments import check_dims, check_tensors, compute_dtype
from .._registration import join
from . import products


def describe_backend(device: torch.device) -> str:
    """Which backend serves a device, and why.

    On a GPU the products are its library's own; a Triton kernel could only spare passes over x and
    y for what is done at each position.
    """
    if device.type == "cpu":
        return "matrix products in torch"
    if products.has_wide_products(device):
        return "matrix products in torch, of bfloat16 and float16 on tensor cores"
    return "matrix products in torch, in float32: this torch has none of low precision into float32"


@torch.library.custom_op("statescan::noncausal_ssd", mutates_args=())
def _forward(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    with torch.autocast(x.device.type, enabled=False):  # sums stay in the state's dtype
        return products.forward(x, dt, A, B, C, D, dt_bias)


@_forward.register_fake
def _(x, dt, A, B, C, D, dt_bias):
    batch, _, H, P = x.shape
    dtype = compute_dtype(x, dt, A, B, C, D, dt_bias)
    return x.new_empty(x.shape), x.new_empty((batch, B.shape[-1], H * P), dtype=dtype)


@torch.library.custom_op("statescan::noncausal_ssd_backward", mutates_args=())
def _backward(
    dy: Tensor,
    h: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
) -> list[Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        grads = products.backward(dy, h, x, dt, A, B, C, D, dt_bias)
    return [g for g in grads if g is not None]


join(_forward, _backward, differentiable=7, saved=1)


@register_flop_formula(torch.ops.statescan.noncausal_ssd)
def _forward_flops(x, dt, A, B, C, D, dt_bias, *args, **kwargs) -> int:
    """Count each multiplication, addition and transcendental function of the definition once.

    For each sample, position and head: softplus, w, and the bias where given; for each channel
    w x, and the skip's product and sum where given; for each state of a channel two products and
    two sums, `h += B (w x)` and `y += C h`.
    """
    batch, length, H, P = x
    head = 2 + (dt_bias is not None)
    channel = 1 + 2 * (D is not None)
    return batch * length * H * (head + P * (channel + 4 * B[-1]))


@register_flop_formula(torch.ops.statescan.noncausal_ssd_backward)
def _backward_flops(dy, h, x, dt, A, B, C, D, dt_bias, *args, **kwargs) -> int:
    """Count as the forward pass does; h is at hand, the weights w are computed again.

    For each sample, position and head: softplus, w, `dw A`, `dA += dw delta`, the sigmoid and its
    product, and the bias's sum and gradient where given; for each channel w x, its gradient times
    w (for x) and `dw += x ·`, and the skip's two products and two sums where given; for each
    state of a channel a product and a sum in each of dh, d(w x), dB and dC.
    """
    batch, length, H, P = x
    head = 7 + 2 * (dt_bias is not None)
    channel = 4 + 4 * (D is not None)
    return batch * length * H * (head + P * (channel + 8 * B[-1]))


def noncausal_ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
) -> Tensor:
    """Non-causal state-space duality: every position reads one state of the whole image.

    With `delta = softplus(dt + dt_bias)` and `w = -delta A`: `h = Σ_l w_l B_l ⊗ x_l` and
    `y_l = C_l h + D x_l`. There is no decay, no mask and no division by the number of positions,
    so the order of the positions does not matter.

    Inside a shape, B is the batch, L the positions, H the heads, P the channels a head and N the
    states a channel. Low-precision inputs are upcast; the state and all sums are float32 (float64
    if any input is). On a GPU, where B and C are bfloat16 or float16, `w x`, the state and their
    gradients are rounded to that type before they are multiplied, without overflow. The result is
    the same, bit for bit, in every run. FLOP counters of torch see every multiplication, addition
    and transcendental function of the definition.

    Args:
        x: (B, L, H, P) input.
        dt: (B, L, H) step sizes before bias and softplus.
        A: (H,) decay rates, negative: `-A` weighs the positions.
        B: (B, L, N) input matrix, shared by the heads.
        C: (B, L, N) output matrix, shared by the heads.
        D: (H,) skip weights.
        dt_bias: (H,) added to dt before softplus.

    Returns:
        (B, L, H, P) in the dtype of x; empty where x is.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.

    Source: VSSD, arXiv 2407.18559, equations of non-causal SSD; on Mamba-2, arXiv 2405.21060.
    """
    _check(x, dt, A, B, C, D, dt_bias)
    return _forward(x, dt, A, B, C, D, dt_bias)[0]


def _check(x, dt, A, B, C, D, dt_bias) -> None:
    """Refuse arguments that do not fit together, naming the first that does not."""
    check_dims(x=(x, (4,)), A=(A, (1,)), B=(B, (3,)))
    batch, length, H, _ = x.shape
    if len(A) != H:
        raise ValueError(f"x has {H} heads, A was made for {len(A)}")
    check_tensors(
        x=(x, x.shape),
        dt=(dt, (batch, length, H)),
        A=(A, (H,)),
        B=(B, (batch, length, B.shape[-1])),
        C=(C, (batch, length, B.shape[-1])),
        D=(D, (H,)),
        dt_bias=(dt_bias, (H,)),
    )
