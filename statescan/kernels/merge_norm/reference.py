"""The definition of merging, normalising and gating: short, any dtype, plain autograd.

Inside a shape, B is the batch, L the positions, K the routes and C the channels.

    y       (B, L, K, C)  outputs of the routes, or (B, L, C) where they are one already
    weight  (C,)          scale after the norm
    bias    (C,)          shift after the norm
    gate    (B, L, C)     before its SiLU
    s       (B, L, C)     the sum over the routes, whose C numbers at a position are normalised
"""

import torch
from torch import Tensor


def merge_norm_reference(
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """Sum over routes, normalise over channels, gate. Arguments as in `merge_norm`."""
    s = y.sum(2) if y.dim() == 4 else y
    centred = s - s.mean(-1, keepdim=True)
    out = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps) * weight
    out = out if bias is None else out + bias
    return out if gate is None else out * gate * torch.sigmoid(gate)
