"""The perceptron with a depthwise convolution inside, of PVTv2."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.linear import Linear


class ConvMlp(nn.Module):
    """Linear, 3x3 depthwise convolution, GELU, linear: (B, H, W, C) → (B, H, W, C).

    Args:
        dim: channels C.
        hidden: channels in between.
        residual: add the convolution's input to its output.
        gate: multiply by a second projection of the input after the GELU.

    Source: PVTv2, arXiv 2106.13797; with both the RG block of Mamba-YOLO, arXiv 2406.05835.
    """

    def __init__(self, dim: int, hidden: int, *, residual: bool = False, gate: bool = False):
        super().__init__()
        self.residual, self.gate = residual, gate
        self.fc1 = Linear(dim, 2 * hidden if gate else hidden)
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of x (B, H, W, C), and neighbours."""
        x = self.fc1(x)
        x, z = x.chunk(2, dim=-1) if self.gate else (x, None)
        y = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y = F.gelu(x + y if self.residual else y)
        return self.fc2(y if z is None else y * z)
