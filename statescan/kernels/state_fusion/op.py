"""`state_fusion`: checks its arguments and runs the fastest path for their device."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .. import _c
from .._arguments import check_dims, check_tensors, compute_dtype
from .._registration import join
from . import cpu, streaming


def describe_backend(device: torch.device) -> str:
    """Which backend serves a device, and why."""
    return _c.describe() if device.type == "cpu" else "torch convolutions"


def _backend():
    return cpu if _c.library() else streaming


@torch.library.custom_op("statescan::tap_sum", mutates_args=(), device_types="cpu")
def _forward(x: Tensor, weight: Tensor, dy: Sequence[int], dx: Sequence[int], inset: int) -> Tensor:
    """Sum of shifted maps: output (i, j) reads x (B, H, W, C) at (i + inset + dy, j + inset + dx).

    The output is (B, H - 2·inset, W - 2·inset, C); weight is (T, C), a row for each shift.
    """
    size = [n - 2 * inset for n in x.shape[1:3]]
    offsets = [[d + inset for d in values] for values in (dy, dx)]
    return _backend().tap_sum(x, weight, offsets, size).to(x.dtype)


@_forward.register_fake
def _(x, weight, dy, dx, inset):
    batch, H, W, channels = x.shape
    return x.new_empty(batch, H - 2 * inset, W - 2 * inset, channels)


@torch.library.custom_op("statescan::tap_sum_backward", mutates_args=(), device_types="cpu")
def _backward(
    dout: Tensor, x: Tensor, weight: Tensor, dy: Sequence[int], dx: Sequence[int], inset: int
) -> list[Tensor]:
    backend = _backend()
    offsets = [[d + inset for d in values] for values in (dy, dx)]
    back = [[-d for d in values] for values in offsets]
    grad_x = backend.tap_sum(dout, weight, back, x.shape[1:3])
    grad_weight = backend.tap_dweight(dout, x, weight, offsets)
    return [grad_x.to(x.dtype), grad_weight.to(weight.dtype)]


join(_forward, _backward, differentiable=2)


@register_flop_formula(torch.ops.statescan.tap_sum)
def _flops(x, weight, dy, dx, inset, *, out_shape) -> int:
    """A multiplication and an addition for each tap, position and channel."""
    batch, rows, columns, channels = out_shape
    return 2 * batch * rows * columns * channels * weight[0]


@register_flop_formula(torch.ops.statescan.tap_sum_backward)
def _flops_backward(dout, x, weight, dy, dx, inset, *, out_shape) -> int:
    """As many for the gradient of x, read at every position of x, and for that of the weight."""
    return sum(2 * batch * H * W * channels * weight[0] for batch, H, W, channels in (dout, x))


def state_fusion(
    h: Tensor, weights: Sequence[Tensor], alpha: Tensor, dilations: Sequence[int] = (1, 3, 5)
) -> Tensor:
    """Structure-aware state fusion: each state becomes a weighted sum of its neighbours'.

    `Σ_j alpha_j · conv(h; weights_j, dilations_j)`, depthwise, with replicas of the border around
    the map. On a CPU all kernels are merged into one of their distinct taps.

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
    with torch.autocast(h.device.type, enabled=False):  # sums stay in the state's dtype
        weights = [weight.to(dtype) for weight in weights]
        return _fuse(h.to(dtype), weights, alpha.to(dtype), dilations).to(h.dtype)


def _fuse(h: Tensor, weights: Sequence[Tensor], alpha: Tensor, dilations: Sequence[int]) -> Tensor:
    sides = [weight.shape[-1] // 2 * d for weight, d in zip(weights, dilations, strict=True)]
    reach = max(sides)
    around = F.pad(h.permute(0, 3, 1, 2), [reach] * 4, mode="replicate")
    offsets, merged = _merge(weights, alpha, dilations)
    if h.device.type == "cpu" and len(merged) <= cpu.MOST_TAPS:
        return _forward(around.permute(0, 2, 3, 1), merged, *offsets, reach)
    H, W = h.shape[1:3]
    fused = 0
    for a, weight, d, side in zip(alpha, weights, dilations, sides, strict=True):
        seen = around.narrow(2, reach - side, H + 2 * side).narrow(3, reach - side, W + 2 * side)
        fused = fused + F.conv2d(seen, a * weight, dilation=d, groups=len(weight))
    return fused.permute(0, 2, 3, 1)


def _merge(
    weights: Sequence[Tensor], alpha: Tensor, dilations: Sequence[int]
) -> tuple[list[list[int]], Tensor]:
    """Row and column offsets of the kernels' distinct taps, and their weights (T, C) added up."""
    places: dict[tuple[int, int], int] = {}
    index = []
    for weight, d in zip(weights, dilations, strict=True):
        k = weight.shape[-1]
        steps = [(i - k // 2) * d for i in range(k)]
        index += [places.setdefault((dy, dx), len(places)) for dy in steps for dx in steps]
    rows = torch.cat([a * w.flatten(1).mT for a, w in zip(alpha, weights, strict=True)])
    merged = rows.new_zeros(len(places), rows.shape[1])
    merged = merged.index_add(0, torch.tensor(index, device=rows.device), rows)
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
        k = weight.shape[-1]
        if k % 2 == 0:
            raise ValueError(f"weights holds a kernel of size {k}, expected odd sizes")
        check_tensors(h=(h, tuple(h.shape)), weights=(weight, (h.shape[-1], 1, k, k)))
