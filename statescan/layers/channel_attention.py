"""Attention over channels."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.linear import Linear


class ChannelAttentionMerge(nn.Module):
    """Weigh the channels of each route's output by its mean over positions, then add routes up.

    (B, ..., K, C) → (B, ..., C).

    Args:
        dim: channels C.
        reduction: width of the hidden layer as a part of the channels.

    Source: LocalMamba, arXiv 2403.09338; BiAttn in the official code.
    """

    def __init__(self, dim: int, reduction: float = 0.125):
        super().__init__()
        hidden = int(dim * reduction)
        self.norm = nn.LayerNorm(dim)
        self.reduce = Linear(dim, hidden)
        self.select = Linear(hidden, dim)

    def forward(self, y: Tensor) -> Tensor:
        """Merge y (B, ..., K, C)."""
        positions = tuple(range(1, y.dim() - 2))
        mean = self.norm(y).mean(positions, keepdim=True)
        weights = self.select(F.gelu(self.reduce(mean))).sigmoid()
        return (y * weights).sum(-2)
