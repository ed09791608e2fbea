"""A sum of taps in torch's own operators."""

import torch
from torch import Tensor

from . import padded


def forward(x: Tensor, weight: Tensor, dy: list[int], dx: list[int]) -> Tensor:
    """Weighted sum of shifted maps, as the operator `tap_sum` defines it."""
    around, (rows, columns) = padded.framed(x, weight, (dy, dx))
    H, W = x.shape[1:3]
    y = torch.zeros_like(around[:, :H, :W])
    for taps, i, j in zip(weight.to(around.dtype), rows, columns, strict=True):
        y = y + taps * around[:, i : i + H, j : j + W]
    return y.to(x.dtype)
