"""Stems and downsampling layers that several families share; maps are (B, H, W, C) inside."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.linear import linear


class HalvingConv(nn.Conv2d):
    """3x3 convolution of stride 2 on maps: (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C').

    On a CPU, convolutions reorder their weights in every call. Where there are many weights that
    takes longer than the rest, so those are one matrix product over all 3x3 patches.
    """

    WIDE = 2**20  # weights

    def __init__(self, dim: int, out_dim: int):
        super().__init__(dim, out_dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of x (B, H, W, C)."""
        if x.device.type == "cpu" and self.weight.numel() > self.WIDE:
            patches = F.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 2).unfold(2, 3, 2)
            return linear(patches.flatten(3), self.weight.flatten(1), self.bias)
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class PatchStem(nn.Module):
    """One 4x4 convolution of stride 4, then LayerNorm: (B, 3, H, W) → (B, H//4, W//4, C).

    Rows and columns beyond the last whole patch are not seen, as in ViT and Swin. An image smaller
    than one patch is padded with zeros on the right and at the bottom.
    """

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim, 4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W)."""
        H, W = x.shape[2:]
        if min(H, W) < 4:
            x = F.pad(x, (0, max(4 - W, 0), 0, max(4 - H, 0)))
        return self.norm(self.conv(x).permute(0, 2, 3, 1))


class ConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2: (B, 3, H, W) → (B, ⌈H/4⌉, ⌈W/4⌉, C)."""

    def __init__(self, in_chans: int, dim: int):
        super().__init__()
        self.conv1 = HalvingConv(in_chans, dim // 2)
        self.norm1 = nn.LayerNorm(dim // 2)
        self.act = nn.GELU()
        self.conv2 = HalvingConv(dim // 2, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W)."""
        x = self.act(self.norm1(self.conv1(x.permute(0, 2, 3, 1).contiguous())))
        return self.norm2(self.conv2(x))


class ConvDownsample(nn.Module):
    """3x3 convolution of stride 2, then LayerNorm: (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C')."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.conv = HalvingConv(dim, out_dim)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of x (B, H, W, C)."""
        return self.norm(self.conv(x))


def fold_blocks(x: Tensor) -> Tensor:
    """Each 2x2 block as one token of four times the channels: (B, H, W, C) → (B, H', W', 4·C).

    H' and W' are ⌈H/2⌉ and ⌈W/2⌉: odd sizes are padded with zeros on the right and at the bottom.
    The block is read column by column, as in Swin (arXiv 2103.14030), so that official weights fit.
    """
    x = F.pad(x, (0, 0, 0, 1, 0, 1))  # of an even size, the blocks leave this out again
    return x.unfold(1, 2, 2).unfold(2, 2, 2).permute(0, 1, 2, 5, 4, 3).flatten(3)


class PatchMerging(nn.Module):
    """Each 2x2 block becomes one token: (B, H, W, C) → (B, ⌈H/2⌉, ⌈W/2⌉, C')."""

    def __init__(self, dim: int, out_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, out_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of x (B, H, W, C)."""
        return self.reduction(self.norm(fold_blocks(x)))


STEMS: dict[str, Callable[[int, int], nn.Module]] = {"conv": ConvStem, "patch": PatchStem}
DOWNSAMPLES: dict[str, Callable[[int, int], nn.Module]] = {
    "conv": ConvDownsample,
    "merge": PatchMerging,
}
