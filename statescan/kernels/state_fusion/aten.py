"""A sum of taps in torch's own operators: one depthwise convolution, zero between the taps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import padded


def forward(x: Tensor, weight: Tensor, dy: list[int], dx: list[int]) -> Tensor:
    """Weighted sum of shifted maps, as the operator `tap_sum` defines it."""
    around, (rows, columns) = padded.framed(x, weight, (dy, dx))
    size = 1 + 2 * max(abs(d) for d in (*dy, *dx))
    places = [around.new_zeros(weight.shape[1])] * size**2
    for tap, i, j in zip(weight.to(around.dtype).unbind(), rows, columns, strict=True):
        places[i * size + j] = places[i * size + j] + tap
    kernel = torch.stack(places, dim=-1).view(-1, 1, size, size)
    y = F.conv2d(around.permute(0, 3, 1, 2), kernel, groups=len(kernel))
    return y.permute(0, 2, 3, 1).to(x.dtype)
