"""Sums of shifted maps in C (`cpu.h`)."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _c
from .._arguments import compute_dtype
from . import padded

MOST_TAPS = 64
SIZES = ("batch", "H", "W", "C", "rows", "columns", "T")
ARRAYS = ("dy", "dx", "x", "weight", "dout", "out", "dweight")


class Taps(ctypes.Structure):
    """`taps` of cpu.h."""

    _fields_ = [(n, ctypes.c_int64) for n in SIZES] + [(n, ctypes.c_void_p) for n in ARRAYS]


def _call(
    x: Tensor, weight: Tensor, offsets: Sequence[Sequence[int]], size: Sequence[int]
) -> _c.Call:
    sizes = dict(zip(SIZES, (*x.shape, *size, len(weight)), strict=True))
    call = _c.Call(Taps, compute_dtype(x, weight), **sizes)
    call.read(x=x, weight=weight)
    dy, dx = (torch.tensor(values, dtype=torch.int64) for values in offsets)
    call.point(dy=dy, dx=dx)
    return call


def tap_sum(
    x: Tensor, weight: Tensor, offsets: Sequence[Sequence[int]], size: Sequence[int]
) -> Tensor:
    """Sum over taps of x (B, H, W, C), shifted, times weight (T, C): (B, *size, C).

    Tap t reads at (i + offsets[0][t], j + offsets[1][t]), zero outside the map.
    """
    call = _call(x, weight, offsets, size)
    out = call.empty(len(x), *size, x.shape[-1])
    call.point(out=out)
    call.run("tap_sum", len(x) * size[0])
    return out


def tap_dweight(
    dout: Tensor, x: Tensor, weight: Tensor, offsets: Sequence[Sequence[int]]
) -> Tensor:
    """Gradient of the weight (T, C) of `tap_sum`, for the gradient of its sum."""
    call = _call(x, weight, offsets, dout.shape[1:3])
    slots = call.empty(len(x) * dout.shape[1], *weight.shape)
    call.read(dout=dout)
    call.point(dweight=slots)
    call.run("tap_dweight", len(slots))
    return slots.sum(0)


def forward(x: Tensor, weight: Tensor, offsets: Sequence[Sequence[int]]) -> Tensor:
    """Weighted sum of x (B, H, W, C) at each tap, the border replicated: (B, H, W, C)."""
    return padded.forward(tap_sum, x, weight, offsets)


def backward(
    dout: Tensor, x: Tensor, weight: Tensor, offsets: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight."""
    return padded.backward(tap_sum, tap_dweight, dout, x, weight, offsets)
