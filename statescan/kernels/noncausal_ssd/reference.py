"""The definition of non-causal SSD: short, any dtype, plain autograd.

Symbols, as in VSSD (Shi et al., arXiv 2407.18559) and Mamba-2 (Dao & Gu, arXiv 2405.21060).
Inside a shape, B is the batch, L the positions of the image (H·W, row-major), H the heads,
P the channels a head, N the states a channel.

    x   (B, L, H, P)
    dt  (B, L, H)      step size before bias and softplus
    A   (H,)           decay, negative
    B   (B, L, N)      input matrix, shared by the heads
    C   (B, L, N)      output matrix, shared by the heads
    D   (H,)           skip
    w   (B, L, H)      weight of a position, -delta A
    h   (B, H, N, P)   state: one for the whole image
    y   (B, L, H, P)
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def noncausal_ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    dt_bias: Tensor | None = None,
) -> Tensor:
    """Sum every position into one state, then read it everywhere. Arguments: `noncausal_ssd`."""
    batch, length, H, P = x.shape
    w = -F.softplus(dt if dt_bias is None else dt + dt_bias) * A
    h = x.new_zeros(batch, H, B.shape[-1], P)
    for p in range(length):
        h = h + w[:, p, :, None, None] * B[:, p, None, :, None] * x[:, p, :, None, :]
    y = torch.zeros_like(x)
    for n in range(B.shape[-1]):
        y = y + C[:, :, n, None, None] * h[:, None, :, n]
    return y if D is None else y + D[:, None] * x
