"""`state_fusion`: checks its arguments and runs the fastest path for their device."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import _c, _triton
from .._arguments import check_dims, check_tensors, compute_dtype
from .._registration import join
from .._tables import table
from ..selective_scan.streaming import add_rows
from . import cpu, streaming


def backend(x: Tensor, weight: Tensor):
    """The module that serves a map and its taps: C on a CPU, Triton on a GPU, or torch for both."""
    if x.device.type == "cpu" and _c.library() and len(weight) <= cpu.MOST_TAPS:
        return cpu
    if _triton.serves(x, weight):
        from . import gpu

        return gpu
    return streaming


def describe_backend(device: torch.device) -> str:
    """Which backend serves a device, and why."""
    return _triton.describe(device, "streaming torch") if device.type != "cpu" else _c.describe()


@torch.library.custom_op("statescan::tap_sum", mutates_args=())
def _forward(x: Tensor, weight: Tensor, dy: Sequence[int], dx: Sequence[int]) -> Tensor:
    """Weighted sum of shifted maps: tap t reads x (B, H, W, C) at (i + dy[t], j + dx[t]).

    Beyond the map it reads the border. The weight is (T, C), the sum (B, H, W, C) in x's dtype.
    """
    with torch.autocast(x.device.type, enabled=False):  # sums stay in the weight's dtype
        return backend(x, weight).forward(x, weight, (dy, dx))


@_forward.register_fake
def _(x, weight, dy, dx):
    return x.new_empty(x.shape)


@torch.library.custom_op("statescan::tap_sum_backward", mutates_args=())
def _backward(
    dout: Tensor, x: Tensor, weight: Tensor, dy: Sequence[int], dx: Sequence[int]
) -> list[Tensor]:
    """Gradients of x and of the weight."""
    with torch.autocast(x.device.type, enabled=False):
        return list(backend(x, weight).backward(dout, x, weight, (dy, dx)))


join(_forward, _backward, differentiable=2)


@register_flop_formula(torch.ops.statescan.tap_sum)
def _flops(x, weight, dy, dx, *, out_shape) -> int:
    """A multiplication and an addition for each tap, position and channel."""
    return 2 * math.prod(x) * weight[0]


@register_flop_formula(torch.ops.statescan.tap_sum_backward)
def _flops_backward(dout, x, weight, dy, dx, *, out_shape) -> int:
    """As many for the gradient of x and for that of the weight."""
    return 4 * math.prod(x) * weight[0]


def state_fusion(
    h: Tensor, weights: Sequence[Tensor], alpha: Tensor, dilations: Sequence[int] = (1, 3, 5)
) -> Tensor:
    """Structure-aware state fusion: each state becomes a weighted sum of its neighbours'.

    `Σ_j alpha_j · conv(h; weights_j, dilations_j)`, depthwise, with replicas of the border around
    the map. All kernels are merged into one of their distinct taps, and sums are float32 (float64
    if any input is). The result is the same, bit for bit, in every run.

    Args:
        h: (B, H, W, C) states, see `selective_scan_states`.
        weights: J kernels (C, 1, k, k), k odd.
        alpha: (J,).
        dilations: J dilations.

    Returns:
        (B, H, W, C) in the dtype of h.

    Raises:
        ValueError: if numbers, shapes, dtypes or devices do not fit together.

    Source: Spatial-Mamba, arXiv 2410.15091, section 4.2.
    """
    _check(h, weights, alpha, dilations)
    dtype = compute_dtype(h, alpha, *weights)
    device = "cpu" if h.is_meta else h.device.type  # autocast knows no meta device
    with torch.autocast(device, enabled=False):
        offsets, merged = _merge([w.to(dtype) for w in weights], alpha.to(dtype), dilations)
    return _forward(h, merged, *offsets)


def _merge(
    weights: Sequence[Tensor], alpha: Tensor, dilations: Sequence[int]
) -> tuple[list[list[int]], Tensor]:
    """Row and column offsets of the kernels' distinct taps, and their weights (T, C) added up."""
    places: dict[tuple[int, int], int] = {}
    index = []
    for weight, d in zip(weights, dilations, strict=True):
        k = int(weight.shape[-1])  # a tensor while torch.jit.trace records
        steps = [(i - k // 2) * d for i in range(k)]
        index += [places.setdefault((dy, dx), len(places)) for dy in steps for dx in steps]
    rows = torch.cat([a * w.flatten(1).mT for a, w in zip(alpha, weights, strict=True)])
    merged = rows.new_zeros(len(places), rows.shape[1])
    add_rows(merged, table(tuple(index), rows), rows)
    return [list(column) for column in zip(*places, strict=True)], merged


def _check(h, weights, alpha, dilations) -> None:
    """Refuse arguments that do not fit together, naming the first that does not."""
    check_dims(h=(h, (4,)), alpha=(alpha, (1,)))
    if not len(weights) == len(dilations) == len(alpha) > 0:
        raise ValueError(
            f"weights, dilations and alpha hold {len(weights)}, {len(dilations)} and"
            f" {len(alpha)} entries, expected as many of each"
        )
    check_tensors(h=(h, tuple(h.shape)), alpha=(alpha, tuple(alpha.shape)))
    for weight in weights:
        k = int(weight.shape[-1])  # a tensor while torch.jit.trace records
        if k % 2 == 0:
            raise ValueError(f"weights holds a kernel of size {k}, expected odd sizes")
        check_tensors(h=(h, tuple(h.shape)), weights=(weight, (h.shape[-1], 1, k, k)))
