"""Patches, and position embeddings of a grid of them."""

from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn


def patch_grid(image: Sequence[int], size: int, stride: int) -> tuple[int, int]:
    """How many patches cover an image (H, W), at least one each way: ⌈(H - size) / stride⌉ + 1."""
    H, W = (max((length - size + stride - 1) // stride, 0) + 1 for length in image)
    return H, W


def pad_to_patches(x: Tensor, size: int, stride: int) -> Tensor:
    """Zeros right of and below x (B, C, H, W), so that whole patches cover it."""
    counts = patch_grid(x.shape[2:], size, stride)
    down, right = (
        (count - 1) * stride + size - length
        for count, length in zip(counts, x.shape[2:], strict=True)
    )
    return F.pad(x, (0, right, 0, down))


class PatchEmbed(nn.Module):
    """One convolution over patches, which may overlap: (B, 3, H, W) → (B, H', W', C).

    H' and W' are those of `patch_grid`: the image is padded where a patch is incomplete.

    Args:
        in_chans: channels of the image.
        dim: channels C.
        size: side of a patch.
        stride: distance of patches.
    """

    def __init__(self, in_chans: int, dim: int, size: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, size, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Embed an image (B, 3, H, W)."""
        x = pad_to_patches(x, self.proj.kernel_size[0], self.proj.stride[0])
        return self.proj(x).permute(0, 2, 3, 1)


def resample_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Bicubic resampling of a table (1, H·W, C) from one grid to another, as DeiT's."""
    return resample_abs_pos_embed(table, new, old, num_prefix_tokens=0, antialias=False)
