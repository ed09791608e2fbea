"""MLLA's stem, downsampling and block, which Spatial-Mamba and VSSD share.

Source: Han et al., Demystify Mamba in Vision: A Linear Attention Perspective, arXiv 2405.16605.
Maps are (B, H, W, C) outside and lie in memory so inside.
"""

import torch
from timm.layers import ConvNormAct, DropPath
from torch import Tensor, nn

from .mlp import Mlp


class ResidualStem(nn.Module):
    """Five convolutions with a residual: (B, 3, H, W) → (B, ⌈H/4⌉, ⌈W/4⌉, C)."""

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        half, wide = dim // 2, 4 * dim
        self.conv1 = ConvNormAct(in_chans, half, 3, stride=2)
        self.conv2 = nn.Sequential(
            ConvNormAct(half, half, 3), ConvNormAct(half, half, 3, apply_act=False)
        )
        self.conv3 = nn.Sequential(
            ConvNormAct(half, wide, 3, stride=2), ConvNormAct(wide, dim, 1, apply_act=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W)."""
        x = self.conv1(x.contiguous(memory_format=torch.channels_last))
        x = self.conv3(x + self.conv2(x))
        return x.permute(0, 2, 3, 1)


class InvertedDownsample(nn.Module):
    """Widen, halve the resolution, narrow: (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C')."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        wide = 4 * out_dim
        self.expand = nn.Conv2d(dim, wide, 1)
        self.conv = nn.Conv2d(wide, wide, 3, stride=2, padding=1, groups=wide)
        self.reduce = ConvNormAct(wide, out_dim, 1, bias=True, apply_act=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of x (B, H, W, C)."""
        x = self.act(self.expand(x.permute(0, 3, 1, 2)))
        return self.reduce(self.act(self.conv(x))).permute(0, 2, 3, 1)


class PositionEncoding(nn.Conv2d):
    """Conditional position encoding, x plus its 3x3 depthwise convolution, on (B, H, W, C).

    Source: CPVT, arXiv 2102.10882.
    """

    def __init__(self, dim: int):
        super().__init__(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """Encode positions in x (B, H, W, C)."""
        return x + super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MllaBlock(nn.Module):
    """Pre-norm token mixer, then pre-norm MLP, a position encoding before each.

    (B, H, W, C) → (B, H, W, C).

    Args:
        dim: channels C.
        mixer: the token mixer, a module on (B, H, W, C).
        mlp_ratio: hidden width of the MLP as a multiple of the channels.
        drop_path: probability that a residual branch is left out for a sample.
    """

    def __init__(
        self, dim: int, mixer: nn.Module, *, mlp_ratio: float = 4.0, drop_path: float = 0.0
    ):
        super().__init__()
        self.cpe1 = PositionEncoding(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = mixer
        self.cpe2 = PositionEncoding(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels, of x (B, H, W, C)."""
        x = self.cpe1(x)
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        x = self.cpe2(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))
