"""Structure-aware state fusion as a module."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..kernels import state_fusion


class StateFusion(nn.Module):
    """Each state becomes a weighted sum of its neighbours': (B, H, W, C) → (B, H, W, C).

    Kernels and their weights start as ones, as the authors' do.

    Args:
        dim: channels C.
        dilations: one 3x3 depthwise kernel for each.

    Source: Spatial-Mamba, arXiv 2410.15091, section 4.2.
    """

    def __init__(self, dim: int, dilations: Sequence[int] = (1, 3, 5)):
        super().__init__()
        self.dilations = tuple(dilations)
        self.kernels = nn.ParameterList([torch.ones(dim, 1, 3, 3) for _ in self.dilations])
        self.alpha = nn.Parameter(torch.ones(len(self.dilations)))

    def forward(self, h: Tensor) -> Tensor:
        """Fuse the states h (B, H, W, C)."""
        return state_fusion(h, list(self.kernels), self.alpha, self.dilations)

    def extra_repr(self) -> str:
        """Sizes, for print(model)."""
        return f"{len(self.kernels[0])}, dilations={self.dilations}"
