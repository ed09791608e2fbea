"""Sums of shifted maps in pure torch; the interface is `cpu.py`'s."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._arguments import compute_dtype
from . import padded


def _views(x: Tensor, offsets: Sequence[Sequence[int]], size: Sequence[int]) -> Iterator[Tensor]:
    """What each tap reads, (B, *size, C), zero outside the map."""
    before = [max(0, -min(values)) for values in offsets]
    after = [max(0, max(v) + n - m) for v, n, m in zip(offsets, size, x.shape[1:3], strict=True)]
    around = F.pad(x, (0, 0, before[1], after[1], before[0], after[0]))
    for dy, dx in zip(*offsets, strict=True):
        top, left = before[0] + dy, before[1] + dx
        yield around[:, top : top + size[0], left : left + size[1]]


def tap_sum(x, weight, offsets, size) -> Tensor:
    """As `cpu.tap_sum`."""
    dtype = compute_dtype(x, weight)
    total = x.new_zeros(len(x), *size, x.shape[-1], dtype=dtype)
    for w, view in zip(weight.to(dtype), _views(x.to(dtype), offsets, size), strict=True):
        total.addcmul_(w, view)
    return total


def tap_dweight(dout, x, weight, offsets) -> Tensor:
    """As `cpu.tap_dweight`."""
    dtype = compute_dtype(x, weight)
    views = _views(x.to(dtype), offsets, dout.shape[1:3])
    return torch.stack([(dout.to(dtype) * view).sum((0, 1, 2)) for view in views])


def forward(x, weight, offsets) -> Tensor:
    """Weighted sum of x (B, H, W, C) at each tap, the border replicated: (B, H, W, C)."""
    return padded.forward(tap_sum, x, weight, offsets)


def backward(dout, x, weight, offsets) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight."""
    return padded.backward(tap_sum, tap_dweight, dout, x, weight, offsets)
