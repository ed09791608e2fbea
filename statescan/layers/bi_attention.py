"""Channel attention of LocalMamba, which weighs the outputs of scans."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.linear import Linear


class BiAttention(nn.Module):
    """Weighs channels by their mean over the grid: (B, H, W, ..., C) → the same shape.

    y·σ(W₂ GELU(W₁ mean(LayerNorm(y)))), of each of the maps in between (...) by itself.

    Args:
        dim: channels C.
        ratio: width in between as a share of the channels.

    Source: LocalMamba, arXiv 2403.09338; the paper's attention over positions is not in its code.
    """

    def __init__(self, dim: int, ratio: float = 0.125):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = Linear(dim, int(dim * ratio))
        self.fc2 = Linear(int(dim * ratio), dim)

    def forward(self, y: Tensor) -> Tensor:
        """Weigh the channels of y (B, H, W, ..., C)."""
        mean = self.norm(y).mean((1, 2), keepdim=True)
        return y * self.fc2(F.gelu(self.fc1(mean))).sigmoid()


class AttentiveSum(BiAttention):
    """The sum of K routes' outputs, each under the same attention: (B, H, W, K, C) → (B, H, W, C).

    A `merge` for scans.
    """

    def forward(self, y: Tensor) -> Tensor:
        """Merge y (B, H, W, K, C)."""
        return super().forward(y).sum(3)
