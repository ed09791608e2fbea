"""The definition of a depthwise convolution with SiLU: short, any dtype, plain autograd.

Inside a shape, B is the batch and C the channels; k, odd, is the size of the kernel.

    x       (B, H, W, C)   channels last
    weight  (C, 1, k, k)   as in torch.nn.Conv2d, one kernel for each channel
    bias    (C,)
    pre     (B, H, W, C)   the convolution: at (i, j) the sum over taps (p, q) of weight[:, 0, p, q]
                           times x at (i + p - k//2, j + q - k//2), which is zero outside the map
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def dwconv_silu_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve each channel with its kernel, then SiLU. Arguments as in `dwconv_silu`."""
    H, W = x.shape[1:3]
    k = weight.shape[-1]
    around = F.pad(x, (0, 0, *[k // 2] * 4))
    pre = torch.zeros_like(x)
    for p in range(k):
        for q in range(k):
            pre = pre + weight[:, 0, p, q] * around[:, p : p + H, q : q + W]
    pre = pre if bias is None else pre + bias
    return pre * torch.sigmoid(pre)
