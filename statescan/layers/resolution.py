"""Stems and downsampling layers that several families share; maps are (B, H, W, C) inside."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchStem(nn.Module):
    """One 4x4 convolution of stride 4, then LayerNorm: (B, 3, H, W) → (B, H//4, W//4, C).

    Rows and columns beyond the last whole patch are not seen, as in ViT and Swin.
    """

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W) of at least 4x4 pixels."""
        if min(x.shape[2:]) < 4:
            raise ValueError(f"x is {x.shape[2]}x{x.shape[3]} pixels, this stem needs at least 4x4")
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


class ConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2: (B, 3, H, W) → (B, ⌈H/4⌉, ⌈W/4⌉, C)."""

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(dim // 2)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W)."""
        x = self.act(self.norm1(self.conv1(x).permute(0, 2, 3, 1)))
        return self.norm2(self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class ConvDownsample(nn.Module):
    """3x3 convolution of stride 2, then LayerNorm: (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C')."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of x (B, H, W, C)."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Each 2x2 block becomes one token: (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C').

    Odd sizes are padded with zeros on the right and at the bottom. The block is read column by
    column, as in Swin (arXiv 2103.14030), so that official weights fit.
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of x (B, H, W, C)."""
        H, W = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
        block = [x[:, h::2, w::2] for w in (0, 1) for h in (0, 1)]
        return self.reduction(self.norm(torch.cat(block, dim=-1)))


STEMS: dict[str, Callable[[int, int], nn.Module]] = {"conv": ConvStem, "patch": PatchStem}
DOWNSAMPLES: dict[str, Callable[[int, int], nn.Module]] = {
    "conv": ConvDownsample,
    "merge": PatchMerging,
}
