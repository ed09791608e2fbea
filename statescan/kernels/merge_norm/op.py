"""`merge_norm`: checks its arguments and runs one kernel on a GPU, torch's operators elsewhere."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import _triton
from .._arguments import check_dims, check_tensors

MOST_CHANNELS = 4096  # of a position, that the kernels have registers for


def describe_backend(device: torch.device) -> str:
    """Which backend serves a device, and why."""
    return _triton.describe(device, "torch's own operators")


def is_fused(
    y: Tensor, weight: Tensor, bias: Tensor | None = None, gate: Tensor | None = None
) -> bool:
    """Whether one kernel does the work of `merge_norm` for tensors like these."""
    return y.shape[-1] <= MOST_CHANNELS and _triton.serves(y, weight, bias, gate)


@torch.library.custom_op("statescan::merge_norm", mutates_args=())
def _forward(
    y: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, eps: float, save: bool
) -> tuple[Tensor, Tensor]:
    """The result (B, L, C), and with `save` the sum over the routes for the backward pass."""
    from . import gpu

    return gpu.forward(y, weight, bias, gate, eps, save)


@_forward.register_fake
def _(y, weight, bias, gate, eps, save):
    shape = (y.shape[0], y.shape[1], y.shape[-1])
    return y.new_empty(shape), y.new_empty(shape if save else 0)


@torch.library.custom_op("statescan::merge_norm_backward", mutates_args=())
def _backward(
    dout: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None, eps: float
) -> list[Tensor]:
    """Gradients of the sum over the routes, (B, L, C), weight, and bias and gate if given."""
    from . import gpu

    return gpu.backward(dout, y, weight, bias, gate, eps)


@_backward.register_fake
def _(dout, y, weight, bias, gate, eps):
    given = [t for t in (weight, bias) if t is not None]
    grads = [y.new_empty(dout.shape), *(t.new_empty(t.shape) for t in given)]
    return grads if gate is None else [*grads, gate.new_empty(gate.shape)]


def _setup_context(ctx, inputs, output) -> None:
    y, weight, bias, gate, ctx.eps, saved = inputs
    ctx.routes = y.shape[2] if y.dim() == 4 else None
    ctx.save_for_backward(output[1] if saved else y, weight, bias, gate)
    ctx.set_materialize_grads(False)  # of the sum, which nobody else reads


def _autograd(ctx, dout, _) -> tuple[Tensor | None, ...]:
    y, weight, bias, gate = ctx.saved_tensors
    ds, *rest = _backward(dout, y, weight, bias, gate, ctx.eps)
    if ctx.routes is not None:  # the same for every route
        ds = ds.unsqueeze(2).expand(-1, -1, ctx.routes, -1)
    rest = iter(rest)
    others = (None if t is None else next(rest) for t in (weight, bias, gate))
    return ds, *others, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


@register_flop_formula(torch.ops.statescan.merge_norm)
def _flops(y, weight, bias, gate, *args, out_shape, **kwargs) -> int:
    """Count each multiplication, addition and transcendental function of the definition once.

    For each number of the result: K - 1 sums, two for the mean and the difference from it, two for
    the variance, one each for the norm, its scale and its bias, and three for the gate.
    """
    batch, length, channels = out_shape[0]
    K = y[2] if len(y) == 4 else 1
    each = K + 5 + (bias is not None) + 3 * (gate is not None)
    return batch * length * channels * each


@register_flop_formula(torch.ops.statescan.merge_norm_backward)
def _flops_backward(dout, y, weight, bias, gate, *args, **kwargs) -> int:
    """Count as the forward pass does, whose norm is computed again.

    For each number: K + 4 for the norm; dweight (2), the scale's gradient, its mean (1) and its
    product's with the norm (2), and the gradient of the sum (4); dbias (1); and for the gate the
    result again (1, or 2 with a bias), its SiLU (2), dgate (6) and the gradient before it (1).
    """
    batch, length, channels = dout
    K = y[2] if len(y) == 4 else 1
    each = K + 14 + (bias is not None) + (10 + (bias is not None)) * (gate is not None)
    return batch * length * channels * each


def merge_norm(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Sum of the routes' outputs, layer norm over the channels, and gate: what follows a scan.

    `LayerNorm(Σ_k y_k) * SiLU(gate)`. On a GPU one kernel reads y and gate once and writes the
    result, with sums in float32 and the same bits in every run. For the backward pass it keeps the
    sum over the routes instead of y, and the gradient of y is one that all routes share.

    Inside a shape, B is the batch, L the positions, K the routes and C the channels.

    Args:
        y: (B, L, K, C) the routes' outputs, or (B, L, C) merged ones.
        weight: (C,) scale after the norm.
        bias: (C,) shift after the norm.
        gate: (B, L, C), often a part of wider rows.
        eps: added to the variance.

    Returns:
        (B, L, C) in the dtype of y.

    Raises:
        ValueError: if shapes, dtypes or devices do not fit together.

    Source: the end of VMamba's SS2D, arXiv 2401.10166, figure 3.
    """
    _check(y, weight, bias, gate)
    if not is_fused(y, weight, bias, gate):
        return composed(y, weight, bias, gate, eps)
    inputs = [t for t in (y, weight, bias, gate) if t is not None]
    merges = y.dim() == 4 and y.shape[2] > 1
    save = merges and torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    return _forward(y, weight, bias, gate, eps, save)[0]


def composed(y, weight, bias, gate, eps) -> Tensor:
    """As the operator, of torch's own."""
    inputs = (y, weight, bias, gate)
    dtype = reduce(torch.promote_types, [t.dtype for t in inputs if t is not None])
    s, w, b, z = (None if t is None else t.to(dtype) for t in inputs)
    with torch.autocast(y.device.type, enabled=False):
        s = s.sum(2) if s.dim() == 4 else s
        out = F.layer_norm(s, w.shape, w, b, eps)
        return (out if z is None else out * F.silu(z)).to(y.dtype)


def _check(y, weight, bias, gate) -> None:
    """Refuse arguments that do not fit together, naming the first that does not."""
    check_dims(y=(y, (3, 4)), weight=(weight, (1,)))
    channels = y.shape[-1]
    if 0 in y.shape[2:]:
        raise ValueError(f"y has shape {tuple(y.shape)}, expected at least one route and channel")
    if len(weight) != channels:
        raise ValueError(f"y has {channels} channels, weight was made for {len(weight)}")
    check_tensors(
        y=(y, tuple(y.shape)),
        weight=(weight, (channels,)),
        bias=(bias, (channels,)),
        gate=(gate, (*y.shape[:2], channels)),
    )
