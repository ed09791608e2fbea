"""Sums of shifted maps in pure torch; the interface is `cpu.py`'s."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .._arguments import compute_dtype


def _views(x: Tensor, offsets: Sequence[Sequence[int]], size: Sequence[int]) -> Iterator[Tensor]:
    """What each tap reads, (B, *size, C), zero outside the map."""
    reach = max(max(map(abs, values)) for values in offsets) + max(size)
    around = F.pad(x, (0, 0, reach, reach, reach, reach))
    for dy, dx in zip(*offsets, strict=True):
        rows = slice(reach + dy, reach + dy + size[0])
        yield around[:, rows, reach + dx : reach + dx + size[1]]


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
