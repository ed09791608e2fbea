"""The definition of state fusion: a weighted sum of dilated depthwise convolutions.

Inside a shape, B is the batch, C the channels and J the number of kernels.

    h   (B, H, W, C)          states of a scan, channels last
    weights   J x (C, 1, k, k)   kernels as in torch.nn.Conv2d, one for each channel, k odd
    alpha   (J,)              one number for each kernel
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def neighbour(h: Tensor, dy: int, dx: int) -> Tensor:
    """What every position sees dy rows below and dx columns to the right; the border replicated."""
    H, W = h.shape[1:3]
    rows, columns = torch.arange(H) + dy, torch.arange(W) + dx
    return h[:, rows.clamp(0, H - 1)][:, :, columns.clamp(0, W - 1)]


def state_fusion_reference(
    h: Tensor, weights: Sequence[Tensor], alpha: Tensor, dilations: Sequence[int] = (1, 3, 5)
) -> Tensor:
    """Fuse states. Arguments as in `state_fusion`."""
    total = torch.zeros_like(h)
    for a, weight, d in zip(alpha, weights, dilations, strict=True):
        k = weight.shape[-1]
        for i in range(k):
            for j in range(k):
                seen = neighbour(h, (i - k // 2) * d, (j - k // 2) * d)
                total = total + a * weight[:, 0, i, j] * seen
    return total
