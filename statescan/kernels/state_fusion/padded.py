"""Taps whose border is replicated, by backends that see zeros outside: on a map made larger.

`tap_sum` and `tap_dweight` are such a backend's, see `cpu.py`; the larger map has a frame as wide
as the longest offset, and lives no longer than the call.
"""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from .._arguments import compute_dtype

Offsets = Sequence[Sequence[int]]


def forward(tap_sum: Callable, x: Tensor, weight: Tensor, offsets: Offsets) -> Tensor:
    """Weighted sum of x (B, H, W, C) at each tap, the border replicated: (B, H, W, C)."""
    around, inner = framed(x, weight, offsets)
    return tap_sum(around, weight, inner, x.shape[1:3]).to(x.dtype)


def backward(
    tap_sum: Callable,
    tap_dweight: Callable,
    dout: Tensor,
    x: Tensor,
    weight: Tensor,
    offsets: Offsets,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight."""
    around, inner = framed(x, weight, offsets)
    dout = dout.to(around.dtype)
    back = [[-d for d in values] for values in inner]
    frame = (around.shape[1] - x.shape[1]) // 2
    dx = tap_sum(dout, weight, back, around.shape[1:3])
    for dim in (1, 2):
        dx = fold(dx, frame, dim)
    return dx.to(x.dtype).contiguous(), tap_dweight(dout, around, weight, inner).to(weight.dtype)


def framed(x: Tensor, weight: Tensor, offsets: Offsets) -> tuple[Tensor, list[list[int]]]:
    """Replicas of the border around x (B, H, W, C), in the compute dtype; offsets from its edge."""
    frame = max(abs(d) for values in offsets for d in values)
    channels_first = x.to(compute_dtype(x, weight)).permute(0, 3, 1, 2)
    around = F.pad(channels_first, [frame] * 4, mode="replicate").permute(0, 2, 3, 1)
    return around, [[d + frame for d in values] for values in offsets]


def fold(t: Tensor, frame: int, dim: int) -> Tensor:
    """Add a frame along a dimension to the border that it replicates, in place; what is inside."""
    size = t.shape[dim] - 2 * frame
    inside = t.narrow(dim, frame, size)
    inside.select(dim, 0).add_(t.narrow(dim, 0, frame).sum(dim))
    inside.select(dim, -1).add_(t.narrow(dim, frame + size, frame).sum(dim))
    return inside
